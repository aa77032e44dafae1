//! What it costs to choose: a route among many, an endpoint among many. `cargo bench -p waypoint-benches --bench choices`.
//!
//! Everything is compiled from manifests, the way the process does it. What a choice allocates is asked of jemalloc before
//! anything is measured: nothing may be. That is all that `cargo test` does here, without the largest numbers.

#![allow(clippy::unwrap_used)]

mod endpoints;
mod mesh;
mod routes;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

criterion_group! {
    name = choices;
    // Nanoseconds: a second each says enough, and there are many.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700));
    targets = routes::route_choice, endpoints::endpoint_choice
}
criterion_main!(choices);

/// Bytes that the thread allocates in `work`.
fn allocated<T>(work: impl FnOnce() -> T) -> u64 {
    let counter = tikv_jemalloc_ctl::thread::allocatedp::read().unwrap();
    let before = counter.get();
    let made = work();
    let bytes = counter.get() - before;
    drop(made);
    bytes
}

/// As many routes or endpoints as are compared, fewer where nothing is measured.
fn counts(all: [usize; 3]) -> impl Iterator<Item = usize> {
    let measured = std::env::args().any(|word| word == "--bench");
    all.into_iter()
        .filter(move |count| measured || *count <= 1_000)
}
