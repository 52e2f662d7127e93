//! What the journal's entries mean. Their chain is `base::chain` with the log name [`LOG`]; `store` writes it.

use crate::base::chain::Head;
use crate::base::ids::{CameraId, Digest, KeyId, OrganisationId, RecordingId, SegmentId};
use crate::base::units::TimeStatement;
use crate::media::Gap;
use crate::seal::{EndReason, Prev};

/// The chain's name.
pub const LOG: &str = "journal";

/// One entry, typed. Ids only: no names, no contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalEntry {
    /// The daemon started; `previous` = how the run before ended, as far as known.
    RunStarted { clean: bool, time: TimeStatement },
    /// A segment file was created.
    Opened {
        segment: SegmentId,
        organisation: OrganisationId,
        camera: CameraId,
        recording: RecordingId,
        prev: Prev,
        background: bool,
    },
    /// It is complete and durable.
    Closed { segment: SegmentId, size: u64, sha256: Digest, end: Digest, reason: EndReason, cut: Option<u64> },
    /// Footage is missing.
    Gap { camera: CameraId, recording: RecordingId, gap: Gap, bytes: u64 },
    /// A hold was set or lifted.
    Held { segment: SegmentId, held: bool },
    /// Background became footage.
    Promoted { segment: SegmentId },
    /// Retention or upload class changed.
    Class { segment: SegmentId, class: u8 },
    /// The set of recipient keys changed.
    Recipients { organisation: OrganisationId, keys: Vec<KeyId> },
    /// A segment was erased. Durable before the unlink.
    Destroyed { segment: SegmentId, cause: u8 },
    /// A rebuild took the segment in.
    Adopted { segment: SegmentId },
    /// What is known about time.
    Time { time: TimeStatement },
    /// The cloud's signed acknowledgement of an earlier head.
    Acknowledged { head: Head, statement: Vec<u8> },
    /// The card does not reach the internal head, or another trouble with the store itself; `code` is stable.
    Alarm { code: String },
}

impl JournalEntry {
    /// Kind number and canonical CBOR body for [`crate::base::chain::Signed::append`].
    #[must_use]
    pub fn encode(&self) -> (u16, Vec<u8>) {
        todo!()
    }

    /// `None` for a kind that this version does not know: it is kept and skipped.
    ///
    /// # Errors
    /// A known kind whose body is not what the spec says.
    pub fn decode(_kind: u16, _body: &[u8]) -> Result<Option<Self>, crate::base::cbor::Error> {
        todo!()
    }
}
