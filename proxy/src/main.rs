//! The `waypoint` binary.

use waypoint_proxy::allocator::{Jemalloc, in_use};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> std::process::ExitCode {
    waypoint_proxy::cli::main(in_use)
}
