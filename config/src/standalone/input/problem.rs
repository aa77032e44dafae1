//! What standalone mode says about a manifest that it can't take as it is.
//!
//! A [`LoadError`] refuses the whole scan: the file is broken, and broken is not absent. A [`Problem`]
//! stands beside a translation that could be made; its [`Severity`] says what was done about it. An [`Aside`]
//! names what is sound and for others: a line for each reason, however many objects there are.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a document stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    pub file: PathBuf,
    /// Number of the YAML document in its file, from 1.
    pub document: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} document {}", self.file.display(), self.document)
    }
}

/// A file, document or object that is broken: the scan that holds it must not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    pub file: PathBuf,
    pub document: Option<usize>,
    /// `Kind namespace/name`, as far as it is known.
    pub resource: Option<String>,
    /// Path inside the object, such as `spec.rules[0].matches[1]`.
    pub field: Option<String>,
    pub reason: String,
}

impl LoadError {
    /// The file as a whole can't be used.
    pub fn file(file: &Path, reason: impl fmt::Display) -> LoadError {
        LoadError {
            file: file.to_path_buf(),
            document: None,
            resource: None,
            field: None,
            reason: reason.to_string(),
        }
    }

    /// One document of a file can't be used.
    pub fn document(origin: &Origin, reason: impl fmt::Display) -> LoadError {
        LoadError {
            document: Some(origin.document),
            ..LoadError::file(&origin.file, reason)
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(document) = self.document {
            write!(f, " document {document}")?;
        }
        if let Some(resource) = &self.resource {
            write!(f, ": {resource}")?;
        }
        if let Some(field) = self.field.as_deref().filter(|field| !field.is_empty()) {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// What was done about a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Sound as it is, and nothing comes of it: what it refers to isn't there, or something stands above it.
    NoEffect,
    /// Named and left out; nothing that protects anything is affected.
    Ignored,
    /// What the object targets answers 503 (TCP: is closed) and names the object.
    FailClosed,
    /// A broken security object: at start the process must not run; while running its target is closed
    /// as with `FailClosed`.
    Broken,
    /// A security object whose target can't be told: this translation must not be used.
    Fatal,
}

impl Severity {
    /// What was done, in words.
    #[must_use]
    pub fn effect(self) -> &'static str {
        match self {
            Severity::NoEffect => "no effect",
            Severity::Ignored => "not honoured",
            Severity::FailClosed => "closed what it targets",
            Severity::Broken => "broken, closed what it targets",
            Severity::Fatal => "broken, target unknown",
        }
    }
}

/// Something in the manifests that is not honoured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    pub severity: Severity,
    /// `Kind namespace/name`.
    pub resource: String,
    pub origin: Origin,
    /// Path inside the object, empty for the object as a whole.
    pub field: String,
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.severity.effect();
        write!(f, "{}: {} ({done}): ", self.origin, self.resource)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// Objects of one kind that are for others than this waypoint, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    pub kind: &'static str,
    pub reason: String,
    /// In order; never empty.
    pub objects: Vec<String>,
}

/// Objects that an aside names; of more it gives the number.
const NAMED: usize = 8;

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.objects.get(..NAMED).unwrap_or(&self.objects);
        let (kind, reason) = (self.kind, &self.reason);
        write!(
            f,
            "{kind} (not for this waypoint): {reason}: {}",
            named.join(", ")
        )?;
        match self.objects.len() - named.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aside_is_one_line() {
        let aside = |n: usize| Aside {
            kind: "Service",
            reason: "none of ours".to_owned(),
            objects: (0..n).map(|n| format!("default/s{n}")).collect(),
        };
        assert_eq!(
            aside(2).to_string(),
            "Service (not for this waypoint): none of ours: default/s0, default/s1"
        );
        let many = aside(11).to_string();
        assert!(many.ends_with("default/s7 and 3 more"), "{many}");
    }
}
