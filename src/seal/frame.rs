//! A frame of a segment file: its clear head, and how it travels from `seal` to `store` and `relay`.
//!
//! Belongs here: numbers and sizes of the format. Does not belong here: what a body means (see [`super::header`],
//! [`super::record`], `signed`). Spec: `docs/spec/sealed-segment.md`, "Frames".

use crate::base::ids::{CameraId, OrganisationId, RecordingId, SegmentId};
use crate::base::units::BootTime;
use crate::media::TrackId;
use bytes::Bytes;

/// Bytes of a frame's clear head.
pub const FRAME_HEAD: usize = 12;
/// Bytes of AES-256-GCM's tag at the end of a sealed body.
pub const TAG: usize = 16;
/// Plaintext of a sealed record is at most this long; a larger access unit is split into parts.
pub const MAX_PART: usize = 64 * 1024;
/// A body (sealed or clear) is at most this long.
pub const MAX_BODY: usize = MAX_PART + TAG;
/// A whole segment file is at most this long; longer ones are refused.
pub const MAX_SEGMENT: u64 = 48 * 1024 * 1024;
/// Body of a CKPT or END is at most this long (CBOR and signature).
pub const MAX_CLEAR_BODY: usize = 1024;
/// Flag bit: first part of its access unit.
pub const FIRST: u8 = 1;
/// Flag bit: last part of its access unit.
pub const LAST: u8 = 2;

/// The clear head of a frame; a sealed body is bound to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Type number.
    pub kind: u8,
    /// [`FIRST`], [`LAST`]; zero for clear frames.
    pub flags: u8,
    /// Record number, checkpoint number, or zero.
    pub number: u32,
    /// Bytes of the body that follows.
    pub length: u32,
}

/// How a reader treats a type number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameClass {
    /// A sealed record, known or skippable (32 to 63): it has the next record number.
    Sealed,
    /// A checkpoint.
    Checkpoint,
    /// The end.
    End,
    /// A clear frame that may be skipped (96 to 127).
    Skipped,
    /// Not to be skipped, or not a frame at all.
    Refused,
}

impl FrameHead {
    /// As stored.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; FRAME_HEAD] {
        let mut bytes = [0; FRAME_HEAD];
        bytes[0] = self.kind;
        bytes[1] = self.flags;
        bytes[4..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Reads the first 12 bytes; `None` if there are fewer, a reserved bit is set, or the length is out of bounds for
    /// the type.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let head = Self::lenient(bytes)?;
        let (length, flags) = (usize::try_from(head.length).ok()?, head.flags);
        let fits = match head.class() {
            // Only access units are split; a part holds at least one byte.
            FrameClass::Sealed => {
                (TAG + 1..=MAX_BODY).contains(&length)
                    && flags & !(FIRST | LAST) == 0
                    && (flags == FIRST | LAST || head.kind == FrameKind::Unit as u8)
            }
            FrameClass::Checkpoint | FrameClass::End => (65..=MAX_CLEAR_BODY).contains(&length) && flags == 0,
            FrameClass::Skipped => length <= MAX_BODY && flags == 0,
            FrameClass::Refused => false,
        };
        fits.then_some(head)
    }

    /// As [`Self::parse`], for any type number.
    pub(crate) fn lenient(bytes: &[u8]) -> Option<Self> {
        let [kind, flags, zero0, zero1, n0, n1, n2, n3, l0, l1, l2, l3] = *bytes.first_chunk::<FRAME_HEAD>()?;
        let number = u32::from_be_bytes([n0, n1, n2, n3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let sound = (zero0, zero1) == (0, 0) && flags & !(FIRST | LAST) == 0 && length <= MAX_BODY as u32;
        sound.then_some(Self { kind, flags, number, length })
    }

    /// How to treat the frame.
    #[must_use]
    pub fn class(&self) -> FrameClass {
        match self.kind {
            1..=5 | 32..=63 => FrameClass::Sealed,
            64 => FrameClass::Checkpoint,
            65 => FrameClass::End,
            96..=127 => FrameClass::Skipped,
            _ => FrameClass::Refused,
        }
    }

    /// Bytes of head and body.
    #[must_use]
    pub fn frame_len(&self) -> u64 {
        FRAME_HEAD as u64 + u64::from(self.length)
    }

    /// Whether it is the first part (or the only one).
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.flags & FIRST != 0
    }

    /// Whether it is the last part (or the only one).
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.flags & LAST != 0
    }
}

/// What a frame of the file is. The numbers are those of the file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// The file's header (not a framed record; offset 0).
    Header = 0,
    /// Sealed: who, what, why.
    Meta = 1,
    /// Sealed: parameters of a track.
    Params = 2,
    /// Sealed: an access unit or a part of one.
    Unit = 3,
    /// Sealed: something that happened (mark, button, position).
    Event = 4,
    /// Sealed: something is missing.
    Gap = 5,
    /// Clear: signature over everything before it.
    Checkpoint = 64,
    /// Clear: signature over the whole file.
    End = 65,
}

/// What the relay needs to schedule a frame, known here because the body is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHint {
    /// Track, for records of a track.
    pub track: Option<TrackId>,
    /// First part of an access unit at which a decoder can start.
    pub key: bool,
    /// Nothing refers to it.
    pub disposable: bool,
    /// Whether the track carries pictures.
    pub video: bool,
    /// Capture (or, for clear frames, laying out) on boot time.
    pub captured: BootTime,
    /// Presentation time in ticks of the track's time scale; zero for frames of no track.
    pub pts: crate::base::units::MediaTime,
    /// First and last part of an access unit; both true for unsplit records.
    pub first: bool,
    /// See `first`.
    pub last: bool,
}

/// The whole frame at the start of `bytes`: its head and all of its bytes. `None` if more bytes are needed.
///
/// # Errors
/// The bytes are no frame.
pub fn next_frame(bytes: &[u8]) -> Result<Option<(FrameHead, &[u8])>, NotAFrame> {
    if bytes.len() < FRAME_HEAD {
        return Ok(None);
    }
    let head = FrameHead::parse(bytes).ok_or(NotAFrame)?;
    let len = usize::try_from(head.frame_len()).map_err(|_| NotAFrame)?;
    Ok(bytes.get(..len).map(|frame| (head, frame)))
}

/// Bytes are no frame of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no frame of a segment")]
pub struct NotAFrame;

/// A piece of a segment file, final: it is written at `offset` and sent as it is.
#[derive(Debug, Clone)]
pub struct SealedFrame {
    /// Which file.
    pub segment: SegmentId,
    /// Whose footage.
    pub organisation: OrganisationId,
    /// Which camera.
    pub camera: CameraId,
    /// Which recording.
    pub recording: RecordingId,
    /// What it is.
    pub kind: FrameKind,
    /// Record number (sealed kinds), checkpoint number, or zero.
    pub number: u32,
    /// Byte offset in the file. Frames of a segment follow each other without holes.
    pub offset: u64,
    /// The bytes of the file.
    pub bytes: Bytes,
    /// For scheduling; not part of the file.
    pub hint: FrameHint,
}

/// Sees each frame after the recorder's lane took it (or, in a `live_only` segment, instead). Never blocks.
pub trait Tap: Send + Sync {
    /// The next frame of some segment; frames of one segment come in file order.
    fn frame(&self, frame: &SealedFrame);
}
