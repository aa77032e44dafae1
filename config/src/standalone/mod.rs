//! Standalone mode: Kubernetes manifests in, the resources that istiod would send out.
//!
//! [`source`] reads files and folders, [`watch`] reads them again as they change; [`yaml`] gives documents; [`manifest`] and [`kinds`]
//! make typed objects of them, with the API server's defaults and refusals; [`cluster_state`] indexes them;
//! [`ownership`] says what the waypoint serves; [`translate`] makes raw xDS resources in istiod's shape.
//! What isn't honoured is named ([`problem`]), and a security object that isn't closes what it targets.

pub mod cluster_state;
mod files;
mod json;
pub mod kinds;
mod labels;
pub mod manifest;
pub mod mesh_service;
mod metadata_fields;
mod near;
pub mod ownership;
pub mod problem;
mod schema;
pub mod source;
mod strict_value;
pub mod told;
pub mod translate;
pub mod watch;
pub mod yaml;

pub use manifest::ObjectName;
pub use problem::{Aside, LoadError, Problem, Severity};
pub use source::{StandaloneSource, difference};
pub use translate::{IpFamilies, Translation};
pub use watch::{Pace, Polled, Watch};
