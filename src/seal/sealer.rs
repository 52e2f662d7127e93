//! Lays out one segment: header, records, checkpoints, end.

use crate::base::chain::Signer;
use crate::base::ids::{CameraId, Digest, RecordingId, SegmentId};
use crate::base::units::{BootTime, Run};
use crate::media::{AccessUnit, Gap, TrackParams};
use crate::seal::{Meta, Recipients, SealedFrame, SegmentFlags};
use minicbor::{Decode, Encode};
use std::sync::Arc;

/// A body part is at most this long; a larger access unit is split.
pub const MAX_PART: usize = 64 * 1024;
/// A segment is ended at the next key frame after this time.
pub const TARGET: std::time::Duration = std::time::Duration::from_secs(10);
/// A segment is ended at any unit after this time …
pub const MAX_TIME: std::time::Duration = std::time::Duration::from_secs(15);
/// … or before this size is passed; the next is then `starts_dependent`.
pub const MAX_SIZE: u64 = 32 * 1024 * 1024;

/// Why a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum EndReason {
    /// The next segment of the recording follows.
    #[n(1)]
    Next,
    /// The recording ended.
    #[n(2)]
    Finished,
    /// The recorder's lane was full.
    #[n(3)]
    Overflow,
    /// Recovered after a power cut.
    #[n(4)]
    PowerCut,
    /// Recovered after a crash of the daemon.
    #[n(5)]
    Crash,
    /// The card was removed or failed.
    #[n(6)]
    CardLost,
    /// Ordered shutdown.
    #[n(7)]
    Shutdown,
}

/// The segment before this one in its recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prev {
    /// The segment and the SHA-256 of its END frame.
    Segment(SegmentId, Digest),
    /// First of its recording.
    First,
    /// The one before was lost or is not known.
    Unknown,
}

/// Everything that a new segment states.
pub struct SegmentStart {
    /// Random, new.
    pub segment: SegmentId,
    /// Which run of the box.
    pub run: Run,
    /// Now.
    pub at: BootTime,
    /// Which camera.
    pub camera: CameraId,
    /// Which recording.
    pub recording: RecordingId,
    /// What is unusual.
    pub flags: SegmentFlags,
    /// Sealed facts.
    pub meta: Meta,
    /// Parameters of all tracks known so far.
    pub params: Vec<Arc<TrackParams>>,
    /// What came before.
    pub prev: Prev,
}

/// A segment that was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Which.
    pub segment: SegmentId,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the whole file.
    pub sha256: Digest,
    /// SHA-256 of the END frame, for the next segment's `prev`.
    pub end: Digest,
    /// Sealed records in it.
    pub records: u32,
}

/// An open segment. Every method returns the frames that it laid out, in file order.
pub struct Sealer {
    _private: (),
}

impl Sealer {
    /// Starts a segment: HEADER, CKPT 0, META, PARAMS.
    #[must_use]
    pub fn start(_start: SegmentStart, _recipients: &Recipients, _signer: Arc<dyn Signer>) -> (Self, Vec<SealedFrame>) {
        todo!()
    }

    /// Seals one access unit, in parts of at most [`MAX_PART`].
    pub fn unit(&mut self, _unit: &AccessUnit) -> Vec<SealedFrame> {
        todo!()
    }

    /// Seals new or changed parameters.
    pub fn params(&mut self, _params: &TrackParams, _at: BootTime) -> SealedFrame {
        todo!()
    }

    /// Seals a statement that something is missing.
    pub fn gap(&mut self, _gap: &Gap) -> SealedFrame {
        todo!()
    }

    /// Signs everything so far.
    pub fn checkpoint(&mut self, _at: BootTime) -> SealedFrame {
        todo!()
    }

    /// Ends the segment.
    #[must_use]
    pub fn end(self, _reason: EndReason, _at: BootTime) -> (SealedFrame, Finished) {
        todo!()
    }

    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// Bytes that `unit` would add.
    #[must_use]
    pub fn size_of(_unit: &AccessUnit) -> u64 {
        todo!()
    }

    /// The file's id.
    #[must_use]
    pub fn segment(&self) -> SegmentId {
        todo!()
    }
}
