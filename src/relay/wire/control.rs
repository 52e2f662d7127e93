//! Messages of the control stream: `u32 big-endian length ‖ u8 type ‖ canonical CBOR`.
//!
//! Types below 128 are critical: a reader that does not know one closes. Types from 128 are skipped when unknown.

use super::{MAX_CONTROL, Violation};
use crate::base::cbor;
use crate::base::chain::Head;
use crate::base::ids::{BondId, BoxId, CameraId, Digest, OrganisationId, PairingId, RecordingId, SegmentId};
use crate::base::units::{BootTime, Run, WallTime};
use minicbor::{Decode, Encode};

/// Bytes in a message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Blob(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// First message of the box.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// Lowest version that it speaks.
    #[n(0)]
    pub min: u16,
    /// Highest.
    #[n(1)]
    pub max: u16,
    /// Feature bits; none are defined in version 1.
    #[n(2)]
    pub features: u64,
    /// Who.
    #[n(3)]
    pub box_id: BoxId,
    /// Whose cloud it expects.
    #[n(4)]
    pub organisation: OrganisationId,
    /// Under which agreement.
    #[n(5)]
    pub pairing: PairingId,
    /// Which set of links; only links of the same client key may share one.
    #[n(6)]
    pub bond: BondId,
    /// Which run; a new one supersedes the sessions of the old.
    #[n(7)]
    pub run: Run,
    /// Now, on the box's boot time.
    #[n(8)]
    pub at: BootTime,
    /// Where its journal ends durably.
    #[n(9)]
    pub journal: Option<Head>,
    /// Highest number of a receipt that it holds from this cloud.
    #[n(10)]
    pub receipts: Option<u64>,
    /// Firmware, at most 64 bytes.
    #[n(11)]
    pub firmware: String,
}

/// The cloud's answer to HELLO.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// Version spoken from here on.
    #[n(0)]
    pub version: u16,
    /// Features that both have.
    #[n(1)]
    pub features: u64,
    /// Whose cloud.
    #[n(2)]
    pub organisation: OrganisationId,
    /// Cloud time.
    #[n(3)]
    pub time: WallTime,
    /// The box's journal as the cloud has it.
    #[n(4)]
    pub journal: Option<Head>,
    /// Highest receipt number that the cloud has given to this box. Lower than the box's own: the cloud was restored
    /// from an older state, and the box asks before it erases anything (it always does).
    #[n(5)]
    pub receipts: Option<u64>,
}

/// What a viewer wants.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Subscribe {
    /// Number of the subscription, chosen by the cloud.
    #[n(0)]
    pub id: u32,
    /// Which camera.
    #[n(1)]
    pub camera: CameraId,
    /// Which tracks; empty = all.
    #[n(2)]
    pub tracks: Vec<u8>,
    /// A frame older than this is of no use, milliseconds; 0 = the default of 2000.
    #[n(3)]
    pub max_latency_ms: u32,
    /// Larger goes first among subscriptions.
    #[n(4)]
    pub priority: u8,
    /// Who looks, for the audit log.
    #[n(5)]
    pub user: String,
    /// Why.
    #[n(6)]
    pub purpose: String,
}

/// A finished segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Object {
    /// Which file.
    #[n(0)]
    pub segment: SegmentId,
    /// Bytes.
    #[n(1)]
    pub size: u64,
    /// Digest, from the journal.
    #[n(2)]
    pub sha256: Digest,
    /// Where recovery's END begins.
    #[n(3)]
    pub cut: Option<u64>,
    /// 0 alarm, 1 marked, 2 requested, 3 normal, 4 background.
    #[n(4)]
    pub class: u8,
    /// Which camera.
    #[n(5)]
    pub camera: CameraId,
    /// Which recording.
    #[n(6)]
    pub recording: RecordingId,
}

/// A half-open range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode)]
#[cbor(array)]
pub struct Span(#[n(0)] pub u64, #[n(1)] pub u64);

impl<'b, C> Decode<'b, C> for Span {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.decode_with(ctx).map(|(first, second)| Self(first, second))
    }
}

