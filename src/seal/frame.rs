//! A frame of a segment file, as it travels from `seal` to `store` and `relay`.

use crate::base::ids::{CameraId, OrganisationId, RecordingId, SegmentId};
use crate::base::units::BootTime;
use crate::media::TrackId;
use bytes::Bytes;

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
