//! `mvbctl verify`: proves footage with public keys only and says in words what was done to it.

use super::{Context, Error, Exit};
use std::path::PathBuf;

/// Arguments of `mvbctl verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvbctl verify /mnt/card/mvb --keys boxes.keys --head head.json\n  \
    mvbctl verify segment.mvs --keys boxes.keys\nThe keys come from `mvb-cloud keys export`; nothing inside a segment is a \
    trust anchor.\nExit code 4: the footage is not what the box wrote.")]
pub struct Args {
    /// A store's folder (with its journal), or one segment file.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Evidence keys of the boxes, from `mvb-cloud keys export`.
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// The cloud's last acknowledged journal head: shows also a missing tail and a rolled back card.
    #[arg(long, value_name = "FILE")]
    pub head: Option<PathBuf>,
}

/// Verifies footage; [`Exit::Findings`] if it is not what the box wrote.
///
/// # Errors
/// A file cannot be read.
pub fn run(_args: &Args, _context: &Context) -> Result<Exit, Error> {
    todo!()
}
