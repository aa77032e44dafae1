//! What is in force and what it came to, as JSON: for the page on the admin port and for commands.
//!
//! A view is made when somebody asks, from what the process has anyway, and holds so much at most: what is left out is
//! counted in `leftOut`. The names are a contract with the page and with scripts.

pub(crate) mod directory;
pub(crate) mod endpoints;
pub(crate) mod policies;
pub(crate) mod resources;
pub(crate) mod routes;
pub(crate) mod time;
pub(crate) mod traffic;

use serde_json::Value;

/// The first `most` of a list, and how many more there are.
fn bounded(all: impl Iterator<Item = Value>, most: usize) -> (Vec<Value>, usize) {
    let mut all = all.fuse();
    let shown: Vec<Value> = all.by_ref().take(most).collect();
    (shown, all.count())
}
