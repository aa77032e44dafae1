//! Names of hosts, and the servers that are asked where those are.

pub(crate) mod resolver;
