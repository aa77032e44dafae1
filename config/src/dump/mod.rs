//! The configuration in force as `envoy.admin.v3.ConfigDump`, in JSON: what `istioctl proxy-config` reads.
//!
//! A dump of a large mesh is tens of MB, and nearly all of it is one listener. So it is written out while it
//! is made: resources are decoded one by one, from the bytes they were received in, and an `Any` inside them
//! when it is its turn. It takes its time, so it doesn't belong on the control thread.

pub mod descriptors;
pub mod field_mask;
mod listener;
mod process;
pub mod protojson;
mod section;
mod sections;

use std::io::{self, Write};

use regex::Regex;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

pub use process::{HeldSecret, Process, timestamp};

use crate::dump::field_mask::Mask;
use crate::dump::protojson::Printer;
use crate::dump::section::{Section, To};
use crate::store::received::Received;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Whether endpoints are to be in it.
    pub endpoints: bool,
    /// Only these fields of each section; sections that have none of them are left out.
    pub mask: Mask,
    /// Only the resources in this field, each for itself.
    pub resource: Option<String>,
    /// Only resources with such names.
    pub names: Option<NamePattern>,
}

/// A regular expression that a whole name has to match.
#[derive(Clone, Debug)]
pub struct NamePattern(Regex);

impl NamePattern {
    /// # Errors
    /// It is no regular expression, or too large a one.
    pub fn new(pattern: &str) -> Result<NamePattern, regex::Error> {
        // Alone first: a closing parenthesis would get out of the group.
        Regex::new(pattern)?;
        Ok(NamePattern(Regex::new(&format!("^(?:{pattern})$"))?))
    }
}

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("{0} is no field that holds resources")]
    NoSuchResource(String),
    #[error("the descriptors can't be read")]
    Descriptors,
}

/// A dump that can be written. It holds the bytes that were in force when it was asked for.
pub struct Dump {
    sections: Vec<Section>,
    query: Query,
}

impl Dump {
    /// # Errors
    /// There is no such resource.
    pub fn new(received: &Received, process: &Process, query: Query) -> Result<Dump, DumpError> {
        let mut sections = sections::all(received, process, query.endpoints);
        if let Some(resource) = &query.resource {
            sections.retain(|section| section.has_list(resource));
            if sections.is_empty() {
                return Err(DumpError::NoSuchResource(resource.clone()));
            }
        }
        if let Some(names) = &query.names {
            for section in &mut sections {
                section.retain(|name| names.0.is_match(name));
            }
        }
        Ok(Dump { sections, query })
    }

    /// Writes it.
    ///
    /// # Errors
    /// The writer's; or there are no descriptors.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let printer = Printer::new().ok_or_else(|| io::Error::other(DumpError::Descriptors))?;
        let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut *out, format);
        let whole = Whole {
            dump: self,
            printer: &printer,
        };
        whole.serialize(&mut serializer)?;
        out.write_all(b"\n")
    }
}

struct Whole<'a> {
    dump: &'a Dump,
    printer: &'a Printer,
}

impl Serialize for Whole<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("configs", &Configs(self))?;
        map.end()
    }
}

struct Configs<'a>(&'a Whole<'a>);

impl Serialize for Configs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Whole { dump, printer } = *self.0;
        let mask = &dump.query.mask;
        let to = &To { printer, mask };
        let mut list = serializer.serialize_seq(None)?;
        for section in &dump.sections {
            match &dump.query.resource {
                None if section.is_wanted(to) => list.serialize_element(&section.json(to))?,
                None => {}
                Some(resource) => {
                    for item in section.items(resource) {
                        list.serialize_element(&item.json(to, true))?;
                    }
                }
            }
        }
        list.end()
    }
}
