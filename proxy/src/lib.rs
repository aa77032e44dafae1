//! The process: sockets, the life of a connection and of a request, upstreams, admin and the command line.
//!
//! Where to look, from the outside in:
//!
//! - `cli` and `pod`: how the process is started, from flags or as a waypoint's pod; [`run`]: what is started then, in which
//!   order; `lifecycle`: when it is ready, and how it ends.
//! - `downstream`: the HBONE port, tunnels, TCP streams; `downstream::http`: connections and exchanges inside tunnels.
//! - `explain`: what would become of a request, told by the same code.
//! - `router`: route → cluster → endpoint → connection → answer, and again; `upstream`: connections and their pools.
//! - `configuration`: sources, what became of what they said, names that are looked up; `identity`: certificates.
//! - `overload`: who holds memory, and what is done about it; `process`: threads, descriptors, the allocator.
//! - `admin`, `view` and `logs`: what can be seen; `profiles`: what the process itself is at.

mod admin;
pub mod cli;
mod configuration;
mod downstream;
mod explain;
pub mod fuzzed;
mod identity;
mod lifecycle;
pub mod logs;
mod names;
mod overload;
mod pod;
mod process;
mod profiles;
mod router;
pub mod run;
mod upstream;
mod view;

pub use process::allocator;
