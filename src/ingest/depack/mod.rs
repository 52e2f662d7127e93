//! RTP payloads → access units, one file per payload format. Pure: packets in order in, units out.
//!
//! What arrived is kept: after a loss the rest of a unit is delivered and flagged, never dropped.

pub mod aac;
pub mod h264;
pub mod plain;

use crate::media::Codec;
use bytes::Bytes;

/// Largest unit that is put together; more is delivered in flagged pieces.
pub const MAX_UNIT: usize = 8 * 1024 * 1024;

/// One packet in sequence.
#[derive(Debug, Clone)]
pub struct Packet {
    /// RTP timestamp.
    pub timestamp: u32,
    /// Last packet of a unit, by the payload format's rule.
    pub marker: bool,
    /// Packets between the one before and this one were lost.
    pub loss_before: bool,
    /// Without header, extension and padding.
    pub payload: Bytes,
}

/// A unit as it came, before it has a place on the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// RTP timestamp.
    pub timestamp: u32,
    /// A decoder can start here.
    pub key: bool,
    /// Nothing refers to it.
    pub disposable: bool,
    /// Something before it was lost.
    pub loss_before: bool,
    /// Parts of it were lost.
    pub damaged: bool,
    /// Coded bytes, by codec.
    pub data: Bytes,
}

/// What a depacketiser yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// New decoder configuration, before the unit that needs it.
    Config(Config),
    /// A unit.
    Unit(Unit),
}

/// What is known of a track's coding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How.
    pub codec: Codec,
    /// Decoder configuration, by codec.
    pub bytes: Vec<u8>,
    /// Picture size; zero for sound or if unknown.
    pub width: u16,
    /// See `width`.
    pub height: u16,
    /// Sound channels.
    pub channels: u8,
    /// Sound sampling rate.
    pub sample_rate: u32,
}

/// A payload format's state.
pub enum Depacketiser {
    /// RFC 6184.
    H264(h264::H264),
    /// RFC 3640 and RFC 6416.
    Aac(aac::Aac),
    /// RFC 7587, RFC 3551: one packet, one unit.
    Plain(plain::Plain),
}

impl Depacketiser {
    /// The configuration as far as the session description told it.
    #[must_use]
    pub fn config(&self) -> Option<Config> {
        match self {
            Self::H264(depacketiser) => depacketiser.config(),
            Self::Aac(depacketiser) => Some(depacketiser.config()),
            Self::Plain(depacketiser) => Some(depacketiser.config()),
        }
    }

    /// The next packet.
    pub fn push(&mut self, packet: &Packet, out: &mut Vec<Output>) {
        match self {
            Self::H264(depacketiser) => depacketiser.push(packet, out),
            Self::Aac(depacketiser) => depacketiser.push(packet, out),
            Self::Plain(depacketiser) => depacketiser.push(packet, out),
        }
    }

    /// Nothing follows: what is there is delivered.
    pub fn flush(&mut self, out: &mut Vec<Output>) {
        match self {
            Self::H264(depacketiser) => depacketiser.flush(out),
            Self::Aac(depacketiser) => depacketiser.flush(out),
            Self::Plain(_) => {}
        }
    }
}
