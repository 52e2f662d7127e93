//! Heads of unidirectional streams. A LIVE stream carries the fragments of one frame of a segment file, each with its
//! head; a CHUNK stream carries one piece of a finished segment.

use super::{MAX_CHUNK, MAX_FRAGMENT, Violation};
use crate::base::ids::{CameraId, RecordingId, SegmentId};
use crate::base::units::BootTime;

/// First byte of a LIVE head.
pub const LIVE: u8 = 1;
/// First byte of a CHUNK head.
pub const CHUNK: u8 = 2;

/// Head of a LIVE fragment: what a relay may know in clear inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveHead {
    /// Which file.
    pub segment: SegmentId,
    /// Which camera.
    pub camera: CameraId,
    /// Which recording.
    pub recording: RecordingId,
    /// Type number of the frame in the file; 0 = header.
    pub kind: u8,
    /// Track, 255 if none.
    pub track: u8,
    /// A decoder can start here.
    pub key: bool,
    /// Nothing refers to it.
    pub disposable: bool,
    /// Part of a picture.
    pub video: bool,
    /// Record or checkpoint number.
    pub number: u32,
    /// Offset of the frame in the file.
    pub frame: u64,
    /// Bytes of the frame.
    pub frame_len: u32,
    /// Offset of the fragment in the frame.
    pub offset: u32,
    /// Bytes of the fragment, following the head.
    pub len: u32,
    /// Capture, on the box's boot time.
    pub captured: BootTime,
}

impl LiveHead {
    /// Bytes of a head, its first byte included.
    pub const SIZE: usize = 84;

    /// As sent.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = LIVE;
        bytes[1] = self.kind;
        bytes[2] = self.track;
        bytes[3] = u8::from(self.key) | u8::from(self.disposable) << 1 | u8::from(self.video) << 2;
        bytes[4..20].copy_from_slice(&self.segment.0);
        bytes[20..36].copy_from_slice(&self.camera.0);
        bytes[36..52].copy_from_slice(&self.recording.0);
        bytes[52..56].copy_from_slice(&self.number.to_be_bytes());
        bytes[56..64].copy_from_slice(&self.frame.to_be_bytes());
        bytes[64..68].copy_from_slice(&self.frame_len.to_be_bytes());
        bytes[68..72].copy_from_slice(&self.offset.to_be_bytes());
        bytes[72..76].copy_from_slice(&self.len.to_be_bytes());
        bytes[76..84].copy_from_slice(&self.captured.0.to_be_bytes());
        bytes
    }

    /// Reads a head.
    ///
    /// # Errors
    /// `UnknownType`, `Malformed`, `Length`, `Outside`.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Result<Self, Violation> {
        if bytes[0] != LIVE {
            return Err(Violation::UnknownType);
        }
        if bytes[3] > 7 {
            return Err(Violation::Malformed);
        }
        let head = Self {
            kind: bytes[1],
            track: bytes[2],
            key: bytes[3] & 1 != 0,
            disposable: bytes[3] & 2 != 0,
            video: bytes[3] & 4 != 0,
            segment: SegmentId(field(bytes, 4)),
            camera: CameraId(field(bytes, 20)),
            recording: RecordingId(field(bytes, 36)),
            number: u32::from_be_bytes(field(bytes, 52)),
            frame: u64::from_be_bytes(field(bytes, 56)),
            frame_len: u32::from_be_bytes(field(bytes, 64)),
            offset: u32::from_be_bytes(field(bytes, 68)),
            len: u32::from_be_bytes(field(bytes, 72)),
            captured: BootTime(u64::from_be_bytes(field(bytes, 76))),
        };
        if head.len == 0 || head.len as usize > MAX_FRAGMENT {
            return Err(Violation::Length);
        }
        // The largest frame is a header of 64 KiB and its prefix, or a full part with head and tag.
        if head.frame_len > 128 * 1024 || head.offset.checked_add(head.len).is_none_or(|end| end > head.frame_len) {
            return Err(Violation::Outside);
        }
        Ok(head)
    }
}

/// Head of a CHUNK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHead {
    /// Which file.
    pub segment: SegmentId,
    /// Where in the file.
    pub offset: u64,
    /// Bytes that follow.
    pub len: u32,
}

impl ChunkHead {
    /// Bytes of a head, its first byte included.
    pub const SIZE: usize = 32;

    /// As sent.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = CHUNK;
        bytes[4..20].copy_from_slice(&self.segment.0);
        bytes[20..28].copy_from_slice(&self.offset.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// Reads a head.
    ///
    /// # Errors
    /// `UnknownType`, `Malformed`, `Length`.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Result<Self, Violation> {
        if bytes[0] != CHUNK {
            return Err(Violation::UnknownType);
        }
        if bytes[1..4] != [0; 3] {
            return Err(Violation::Malformed);
        }
        let head = Self {
            segment: SegmentId(field(bytes, 4)),
            offset: u64::from_be_bytes(field(bytes, 20)),
            len: u32::from_be_bytes(field(bytes, 28)),
        };
        if head.len == 0 || head.len as usize > MAX_CHUNK { Err(Violation::Length) } else { Ok(head) }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_the_wire_and_bounds_are_kept() {
        let live = LiveHead {
            segment: SegmentId([1; 16]),
            camera: CameraId([2; 16]),
            recording: RecordingId([3; 16]),
            kind: 3,
            track: 0,
            key: true,
            disposable: false,
            video: true,
            number: 7,
            frame: 1 << 33,
            frame_len: 65_564,
            offset: 49_152,
            len: 16_384,
            captured: BootTime(9),
        };
        assert_eq!(LiveHead::from_bytes(&live.to_bytes()), Ok(live));
        let outside = LiveHead { offset: 49_181, ..live };
        assert_eq!(LiveHead::from_bytes(&outside.to_bytes()), Err(Violation::Outside));
        let long = LiveHead { len: 16_385, ..live };
        assert_eq!(LiveHead::from_bytes(&long.to_bytes()), Err(Violation::Length));
        let chunk = ChunkHead { segment: SegmentId([1; 16]), offset: 5, len: 65_536 };
        assert_eq!(ChunkHead::from_bytes(&chunk.to_bytes()), Ok(chunk));
        let long = ChunkHead { len: 65_537, ..chunk };
        assert_eq!(ChunkHead::from_bytes(&long.to_bytes()), Err(Violation::Length));
    }
}
