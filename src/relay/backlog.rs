//! The backlog half of the box, pure: which object to offer, which bytes to send, what to do with the answers.
//!
//! ```text
//! (offer) ─OBJECT─▶ Offered ─HAVE─▶ Sending ─all acked─▶ Waiting ─COMMITTED / REJECTED─▶ gone
//!                      ▲                ▲────HAVE (again)────┘
//!                      └──── no answer for 30 s ─────────────┘
//! ```
//! OBJECT is idempotent, so everything here may be forgotten at a disconnect.

use super::wire::MAX_CHUNK;
use super::wire::control::{Object, Span};
use crate::base::ids::SegmentId;
use crate::seal::SegmentOffer;
use std::time::Duration;
use tokio::time::Instant;

/// Objects that are under way at a time.
pub const MAX_OBJECTS: usize = 4;
/// An object whose last word is older than this is offered again.
const PATIENCE: Duration = Duration::from_secs(30);

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
}

/// What is under way in one session.
#[derive(Debug, Default)]
pub struct Backlog {
    uploads: Vec<Upload>,
    credit: u64,
    sent: u64,
}

impl Backlog {
    /// Room for more offers.
    #[must_use]
    pub fn room(&self) -> usize {
        MAX_OBJECTS.saturating_sub(self.uploads.len())
    }

    /// Objects that may be sent, most urgent first; those that are under way already are skipped.
    pub fn offer(&mut self, offers: &[SegmentOffer]) {
        for offer in offers {
            if self.room() == 0 || self.uploads.iter().any(|upload| upload.object.segment == offer.segment) {
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
            self.uploads.push(Upload { object, seq: offer.seq, missing: None, in_flight: 0, offered: None });
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

    /// Bytes that were to be sent cannot be read: nothing of them counts, and the object may be offered again later.
    pub fn unread(&mut self, segment: SegmentId, len: u32) {
        self.sent = self.sent.saturating_sub(len.into());
        self.done(segment);
    }

    /// COMMITTED or REJECTED, and the store knows it.
    pub fn done(&mut self, segment: SegmentId) {
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
        for upload in &mut self.uploads {
            let idle = upload.in_flight == 0 && upload.missing.as_ref().is_none_or(Vec::is_empty);
            let silent = upload.offered.is_none_or(|at| now.duration_since(at) >= PATIENCE);
            if idle && silent {
                upload.offered = Some(now);
                upload.missing = None;
                return Some(Action::Offer(upload.object));
            }
        }
        let room = self.credit.saturating_sub(self.sent);
        for upload in &mut self.uploads {
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
        backlog.offer(&[offer(1, 200_000, UploadClass::Normal, 5)]);
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
        backlog.offer(&[offer(1, 10, UploadClass::Normal, 1), offer(2, 10, UploadClass::Alarm, 9)]);
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
    fn hostile_ranges_do_no_harm() {
        assert_eq!(complement(&[Span(9, 3), Span(5, u64::MAX), Span(0, 2)], 10), [Span(2, 5)]);
        assert_eq!(complement(&[Span(0, 10), Span(2, 4)], 10), []);
        assert_eq!(complement(&[Span(20, 30)], 10), [Span(0, 10)]);
    }
}
