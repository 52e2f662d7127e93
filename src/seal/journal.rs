//! What the journal's entries mean. Their chain is `base::chain` with the log name [`LOG`]; `store` writes it.
//!
//! Spec: `docs/spec/sealed-segment.md`, "Journal".

use crate::base::cbor;
use crate::base::chain::{Head, Signed};
use crate::base::ids::{CameraId, Digest, KeyId, OrganisationId, RecordingId, SegmentId};
use crate::base::units::TimeStatement;
use crate::media::Gap;
use crate::seal::{EndReason, Prev};
use minicbor::{Decode, Encode};

/// The chain's name.
pub const LOG: &str = "journal";
/// An entry's body is at most this long.
pub const MAX_BODY: usize = 60 * 1024;

/// One entry, typed. Ids only: no names, no contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalEntry {
    /// The daemon started; `clean` = the run before ended in an orderly way.
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
    /// It is complete and durable. `cut` = where recovery's END begins.
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
    /// The journal goes on on this card: it follows the internal head, but the last entry *on this card* is `reached`
    /// (`None`: it had none). The first entry of every journal file that does not follow the file before it; without it
    /// a hole is a finding.
    Card { card: [u8; 16], reached: Option<Head> },
}

impl JournalEntry {
    /// Whether an entry of the log says that the journal goes on on another card.
    #[must_use]
    pub fn is_card(signed: &Signed) -> bool {
        matches!(Self::decode(signed.entry.kind, &signed.entry.body), Ok(Some(Self::Card { .. })))
    }
}

