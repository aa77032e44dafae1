//! A tunnel, and the connection that it is on as a client has it.

pub mod connect_error;
pub mod connection;
pub mod copy;
pub mod stream;

mod held_by;
