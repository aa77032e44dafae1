//! What leaves for collectors in the background: spans, and lines of logs. What they say is made in `record/`.

pub(crate) mod export;
pub mod log_service;
pub mod services;
pub mod trace;
