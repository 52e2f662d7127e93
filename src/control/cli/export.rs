//! `mvbctl export`: opens sealed segments with a secret key and writes one playable MP4. Works without the daemon.

use super::{Context, Error, Exit};
use std::path::PathBuf;

/// Arguments of `mvbctl export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvbctl export /mnt/card/mvb --key org.key --recording 4f…e1 -o evidence.mp4\n  \
    mvbctl export segment.mvs --key recovery.key -o clip.mp4")]
pub struct Args {
    /// A store's folder, or one segment file.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// File of a secret key that the footage is sealed to (organisation or recovery).
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Which recording (id); may be left out if there is only one.
    #[arg(long, value_name = "ID")]
    pub recording: Option<crate::base::ids::RecordingId>,
    /// The MP4 to write.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the output if it exists.
    #[arg(long)]
    pub force: bool,
    /// File whose first line is the key's passphrase (asked for on the terminal otherwise).
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// Exports footage.
///
/// # Errors
/// A file cannot be read or written, the key does not open the footage.
pub fn run(_args: &Args, _context: &Context) -> Result<Exit, Error> {
    todo!()
}
