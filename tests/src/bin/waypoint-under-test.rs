//! The `waypoint` binary for stories that need a process of its own: cargo builds it with them.

use waypoint_proxy::allocator::{Allocator, Jemalloc};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> std::process::ExitCode {
    waypoint_proxy::cli::main(Allocator::JEMALLOC)
}
