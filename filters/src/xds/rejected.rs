//! Why a piece of configuration was refused: the text of a NACK and of the standalone report alike.

use std::fmt;

/// Configuration that is not honoured, named so that its author finds it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {}", said(.field, .reason))]
pub struct Rejected {
    /// The resource: an xDS name, followed by ` > ` and the filter chain or filter where that helps.
    pub resource: String,
    /// The path of the field inside the resource, as the proto spells it.
    pub field: String,
    pub reason: String,
}

/// A refusal before its resource is known: conversions return it, their caller names the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub field: String,
    pub reason: String,
}

impl Refusal {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
        Refusal {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// A field that this build does not honour.
    pub fn unsupported(field: impl Into<String>) -> Refusal {
        Refusal::new(field, "is not supported")
    }

    /// A required field or oneof that is not set.
    pub fn missing(field: impl Into<String>) -> Refusal {
        Refusal::new(field, "is required but not set")
    }

    /// Puts the enclosing field in front of the path.
    pub fn within(mut self, outer: impl fmt::Display) -> Refusal {
        self.field = if self.field.is_empty() {
            outer.to_string()
        } else {
            format!("{outer}.{}", self.field)
        };
        self
    }

    /// Names the resource that holds the field.
    pub fn of(self, resource: impl Into<String>) -> Rejected {
        Rejected {
            resource: resource.into(),
            field: self.field,
            reason: self.reason,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&said(&self.field, &self.reason))
    }
}

/// No field: the whole is meant.
fn said(field: &str, reason: &str) -> String {
    match field {
        "" => reason.to_owned(),
        field => format!("{field}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_way_from_the_resource_down() {
        let rejected = Refusal::unsupported("code_size")
            .within("permissions[0]")
            .within("rules")
            .of("main_internal > direct-http");
        assert_eq!(
            rejected.to_string(),
            "main_internal > direct-http: rules.permissions[0].code_size: is not supported"
        );
        let whole = Refusal::new("", "is not built").of("a");
        assert_eq!(whole.to_string(), "a: is not built");
    }
}
