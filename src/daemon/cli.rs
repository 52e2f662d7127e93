//! `mvbd`: arguments, runtime, signals, exit code.

use crate::base::reason::{Coded, chain};
use crate::control::Config;
use crate::control::config::DEFAULT_STATE;
use crate::daemon::app::{App, AppError};
use crate::daemon::machine::{Machine, Real};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Everything but the card's writer waits most of the time: two threads keep memory small.
const WORKERS: usize = 2;
/// Disk work off the runtime: more at once would not make a card faster.
const BLOCKING: usize = 8;

/// Records, seals and relays what cameras send.
#[derive(Debug, Parser)]
#[command(
    name = "mvbd",
    version,
    after_help = "Exit codes: 0 ended by a signal, all durable; 1 failed; 2 wrong arguments or configuration; 130 second \
                  signal.\nExamples:\n  mvbd\n  mvbd --config /etc/mvb.toml --state /var/lib/mvb\n  mvbd --config mvb.toml \
                  --check"
)]
struct Args {
    /// Configuration file [default: mvb.toml in the state folder, else /usr/share/mvb/mvb.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of everything that the box keeps beside footage.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Only check the configuration.
    #[arg(long)]
    check: bool,
}

/// Runs `mvbd` to its end.
#[must_use]
pub fn main() -> ExitCode {
    main_on(Arc::new(Real))
}

/// As [`main`], on another machine than this.
#[must_use]
pub fn main_on(machine: Arc<dyn Machine>) -> ExitCode {
    let args = Args::parse();
    let config = match Config::load(args.config.as_deref(), &args.state) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{} [{}]", chain(&error), error.code());
            return ExitCode::from(2);
        }
    };
    if args.check {
        println!("The configuration is fine.");
        return ExitCode::SUCCESS;
    }
    crate::base::log::init(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mvbd: the system gives no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(config, args.state, machine));
    // A thread that still waits for a dying card must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(AppError::Interrupted) => ExitCode::from(130),
        Err(error) => {
            tracing::error!(code = error.code(), "{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, state: PathBuf, machine: Arc<dyn Machine>) -> Result<(), AppError> {
    // Before anything is opened: a signal during recovery waits for it, and a second one need not.
    let stop = signals()?;
    App::load(config, &state, &*machine).await?.run(stop).await
}

fn signals() -> Result<mpsc::Receiver<&'static str>, AppError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
    let (sender, receiver) = mpsc::channel(2);
    let forward = async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if sender.send(name).await.is_err() {
                return;
            }
        }
    };
    // It waits for signals as long as the process lives: no part of the shutdown waits for it.
    crate::base::tasks::Tasks::default().spawn("signals", forward);
    Ok(receiver)
}