macro_rules! bodies {
    ($($name:ident { $($n:literal $field:ident: $type:ty $(, with $with:literal)?;)* })*) => {$(
        #[derive(Encode, Decode)]
        #[cbor(map)]
        struct $name { $(#[n($n)] $(#[cbor(with = $with)])? $field: $type,)* }
    )*};
}

bodies! {
    RunStartedBody { 0 clean: bool; 1 time: TimeStatement; }
    OpenedBody {
        0 segment: SegmentId; 1 organisation: OrganisationId; 2 camera: CameraId; 3 recording: RecordingId; 4 prev: Prev;
        5 background: bool;
    }
    ClosedBody {
        0 segment: SegmentId; 1 size: u64; 2 sha256: Digest; 3 end: Digest; 4 reason: EndReason; 5 cut: Option<u64>;
    }
    GapBody { 0 camera: CameraId; 1 recording: RecordingId; 2 gap: Gap; 3 bytes: u64; }
    HeldBody { 0 segment: SegmentId; 1 held: bool; }
    SegmentBody { 0 segment: SegmentId; }
    NumberBody { 0 segment: SegmentId; 1 number: u8; }
    RecipientsBody { 0 organisation: OrganisationId; 1 keys: Vec<KeyId>; }
    TimeBody { 0 time: TimeStatement; }
    AcknowledgedBody { 0 head: Head; 1 statement: Vec<u8>, with "minicbor::bytes"; }
    AlarmBody { 0 code: String; }
    CardBody { 0 card: Vec<u8>, with "minicbor::bytes"; 1 reached: Option<Head>; }
}

impl JournalEntry {
    /// Kind number and canonical CBOR body for [`crate::base::chain::Signed::append`].
    #[must_use]
    pub fn encode(&self) -> (u16, Vec<u8>) {
        use cbor::encode;
        match self.clone() {
            Self::RunStarted { clean, time } => (1, encode(&RunStartedBody { clean, time })),
            Self::Opened { segment, organisation, camera, recording, prev, background } => {
                (2, encode(&OpenedBody { segment, organisation, camera, recording, prev, background }))
            }
            Self::Closed { segment, size, sha256, end, reason, cut } => {
                (3, encode(&ClosedBody { segment, size, sha256, end, reason, cut }))
            }
            Self::Gap { camera, recording, gap, bytes } => (4, encode(&GapBody { camera, recording, gap, bytes })),
            Self::Held { segment, held } => (5, encode(&HeldBody { segment, held })),
            Self::Promoted { segment } => (6, encode(&SegmentBody { segment })),
            Self::Class { segment, class } => (7, encode(&NumberBody { segment, number: class })),
            Self::Recipients { organisation, keys } => (8, encode(&RecipientsBody { organisation, keys })),
            Self::Destroyed { segment, cause } => (9, encode(&NumberBody { segment, number: cause })),
            Self::Adopted { segment } => (10, encode(&SegmentBody { segment })),
            Self::Time { time } => (11, encode(&TimeBody { time })),
            Self::Acknowledged { head, statement } => (12, encode(&AcknowledgedBody { head, statement })),
            Self::Alarm { code } => (13, encode(&AlarmBody { code })),
            Self::Card { card, reached } => (14, encode(&CardBody { card: card.to_vec(), reached })),
        }
    }

    /// `None` for a kind that this version does not know: it is kept and skipped.
    ///
    /// # Errors
    /// A known kind whose body is not what the spec says.
    pub fn decode(kind: u16, body: &[u8]) -> Result<Option<Self>, cbor::Error> {
        Ok(Some(match kind {
            1 => {
                let RunStartedBody { clean, time } = cbor::decode(body, MAX_BODY)?;
                Self::RunStarted { clean, time }
            }
            2 => {
                let OpenedBody { segment, organisation, camera, recording, prev, background } =
                    cbor::decode(body, MAX_BODY)?;
                Self::Opened { segment, organisation, camera, recording, prev, background }
            }
            3 => {
                let ClosedBody { segment, size, sha256, end, reason, cut } = cbor::decode(body, MAX_BODY)?;
                Self::Closed { segment, size, sha256, end, reason, cut }
            }
            4 => {
                let GapBody { camera, recording, gap, bytes } = cbor::decode(body, MAX_BODY)?;
                Self::Gap { camera, recording, gap, bytes }
            }
            5 => {
                let HeldBody { segment, held } = cbor::decode(body, MAX_BODY)?;
                Self::Held { segment, held }
            }
            6 => Self::Promoted { segment: cbor::decode::<SegmentBody>(body, MAX_BODY)?.segment },
            7 => {
                let NumberBody { segment, number: class } = cbor::decode(body, MAX_BODY)?;
                Self::Class { segment, class }
            }
            8 => {
                let RecipientsBody { organisation, keys } = cbor::decode(body, MAX_BODY)?;
                Self::Recipients { organisation, keys }
            }
            9 => {
                let NumberBody { segment, number: cause } = cbor::decode(body, MAX_BODY)?;
                Self::Destroyed { segment, cause }
            }
            10 => Self::Adopted { segment: cbor::decode::<SegmentBody>(body, MAX_BODY)?.segment },
            11 => Self::Time { time: cbor::decode::<TimeBody>(body, MAX_BODY)?.time },
            12 => {
                let AcknowledgedBody { head, statement } = cbor::decode(body, MAX_BODY)?;
                Self::Acknowledged { head, statement }
            }
            13 => Self::Alarm { code: cbor::decode::<AlarmBody>(body, MAX_BODY)?.code },
            14 => {
                let CardBody { card, reached } = cbor::decode(body, MAX_BODY)?;
                let wrong = || cbor::Error::Shape(minicbor::decode::Error::message("card: wrong length"));
                Self::Card { card: card.try_into().map_err(|_| wrong())?, reached }
            }
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::{BootTime, TimeSource, WallTime};
    use crate::media::GapCause;

    #[test]
    fn every_kind_survives_and_unknown_kinds_are_skipped() {
        let time = TimeStatement { at: BootTime(1), wall: WallTime(-2), source: TimeSource::Ntp, error_ms: 3 };
        let (segment, camera, recording) = (SegmentId([1; 16]), CameraId([2; 16]), RecordingId([3; 16]));
        let organisation = OrganisationId([4; 16]);
        let head = Head { seq: 5, hash: Digest([6; 32]) };
        let gap = Gap { from: BootTime(7), to: BootTime(8), cause: GapCause::PowerCut };
        let prev = Prev::Segment(segment, Digest([9; 32]));
        let (sha256, end) = (Digest([10; 32]), Digest([11; 32]));
        let all = [
            JournalEntry::RunStarted { clean: true, time },
            JournalEntry::Opened { segment, organisation, camera, recording, prev, background: false },
            JournalEntry::Closed { segment, size: 1, sha256, end, reason: EndReason::PowerCut, cut: Some(9) },
            JournalEntry::Closed { segment, size: 1, sha256, end, reason: EndReason::Next, cut: None },
            JournalEntry::Gap { camera, recording, gap, bytes: 4 },
            JournalEntry::Held { segment, held: true },
            JournalEntry::Promoted { segment },
            JournalEntry::Class { segment, class: 2 },
            JournalEntry::Recipients { organisation, keys: vec![KeyId([12; 16])] },
            JournalEntry::Destroyed { segment, cause: 1 },
            JournalEntry::Adopted { segment },
            JournalEntry::Time { time },
            JournalEntry::Acknowledged { head, statement: vec![1, 2] },
            JournalEntry::Alarm { code: "card-rolled-back".into() },
            JournalEntry::Card { card: [13; 16], reached: Some(head) },
            JournalEntry::Card { card: [13; 16], reached: None },
        ];
        for entry in all {
            let (kind, body) = entry.encode();
            assert!(cbor::check(&body).is_ok(), "{entry:?}");
            assert_eq!(JournalEntry::decode(kind, &body).expect("decodes"), Some(entry));
        }
        assert_eq!(JournalEntry::decode(999, &[0xa0]).expect("is skipped"), None);
        assert!(JournalEntry::decode(2, &[0xa0]).is_err());
    }
}
