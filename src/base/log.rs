//! Log set-up shared by the three binaries.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Sends logs to standard error; `RUST_LOG` overrides `default` (for example `info` or `mvb=debug`).
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // A second call (tests) keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}
