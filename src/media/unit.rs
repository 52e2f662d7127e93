//! The unit of everything: one access unit of one track, with the parameters that decode it.

use crate::base::reason::Coded;
use crate::base::units::{BootTime, MediaTime};
use bytes::Bytes;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Track number within a recording, stable over sessions of the camera that announce the same tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
pub struct TrackId(#[n(0)] pub u8);

/// How a track is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// ITU-T H.264. `config` = AVCDecoderConfigurationRecord (ISO/IEC 14496-15); data = NAL units with 4-byte lengths.
    #[n(1)]
    H264,
    /// ITU-T H.265. `config` = HEVCDecoderConfigurationRecord; data = NAL units with 4-byte lengths.
    #[n(2)]
    H265,
    /// MPEG-4 AAC. `config` = AudioSpecificConfig, whole; data = one raw access unit.
    #[n(16)]
    Aac,
    /// Opus. `config` = dOps body (RFC 7845 identification header fields); data = one packet.
    #[n(17)]
    Opus,
    /// G.711 µ-law. `config` empty; data = samples of one packet.
    #[n(18)]
    Pcmu,
    /// G.711 A-law. `config` empty; data = samples of one packet.
    #[n(19)]
    Pcma,
}

impl Codec {
    /// Whether the track carries pictures.
    #[must_use]
    pub const fn is_video(self) -> bool {
        matches!(self, Self::H264 | Self::H265)
    }
}

/// What a decoder must know about a track; the body of a PARAMS record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TrackParams {
    /// Which track.
    #[n(0)]
    pub track: TrackId,
    /// How it is coded.
    #[n(1)]
    pub codec: Codec,
    /// Ticks per second of the track's media time (RTP clock rate), > 0.
    #[n(2)]
    pub timescale: u32,
    /// Decoder configuration, by codec; empty while the camera has not sent any (H.264 without SPS).
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub config: Vec<u8>,
    /// Picture width and height in luma samples; zero if unknown or sound.
    #[n(4)]
    pub width: u16,
    /// See `width`.
    #[n(5)]
    pub height: u16,
    /// Sound channels; zero for pictures.
    #[n(6)]
    pub channels: u8,
    /// Sound sampling rate, Hz; zero for pictures.
    #[n(7)]
    pub sample_rate: u32,
}

/// What is known of an access unit without decoding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnitFlags {
    /// A decoder can start here (IDR or IRAP; every unit of sound).
    pub key: bool,
    /// Nothing refers to it (H.264 `nal_ref_idc` = 0, H.265 sub-layer non-reference).
    pub disposable: bool,
    /// Something between the unit before and this one was lost on the way from the camera.
    pub loss_before: bool,
    /// Parts of this unit were lost; what arrived is kept.
    pub damaged: bool,
    /// The camera's timestamps jumped or froze before this unit; `pts` was mapped to stay continuous.
    pub time_jump: bool,
}

/// One access unit: a picture with everything sent with it, or one block of sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessUnit {
    /// Which track.
    pub track: TrackId,
    /// Presentation time in ticks of the track's time scale, on the recording's continuous timeline.
    pub pts: MediaTime,
    /// Estimated capture, on the box's boot time.
    pub captured: BootTime,
    /// What is known without decoding.
    pub flags: UnitFlags,
    /// Coded bytes, by codec (see [`Codec`]).
    pub data: Bytes,
}

/// Footage that is missing, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct Gap {
    /// Last instant before the gap.
    #[n(0)]
    pub from: BootTime,
    /// First instant after it; equal to `from` while it is still open.
    #[n(1)]
    pub to: BootTime,
    /// Why.
    #[n(2)]
    pub cause: GapCause,
}

/// Why footage is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum GapCause {
    /// The camera went away (out of range, switched off) and came back.
    #[n(1)]
    CameraGone,
    /// Packets were lost between camera and box.
    #[n(2)]
    PacketLoss,
    /// The card did not keep up and the lane was full.
    #[n(3)]
    Overflow,
    /// Power was cut.
    #[n(4)]
    PowerCut,
    /// The daemon crashed.
    #[n(5)]
    Crash,
    /// The card was missing, full or failing.
    #[n(6)]
    NoCard,
    /// No recipient key: the box may not record in clear.
    #[n(7)]
    NoKey,
}

impl Coded for GapCause {
    fn code(&self) -> &'static str {
        match self {
            Self::CameraGone => "gap-camera-gone",
            Self::PacketLoss => "gap-packet-loss",
            Self::Overflow => "gap-overflow",
            Self::PowerCut => "gap-power-cut",
            Self::Crash => "gap-crash",
            Self::NoCard => "gap-no-card",
            Self::NoKey => "gap-no-key",
        }
    }
}

/// What a camera's session yields, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// New or changed parameters of a track; precedes the units that need them.
    Params(Arc<TrackParams>),
    /// One access unit.
    Unit(AccessUnit),
    /// Something is missing here.
    Gap(Gap),
}
