//! The `waypoint` binary.

use waypoint_proxy::allocator::{Allocator, Jemalloc};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> std::process::ExitCode {
    waypoint_proxy::cli::main(Allocator::JEMALLOC)
}
