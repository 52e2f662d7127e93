//! The backlog half of the box, pure: which object to offer, which bytes to send, what to do with the answers.
//!
//! ```text
//! (offer) ─OBJECT─▶ Offered ─HAVE─▶ Sending ─all acked─▶ Waiting ─COMMITTED / REJECTED─▶ gone
//!                      ▲                ▲────HAVE (again)────┘
//!                      └──── no answer for 30 s ─────────────┘
//! ```
//! OBJECT is idempotent, so everything here may be forgotten at a disconnect. What cannot be read or whose answer cannot
//! be kept now is set aside for a while: one bad sector must neither be asked for without end nor hold up the rest.

use super::wire::MAX_CHUNK;
use super::wire::control::{Object, Span};
use crate::base::ids::SegmentId;
use crate::seal::SegmentOffer;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Objects that are under way at a time.
pub const MAX_OBJECTS: usize = 4;
/// An object whose last word is older than this is offered again.
const PATIENCE: Duration = Duration::from_secs(30);
/// What gave trouble on our side is not touched for this long, twice as long each time.
const ASIDE: Duration = Duration::from_secs(1);
const LONGEST_ASIDE: Duration = Duration::from_secs(60);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send OBJECT.
    Offer(Object),
    /// Read these bytes and send a CHUNK.
    Chunk {
        /// Of this file.
        segment: SegmentId,
        /// From here.
        offset: u64,
        /// At most [`MAX_CHUNK`].
        len: u32,
    },
}

#[derive(Debug)]
struct Upload {
    object: Object,
    seq: u64,
    /// `None` until HAVE came.
    missing: Option<Vec<Span>>,
    in_flight: u32,
    offered: Option<Instant>,
    /// The cloud's last word came, and the store is keeping it.
    settling: bool,
}

/// What is under way in one session.
#[derive(Debug, Default)]
pub struct Backlog {
    uploads: Vec<Upload>,
    credit: u64,
    sent: u64,
    /// Until when, and how long the last time.
    aside: HashMap<SegmentId, (Instant, Duration)>,
}

impl Backlog {
    /// Room for more offers.
    #[must_use]
    pub fn room(&self) -> usize {
        MAX_OBJECTS.saturating_sub(self.uploads.len())
    }

    /// How many offers to ask the store for: enough to fill the room behind those that are under way or set aside.
    #[must_use]
    pub fn wanted(&self) -> usize {
        2 * MAX_OBJECTS + self.aside.len()
    }

    /// Objects that may be sent, most urgent first; those that are under way already or set aside are skipped.
    pub fn offer(&mut self, offers: &[SegmentOffer], now: Instant) {
        for offer in offers {
            let busy = self.uploads.iter().any(|upload| upload.object.segment == offer.segment);
            if self.room() == 0 || busy || self.aside.get(&offer.segment).is_some_and(|(until, _)| now < *until) {
                continue;
            }
            let object = Object {
                segment: offer.segment,
                size: offer.size,
                sha256: offer.sha256,
                cut: offer.cut,
                class: offer.class as u8,
                camera: offer.camera,
                recording: offer.recording,
            };
            let (seq, missing, offered) = (offer.seq, None, None);
            self.uploads.push(Upload { object, seq, missing, in_flight: 0, offered, settling: false });
        }
        self.uploads.sort_by_key(|upload| (upload.object.class, upload.seq));
    }

    /// CREDIT: chunk bytes allowed in this session, in all.
    pub fn credit(&mut self, total: u64) {
        self.credit = total;
    }

    /// HAVE: sends what the cloud does not have. Ranges of an unknown segment are ignored.
    pub fn have(&mut self, segment: SegmentId, ranges: &[Span], now: Instant) {
        if let Some(upload) = self.find(segment) {
            upload.missing = Some(complement(ranges, upload.object.size));
            upload.offered = Some(now);
        }
    }

    /// Bytes that were to be sent cannot be read: nothing of them counts, and the object is set aside.
    pub fn unread(&mut self, segment: SegmentId, len: u32, now: Instant) {
        self.sent = self.sent.saturating_sub(len.into());
        self.set_aside(segment, now);
    }

