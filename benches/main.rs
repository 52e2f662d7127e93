//! `make bench`: one JSON line per result, each beside a peer in the same run where one exists.
//!
//! `cargo bench --bench main -- seal write ingest footprint` runs a selection; without names, all.

mod daemon;
mod footprint;
mod ingest;
mod machine;
mod seal;
mod write;

use std::process::ExitCode;

/// Name and body.
type Bench = (&'static str, fn() -> anyhow::Result<()>);

fn main() -> ExitCode {
    // cargo passes `--bench`; the rest are names.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let all: [Bench; 4] =
        [("seal", seal::run), ("write", write::run), ("ingest", ingest::run), ("footprint", footprint::run)];
    let mut code = ExitCode::SUCCESS;
    for (name, run) in all {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            continue;
        }
        if let Err(error) = run() {
            eprintln!("bench {name}: {error:#}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
