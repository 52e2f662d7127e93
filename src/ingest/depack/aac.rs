//! AAC: `mpeg4-generic` in AAC-hbr mode (RFC 3640) and `MP4A-LATM` with `cpresent=0` (RFC 6416).

use super::{Config, MAX_UNIT, Output, Packet, Unit};
use crate::media::Codec;
use bytes::{Buf, Bytes, BytesMut};

/// How units lie in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// AU headers of 13 bits of size and 3 of index.
    Hbr,
    /// One or more PayloadMux parts, each after its length.
    Latm,
}

/// The depacketiser.
#[derive(Debug)]
pub struct Aac {
    mode: Mode,
    config: Config,
    /// Ticks per unit.
    step: u32,
    /// A unit that does not fit one packet: what is there, what it will have, its timestamp.
    partial: Option<(BytesMut, usize, u32)>,
    loss: bool,
}

/// What an AudioSpecificConfig says (ISO/IEC 14496-3, 1.6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asc {
    /// Hz, of the output where SBR is signalled.
    pub sample_rate: u32,
    /// 1 to 8.
    pub channels: u8,
    /// Samples per unit at the output rate.
    pub samples: u32,
    /// Bits that the configuration takes.
    pub bits: usize,
}

impl Asc {
    /// Reads it; `None` for what we do not carry (no AAC, program config elements, ER with error protection).
    #[must_use]
    pub fn parse(bytes: &[u8], from_bit: usize) -> Option<Self> {
        let mut bits = Bits { bytes, at: from_bit };
        let mut object = bits.object()?;
        let mut sample_rate = bits.rate()?;
        let core_rate = sample_rate;
        let channels = match bits.take(4)? {
            channels @ 1..=6 => channels as u8,
            7 => 8,
            _ => return None,
        };
        if matches!(object, 5 | 29) {
            sample_rate = bits.rate()?;
            object = bits.object()?;
        }
        if !matches!(object, 1..=4 | 17 | 23) {
            return None;
        }
        let short = bits.take(1)? == 1;
        if bits.take(1)? == 1 {
            bits.take(14)?;
        }
        bits.take(1)?;
        // Backward-compatible signalling of SBR behind the configuration: `syncExtensionType` 0x2b7.
        let mut behind = Bits { bytes, at: bits.at };
        if behind.take(11) == Some(0x2b7)
            && behind.object() == Some(5)
            && let Some(present) = behind.take(1)
        {
            if present == 1 {
                sample_rate = behind.rate()?;
            }
            bits.at = behind.at;
        }
        let core = if short { 960 } else { 1024 };
        let samples = if sample_rate == core_rate * 2 { core * 2 } else { core };
        Some(Self { sample_rate, channels, samples, bits: bits.at - from_bit })
    }
}

impl Aac {
    /// A track by its AudioSpecificConfig; `None` if it cannot be carried. `clock` = RTP clock rate.
    #[must_use]
    pub fn hbr(config: &[u8], clock: u32) -> Option<Self> {
        Self::new(Mode::Hbr, config.to_vec(), Asc::parse(config, 0)?, clock)
    }

    /// A track by its StreamMuxConfig; `None` if it cannot be carried (several programs or layers).
    #[must_use]
    pub fn latm(config: &[u8], clock: u32) -> Option<Self> {
        let mut bits = Bits { bytes: config, at: 0 };
        // audioMuxVersion, allStreamsSameTimeFraming, numSubFrames, numProgram, numLayer.
        if bits.take(1)? != 0 || bits.take(1)? != 1 {
            return None;
        }
        bits.take(6)?;
        if bits.take(4)? != 0 || bits.take(3)? != 0 {
            return None;
        }
        let start = bits.at;
        let asc = Asc::parse(config, start)?;
        let mut bytes = Vec::new();
        for at in (0..asc.bits).step_by(8) {
            let n = 8.min(asc.bits - at);
            bytes.push((bits.take(n)? << (8 - n)) as u8);
        }
        // frameLengthType 0: the length comes in each payload.
        if bits.take(3)? != 0 {
            return None;
        }
        Self::new(Mode::Latm, bytes, asc, clock)
    }

