//! H.264 (RFC 6184): single NAL units, STAP-A and FU-A → access units of NAL units with 4-byte lengths.
//!
//! A unit ends at the marker, at another timestamp, or at an access unit delimiter after a picture. NAL units are kept
//! as they came, parameter sets in band too; a parameter set that changes yields a new configuration before its unit.

use super::{Config, MAX_UNIT, Output, Packet, Unit};
use crate::media::Codec;
use bytes::BytesMut;
use h264_reader::nal::{Nal, RefNal, sps::SeqParameterSet};

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;
const AUD: u8 = 9;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// The depacketiser.
#[derive(Debug, Default)]
pub struct H264 {
    /// By id: parameter sets in force.
    sps: Vec<(u32, Vec<u8>)>,
    pps: Vec<(u32, Vec<u8>)>,
    config_changed: bool,
    unit: Option<Building>,
    /// Bytes of a fragmented NAL unit so far, its header first.
    fragment: Option<BytesMut>,
    loss: bool,
}

#[derive(Debug)]
struct Building {
    timestamp: u32,
    data: BytesMut,
    picture: bool,
    key: bool,
    reference: bool,
    damaged: bool,
    loss_before: bool,
}

impl H264 {
    /// A track with the parameter sets of its session description (`sprop-parameter-sets`, decoded).
    #[must_use]
    pub fn new(parameter_sets: &[Vec<u8>]) -> Self {
        let mut h264 = Self::default();
        for nal in parameter_sets {
            h264.parameter_set(nal);
        }
        h264.config_changed = false;
        h264
    }

    /// avcC of the parameter sets in force; `None` while there is none.
    #[must_use]
    pub fn config(&self) -> Option<Config> {
        let (_, first) = self.sps.first()?;
        let [_, profile, compatibility, level, ..] = first[..] else { return None };
        if self.pps.is_empty() {
            return None;
        }
        let mut bytes = vec![1, profile, compatibility, level, 0xff, 0xe0 | u8::try_from(self.sps.len()).ok()?];
        let put = |bytes: &mut Vec<u8>, nal: &[u8]| {
            bytes.extend(u16::try_from(nal.len()).unwrap_or(0).to_be_bytes());
            bytes.extend(nal);
        };
        for (_, nal) in &self.sps {
            put(&mut bytes, nal);
        }
        bytes.push(u8::try_from(self.pps.len()).ok()?);
        for (_, nal) in &self.pps {
            put(&mut bytes, nal);
        }
        let parsed = SeqParameterSet::from_bits(RefNal::new(first, &[], true).rbsp_bits()).ok();
        let (width, height) = parsed.as_ref().and_then(|sps| sps.pixel_dimensions().ok()).unwrap_or((0, 0));
        // ISO/IEC 14496-15: the high profiles carry chroma format and bit depths behind the sets.
        if matches!(profile, 100 | 110 | 122 | 144 | 244 | 44)
            && let Some(sps) = &parsed
        {
            let chroma = &sps.chroma_info;
            let format = match chroma.chroma_format {
                h264_reader::nal::sps::ChromaFormat::Monochrome => 0,
                h264_reader::nal::sps::ChromaFormat::YUV420 => 1,
                h264_reader::nal::sps::ChromaFormat::YUV422 => 2,
                h264_reader::nal::sps::ChromaFormat::YUV444 => 3,
                h264_reader::nal::sps::ChromaFormat::Invalid(_) => 1,
            };
            bytes.extend([
                0xfc | format,
                0xf8 | (chroma.bit_depth_luma_minus8 & 7),
                0xf8 | (chroma.bit_depth_chroma_minus8 & 7),
                0,
            ]);
        }
        Some(Config {
            codec: Codec::H264,
            bytes,
            width: u16::try_from(width).unwrap_or(0),
            height: u16::try_from(height).unwrap_or(0),
            channels: 0,
            sample_rate: 0,
        })
    }

    /// The next packet.
    pub fn push(&mut self, packet: &Packet, out: &mut Vec<Output>) {
        if packet.loss_before {
            self.lost(packet.timestamp, out);
        }
        if self.unit.as_ref().is_some_and(|unit| unit.timestamp != packet.timestamp) {
            self.finish(out);
        }
        let payload = &packet.payload[..];
        match payload.first().map(|byte| byte & 0x1f) {
            Some(1..=23) => {
                self.end_fragment(out);
                self.nal(payload, packet.timestamp, out);
            }
            Some(STAP_A) => {
                self.end_fragment(out);
                let mut rest = &payload[1..];
                while let Some((len, tail)) = rest.split_first_chunk::<2>() {
                    let len = usize::from(u16::from_be_bytes(*len));
                    let nal = tail.get(..len).unwrap_or(tail);
                    if nal.len() < len {
                        self.damage(packet.timestamp);
                    }
                    if !nal.is_empty() {
                        self.nal(nal, packet.timestamp, out);
                    }
                    rest = tail.get(len..).unwrap_or_default();
                }
            }
            Some(FU_A) => self.fragment(payload, packet.timestamp, out),
            // Other aggregation modes are not negotiated by packetization-mode 1.
            _ => self.damage(packet.timestamp),
        }
        if packet.marker {
            self.finish(out);
        }
    }

