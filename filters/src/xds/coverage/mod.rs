//! Coverage: whatever a resource sets is honoured, known to be harmless, left out and told of, or refused
//! by name. Nothing is skipped in silence.
//!
//! Decoding drops what a reader doesn't know: a deny rule whose condition is of a newer version would decode
//! without it, and never match. So bytes are walked before they are decoded. Beside each conversion stands
//! the table of its message, a [`Table`] with every field that the message has; [`check`] holds bytes
//! against the tables. What a field may *say* is the conversion's to judge.

mod walk;
pub mod well_known;

pub use walk::{check, decode, decode_any};

/// The table of a message: what becomes of each of its fields.
#[derive(Debug)]
pub struct Table {
    /// The full name, as in a type URL.
    pub name: &'static str,
    /// Fields that may be set, by ascending number.
    pub fields: &'static [Field],
    /// All others: number and name, parted by commas. They are refused; the name is for the refusal.
    pub refused: &'static str,
    /// What must be set.
    pub required: &'static [Required],
}

/// A field that may be set.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub number: u32,
    pub name: &'static str,
    pub status: Status,
    pub shape: Shape,
    pub content: Content,
    /// The only values that the conversion takes, for the reader; empty: as the API says.
    pub only: &'static str,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The conversion reads it, and refuses values that it doesn't honour.
    Honoured,
    /// Leaving it out changes nothing for anybody's traffic, policy or records; the text says why.
    Harmless(&'static str),
    /// Telemetry that the conversion leaves out and tells of; the text says what.
    LeftOut(&'static str),
}

/// How a field repeats: what the path of a refusal calls its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    One,
    /// By position.
    List,
    /// By the string in this field of the element.
    Named(u32),
    /// By key, a string.
    Map,
}

/// What is inside a field's value.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// Nothing to look into.
    Plain,
    Message(&'static Table),
    /// An `Any` of one of these types.
    Any(Types),
}

/// Lists of the types that an `Any` may have.
pub type Types = &'static [&'static [&'static Table]];

/// Fields of which one must be set: a oneof, or a field by itself.
#[derive(Clone, Copy, Debug)]
pub struct Required {
    pub name: &'static str,
    pub any_of: &'static [u32],
}

/// Why many settings are harmless.
pub const OWN_COUNTERS: &str = "shapes Envoy's own counters, which are not kept here";

/// A field that the conversion reads.
pub const fn honoured(number: u32, name: &'static str) -> Field {
    Field::new(number, name, Status::Honoured)
}

/// A field that changes nothing, because of `why`.
pub const fn harmless(number: u32, name: &'static str, why: &'static str) -> Field {
    Field::new(number, name, Status::Harmless(why))
}

/// A field that the conversion leaves out and tells of.
pub const fn left_out(number: u32, name: &'static str, what: &'static str) -> Field {
    Field::new(number, name, Status::LeftOut(what))
}

/// One of these fields must be set.
pub const fn required(name: &'static str, any_of: &'static [u32]) -> Required {
    Required { name, any_of }
}

impl Field {
    const fn new(number: u32, name: &'static str, status: Status) -> Field {
        Field {
            number,
            name,
            status,
            shape: Shape::One,
            content: Content::Plain,
            only: "",
        }
    }

    /// The conversion refuses other values than these.
    pub const fn only(mut self, values: &'static str) -> Field {
        self.only = values;
        self
    }

    /// Its value is this message.
    pub const fn of(mut self, message: &'static Table) -> Field {
        self.content = Content::Message(message);
        self
    }

    /// Its value is an `Any` of one of `types`.
    pub const fn any(mut self, types: Types) -> Field {
        self.content = Content::Any(types);
        self
    }

    pub const fn list(mut self) -> Field {
        self.shape = Shape::List;
        self
    }

    /// A list whose elements have a name, in their field `number`.
    pub const fn named(mut self, number: u32) -> Field {
        self.shape = Shape::Named(number);
        self
    }

    pub const fn map(mut self) -> Field {
        self.shape = Shape::Map;
        self
    }
}

impl Table {
    /// The field with this number, if it may be set.
    pub fn field(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }

    /// The fields that are refused.
    pub fn refused(&self) -> impl Iterator<Item = (u32, &'static str)> {
        self.refused.split(',').filter_map(|entry| {
            let (number, name) = entry.trim().split_once(' ')?;
            Some((number.parse().ok()?, name))
        })
    }

    /// Whether `type_url` is this message's.
    pub fn has_type_url(&self, type_url: &str) -> bool {
        type_url.rsplit_once('/').map(|(_, name)| name) == Some(self.name)
    }
}