    /// Not under way any more, and not offered again before a while has passed.
    pub fn set_aside(&mut self, segment: SegmentId, now: Instant) {
        self.uploads.retain(|upload| upload.object.segment != segment);
        let wait = self.aside.get(&segment).map_or(ASIDE, |(_, wait)| (*wait * 2).min(LONGEST_ASIDE));
        self.aside.insert(segment, (now + wait, wait));
    }

    /// COMMITTED or REJECTED came: the object it is about, which waits now until the store has kept that. `None` if it is
    /// not under way, or if its last word came before.
    pub fn settle(&mut self, segment: SegmentId) -> Option<Object> {
        let upload = self.find(segment).filter(|upload| !upload.settling)?;
        upload.settling = true;
        Some(upload.object)
    }

    /// COMMITTED or REJECTED, and the store knows it.
    pub fn done(&mut self, segment: SegmentId) {
        self.aside.remove(&segment);
        self.uploads.retain(|upload| upload.object.segment != segment);
    }

    /// What was offered, for checking a receipt.
    #[must_use]
    pub fn object(&self, segment: SegmentId) -> Option<Object> {
        self.uploads.iter().find(|upload| upload.object.segment == segment).map(|upload| upload.object)
    }

    /// A chunk arrived.
    pub fn acked(&mut self, segment: SegmentId, now: Instant) {
        if let Some(upload) = self.find(segment) {
            upload.in_flight = upload.in_flight.saturating_sub(1);
            upload.offered = Some(now);
        }
    }

