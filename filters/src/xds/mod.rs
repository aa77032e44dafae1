//! What is read of configuration, and what becomes of the rest: coverage, refusals, omissions, messages that the published API lacks, and
//! messages that are written without their structs.

pub mod coverage;
pub mod duration;
pub(crate) mod encoding;
pub mod omitted;
pub mod proto;
pub mod rejected;
pub mod struct_json;
pub mod typed_struct;
