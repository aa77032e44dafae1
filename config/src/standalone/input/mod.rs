//! From files to manifests: what was read, and in which words it is complained of.

pub(crate) mod duration;
pub(crate) mod files;
pub(crate) mod json;
pub(crate) mod labels;
pub mod manifest;
pub(crate) mod metadata_fields;
pub(crate) mod near;
pub mod problem;
pub(crate) mod schema;
pub(crate) mod strict_value;
pub mod yaml;
