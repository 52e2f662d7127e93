//! `mvbctl`: arguments, exit codes, and one file per command that needs more than a few lines.
//!
//! Belongs here: the words that a person types and reads. Does not belong here: logic; a command either asks the daemon
//! over its socket or calls the room that owns the work. Results go to standard output (one JSON value with `--json`),
//! everything else to standard error.

pub mod camera;
pub mod export;
pub mod pair;
pub mod recipients;
pub mod recordings;
pub mod status;
pub mod verify;

use crate::control::{self, Reply, socket};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// How `mvbctl` ends; the numbers are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, and all is well.
    Ok = 0,
    /// It did not work; the message says why and what to do.
    Failed = 1,
    /// The command line is wrong (also clap's own code).
    Usage = 2,
    /// The daemon does not answer.
    Unreachable = 3,
    /// The command worked and found something wrong: tampered or damaged footage, a box that does not record.
    Findings = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens on the socket.
    #[error("mvbd does not answer at {}; is it running? (systemctl status mvbd)", socket.display())]
    Unreachable {
        /// Where it should listen.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The daemon refused, with its stable code.
    #[error("{message} [{code}]")]
    Refused {
        /// Stable reason code.
        code: String,
        /// For people.
        message: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {what}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried and what to do.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The arguments do not go together.
    #[error("{0}")]
    Usage(String),
    /// A room's own error.
    #[error("{what}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why it did not work.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Wraps a room's own error.
    pub fn failed(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed { what: what.into(), source: source.into() }
    }

    /// The exit code that it leads to.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Usage(_) => Exit::Usage,
            Self::Refused { .. } | Self::File { .. } | Self::Failed { .. } => Exit::Failed,
        }
    }
}

/// What every command gets beside its own arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Context {
    /// One JSON value on standard output instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Unix socket of the daemon.
    #[arg(long, global = true, env = "MVB_SOCKET", default_value = "/run/mvb/mvbd.sock", value_name = "PATH")]
    pub socket: PathBuf,
}

impl Context {
    /// Asks the daemon; `T` is what the command documents.
    ///
    /// # Errors
    /// `Unreachable`, `Refused`, `Failed`.
    pub fn ask<T: serde::de::DeserializeOwned>(&self, command: control::Command) -> Result<T, Error> {
        let reply = socket::ask(&self.socket, command)
            .map_err(|source| Error::Unreachable { socket: self.socket.clone(), source })?
            .map_err(|source| Error::failed("asking mvbd", source))?;
        match reply {
            Reply::Done(value) => {
                serde_json::from_value(value).map_err(|source| Error::failed("mvbd is of another version", source))
            }
            Reply::Refused(refusal) => Err(Error::Refused { code: refusal.code, message: refusal.message }),
        }
    }

    /// One JSON value on standard output.
    ///
    /// # Errors
    /// `Failed` if the value cannot be written.
    pub fn print_json<T: serde::Serialize>(&self, value: &T) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(value).map_err(|source| Error::failed("writing JSON", source))?;
        println!("{text}");
        Ok(())
    }

    /// Says that something is done: in words, or as `{"done":true}`.
    ///
    /// # Errors
    /// `Failed` if the value cannot be written.
    pub fn done(&self, words: &str) -> Result<(), Error> {
        if self.json {
            return self.print_json(&serde_json::json!({ "done": true }));
        }
        println!("{words}");
        Ok(())
    }
}

/// Speaks to the box's daemon, and verifies and exports footage without it.
#[derive(Debug, Parser)]
#[command(
    name = "mvbctl",
    version,
    after_help = "Exit codes: 0 well, 1 failed, 2 wrong arguments, 3 mvbd does not \
    answer, 4 worked and found something wrong."
)]
pub struct Cli {
    #[command(flatten)]
    context: Context,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Is the box recording, and how is everything?
    Status(status::Args),
    /// Pair the box with a cloud.
    Pair(pair::Args),
    /// End the pairing on this side.
    Unpair(pair::UnpairArgs),
    /// Enrol, list and remove cameras.
    Camera(camera::Args),
    /// Keys that footage is sealed to.
    Recipients(recipients::Args),
    /// Accept a card that is older than the box remembers, after you have looked into it.
    AcceptCard,
    /// List the recordings on the card.
    Recordings(recordings::Args),
    /// Open sealed footage with a key and write an MP4 (works without the daemon).
    Export(export::Args),
    /// Prove that footage is complete and untouched, or say what was done to it (public keys only).
    Verify(verify::Args),
}

/// Runs `mvbctl` to its end.
#[must_use]
pub fn main() -> ExitCode {
    // `mvbctl status | head -1` ends quietly, as other tools do.
    // SAFETY: the default action is no handler of ours, and no thread runs yet.
    let _ =
        unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) };
    let Cli { context, command } = Cli::parse();
    let result = match command {
        Command::Status(args) => status::run(&args, &context),
        Command::Pair(args) => pair::run(args, &context),
        Command::Unpair(args) => pair::unpair(&args, &context),
        Command::Camera(args) => camera::run(args, &context),
        Command::Recipients(args) => recipients::run(args, &context),
        Command::AcceptCard => context
            .ask::<()>(control::Command::AcceptCard)
            .and_then(|()| context.done("The card is accepted: footage on it may be erased again."))
            .map(|()| Exit::Ok),
        Command::Recordings(args) => recordings::run(&args, &context),
        Command::Export(args) => export::run(&args, &context),
        Command::Verify(args) => verify::run(&args, &context),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("mvbctl: {}", crate::base::reason::chain(&error));
            error.exit().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
