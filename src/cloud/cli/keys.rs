//! `mvb-cloud unlock`, `mvb-cloud keys …`, `mvb-cloud head …`.

use super::{Failure, Global, Outcome, passphrase, unexpected};
use crate::cloud::command::{Command as Order, Reply};
use crate::cloud::vault::Reader;
use crate::cloud::verify;
use crate::seal::verify::HeadFile;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Keys.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write the evidence keys of all boxes, with from and to, for `mvbctl verify --keys` (works without the daemon).
    Export {
        /// File to write [default: standard output].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Offline recovery keys: boxes that pair from now on also seal to them.
    #[command(subcommand)]
    Recovery(RecoveryCommand),
}

/// Recovery keys.
#[derive(Debug, clap::Subcommand)]
pub enum RecoveryCommand {
    /// Add a recovery key.
    Add {
        /// Public key file, as `mvbctl recipients generate` makes it; lines that start with # are skipped.
        file: PathBuf,
    },
}

/// Journals.
#[derive(Debug, clap::Subcommand)]
pub enum HeadCommand {
    /// Write the cloud's head of a box's journal, for `mvbctl verify --head` (works without the daemon).
    Export {
        /// Box id, or the first digits of it if they are unique.
        #[arg(value_name = "BOX")]
        box_id: String,
        /// File to write [default: standard output].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

pub(super) fn unlock(global: &Global, args: &passphrase::Args) -> Outcome {
    let passphrase = args.require()?;
    match global.ask(Order::Unlock { passphrase })? {
        Reply::Done => {
            eprintln!("The organisation key is open. Footage that came while it was locked is being checked.");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(unexpected()),
    }
}

pub(super) fn run(global: &Global, command: Command) -> Outcome {
    match command {
        Command::Export { out } => {
            let data = global.load()?.data;
            let keys =
                Reader::open(&data).and_then(|vault| Ok(verify::keys(&vault)?)).map_err(|error| Failure::of(&error))?;
            write_out(out.as_deref(), &keys.to_text())
        }
        Command::Recovery(RecoveryCommand::Add { file }) => {
            let public = std::fs::read_to_string(&file).map_err(|error| {
                Failure::new("file-unreadable", format!("{}: {error}; give a readable file", file.display()))
            })?;
            let name = file.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            match global.ask(Order::RecoveryAdd { public, name })? {
                Reply::Recovery { id } => {
                    println!("{id}");
                    eprintln!("Boxes that pair from now on also seal to this key.");
                    Ok(ExitCode::SUCCESS)
                }
                _ => Err(unexpected()),
            }
        }
    }
}

pub(super) fn head(global: &Global, command: &HeadCommand) -> Outcome {
    let HeadCommand::Export { box_id, out } = command;
    let box_id = super::pair::find_box(global, box_id)?;
    let data = global.load()?.data;
    let head = Reader::open(&data)
        .and_then(|vault| Ok(vault.journal_head(box_id)?))
        .map_err(|error| Failure::of(&error))?
        .ok_or_else(|| {
            Failure::new("no-journal", format!("box {box_id} has not sent its journal yet: wait for its first session"))
        })?;
    write_out(out.as_deref(), &HeadFile { box_id, seq: head.seq, hash: head.hash, statement: None }.to_text())
}

fn write_out(out: Option<&Path>, text: &str) -> Outcome {
    let result = match out {
        Some(path) => crate::base::fs::replace(path, text.as_bytes(), 0o644),
        None => std::io::stdout().write_all(text.as_bytes()),
    };
    let shown = out.map_or_else(|| "standard output".into(), |path| path.display().to_string());
    result.map(|()| ExitCode::SUCCESS).map_err(|error| {
        Failure::new("file-unwritable", format!("{shown}: {error}; choose a folder that can be written"))
    })
}
