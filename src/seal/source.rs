//! Where finished segments come from: implemented by `store`, read by `relay`, so that neither knows the other.

use crate::base::chain::{Head, Signed};
use crate::base::ids::{CameraId, Digest, OrganisationId, RecordingId, SegmentId};
use bytes::Bytes;
use std::io;

/// In which order the backlog is sent: smaller first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum UploadClass {
    /// An alarm.
    Alarm = 0,
    /// Marked by a person.
    Marked = 1,
    /// Asked for by the cloud.
    Requested = 2,
    /// Everything else, oldest expiry first.
    Normal = 3,
    /// Pre-roll that no event promoted.
    Background = 4,
}

/// A finished segment that the cloud has not committed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentOffer {
    /// Which file.
    pub segment: SegmentId,
    /// Owner; offered only to this organisation's cloud.
    pub organisation: OrganisationId,
    /// Which camera.
    pub camera: CameraId,
    /// Which recording.
    pub recording: RecordingId,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file as the journal states it, never from re-reading the card.
    pub sha256: Digest,
    /// Where recovery's END begins, if the file was recovered.
    pub cut: Option<u64>,
    /// Urgency.
    pub class: UploadClass,
    /// Order within the class: journal sequence number of `closed`.
    pub seq: u64,
}

/// The cloud's signed statement that it holds a segment (docs/spec/relay.md, COMMITTED).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Which file.
    pub segment: SegmentId,
    /// Size that was committed.
    pub size: u64,
    /// Digest that was committed.
    pub sha256: Digest,
    /// Whether the cloud unwrapped the segment's key and matched the commitment.
    pub opened: bool,
    /// The message's signed bytes and signature, kept as proof.
    pub statement: Vec<u8>,
}

/// Finished segments and the journal, as the relay reads them. Methods block on the disk: call them off the runtime.
pub trait SegmentSource: Send + Sync {
    /// Up to `limit` uncommitted, undamaged segments of the organisation, most urgent first.
    ///
    /// # Errors
    /// The catalog cannot be read.
    fn offers(&self, organisation: OrganisationId, limit: usize) -> io::Result<Vec<SegmentOffer>>;

    /// Bytes of a finished segment.
    ///
    /// # Errors
    /// The file is gone or cannot be read.
    fn read(&self, segment: SegmentId, offset: u64, len: usize) -> io::Result<Bytes>;

    /// Keeps a receipt that the relay has verified; the segment is no longer offered.
    ///
    /// # Errors
    /// The receipt could not be stored: the relay will be given it again.
    fn committed(&self, receipt: &Receipt) -> io::Result<()>;

    /// The cloud refused the segment twice. The file is compared with the journal; if it differs it is marked
    /// `damaged`, and never erased by itself.
    ///
    /// # Errors
    /// The file or the catalog cannot be read.
    fn rejected(&self, segment: SegmentId, reason: &str) -> io::Result<()>;

    /// Journal entries after `after` (all if `None`), oldest first, at most `limit`.
    ///
    /// # Errors
    /// The journal cannot be read.
    fn journal(&self, after: Option<Head>, limit: usize) -> io::Result<Vec<Signed>>;

    /// The journal's durable head.
    fn journal_head(&self) -> Option<Head>;

    /// Appends the cloud's acknowledgement (its signed bytes) to the journal: it bounds times without a clock.
    ///
    /// # Errors
    /// The journal cannot be written.
    fn journal_acknowledged(&self, head: Head, statement: &[u8]) -> io::Result<()>;

    /// Called whenever something new may be offered; set once by the relay.
    fn on_change(&self, wake: Box<dyn Fn() + Send + Sync>);

    /// A session with the organisation's cloud begins, which has our journal up to `known`: what it said in an earlier
    /// session is no permission any more, and if it has less than it acknowledged it is asked about everything again.
    ///
    /// # Errors
    /// The store has stopped.
    fn session_began(&self, _organisation: OrganisationId, _known: Option<Head>) -> io::Result<()> {
        Ok(())
    }

    /// Committed segments of the organisation, with the digest that was committed, oldest first, for ERASE?: those that
    /// the store would like to erase; while the card has room, a page of all of them, so that a cloud that lost some is
    /// noticed before room is needed.
    ///
    /// # Errors
    /// The catalog cannot be read.
    fn erase_candidates(&self, _organisation: OrganisationId, _limit: usize) -> io::Result<Vec<(SegmentId, Digest)>> {
        Ok(Vec::new())
    }

    /// The cloud's fresh answer to ERASE?: those in `yes` may go, those in `no` must stay, whatever a receipt says; those
    /// in `unknown` it does not hold: their receipts are void, and they are offered again.
    ///
    /// # Errors
    /// The catalog cannot be written.
    fn erase_answered(&self, _yes: &[SegmentId], _no: &[SegmentId], _unknown: &[SegmentId]) -> io::Result<()> {
        Ok(())
    }
}
