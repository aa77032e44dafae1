//! What would become of a request, told by the code that decides; nothing of it is sent.
//!
//! The request runs through the filter chain that would serve it, as traffic does, but its stream has an
//! [`Explanation`](waypoint_filters::stream::explanation::Explanation): filters write down how they came to their
//! verdict, and the router where it would send to. `waypoint explain` asks about a folder, the admin port's `/explain`
//! about what is in force.

pub(crate) mod case;
mod destination;
pub(crate) mod question;
pub(crate) mod report;
mod text;
mod walk;

pub(crate) use walk::explain;
