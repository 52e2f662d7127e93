//! The clear header of a segment and the sealed META record. Spec: `docs/spec/sealed-segment.md`, "Header", "META".

use crate::base::ids::{BoxId, CameraId, Digest, KeyId, OrganisationId, RecordingId, SegmentId};
use crate::base::units::{BootTime, Run, TimeStatement};
use minicbor::{Decode, Encode};

/// What is unusual about a segment; bits of the header's flags field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentFlags {
    /// The first unit is no key frame: the segment before was cut at the size or time cap.
    pub starts_dependent: bool,
    /// Pre-roll with a short retention, until an event promotes it.
    pub background: bool,
    /// The recorder's lane was full: frames went to the relay but not all of them to the card.
    pub live_only: bool,
}

/// The DEK for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Stanza {
    /// 1 = HPKE base mode, X25519 + HKDF-SHA-256 + AES-256-GCM. Others are carried, not understood.
    #[n(0)]
    pub kind: u16,
    /// Whose key.
    #[n(1)]
    pub key: KeyId,
    /// HPKE encapsulated key, 32 bytes.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub enc: Vec<u8>,
    /// Sealed DEK, 48 bytes.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub ct: Vec<u8>,
}

/// The clear header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Which file.
    pub segment: SegmentId,
    /// Owner of the footage.
    pub organisation: OrganisationId,
    /// Who sealed it.
    pub box_id: BoxId,
    /// In which run of the box.
    pub run: Run,
    /// When it was started, on that run's boot time.
    pub at: BootTime,
    /// Which camera.
    pub camera: CameraId,
    /// Which recording.
    pub recording: RecordingId,
    /// What is unusual.
    pub flags: SegmentFlags,
    /// The DEK, once per recipient.
    pub stanzas: Vec<Stanza>,
    /// HKDF-SHA-256(salt = segment id, ikm = DEK, info = "mvs1 commit").
    pub commit: Digest,
}

/// META v1: sealed facts about the recording. Texts are at most 256 bytes each.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Meta {
    /// Organisation's name.
    #[n(0)]
    pub organisation: String,
    /// Box's name (vehicle).
    #[n(1)]
    pub box_name: String,
    /// Camera's name.
    #[n(2)]
    pub camera: String,
    /// Officer who wears it.
    #[n(3)]
    pub officer: Option<String>,
    /// Purpose of recording.
    #[n(4)]
    pub purpose: String,
    /// Legal basis.
    #[n(5)]
    pub legal_basis: String,
    /// Retention class.
    #[n(6)]
    pub retention: String,
    /// Incident, once known.
    #[n(7)]
    pub incident: Option<String>,
    /// Version of the sealing firmware.
    #[n(8)]
    pub firmware: String,
    /// What was known about wall time when the segment started.
    #[n(9)]
    pub time: TimeStatement,
}
