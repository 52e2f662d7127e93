//! Opens sealed records with a segment's key.

use crate::media::{AccessUnit, Gap, TrackParams};
use crate::seal::{Header, Meta, RecipientSecret};
use zeroize::Zeroizing;

/// A segment's DEK, checked against the header's commitment.
pub struct SegmentKey(#[allow(dead_code)] Zeroizing<[u8; 32]>);

/// Why footage cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No stanza for this key.
    #[error("the segment is not sealed to this key")]
    NoStanza,
    /// The stanza does not open.
    #[error("the stanza does not open")]
    BadStanza,
    /// The key does not match the header's commitment.
    #[error("the key does not match the header's commitment")]
    BadCommitment,
    /// Bytes that are no segment.
    #[error("malformed at byte {at}: {what}")]
    Malformed { at: u64, what: &'static str },
    /// A record does not authenticate.
    #[error("record {number} does not authenticate")]
    BadRecord { number: u32 },
}

impl SegmentKey {
    /// Unwraps the DEK and checks the commitment before anything else.
    ///
    /// # Errors
    /// `NoStanza`, `BadStanza`, `BadCommitment`.
    pub fn unwrap(_header: &Header, _secret: &RecipientSecret) -> Result<Self, OpenError> {
        todo!()
    }
}

/// An opened record; parts are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Facts about the recording.
    Meta(Meta),
    /// Parameters of a track.
    Params(TrackParams),
    /// One access unit, whole.
    Unit(AccessUnit),
    /// Something is missing.
    Gap(Gap),
}

/// Opens a segment from its bytes in file order; also one that is still growing.
pub struct Reader {
    _private: (),
}

impl Reader {
    /// `header` = the file's header bytes as stored (magic, length, CBOR).
    #[must_use]
    pub fn new(_header: &[u8], _key: SegmentKey) -> Self {
        todo!()
    }

    /// One whole frame as stored (12-byte frame head and body). `None` for clear frames and unfinished parts.
    ///
    /// # Errors
    /// `Malformed`, `BadRecord`.
    pub fn frame(&mut self, _frame: &[u8]) -> Result<Option<Record>, OpenError> {
        todo!()
    }
}
