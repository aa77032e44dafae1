//! Standalone mode: Kubernetes manifests in, the resources that istiod would send out.
//!
//! [`source`] reads files and folders, [`watch`] reads them again as they change; [`yaml`] gives documents; [`manifest`] and [`kinds`]
//! make typed objects of them, with the API server's defaults and refusals; [`cluster_state`] indexes them;
//! [`ownership`] says what the waypoint serves; [`translate`] makes raw xDS resources in istiod's shape.
//! What isn't honoured is named ([`problem`]), and a security object that isn't closes what it targets.

pub mod input;
pub mod kinds;
pub mod report;
pub mod source;
pub mod state;
pub mod translate;
pub mod watch;

pub use crate::standalone::input::manifest::ObjectName;
pub use crate::standalone::input::problem::{Aside, LoadError, Problem, Severity};
pub use crate::standalone::state::issuers::IssuerQuestion;
pub use source::{Examined, StandaloneSource, difference};
pub use translate::status::ParentStatus;
pub use translate::{IpFamilies, Translation};
pub use watch::{Pace, Polled, Watch};
