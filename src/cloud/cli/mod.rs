//! `mvb-cloud`: arguments, exit codes, and one file per group of commands.
//!
//! Belongs here: the words that a person types and reads. Does not belong here: logic. Results go to standard output
//! (one JSON value with `--json`), everything else to standard error.

pub mod export;
mod footage;
mod keys;
mod pair;
pub mod passphrase;
mod run;
mod status;

use crate::base::reason::{self, Coded};
use crate::cloud::command::{Command as Order, Reply};
use crate::cloud::config::{Config, ConfigError, Overrides};
use crate::cloud::socket;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a command waits for the daemon; unlocking takes the passphrase's deliberate second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps the sealed footage of your boxes, proves it, and opens it with the organisation's key.
#[derive(Debug, Parser)]
#[command(
    name = "mvb-cloud",
    version,
    after_help = "Exit codes: 0 well, 1 failed, 2 wrong arguments, 3 the daemon does not answer, 4 worked and found \
    something wrong."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Folder of everything that the cloud keeps [default: data in the configuration, else /var/lib/mvb-cloud].
    #[arg(long, global = true, value_name = "DIR", env = "MVB_CLOUD_DATA")]
    data: Option<PathBuf>,
    /// Configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE", env = "MVB_CLOUD_CONFIG")]
    config: Option<PathBuf>,
    /// One JSON value on standard output instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: take pairings and footage until told to stop.
    Run(run::Args),
    /// Make, list and end pairings with boxes.
    #[command(subcommand)]
    Pair(pair::Command),
    /// List the recordings in the vault (works without the daemon).
    Recordings,
    /// Open footage with the organisation's key and write an MP4 (works without the daemon).
    Export(export::Args),
    /// Prove that everything in the vault is complete and untouched, with public keys only (works without the daemon).
    Verify,
    /// Show boxes, sessions, counts, backlog and alarms.
    Status,
    /// Open the organisation's key in the running daemon.
    Unlock(passphrase::Args),
    /// Evidence keys and recovery keys.
    #[command(subcommand)]
    Keys(keys::Command),
    /// What the cloud knows of a box's journal.
    #[command(subcommand)]
    Head(keys::HeadCommand),
    /// Look at alarms and clear them.
    #[command(subcommand)]
    Alarm(status::AlarmCommand),
}

/// Why a command did not work: code, message and exit code.
#[derive(Debug)]
pub struct Failure {
    /// Stable reason code.
    pub code: String,
    /// For people: thing, problem, remedy.
    pub message: String,
    /// Exit code.
    pub exit: u8,
}

impl Failure {
    /// From any coded error of this room, with its sources.
    pub fn of<E: Coded + std::error::Error>(error: &E) -> Self {
        Self { code: error.code().into(), message: reason::chain(error), exit: 1 }
    }

    /// From words.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), exit: 1 }
    }
}

impl From<socket::SocketError> for Failure {
    fn from(error: socket::SocketError) -> Self {
        let exit = if matches!(error, socket::SocketError::NotRunning { .. }) { 3 } else { 1 };
        Self { exit, ..Self::of(&error) }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { exit: 2, ..Self::of(&error) }
    }
}

/// What a command says at its end.
type Outcome = Result<ExitCode, Failure>;

/// Runs `mvb-cloud` to its end.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    if !matches!(command, Command::Run(_)) {
        // `mvb-cloud status | head` ends quietly, as every Unix tool does.
        // SAFETY: set before any thread exists; the default action needs no handler.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
    }
    crate::base::log::init(if matches!(command, Command::Run(_)) { "info" } else { "warn" });
    let outcome = match command {
        Command::Run(args) => run::run(&global, args),
        Command::Pair(command) => pair::run(&global, command),
        Command::Recordings => footage::recordings(&global),
        Command::Export(args) => export::run(&global, &args),
        Command::Verify => footage::verify(&global),
        Command::Status => status::run(&global),
        Command::Unlock(args) => keys::unlock(&global, &args),
        Command::Keys(command) => keys::run(&global, command),
        Command::Head(command) => keys::head(&global, &command),
        Command::Alarm(command) => status::alarm(&global, &command),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            if global.json {
                let value = serde_json::json!({ "error": failure.code, "message": failure.message });
                println!("{value}");
            }
            eprintln!("mvb-cloud: {} [{}]", failure.message, failure.code);
            ExitCode::from(failure.exit)
        }
    }
}

impl Global {
    fn load(&self) -> Result<Config, ConfigError> {
        self.load_with(Overrides::default())
    }

    fn load_with(&self, over: Overrides) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), Overrides { data: self.data.clone(), ..over })
    }

    /// Asks the daemon; its refusal becomes a failure.
    fn ask(&self, order: Order) -> Result<Reply, Failure> {
        let data = self.load()?.data;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new("runtime", format!("cannot start: {error}")))?;
        match runtime.block_on(socket::ask(&data, order, PATIENCE))? {
            Reply::Refused { code, message } => Err(Failure { code, message, exit: 1 }),
            reply => Ok(reply),
        }
    }

    /// Prints a value as JSON.
    fn print_json(value: &impl serde::Serialize) -> Outcome {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new("json", error.to_string()))?;
        println!("{text}");
        Ok(ExitCode::SUCCESS)
    }
}

/// The daemon answered something else than the command leads to.
fn unexpected() -> Failure {
    Failure::new("control-malformed", "mvb-cloud gave an unexpected answer: both must be of the same version")
}

/// Milliseconds since 1970 as `2026-11-27 13:04:29 UTC` (proleptic Gregorian calendar).
fn utc(at: crate::base::units::WallTime) -> String {
    let seconds = at.0.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to civil date, counted in eras of 400 years that start on 1 March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::WallTime;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_says_what_it_does() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
                for arg in sub.get_arguments() {
                    assert!(arg.get_help().is_some(), "{} {} has no help", sub.get_name(), arg.get_id());
                }
                check(sub);
            }
        }
        Cli::command().debug_assert();
        check(&Cli::command());
    }

    #[test]
    fn times_are_shown_in_utc() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_795_784_669_000, "2026-11-27 13:04:29 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(utc(WallTime(ms)), text);
        }
    }
}
