//! The client's side: connections before they have tunnels, the bytes of inner HTTP connections before hyper reads
//! them, answers that break off, and peers that flood.

pub(crate) mod data_path;
pub(crate) mod floods;
pub(crate) mod hbone_port;
pub(crate) mod http;
pub(crate) mod lifetime;
pub(crate) mod newcomers;
pub(crate) mod server_name;
pub(crate) mod sniff;
pub(crate) mod tcp;
pub(crate) mod tunnel;
mod turns;
