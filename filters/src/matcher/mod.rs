//! Matchers: what configuration compares strings, heads, addresses and metadata with.

pub mod cidr;
pub mod exact_value;
pub mod filter_state;
pub mod fraction;
pub mod header;
pub mod metadata;
pub mod query;
pub mod regex;
pub mod route_match;
pub mod string;
pub mod uri_template;
pub mod value;
