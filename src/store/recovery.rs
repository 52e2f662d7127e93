//! Opens a store: reads the journal, recovers what a power cut or a crash left open, and says what it found.

use crate::base::chain::Signer;
use crate::base::clock::Clock;
use crate::base::ids::{CameraId, RecordingId, SegmentId};
use crate::base::units::{ByteCount, Run};
use crate::media::Gap;
use crate::store::{Error, Limits, Store, Volume};
use std::path::PathBuf;
use std::sync::Arc;

/// Everything that the store stands on.
pub struct Options {
    /// The card.
    pub volume: Arc<dyn Volume>,
    /// Folder on internal storage; made if missing.
    pub internal: PathBuf,
    /// This run of the box; `start` has been counted up durably before.
    pub run: Run,
    /// The box's clocks.
    pub clock: Clock,
    /// The evidence key.
    pub signer: Arc<dyn Signer>,
    /// Memory and card.
    pub limits: Limits,
}

/// An opened store and what opening it found.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Segments that the run before left open.
    pub recovered: Vec<Recovered>,
    /// Files that are none of ours to touch.
    pub strays: Vec<Stray>,
    /// Stable codes: `card-rolled-back`, `catalog-rebuilt` …
    pub alarms: Vec<&'static str>,
}

/// A segment that recovery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which.
    pub segment: SegmentId,
    /// Its camera.
    pub camera: CameraId,
    /// Its recording.
    pub recording: RecordingId,
    /// Bytes that were cut off.
    pub lost: ByteCount,
    /// What may be missing; `to` is the bound. `None` when it was complete but for the journal.
    pub gap: Option<Gap>,
}

/// A segment file that the journal does not account for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Its name on the card.
    pub name: String,
    /// `replayed`, `foreign` or `unreadable`.
    pub code: &'static str,
}

impl Store {
    /// Opens and recovers. Blocks on the disk.
    ///
    /// # Errors
    /// The card or internal storage cannot be used at all; damage inside is handled and reported instead.
    pub fn open(_options: Options) -> Result<Opened, Error> {
        todo!()
    }
}
