//! Opens sealed records with a segment's key.
//!
//! Belongs here: unwrapping the DEK, decryption, joining of parts. Does not belong here: signatures and completeness
//! (see [`super::scan`]); a reader shows what it is given, in order, and says what it skipped.

use crate::base::cbor;
use crate::base::ids::Digest;
use crate::base::reason::Coded;
use crate::seal::frame::{FRAME_HEAD, FrameClass, FrameHead, FrameKind, MAX_PART};
use crate::seal::keys::{Dek, RecordOpener, header_digest};
use crate::seal::recipients::{RecipientRole, STANZA_X25519};
use crate::seal::record::{MAX_UNIT, UNIT_HEAD, unit_from};
use crate::seal::{Header, RecipientSecret};
use bytes::BytesMut;
use subtle::ConstantTimeEq;

pub use crate::seal::record::Record;

/// A segment's DEK, checked against the header's commitment. In RAM only, zeroized on drop.
#[derive(Debug, Clone)]
pub struct SegmentKey(Dek);

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
    /// A record came again or too late.
    #[error("record {number} is out of order")]
    OutOfOrder { number: u32 },
    /// An authentic record holds something else than its type says.
    #[error("record {number} is not what its type says")]
    BadContent { number: u32 },
}

impl Coded for OpenError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoStanza => "open-no-stanza",
            Self::BadStanza => "open-bad-stanza",
            Self::BadCommitment => "open-bad-commitment",
            Self::Malformed { .. } => "open-malformed",
            Self::BadRecord { .. } => "open-bad-record",
            Self::OutOfOrder { .. } => "open-out-of-order",
            Self::BadContent { .. } => "open-bad-content",
        }
    }
}

impl SegmentKey {
    /// The sealer's own key.
    pub(crate) fn own(dek: Dek) -> Self {
        Self(dek)
    }

    /// Unwraps the DEK and checks the commitment before anything else.
    ///
    /// # Errors
    /// `NoStanza`, `BadStanza`, `BadCommitment`.
    pub fn unwrap(header: &Header, secret: &RecipientSecret) -> Result<Self, OpenError> {
        let id = secret.public(RecipientRole::Organisation).id();
        let stanza = header
            .stanzas
            .iter()
            .find(|stanza| stanza.kind == STANZA_X25519 && stanza.key == id)
            .ok_or(OpenError::NoStanza)?;
        let dek = secret.open(stanza, header.organisation, header.segment).ok_or(OpenError::BadStanza)?;
        let Digest(commitment) = dek.commitment(header.segment);
        if bool::from(commitment.ct_eq(&header.commit.0)) { Ok(Self(dek)) } else { Err(OpenError::BadCommitment) }
    }
}

/// Opens a segment from its bytes in file order; also one that is still growing, or one with holes (live).
pub struct Reader {
    records: RecordOpener,
    /// The number that the next record has if nothing is missing.
    next: u32,
    /// First parts of an access unit.
    parts: Option<BytesMut>,
    broken: u64,
}

impl Reader {
    /// `header` = the file's header bytes as stored (magic, length, CBOR).
    #[must_use]
    pub fn new(header: &[u8], key: SegmentKey) -> Self {
        Self { records: RecordOpener::new(&key.0, &header_digest(header)), next: 0, parts: None, broken: 0 }
    }

    /// Access units that were given up because a part of them did not come.
    #[must_use]
    pub fn broken_units(&self) -> u64 {
        self.broken
    }

    /// One whole frame as stored (12-byte frame head and body). `None` for clear frames, skippable records and
    /// unfinished parts. Records may be missing, but not come out of order.
    ///
    /// # Errors
    /// `Malformed`, `BadRecord`, `OutOfOrder`, `BadContent`; the reader can go on with the next frame.
    pub fn frame(&mut self, frame: &[u8]) -> Result<Option<Record>, OpenError> {
        let malformed = |what| OpenError::Malformed { at: 0, what };
        let head = FrameHead::parse(frame).ok_or(malformed("no frame head"))?;
        let body = frame.get(FRAME_HEAD..).unwrap_or_default();
        if u64::try_from(body.len()).ok() != Some(u64::from(head.length)) {
            return Err(malformed("the frame has another length than it says"));
        }
        if head.class() != FrameClass::Sealed {
            return Ok(None);
        }
        let number = head.number;
        if number < self.next {
            return Err(OpenError::OutOfOrder { number });
        }
        let text = self.records.open(&head, body).ok_or(OpenError::BadRecord { number })?;
        let follows = number == self.next;
        self.next = number.checked_add(1).ok_or(OpenError::OutOfOrder { number })?;
        if head.kind == FrameKind::Unit as u8 {
            return self.part(&head, &text, follows);
        }
        self.give_up();
        let record = match head.kind {
            1 => cbor::decode(&text, MAX_PART).map(Record::Meta),
            2 => cbor::decode(&text, MAX_PART).map(Record::Params),
            4 => cbor::decode(&text, MAX_PART).map(Record::Event),
            5 => cbor::decode(&text, MAX_PART).map(Record::Gap),
            _ => return Ok(None),
        };
        record.map(Some).map_err(|_| OpenError::BadContent { number })
    }

    fn part(&mut self, head: &FrameHead, text: &[u8], follows: bool) -> Result<Option<Record>, OpenError> {
        if head.is_first() {
            self.give_up();
            self.parts = Some(BytesMut::new());
        } else if !follows {
            self.give_up();
        }
        // A part of a unit whose beginning is missing was counted when its beginning was.
        let Some(mut joined) = self.parts.take() else { return Ok(None) };
        if joined.len() + text.len() > UNIT_HEAD + MAX_UNIT {
            return Err(OpenError::BadContent { number: head.number });
        }
        joined.extend_from_slice(text);
        if !head.is_last() {
            self.parts = Some(joined);
            return Ok(None);
        }
        let unit = unit_from(joined.freeze()).ok_or(OpenError::BadContent { number: head.number })?;
        Ok(Some(Record::Unit(unit)))
    }

    fn give_up(&mut self) {
        if self.parts.take().is_some() {
            self.broken += 1;
        }
    }
}