    /// What is there is delivered.
    pub fn flush(&mut self, out: &mut Vec<Output>) {
        self.finish(out);
    }

    fn fragment(&mut self, payload: &[u8], timestamp: u32, out: &mut Vec<Output>) {
        let [indicator, header, body @ ..] = payload else { return self.damage(timestamp) };
        let (start, end) = (header & 0x80 != 0, header & 0x40 != 0);
        if start {
            self.end_fragment(out);
            self.building(timestamp);
            let mut nal = BytesMut::with_capacity(body.len() + 1);
            nal.extend_from_slice(&[indicator & 0xe0 | header & 0x1f]);
            nal.extend_from_slice(body);
            self.fragment = Some(nal);
        } else if let Some(nal) = self.fragment.as_mut().filter(|nal| nal.len() + body.len() <= MAX_UNIT) {
            nal.extend_from_slice(body);
        } else {
            // The beginning was lost, or is a piece of its own: a slice without its header cannot be decoded, but it is
            // what arrived.
            self.end_fragment(out);
            self.damage(timestamp);
            let mut nal = BytesMut::with_capacity(body.len() + 1);
            nal.extend_from_slice(&[indicator & 0xe0 | header & 0x1f]);
            nal.extend_from_slice(body);
            self.fragment = Some(nal);
        }
        if end && let Some(nal) = self.fragment.take() {
            self.nal(&nal, timestamp, out);
        }
    }

    /// A fragmented NAL unit whose end did not come is kept as far as it goes.
    fn end_fragment(&mut self, out: &mut Vec<Output>) {
        let Some(nal) = self.fragment.take() else { return };
        let timestamp = self.unit.as_ref().map_or(0, |unit| unit.timestamp);
        self.damage(timestamp);
        self.put(&nal, timestamp, out);
    }

    fn nal(&mut self, nal: &[u8], timestamp: u32, out: &mut Vec<Output>) {
        let kind = nal.first().map_or(0, |byte| byte & 0x1f);
        if kind == AUD && self.unit.as_ref().is_some_and(|unit| unit.picture) {
            self.finish(out);
        }
        if matches!(kind, SPS | PPS) {
            self.parameter_set(nal);
        }
        let unit = self.put(nal, timestamp, out);
        if matches!(kind, SLICE..=IDR) {
            unit.picture = true;
            unit.key |= kind == IDR;
            unit.reference |= nal.first().is_some_and(|byte| byte & 0x60 != 0);
        }
    }

    /// Into the unit, or into the next piece of it if it is full.
    fn put(&mut self, nal: &[u8], timestamp: u32, out: &mut Vec<Output>) -> &mut Building {
        let full = self.unit.as_ref().is_some_and(|unit| unit.data.len() + nal.len() > MAX_UNIT);
        if full {
            self.damage(timestamp);
            self.finish(out);
        }
        let unit = self.building(timestamp);
        unit.damaged |= full;
        append(&mut unit.data, nal);
        unit
    }

    fn building(&mut self, timestamp: u32) -> &mut Building {
        let loss_before = if self.unit.is_none() { std::mem::take(&mut self.loss) } else { false };
        self.unit.get_or_insert_with(|| Building {
            timestamp,
            data: BytesMut::new(),
            picture: false,
            key: false,
            reference: false,
            damaged: false,
            loss_before,
        })
    }

    /// Packets before this one are missing.
    fn lost(&mut self, timestamp: u32, out: &mut Vec<Output>) {
        self.loss = true;
        if self.unit.as_ref().is_some_and(|unit| unit.timestamp == timestamp) {
            self.damage(timestamp);
        } else if let Some(unit) = &mut self.unit {
            // Its end may be among them.
            unit.damaged = true;
        }
        self.end_fragment(out);
    }

    fn damage(&mut self, timestamp: u32) {
        self.building(timestamp).damaged = true;
    }

    fn finish(&mut self, out: &mut Vec<Output>) {
        self.end_fragment(out);
        let Some(unit) = self.unit.take() else { return };
        if unit.data.is_empty() {
            // Nothing of it arrived; the next one says that something is missing.
            self.loss |= unit.loss_before || unit.damaged;
            return;
        }
        if std::mem::take(&mut self.config_changed)
            && let Some(config) = self.config()
        {
            out.push(Output::Config(config));
        }
        out.push(Output::Unit(Unit {
            timestamp: unit.timestamp,
            key: unit.key,
            disposable: unit.picture && !unit.reference,
            loss_before: unit.loss_before,
            damaged: unit.damaged,
            data: unit.data.freeze(),
        }));
    }

