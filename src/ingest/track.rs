//! One track of one session: RTP in any order → items on the box's timeline. Pure: arrival times are passed in.
//!
//! Over UDP a packet waits up to [`PATIENCE`] for an earlier one; over TCP nothing is reordered, so a hole is a loss at
//! once. A changed SSRC starts a new sequence on the same timeline.

use super::depack::{Config, Depacketiser, Output, Packet, Unit};
use super::sdp::Announced;
use crate::base::units::BootTime;
use crate::media::timeline::Timeline;
use crate::media::{AccessUnit, Codec, Gap, GapCause, Item, TrackId, TrackParams, UnitFlags};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a hole is waited for: WiFi retransmits within 20 to 50 ms.
pub const PATIENCE: Duration = Duration::from_millis(150);
/// Packets that wait behind a hole: 1 MB of key frame.
const MAX_WAITING: usize = 1024;
/// A UDP stream may begin with a packet that overtook the first ones: so many places before it are kept free, for
/// [`OPENING`].
const BEFORE_FIRST: u16 = 32;
/// How long the first packets are waited for.
const OPENING: Duration = Duration::from_millis(50);
/// A sequence number this far from the expected one is another stream, not a hole.
const MAX_STEP: i32 = 3000;

/// Counts of one track.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets taken.
    pub packets: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Packets that came twice, or after their place was given up.
    pub late: u64,
    /// Packets that are no RTP of this track.
    pub malformed: u64,
    /// Units delivered.
    pub units: u64,
}

/// A sender report: NTP time and RTP time of one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// NTP, 32.32 fixed point.
    pub ntp: u64,
    /// RTP.
    pub rtp: u32,
}

/// The track.
pub struct Track {
    id: TrackId,
    payload_type: u8,
    clock: u32,
    codec: Codec,
    reorders: bool,
    depacketiser: Depacketiser,
    timeline: Timeline,
    ssrc: Option<u32>,
    expected: Option<u16>,
    waiting: BTreeMap<i32, (Packet, BootTime)>,
    waiting_since: Option<BootTime>,
    /// The hole in front is that before the first packet: nothing is known to be missing in it.
    opening: bool,
    report: Option<Report>,
    started: bool,
    counts: Counts,
    outputs: Vec<Output>,
    highest: u32,
}

impl Track {
    /// A track that was announced; `reorders` for UDP.
    #[must_use]
    pub fn new(id: TrackId, announced: Announced, reorders: bool) -> Self {
        let Announced { payload_type, clock, codec, depacketiser, .. } = announced;
        Self {
            id,
            payload_type,
            clock,
            codec,
            reorders,
            depacketiser,
            timeline: Timeline::new(clock),
            ssrc: None,
            expected: None,
            waiting: BTreeMap::new(),
            waiting_since: None,
            opening: false,
            report: None,
            started: false,
            counts: Counts::default(),
            outputs: Vec::new(),
            highest: 0,
        }
    }

    /// What is known before the first packet.
    #[must_use]
    pub fn params(&self) -> Option<TrackParams> {
        self.depacketiser.config().map(|config| self.params_of(config))
    }

    /// Coding.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// SSRC, highest sequence number and packets lost, for receiver reports.
    #[must_use]
    pub fn reception(&self) -> Option<(u32, u32, u64)> {
        self.ssrc.map(|ssrc| (ssrc, self.highest, self.counts.lost))
    }

    /// A sender report came.
    pub fn report(&mut self, report: Report) {
        self.report = Some(report);
    }

    /// A datagram or interleaved frame came. `origin` ties tracks of a session together: NTP time that falls on an
    /// instant of boot time, from the first report of the session.
    pub fn push(&mut self, datagram: &[u8], arrived: BootTime, origin: Option<(u64, BootTime)>, items: &mut Vec<Item>) {
        let Some((packet, ssrc, sequence)) = self.parse(datagram) else {
            self.counts.malformed += 1;
            return;
        };
        if self.ssrc != Some(ssrc) {
            self.begin(arrived, origin, items);
            self.ssrc = Some(ssrc);
        }
        let step = |expected: Option<u16>| expected.map(|e| i32::from(sequence.wrapping_sub(e).cast_signed()));
        let far = |step: i32| step.abs() > MAX_STEP || step < 0 && !self.reorders;
        if step(self.expected).is_some_and(far) {
            // The sender started its count again.
            self.begin(arrived, origin, items);
        }
        if self.expected.is_none() && self.reorders {
            self.expected = Some(sequence.wrapping_sub(BEFORE_FIRST));
            self.opening = true;
        }
        let step = step(self.expected).unwrap_or(0);
        if step < 0 {
            self.counts.late += 1;
            return;
        }
        self.counts.packets += 1;
        if step == 0 {
            self.take(packet, arrived, sequence, origin, items);
            self.release(origin, items);
        } else if self.reorders {
            if self.waiting.insert(step, (packet, arrived)).is_some() {
                self.counts.late += 1;
            }
            let since = *self.waiting_since.get_or_insert(arrived);
            if self.waiting.len() > MAX_WAITING || arrived.since(since) >= self.patience() {
                self.skip(origin, items);
            }
        } else {
            self.counts.lost += u64::from(step.unsigned_abs());
            self.take(Packet { loss_before: true, ..packet }, arrived, sequence, origin, items);
        }
    }

