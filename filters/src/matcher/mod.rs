//! Matchers: what configuration compares strings, heads, addresses and metadata with.

pub mod cidr;
pub mod header;
pub mod metadata;
pub mod query;
pub mod regex;
pub mod string;
pub mod uri_template;
pub mod value;