    fn parameter_set(&mut self, nal: &[u8]) {
        let (sets, id) = match nal.first().map(|byte| byte & 0x1f) {
            Some(SPS) => (&mut self.sps, exp_golomb(nal.get(4..).unwrap_or_default())),
            Some(PPS) => (&mut self.pps, exp_golomb(nal.get(1..).unwrap_or_default())),
            _ => return,
        };
        // ITU-T H.264: 32 sets of sequence, 256 of picture parameters; avcC's length field has 16 bits.
        let Some(id) = id.filter(|id| *id < 256) else { return };
        if nal.len() < 4 || nal.len() > 4096 {
            return;
        }
        let room = sets.len() < 31;
        match sets.iter_mut().find(|(known, _)| *known == id) {
            Some((_, kept)) if kept == nal => {}
            Some((_, kept)) => {
                nal.clone_into(kept);
                self.config_changed = true;
            }
            None if room => {
                sets.push((id, nal.to_vec()));
                self.config_changed = true;
            }
            None => {}
        }
    }
}

fn append(data: &mut BytesMut, nal: &[u8]) {
    data.extend_from_slice(&u32::try_from(nal.len()).unwrap_or(u32::MAX).to_be_bytes());
    data.extend_from_slice(nal);
}

/// The first ue(v) of a payload (ITU-T H.264 §9.1); ids are small, so emulation prevention does not matter here.
fn exp_golomb(bytes: &[u8]) -> Option<u32> {
    let bit = |at: usize| bytes.get(at / 8).map(|byte| u32::from(byte >> (7 - at % 8) & 1));
    let zeros = (0..24).take_while(|at| bit(*at) == Some(0)).count();
    let mut value = 0;
    for at in zeros..=2 * zeros {
        value = value << 1 | bit(at)?;
    }
    value.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn packet(timestamp: u32, marker: bool, payload: &[u8]) -> Packet {
        Packet { timestamp, marker, loss_before: false, payload: Bytes::copy_from_slice(payload) }
    }

    fn push(h264: &mut H264, packet: &Packet) -> Vec<Output> {
        let mut out = Vec::new();
        h264.push(packet, &mut out);
        out
    }

    fn unit(out: Vec<Output>) -> Unit {
        match <[Output; 1]>::try_from(out) {
            Ok([Output::Unit(unit)]) => unit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn single_stap_and_fu_make_the_same_unit() {
        let expected = [0, 0, 0, 2, 0x65, 1, 0, 0, 0, 3, 0x65, 2, 3];
        let mut h264 = H264::new(&[]);
        assert!(push(&mut h264, &packet(9, false, &[0x65, 1])).is_empty());
        let one = unit(push(&mut h264, &packet(9, true, &[0x65, 2, 3])));
        let two = unit(push(&mut h264, &packet(9, true, &[0x78, 0, 2, 0x65, 1, 0, 3, 0x65, 2, 3])));
        push(&mut h264, &packet(9, false, &[0x65, 1]));
        push(&mut h264, &packet(9, false, &[0x7c, 0x85, 2]));
        let three = unit(push(&mut h264, &packet(9, true, &[0x7c, 0x45, 3])));
        for unit in [&one, &two, &three] {
            assert_eq!(unit.data, expected[..]);
            assert!(unit.key && !unit.damaged && !unit.disposable && !unit.loss_before);
        }
    }

    #[test]
    fn a_lost_marker_ends_the_unit_at_the_next_timestamp_and_the_last_is_flushed() {
        let mut h264 = H264::new(&[]);
        push(&mut h264, &packet(1, false, &[0x41, 1]));
        let first = unit(push(&mut h264, &packet(2, false, &[0x01, 2])));
        assert_eq!((first.timestamp, first.disposable), (1, false));
        let mut out = Vec::new();
        h264.flush(&mut out);
        assert!(unit(out).disposable);
    }

    #[test]
    fn what_arrived_of_a_broken_fragment_is_kept_and_flagged() {
        let mut h264 = H264::new(&[]);
        push(&mut h264, &packet(1, false, &[0x7c, 0x85, 1, 2]));
        let mut next = packet(1, true, &[0x7c, 0x45, 4]);
        next.loss_before = true;
        let unit = unit(push(&mut h264, &next));
        assert!(unit.damaged);
        assert_eq!(unit.data, [0, 0, 0, 3, 0x65, 1, 2, 0, 0, 0, 2, 0x65, 4][..]);
    }

    #[test]
    fn a_changed_parameter_set_comes_before_its_unit() {
        let sps = [0x67, 0x42, 0xc0, 0x1e, 0xd9, 0, 0xa0, 0x47, 0xfe, 0x88];
        let pps = [0x68, 0xce, 0x3c, 0x80];
        let mut h264 = H264::new(&[sps.to_vec(), pps.to_vec()]);
        assert!(h264.config().is_some());
        push(&mut h264, &packet(1, false, &sps));
        push(&mut h264, &packet(1, false, &pps));
        assert_eq!(push(&mut h264, &packet(1, true, &[0x65, 1])).len(), 1, "nothing changed");
        let other = [0x67, 0x42, 0xc0, 0x1f, 0xd9, 0, 0xa0, 0x47, 0xfe, 0x88];
        push(&mut h264, &packet(2, false, &other));
        let out = push(&mut h264, &packet(2, true, &[0x65, 1]));
        assert!(matches!(&out[..], [Output::Config(config), Output::Unit(_)] if config.bytes[3] == 0x1f));
    }
}
