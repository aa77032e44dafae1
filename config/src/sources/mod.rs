//! Where resources come from: an istiod, or what was recorded of one. The standalone translator is a source, too.

pub mod recorded;
pub mod xds;
