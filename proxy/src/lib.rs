//! The process: sockets, the life of a connection and of a request, upstreams, admin and the command line.
//!
//! Start with [`run`] (what is started), then `hbone_port`, `tunnel`, `exchange` and
//! `router` (a request from its CONNECT to its answer), `tcp` (a stream without HTTP).

mod admin;
mod certificates;
pub mod cli;
mod configuration;
mod connect;
mod control;
mod crl;
mod data_path;
mod demo;
mod descriptors;
mod dns;
mod downstream;
mod drain;
mod exchange;
mod hbone_port;
mod host;
mod http_connection;
mod lifecycle;
mod linger;
mod listen;
pub mod log_levels;
mod log_writer;
mod logging;
pub mod logs;
mod overload;
mod path_normalization;
mod pod;
mod process;
mod readiness;
mod record;
mod replay;
mod request_head;
mod retry;
mod router;
pub mod run;
mod seconds_until;
mod settings;
mod sniff;
mod tcp;
mod terminals;
mod tunnel;
mod upgrade;
mod upstream;
mod workload_ca;

pub use process::allocator;
