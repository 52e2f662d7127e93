//! What the daemon stands on: the clocks and the card's volume, so that whole-product tests can put others under it.
//!
//! Belongs here: the real ones. Does not belong here: the others (see `sim`).

use crate::base::clock::Clock;
use crate::base::units::WallTime;
use crate::store::{Directory, Volume};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Clocks and card of one machine.
pub trait Machine: Send + Sync {
    /// The clocks; no statement of theirs lies before `floor`.
    fn clock(&self, floor: WallTime) -> Clock;

    /// The card that is mounted at a folder.
    ///
    /// # Errors
    /// The folder cannot be used.
    fn card(&self, folder: &Path) -> io::Result<Arc<dyn Volume>>;
}

/// The machine that the process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Real;

impl Machine for Real {
    fn clock(&self, floor: WallTime) -> Clock {
        Clock::system(floor)
    }

    fn card(&self, folder: &Path) -> io::Result<Arc<dyn Volume>> {
        Ok(Arc::new(Directory::open(folder)?))
    }
}