    /// Something was sent that the cloud may or may not have: ask it by offering again.
    pub fn lost(&mut self, segment: SegmentId) {
        if let Some(upload) = self.find(segment) {
            upload.in_flight = upload.in_flight.saturating_sub(1);
            upload.missing = None;
            upload.offered = None;
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        for upload in self.uploads.iter_mut().filter(|upload| !upload.settling) {
            let idle = upload.in_flight == 0 && upload.missing.as_ref().is_none_or(Vec::is_empty);
            let silent = upload.offered.is_none_or(|at| now.duration_since(at) >= PATIENCE);
            if idle && silent {
                upload.offered = Some(now);
                upload.missing = None;
                return Some(Action::Offer(upload.object));
            }
        }
        let room = self.credit.saturating_sub(self.sent);
        for upload in self.uploads.iter_mut().filter(|upload| !upload.settling) {
            let Some(missing) = &mut upload.missing else { continue };
            let Some(Span(from, to)) = missing.first_mut() else { continue };
            let len = (*to - *from).min(MAX_CHUNK as u64);
            if len > room {
                return None;
            }
            let offset = *from;
            *from += len;
            if from == to {
                missing.remove(0);
            }
            upload.in_flight += 1;
            self.sent += len;
            let len = u32::try_from(len).unwrap_or(0);
            return Some(Action::Chunk { segment: upload.object.segment, offset, len });
        }
        None
    }

    fn find(&mut self, segment: SegmentId) -> Option<&mut Upload> {
        self.uploads.iter_mut().find(|upload| upload.object.segment == segment)
    }
}

/// What of `0..size` is not in `ranges`. Ranges that overlap, are out of order or lie outside count for what they cover.
fn complement(ranges: &[Span], size: u64) -> Vec<Span> {
    let mut sorted: Vec<_> = ranges.iter().filter(|Span(from, to)| from < to).collect();
    sorted.sort_by_key(|Span(from, _)| *from);
    let (mut missing, mut at) = (Vec::new(), 0);
    for Span(from, to) in sorted {
        if *from > at && at < size {
            missing.push(Span(at, (*from).min(size)));
        }
        at = at.max(*to);
    }
    if at < size {
        missing.push(Span(at, size));
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{CameraId, Digest, OrganisationId, RecordingId};
    use crate::seal::UploadClass;

    fn offer(id: u8, size: u64, class: UploadClass, seq: u64) -> SegmentOffer {
        SegmentOffer {
            segment: SegmentId([id; 16]),
            organisation: OrganisationId([1; 16]),
            camera: CameraId([2; 16]),
            recording: RecordingId([3; 16]),
            size,
            sha256: Digest([4; 32]),
            cut: None,
            class,
            seq,
        }
    }

    #[test]
    fn what_the_cloud_does_not_have_is_sent_within_the_credit() {
        let now = Instant::now();
        let mut backlog = Backlog::default();
        backlog.offer(&[offer(1, 200_000, UploadClass::Normal, 5)], now);
        assert!(matches!(backlog.poll(now), Some(Action::Offer(_))));
        assert_eq!(backlog.poll(now), None);
        backlog.have(SegmentId([1; 16]), &[Span(65_536, 131_072)], now);
        assert_eq!(backlog.poll(now), None, "no credit yet");
        backlog.credit(1 << 20);
        let mut got = Vec::new();
        while let Some(Action::Chunk { offset, len, .. }) = backlog.poll(now) {
            got.push((offset, len));
        }
        assert_eq!(got, [(0, 65_536), (131_072, 65_536), (196_608, 3_392)]);
        // All arrived, but no answer comes: it is offered again.
        for _ in 0..3 {
            backlog.acked(SegmentId([1; 16]), now);
        }
        assert_eq!(backlog.poll(now), None);
        assert!(matches!(backlog.poll(now + PATIENCE), Some(Action::Offer(_))));
    }

    #[test]
    fn the_most_urgent_goes_first() {
        let now = Instant::now();
        let mut backlog = Backlog::default();
        backlog.credit(u64::MAX);
        backlog.offer(&[offer(1, 10, UploadClass::Normal, 1), offer(2, 10, UploadClass::Alarm, 9)], now);
        let first = |action| match action {
            Some(Action::Offer(object)) => object.segment,
            Some(Action::Chunk { segment, .. }) => segment,
            None => panic!("something to do"),
        };
        assert_eq!(first(backlog.poll(now)), SegmentId([2; 16]));
        assert_eq!(first(backlog.poll(now)), SegmentId([1; 16]));
        backlog.have(SegmentId([1; 16]), &[], now);
        backlog.have(SegmentId([2; 16]), &[], now);
        assert_eq!(first(backlog.poll(now)), SegmentId([2; 16]));
    }

    #[test]
    fn what_cannot_be_read_does_not_hold_up_the_rest() {
        let now = Instant::now();
        let all: Vec<_> = (1..=6).map(|id| offer(id, 10, UploadClass::Normal, id.into())).collect();
        let mut backlog = Backlog::default();
        backlog.credit(1000);
        backlog.offer(&all, now);
        for id in 1..=4 {
            assert!(matches!(backlog.poll(now), Some(Action::Offer(_))));
            backlog.have(SegmentId([id; 16]), &[], now);
        }
        for id in 1..=4 {
            assert!(matches!(backlog.poll(now), Some(Action::Chunk { .. })));
            backlog.unread(SegmentId([id; 16]), 10, now);
        }
        assert!(backlog.wanted() >= 4 + MAX_OBJECTS, "enough to reach behind those");
        backlog.offer(&all, now);
        let mut offered = Vec::new();
        while let Some(Action::Offer(object)) = backlog.poll(now) {
            offered.push(object.segment.0[0]);
        }
        assert_eq!(offered, [5, 6]);
        backlog.offer(&all, now + ASIDE);
        assert_eq!(backlog.room(), 0, "and they are tried again");
        backlog.unread(SegmentId([1; 16]), 10, now);
        backlog.offer(&all[..1], now + ASIDE);
        assert_eq!(backlog.room(), 1, "later and later");
        backlog.offer(&all[..1], now + 2 * ASIDE);
        assert_eq!(backlog.room(), 0);
    }

    #[test]
    fn the_last_word_counts_once_and_only_for_what_is_under_way() {
        let now = Instant::now();
        let mut backlog = Backlog::default();
        assert_eq!(backlog.settle(SegmentId([1; 16])), None);
        backlog.offer(&[offer(1, 10, UploadClass::Normal, 1)], now);
        assert!(backlog.settle(SegmentId([1; 16])).is_some());
        assert_eq!(backlog.settle(SegmentId([1; 16])), None, "the store is asked once");
        assert_eq!(backlog.poll(now + PATIENCE), None, "nor is it offered while the store keeps it");
    }

    #[test]
    fn hostile_ranges_do_no_harm() {
        assert_eq!(complement(&[Span(9, 3), Span(5, u64::MAX), Span(0, 2)], 10), [Span(2, 5)]);
        assert_eq!(complement(&[Span(0, 10), Span(2, 4)], 10), []);
        assert_eq!(complement(&[Span(20, 30)], 10), [Span(0, 10)]);
    }
}
