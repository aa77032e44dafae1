//! Format strings: `%OPERATORS%` compiled once, evaluated per stream.

/// A compiled format string.
#[derive(Debug)]
pub struct Format {}
