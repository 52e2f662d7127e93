//! The clear header of a segment and the sealed META record. Spec: `docs/spec/sealed-segment.md`, "Header", "META".

use crate::base::cbor;
use crate::base::ids::{BoxId, CameraId, Digest, KeyId, OrganisationId, RecordingId, SegmentId};
use crate::base::reason::Coded;
use crate::base::units::{BootTime, Run, TimeStatement};
use crate::seal::recipients::{MAX_RECIPIENTS, SUITE};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use sha2::Digest as _;

/// The file's first four bytes.
pub const MAGIC: &[u8; 4] = b"MVS1";
/// The format's version.
pub const VERSION: u16 = 1;
/// The header's CBOR is at most this long.
pub const MAX_HEADER: usize = 64 * 1024;
/// Bytes before the header's CBOR: magic and length.
pub const HEADER_PREFIX: usize = 8;
/// A text in META is at most this many bytes.
pub const MAX_TEXT: usize = 256;

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

impl SegmentFlags {
    fn bits(self) -> u32 {
        u32::from(self.starts_dependent) | u32::from(self.background) << 1 | u32::from(self.live_only) << 2
    }

    /// Bits that this version does not know are ignored.
    fn from_bits(bits: u32) -> Self {
        Self { starts_dependent: bits & 1 != 0, background: bits & 2 != 0, live_only: bits & 4 != 0 }
    }
}

/// The DEK for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Encode)]
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

impl<'b, C> Decode<'b, C> for Stanza {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        let (kind, key, enc, ct): (_, _, ByteVec, ByteVec) = d.decode_with(ctx)?;
        Ok(Self { kind, key, enc: enc.into(), ct: ct.into() })
    }
}

impl Stanza {
    /// First 8 bytes of the SHA-256 of its encoding. CKPT 0 lists them, so that a changed stanza is told from a changed
    /// header.
    #[must_use]
    pub fn mark(&self) -> [u8; 8] {
        let hash: [u8; 32] = sha2::Sha256::digest(cbor::encode(self)).into();
        *hash.first_chunk().expect("SHA-256 has 32 bytes")
    }
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

/// Why bytes are not the header of a segment.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than the header says it has: read on.
    #[error("the header is cut off")]
    Truncated,
    /// Not the magic.
    #[error("this is no sealed segment")]
    Magic,
    /// Longer than 64 KiB, or empty.
    #[error("a header of {0} bytes")]
    Length(u32),
    /// Not canonical CBOR of the known shape.
    #[error("malformed header")]
    Malformed(#[source] cbor::Error),
    /// A later version of the format.
    #[error("version {version}, suite {suite} of the format is not known here")]
    Version { version: u16, suite: u16 },
    /// No stanza, or more than 16.
    #[error("{0} recipient stanzas")]
    Stanzas(usize),
}

impl Coded for HeaderError {
    fn code(&self) -> &'static str {
        match self {
            Self::Truncated => "header-truncated",
            Self::Magic => "not-a-segment",
            Self::Length(_) => "header-length",
            Self::Malformed(_) => "header-malformed",
            Self::Version { .. } => "unknown-version",
            Self::Stanzas(_) => "header-stanzas",
        }
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Versions {
    #[n(0)]
    version: u16,
    #[n(1)]
    suite: u16,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(0)]
    version: u16,
    #[n(1)]
    suite: u16,
    #[n(2)]
    segment: SegmentId,
    #[n(3)]
    organisation: OrganisationId,
    #[n(4)]
    box_id: BoxId,
    #[n(5)]
    run: Run,
    #[n(6)]
    at: BootTime,
    #[n(7)]
    camera: CameraId,
    #[n(8)]
    recording: RecordingId,
    #[n(9)]
    flags: u32,
    #[n(10)]
    stanzas: Vec<Stanza>,
    #[n(11)]
    commit: Digest,
}

impl Header {
    /// As stored: magic, length, CBOR.
    ///
    /// # Panics
    /// Never with at most 16 stanzas of known types, which is about 2 kB.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire {
            version: VERSION,
            suite: SUITE,
            segment: self.segment,
            organisation: self.organisation,
            box_id: self.box_id,
            run: self.run,
            at: self.at,
            camera: self.camera,
            recording: self.recording,
            flags: self.flags.bits(),
            stanzas: self.stanzas.clone(),
            commit: self.commit,
        };
        let body = cbor::encode(&wire);
        let length = u32::try_from(body.len()).expect("a header is about 2 kB");
        [&MAGIC[..], &length.to_be_bytes(), &body].concat()
    }

    /// Reads the header at the start of `bytes`; also says how many bytes it took.
    ///
    /// # Errors
    /// [`HeaderError`]; `Truncated` means that more bytes may help.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), HeaderError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes.get(..known) != MAGIC.get(..known) {
            return Err(HeaderError::Magic);
        }
        let length = bytes.get(4..).and_then(<[u8]>::first_chunk::<4>).ok_or(HeaderError::Truncated)?;
        let length = u32::from_be_bytes(*length);
        let size = usize::try_from(length)
            .ok()
            .filter(|size| (1..=MAX_HEADER).contains(size))
            .ok_or(HeaderError::Length(length))?;
        let body = bytes.get(HEADER_PREFIX..HEADER_PREFIX + size).ok_or(HeaderError::Truncated)?;
        let Versions { version, suite } = cbor::decode(body, MAX_HEADER).map_err(HeaderError::Malformed)?;
        if (version, suite) != (VERSION, SUITE) {
            return Err(HeaderError::Version { version, suite });
        }
        let wire: Wire = cbor::decode(body, MAX_HEADER).map_err(HeaderError::Malformed)?;
        if !(1..=MAX_RECIPIENTS).contains(&wire.stanzas.len()) {
            return Err(HeaderError::Stanzas(wire.stanzas.len()));
        }
        let header = Self {
            segment: wire.segment,
            organisation: wire.organisation,
            box_id: wire.box_id,
            run: wire.run,
            at: wire.at,
            camera: wire.camera,
            recording: wire.recording,
            flags: SegmentFlags::from_bits(wire.flags),
            stanzas: wire.stanzas,
            commit: wire.commit,
        };
        Ok((header, HEADER_PREFIX + size))
    }
}

