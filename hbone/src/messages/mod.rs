//! Requests and answers on HTTP/2 connections: the streams inside of tunnels and to endpoints, as the tunnels themselves.
//!
//! They are h2's own, without hyper between: whoever sends a request is the one who drives it. hyper hands each request to the
//! connection's task and back and makes a task for its answer and one for its body, and it drops what comes before an answer.

pub mod client;
pub mod fields;
pub mod received;
pub mod sending;
pub mod server;

mod date;
