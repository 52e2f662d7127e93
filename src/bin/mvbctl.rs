//! `mvbctl`: asks the box's daemon, and verifies and exports footage without it.

fn main() -> std::process::ExitCode {
    mvb::control::cli::main()
}