    fn patience(&self) -> Duration {
        if self.opening { OPENING } else { PATIENCE }
    }

    /// A sender begins: what the one before sent is delivered, and the new one's numbers and times need not go on from it.
    fn begin(&mut self, arrived: BootTime, origin: Option<(u64, BootTime)>, items: &mut Vec<Item>) {
        self.flush(arrived, origin, items);
        self.expected = None;
        self.highest = 0;
        self.timeline.restart();
    }

    /// A hole that was waited for long enough is given up.
    pub fn poll(&mut self, now: BootTime, origin: Option<(u64, BootTime)>, items: &mut Vec<Item>) {
        if self.waiting_since.is_some_and(|since| now.since(since) >= self.patience()) {
            self.skip(origin, items);
        }
    }

    /// Nothing follows: everything that is there is delivered.
    pub fn flush(&mut self, now: BootTime, origin: Option<(u64, BootTime)>, items: &mut Vec<Item>) {
        self.release_all(origin, items);
        self.depacketiser.flush(&mut self.outputs);
        self.deliver(now, origin, items);
    }

    fn parse(&self, datagram: &[u8]) -> Option<(Packet, u32, u16)> {
        let rtp = rtp_types::RtpPacket::parse(datagram).ok()?;
        if rtp.payload_type() != self.payload_type {
            return None;
        }
        let packet = Packet {
            timestamp: rtp.timestamp(),
            marker: rtp.marker_bit(),
            loss_before: false,
            payload: Bytes::copy_from_slice(rtp.payload()),
        };
        Some((packet, rtp.ssrc(), rtp.sequence_number()))
    }

    fn take(
        &mut self,
        packet: Packet,
        arrived: BootTime,
        sequence: u16,
        origin: Option<(u64, BootTime)>,
        items: &mut Vec<Item>,
    ) {
        self.expected = Some(sequence.wrapping_add(1));
        self.opening = false;
        let cycles = self.highest & 0xffff_0000;
        let wrapped = u32::from(self.highest as u16 > sequence) * 0x1_0000;
        self.highest = cycles.wrapping_add(wrapped) | u32::from(sequence);
        self.depacketiser.push(&packet, &mut self.outputs);
        self.deliver(arrived, origin, items);
    }

    /// Packets that are next in line now.
    fn release(&mut self, origin: Option<(u64, BootTime)>, items: &mut Vec<Item>) {
        if self.waiting.is_empty() {
            self.waiting_since = None;
            return;
        }
        let mut taken = 1;
        while let Some((packet, arrived)) = self.waiting.remove(&taken) {
            let sequence = self.expected.unwrap_or(0);
            self.take(packet, arrived, sequence, origin, items);
            taken += 1;
        }
        // Keys are steps from the expected number, which has moved.
        self.waiting = std::mem::take(&mut self.waiting).into_iter().map(|(step, p)| (step - taken, p)).collect();
        self.waiting_since = self.waiting.values().map(|(_, arrived)| *arrived).min();
    }

    /// Gives up the hole in front.
    fn skip(&mut self, origin: Option<(u64, BootTime)>, items: &mut Vec<Item>) {
        let Some((step, (packet, arrived))) = self.waiting.pop_first() else { return };
        let known = !self.opening;
        if known {
            self.counts.lost += u64::from(step.unsigned_abs());
        }
        let sequence = self.expected.unwrap_or(0).wrapping_add(step as u16);
        self.waiting = std::mem::take(&mut self.waiting).into_iter().map(|(s, p)| (s - step, p)).collect();
        self.take(Packet { loss_before: known, ..packet }, arrived, sequence, origin, items);
        self.release(origin, items);
    }

    fn release_all(&mut self, origin: Option<(u64, BootTime)>, items: &mut Vec<Item>) {
        while !self.waiting.is_empty() {
            self.skip(origin, items);
        }
    }

