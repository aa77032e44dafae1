//! The `waypoint` binary for stories that need a process of its own: cargo builds it with them.
//!
//! A story may have a thread of it panic: what `WAYPOINT_UNDER_TEST_PANICS` names is a file, and once there is one, the
//! overload manager finds no answer to what it asks the allocator.

use waypoint_proxy::allocator::{Allocator, Jemalloc};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const OURS: Allocator = Allocator {
    in_use,
    ..Allocator::JEMALLOC
};

fn in_use() -> Option<u64> {
    if let Some(file) = std::env::var_os("WAYPOINT_UNDER_TEST_PANICS") {
        assert!(
            !std::path::Path::new(&file).exists(),
            "as the story wants it"
        );
    }
    (Allocator::JEMALLOC.in_use)()
}

fn main() -> std::process::ExitCode {
    waypoint_proxy::cli::main(OURS)
}
