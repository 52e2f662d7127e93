//! `mvbctl recordings`: what is on the card, one logical run of a camera a line.

use super::{Context, Error, Exit};
use std::path::PathBuf;

/// Arguments of `mvbctl recordings`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvbctl recordings\n  mvbctl recordings --json\n  mvbctl recordings --path /mnt/card/mvb"
)]
pub struct Args {
    /// A store's folder, read without the daemon (a card from another box, or while mvbd is stopped).
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// Only this camera (id).
    #[arg(long, value_name = "ID")]
    pub camera: Option<crate::base::ids::CameraId>,
    /// Each segment too.
    #[arg(long)]
    pub segments: bool,
}

/// Lists recordings.
///
/// # Errors
/// The daemon does not answer, or the folder holds no readable store.
pub fn run(_args: &Args, _context: &Context) -> Result<Exit, Error> {
    todo!()
}
