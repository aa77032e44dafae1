//! Whatever a peer or a control plane sends is read without a panic, in bounded time and memory.
//!
//! Each test is a target: inputs of its corpus, mutated for `WAYPOINT_FUZZ_SECONDS` (one, unless set). Nothing measures what an
//! input reaches, as libFuzzer does; that needs a nightly compiler. `WAYPOINT_SEED` repeats a run. An input that fails is
//! written to `target/fuzz/`; put it into the corpus with its fix.

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod configuration;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod corpus;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod harness;
#[cfg(test)]
mod mutation;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod peers;
