//! The `waypoint` binary for stories that need a process of its own: cargo builds it with them.

fn main() -> std::process::ExitCode {
    waypoint_proxy::cli::main()
}
