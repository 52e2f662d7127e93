//! The box's counterpart in the cloud.

fn main() -> std::process::ExitCode {
    mvb::cloud::cli::main()
}
