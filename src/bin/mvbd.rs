//! `mvbd`: the box's daemon.

fn main() -> std::process::ExitCode {
    mvb::daemon::cli::main()
}