/// META v1: sealed facts about the recording. Texts are at most 256 bytes each; the sealer cuts longer ones.
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

impl Meta {
    /// With every text cut to 256 bytes.
    #[must_use]
    pub(crate) fn bounded(mut self) -> Self {
        for text in [
            &mut self.organisation,
            &mut self.box_name,
            &mut self.camera,
            &mut self.purpose,
            &mut self.legal_basis,
            &mut self.retention,
            &mut self.firmware,
        ] {
            cut(text);
        }
        self.officer.iter_mut().chain(self.incident.as_mut()).for_each(cut);
        self
    }
}

/// Cuts a text at a character boundary to at most [`MAX_TEXT`] bytes.
pub(crate) fn cut(text: &mut String) {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::BootId;

    fn header() -> Header {
        Header {
            segment: SegmentId([1; 16]),
            organisation: OrganisationId([2; 16]),
            box_id: BoxId([3; 32]),
            run: Run { boot: BootId([4; 16]), start: 5 },
            at: BootTime(6),
            camera: CameraId([7; 16]),
            recording: RecordingId([8; 16]),
            flags: SegmentFlags { background: true, ..SegmentFlags::default() },
            stanzas: vec![Stanza { kind: 1, key: KeyId([9; 16]), enc: vec![10; 32], ct: vec![11; 48] }],
            commit: Digest([12; 32]),
        }
    }

    #[test]
    fn a_header_survives_and_its_size_is_pinned() {
        let bytes = header().encode();
        assert_eq!(bytes.len(), 284);
        assert_eq!(Header::decode(&bytes).expect("decodes"), (header(), bytes.len()));
        for end in 0..bytes.len() {
            assert!(matches!(Header::decode(&bytes[..end]), Err(HeaderError::Truncated)), "{end}");
        }
    }

    #[test]
    fn other_versions_and_shapes_are_refused_by_name() {
        let bytes = header().encode();
        let mut other = bytes.clone();
        other[10] = 2;
        assert_eq!(Header::decode(&other).expect_err("version 2").code(), "unknown-version");
        other[0] = b'X';
        assert_eq!(Header::decode(&other).expect_err("magic").code(), "not-a-segment");
        let mut many = header();
        many.stanzas = vec![many.stanzas[0].clone(); 17];
        assert_eq!(Header::decode(&many.encode()).expect_err("17 stanzas").code(), "header-stanzas");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let mut text = "é".repeat(200);
        text.insert(0, 'x');
        cut(&mut text);
        assert_eq!(text.len(), 255);
    }
}