/// A segment and the digest that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode)]
#[cbor(array)]
pub struct Held(#[n(0)] pub SegmentId, #[n(1)] pub Digest);

impl<'b, C> Decode<'b, C> for Held {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.decode_with(ctx).map(|(first, second)| Self(first, second))
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])* $number:literal $name:ident { $($(#[$fdoc:meta])* $n:literal $field:ident : $type:ty),* $(,)? })*
     ; $($(#[$wdoc:meta])* $wnumber:literal $wname:ident ($wtype:ty))*) => {
        /// One message.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Message {
            $($(#[$doc])* $name { $($(#[$fdoc])* $field: $type),* },)*
            $($(#[$wdoc])* $wname($wtype),)*
        }

        $(#[derive(Encode, Decode)] #[cbor(map)] struct $name { $(#[n($n)] $field: $type),* })*

        impl Message {
            /// Type and CBOR, without the length.
            #[must_use]
            pub fn encode(self) -> Vec<u8> {
                let (kind, body): (u8, Vec<u8>) = match self {
                    $(Self::$name { $($field),* } => ($number, cbor::encode(&$name { $($field),* })),)*
                    $(Self::$wname(body) => ($wnumber, cbor::encode(&body)),)*
                };
                let mut bytes = Vec::with_capacity(1 + body.len());
                bytes.push(kind);
                bytes.extend_from_slice(&body);
                bytes
            }

            /// Reads type and CBOR; `None` for an unknown type that is to be skipped.
            ///
            /// # Errors
            /// `Malformed`, `UnknownType`, `Length`.
            pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Violation> {
                if bytes.len() > MAX_CONTROL {
                    return Err(Violation::Length);
                }
                let (kind, body) = bytes.split_first().ok_or(Violation::Length)?;
                let bad = |_| Violation::Malformed;
                Ok(Some(match kind {
                    $($number => {
                        let $name { $($field),* } = cbor::decode(body, MAX_CONTROL).map_err(bad)?;
                        Self::$name { $($field),* }
                    })*
                    $($wnumber => Self::$wname(cbor::decode::<$wtype>(body, MAX_CONTROL).map_err(bad)?),)*
                    128.. => return Ok(None),
                    _ => return Err(Violation::UnknownType),
                }))
            }
        }
    };
}

messages! {
    /// Box → cloud: what time is it?
    3 TimeAsk { /** Echoed. */ 0 at: BootTime }
    /// Cloud → box.
    4 Time { /** As asked. */ 0 at: BootTime, /** Cloud time. */ 1 wall: WallTime }
    /// Cloud → box: replaces the set of issuer keys.
    5 Pins {
        /** SPKI each, 1 to 4. */ 0 issuers: Vec<Blob>,
        /** Rising. */ 1 version: u64,
        /** Lowest generation of a serving certificate to accept from now on. */ 2 generation: u64,
    }
    /// Box → cloud: stored durably.
    6 PinsStored { 0 version: u64 }
    /// Cloud → box: this agreement is over; wipe identity and address.
    7 Revoke { 0 pairing: PairingId }
    /// Box → cloud: wiped.
    8 Revoked { 0 pairing: PairingId }
    /// Box → cloud: consecutive entries, each a chain frame.
    9 Journal { 0 entries: Vec<Blob> }
    /// Cloud → box: durable; a signed statement (see [`crate::relay::statement`]).
    10 JournalAck { 0 statement: Blob }
    /// Cloud → box: send the entries after this head.
    11 JournalAfter { 0 head: Option<Head> }
    /// Cloud → box: the box may have sent this many bytes of chunks in this session, in all.
    12 Credit { 0 total: u64 }
    /// Either → other: a command of a later feature; an unknown name is answered with `unknown-command`.
    13 Command { 0 id: u32, 1 name: String, 2 body: Blob }
    /// The answer: stable code (`ok` or a reason) and body.
    14 CommandDone { 0 id: u32, 1 code: String, 2 body: Blob }
    /// Cloud → box.
    16 Unsubscribe { 0 id: u32 }
    /// Cloud → box: these ranges of the object are durable; at most 256.
    18 Have { 0 segment: SegmentId, 1 ranges: Vec<Span> }
    /// Cloud → box: committed; a signed statement.
    19 Committed { 0 statement: Blob }
    /// Cloud → box: refused for good; a stable code.
    20 Rejected { 0 segment: SegmentId, 1 reason: String }
    /// Box → cloud: may these be erased? At most 256.
    21 EraseAsk { 0 segments: Vec<Held> }
    /// Cloud → box: may go, must stay, not held with that digest (never was, or lost: to be offered again).
    22 Erase { 0 yes: Vec<SegmentId>, 1 no: Vec<SegmentId>, 2 unknown: Vec<SegmentId> }
    /// Cloud → the older of two sessions of one box: are you still there?
    23 Challenge { 0 nonce: Digest }
    /// Box → cloud: the nonce.
    24 Alive { 0 nonce: Digest }
    /// Box → cloud: cameras that stream now, and the time of it.
    25 Cameras { 0 cameras: Vec<CameraId>, 1 at: BootTime }
    ;
    /// Box → cloud, first.
    1 Hello(Hello)
    /// Cloud → box, first, unless revoked.
    2 Welcome(Welcome)
    /// Cloud → box.
    15 Subscribe(Subscribe)
    /// Box → cloud.
    17 Object(Object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_types_are_skipped_or_refused_by_their_number() {
        assert_eq!(Message::decode(&[200, 0xa0]), Ok(None));
        assert_eq!(Message::decode(&[99, 0xa0]), Err(Violation::UnknownType));
        assert_eq!(Message::decode(&[]), Err(Violation::Length));
        assert_eq!(Message::decode(&[12, 0xa0]), Err(Violation::Malformed));
        assert_eq!(Message::decode(&[12, 0xa1, 0, 0x18, 1]), Err(Violation::Malformed));
        assert_eq!(Message::decode(&[12, 0xa1, 0, 1]), Ok(Some(Message::Credit { total: 1 })));
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped() {
        assert_eq!(Message::decode(&[12, 0xa2, 0, 1, 9, 0x41, 0]), Ok(Some(Message::Credit { total: 1 })));
    }
}