    fn new(mode: Mode, bytes: Vec<u8>, asc: Asc, clock: u32) -> Option<Self> {
        let step = u64::from(asc.samples) * u64::from(clock) / u64::from(asc.sample_rate.max(1));
        let config = Config {
            codec: Codec::Aac,
            bytes,
            width: 0,
            height: 0,
            channels: asc.channels,
            sample_rate: asc.sample_rate,
        };
        Some(Self { mode, config, step: u32::try_from(step).ok()?, partial: None, loss: false })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// The next packet.
    pub fn push(&mut self, packet: &Packet, out: &mut Vec<Output>) {
        if packet.loss_before {
            self.flush(out);
            self.loss = true;
        }
        match self.mode {
            Mode::Hbr => self.push_hbr(packet, out),
            Mode::Latm => self.push_latm(packet, out),
        }
    }

    /// A unit that was not finished is delivered as it is.
    pub fn flush(&mut self, out: &mut Vec<Output>) {
        if let Some((data, _, timestamp)) = self.partial.take()
            && !data.is_empty()
        {
            self.deliver(data.freeze(), timestamp, true, out);
        }
    }

    fn push_hbr(&mut self, packet: &Packet, out: &mut Vec<Output>) {
        let mut rest = packet.payload.clone();
        if rest.len() < 2 {
            return;
        }
        let header_bits = usize::from(rest.get_u16());
        let headers = header_bits.div_ceil(8);
        if header_bits % 16 != 0 || headers > rest.len() {
            self.loss = true;
            return;
        }
        let mut heads = rest.split_to(headers);
        let single = heads.len() == 2;
        let mut timestamp = packet.timestamp;
        while heads.len() >= 2 {
            let size = usize::from(heads.get_u16() >> 3);
            if single && (size > rest.len() || self.partial.is_some()) {
                self.fragment(&mut rest, size, packet, out);
                return;
            }
            self.flush(out);
            let damaged = size > rest.len();
            let data = rest.split_to(size.min(rest.len()));
            if !data.is_empty() {
                self.deliver(data, timestamp, damaged, out);
            }
            timestamp = timestamp.wrapping_add(self.step);
        }
    }

    /// A unit over several packets, each with the whole size in its header; the last has the marker.
    fn fragment(&mut self, rest: &mut Bytes, size: usize, packet: &Packet, out: &mut Vec<Output>) {
        if self.partial.as_ref().is_some_and(|(_, whole, at)| *whole != size || *at != packet.timestamp) {
            self.flush(out);
        }
        let (mut data, _, timestamp) = self.partial.take().unwrap_or((BytesMut::new(), size, packet.timestamp));
        data.extend_from_slice(rest);
        if data.len() >= size || packet.marker || data.len() > MAX_UNIT {
            let damaged = data.len() != size;
            self.deliver(data.freeze(), timestamp, damaged, out);
        } else {
            self.partial = Some((data, size, timestamp));
        }
    }

    fn push_latm(&mut self, packet: &Packet, out: &mut Vec<Output>) {
        // Packets of one timestamp up to the marker belong together.
        if self.partial.as_ref().is_some_and(|(_, _, at)| *at != packet.timestamp) {
            self.flush(out);
        }
        let (mut data, _, timestamp) = self.partial.take().unwrap_or((BytesMut::new(), 0, packet.timestamp));
        data.extend_from_slice(&packet.payload);
        if !packet.marker && data.len() <= MAX_UNIT {
            self.partial = Some((data, 0, timestamp));
            return;
        }
        let mut rest = data.freeze();
        let mut timestamp = timestamp;
        while rest.has_remaining() {
            let mut size = 0;
            loop {
                if !rest.has_remaining() {
                    self.loss = true;
                    return;
                }
                let byte = rest.get_u8();
                size += usize::from(byte);
                if byte != 255 {
                    break;
                }
            }
            let damaged = size > rest.len();
            let data = rest.split_to(size.min(rest.len()));
            if !data.is_empty() {
                self.deliver(data, timestamp, damaged, out);
            }
            timestamp = timestamp.wrapping_add(self.step);
        }
    }

    fn deliver(&mut self, data: Bytes, timestamp: u32, damaged: bool, out: &mut Vec<Output>) {
        let loss_before = std::mem::take(&mut self.loss);
        out.push(Output::Unit(Unit { timestamp, key: true, disposable: false, loss_before, damaged, data }));
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, n: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..n {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn object(&mut self) -> Option<u32> {
        match self.take(5)? {
            31 => Some(32 + self.take(6)?),
            object => Some(object),
        }
    }

    fn rate(&mut self) -> Option<u32> {
        const RATES: [u32; 13] =
            [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000, 7350];
        match self.take(4)? {
            15 => self.take(24).filter(|rate| *rate > 0),
            index => RATES.get(index as usize).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(timestamp: u32, marker: bool, payload: &[u8]) -> Packet {
        Packet { timestamp, marker, loss_before: false, payload: Bytes::copy_from_slice(payload) }
    }

    fn units(out: &[Output]) -> Vec<(u32, Vec<u8>)> {
        out.iter()
            .map(|output| match output {
                Output::Unit(unit) => (unit.timestamp, unit.data.to_vec()),
                Output::Config(_) => panic!("no configuration comes in band"),
            })
            .collect()
    }

    #[test]
    fn several_units_of_a_packet_get_their_own_times() {
        // AAC-LC, 48 kHz, mono, with ffmpeg's five bytes.
        let mut aac = Aac::hbr(&[0x11, 0x88, 0x56, 0xe5, 0x00], 48_000).expect("carried");
        assert_eq!(aac.config().sample_rate, 48_000);
        assert_eq!(aac.config().bytes.len(), 5, "kept whole");
        let mut out = Vec::new();
        aac.push(&packet(1000, true, &[0, 32, 0, 2 << 3, 0, 3 << 3, 1, 2, 3, 4, 5]), &mut out);
        assert_eq!(units(&out), [(1000, vec![1, 2]), (2024, vec![3, 4, 5])]);
    }

    #[test]
    fn a_fragmented_unit_is_joined_and_a_lost_end_is_kept() {
        let mut aac = Aac::hbr(&[0x11, 0x88], 48_000).expect("carried");
        let mut out = Vec::new();
        aac.push(&packet(0, false, &[0, 16, 0, 4 << 3, 1, 2]), &mut out);
        aac.push(&packet(0, true, &[0, 16, 0, 4 << 3, 3, 4]), &mut out);
        assert_eq!(units(&out), [(0, vec![1, 2, 3, 4])]);
        out.clear();
        aac.push(&packet(1024, false, &[0, 16, 0, 4 << 3, 1, 2]), &mut out);
        aac.flush(&mut out);
        assert!(matches!(&out[..], [Output::Unit(Unit { damaged: true, .. })]));
    }

    #[test]
    fn latm_with_a_signalled_absence_of_sbr_is_carried_whole() {
        // What GStreamer makes of ffmpeg's five bytes 11 88 56 e5 00.
        let aac = Aac::latm(&[0x40, 0x00, 0x23, 0x10, 0xad, 0xca, 0x00], 48_000).expect("carried");
        assert_eq!(aac.config().bytes, [0x11, 0x88, 0x56, 0xe5, 0x00]);
        assert_eq!((aac.config().sample_rate, aac.config().channels), (48_000, 1));
    }

    #[test]
    fn latm_parts_lie_behind_their_lengths() {
        // StreamMuxConfig of GStreamer for AAC-LC 44.1 kHz stereo.
        let mut aac = Aac::latm(&[0x40, 0x00, 0x24, 0x20, 0x3f, 0xc0], 44_100).expect("carried");
        assert_eq!((aac.config().sample_rate, aac.config().channels), (44_100, 2));
        assert_eq!(aac.config().bytes, [0x12, 0x10]);
        let mut out = Vec::new();
        let mut payload = vec![255, 1];
        payload.extend([7; 256]);
        aac.push(&packet(5, true, &payload), &mut out);
        assert_eq!(units(&out), [(5, vec![7; 256])]);
    }
}