    fn deliver(&mut self, arrived: BootTime, origin: Option<(u64, BootTime)>, items: &mut Vec<Item>) {
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Config(config) => items.push(Item::Params(Arc::new(self.params_of(config)))),
                Output::Unit(unit) => self.unit(unit, arrived, origin, items),
            }
        }
    }

    fn unit(&mut self, unit: Unit, arrived: BootTime, origin: Option<(u64, BootTime)>, items: &mut Vec<Item>) {
        let start = if self.started { None } else { self.start(unit.timestamp, arrived, origin) };
        self.started = true;
        let mapped = self.timeline.map(unit.timestamp, arrived, start);
        self.counts.units += 1;
        if unit.loss_before {
            let gap = Gap { from: mapped.captured, to: mapped.captured, cause: GapCause::PacketLoss };
            items.push(Item::Gap(gap));
        }
        items.push(Item::Unit(AccessUnit {
            track: self.id,
            pts: mapped.pts,
            captured: mapped.captured,
            flags: UnitFlags {
                key: unit.key,
                disposable: unit.disposable,
                loss_before: unit.loss_before,
                damaged: unit.damaged,
                time_jump: mapped.jumped,
            },
            data: unit.data,
        }));
    }

    /// Where the first unit falls by the sender's own clock. A report that puts it more than 10 s from its arrival is
    /// not believed.
    fn start(&self, timestamp: u32, arrived: BootTime, origin: Option<(u64, BootTime)>) -> Option<BootTime> {
        let (report, (ntp, at)) = (self.report?, origin?);
        let ticks = i64::from(timestamp.wrapping_sub(report.rtp).cast_signed());
        let since_report = ticks * 1_000_000 / i64::from(self.clock.max(1));
        let since_origin = ((i128::from(report.ntp) - i128::from(ntp)) * 1_000_000) >> 32;
        let micros = i128::from(at.0) + since_origin + i128::from(since_report);
        let start = BootTime(u64::try_from(micros).ok()?);
        let far = start.since(arrived).max(arrived.since(start)) > Duration::from_secs(10);
        (!far).then_some(start)
    }

    fn params_of(&self, config: Config) -> TrackParams {
        TrackParams {
            track: self.id,
            codec: config.codec,
            timescale: self.clock,
            config: config.bytes,
            width: config.width,
            height: config.height,
            channels: config.channels,
            sample_rate: config.sample_rate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::depack::plain::Plain;

    fn track(reorders: bool) -> Track {
        let config =
            Config { codec: Codec::Pcmu, bytes: Vec::new(), width: 0, height: 0, channels: 1, sample_rate: 8000 };
        let announced = Announced {
            control: String::new(),
            payload_type: 0,
            clock: 8000,
            codec: Codec::Pcmu,
            depacketiser: Depacketiser::Plain(Plain::new(config)),
        };
        Track::new(TrackId(0), announced, reorders)
    }

    fn rtp(sequence: u16, ssrc: u32) -> Vec<u8> {
        let mut bytes = vec![0x80, 0];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend((u32::from(sequence) * 160).to_be_bytes());
        bytes.extend(ssrc.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes
    }

    fn run(track: &mut Track, order: &[(u16, u32)]) -> Vec<u16> {
        let mut items = Vec::new();
        for (n, (sequence, ssrc)) in order.iter().enumerate() {
            track.push(&rtp(*sequence, *ssrc), BootTime(1_000_000 + n as u64 * 1000), None, &mut items);
        }
        track.flush(BootTime(2_000_000), None, &mut items);
        items
            .iter()
            .filter_map(|item| match item {
                Item::Unit(unit) => Some(u16::from_be_bytes([unit.data[0], unit.data[1]])),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn packets_in_any_order_come_out_in_sequence_over_the_wrap() {
        let order = [65533, 65534, 1, 0, 65535, 2, 2, 4, 3].map(|s| (s, 7));
        assert_eq!(run(&mut track(true), &order), [65533, 65534, 65535, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_hole_is_skipped_and_flagged_and_everything_else_is_kept() {
        let mut udp = track(true);
        assert_eq!(run(&mut udp, &[1, 2, 5, 6].map(|s| (s, 7))), [1, 2, 5, 6]);
        assert_eq!(udp.counts().lost, 2);
        let mut tcp = track(false);
        assert_eq!(run(&mut tcp, &[1, 2, 5, 6].map(|s| (s, 7))), [1, 2, 5, 6]);
        assert_eq!(tcp.counts().lost, 2);
    }

    #[test]
    fn a_changed_ssrc_and_a_restarted_count_lose_nothing() {
        assert_eq!(run(&mut track(true), &[(1, 7), (2, 7), (900, 8), (901, 8)]), [1, 2, 900, 901]);
        assert_eq!(run(&mut track(true), &[(1, 7), (2, 7), (40_000, 7), (40_001, 7)]), [1, 2, 40_000, 40_001]);
    }
}
