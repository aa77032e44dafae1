//! What is read of configuration, and what becomes of the rest: coverage, refusals, omissions, and messages that the published API lacks.

pub mod coverage;
pub mod duration;
pub mod omitted;
pub mod proto;
pub mod rejected;
pub mod struct_json;
pub mod typed_struct;
