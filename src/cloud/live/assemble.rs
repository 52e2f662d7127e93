//! Puts live fragments together to whole frames in file order. Pure: time is passed in.
//!
//! Belongs here: what is whole, what is waited for, what is given up. Does not belong here: opening (see [`super`]).
//! Fragments come on many streams, in any order and not all of them (thinning). A frame is delivered when it is whole
//! and everything before it was delivered or has been waited for during [`HOLD`]; what comes later than that is dropped
//! and counted (the vault has it all the same).

use crate::base::ids::SegmentId;
use crate::seal::FrameKind;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a whole frame waits for an earlier one: one retransmission on a mobile link (SRTT of 50 to 100 ms).
pub const HOLD: Duration = Duration::from_millis(150);

/// Segments that are assembled at one time: the one that ends and the one that starts, and one more for disorder.
const MAX_SEGMENTS: usize = 3;

/// Bytes that wait for their frames to be whole.
const MAX_PENDING: usize = 8 * 1024 * 1024;

/// A piece of a frame as the relay delivers it.
#[derive(Debug, Clone)]
pub struct Fragment {
    /// Which file.
    pub segment: SegmentId,
    /// Where the frame starts in the file.
    pub frame: u64,
    /// Bytes of the frame.
    pub frame_len: u32,
    /// Where the piece starts in the frame.
    pub offset: u32,
    /// The piece.
    pub bytes: Bytes,
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which file.
    pub segment: SegmentId,
    /// Where it starts; 0 is the header.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Assembles the frames of one camera.
#[derive(Default)]
pub struct Assembler {
    segments: VecDeque<Segment>,
    done: VecDeque<SegmentId>,
    pending: usize,
    dropped: u64,
}

struct Segment {
    id: SegmentId,
    next: u64,
    ended: bool,
    frames: BTreeMap<u64, Pending>,
}

struct Pending {
    bytes: Vec<u8>,
    /// Starts and ends of the pieces that are there, sorted by start; few, as a frame has at most five fragments.
    pieces: Vec<(usize, usize)>,
    whole: Option<Instant>,
}

impl Assembler {
    /// Takes a fragment.
    pub fn push(&mut self, fragment: &Fragment, now: Instant) {
        let len = fragment.frame_len as usize;
        let start = fragment.offset as usize;
        let end = start.saturating_add(fragment.bytes.len());
        if end > len || fragment.bytes.is_empty() || self.done.contains(&fragment.segment) {
            self.dropped += 1;
            return;
        }
        let at = self.segments.iter().position(|segment| segment.id == fragment.segment);
        let at = at.unwrap_or_else(|| {
            if self.segments.len() >= MAX_SEGMENTS {
                self.retire();
            }
            self.segments.push_back(Segment { id: fragment.segment, next: 0, ended: false, frames: BTreeMap::new() });
            self.segments.len() - 1
        });
        let room = MAX_PENDING.saturating_sub(self.pending);
        let Some(segment) = self.segments.get_mut(at) else { return };
        if fragment.frame < segment.next {
            self.dropped += 1;
            return;
        }
        let fresh = !segment.frames.contains_key(&fragment.frame);
        if fresh && len > room {
            self.dropped += 1;
            return;
        }
        let frame = segment.frames.entry(fragment.frame).or_insert_with(|| Pending {
            bytes: vec![0; len],
            pieces: Vec::new(),
            whole: None,
        });
        if fresh {
            self.pending += len;
        }
        let Some(place) = frame.bytes.get_mut(start..end) else {
            // Two fragments disagree about the length of one frame.
            self.dropped += 1;
            return;
        };
        place.copy_from_slice(&fragment.bytes);
        frame.pieces.push((start, end));
        frame.pieces.sort_unstable();
        let reach =
            frame.pieces.iter().fold(0, |reach, (start, end)| if *start <= reach { reach.max(*end) } else { reach });
        if reach == frame.bytes.len() {
            frame.whole.get_or_insert(now);
        }
    }

    /// The next whole frame whose turn has come.
    pub fn poll(&mut self, now: Instant) -> Option<Frame> {
        loop {
            let following = self
                .segments
                .iter()
                .skip(1)
                .any(|segment| segment.frames.first_key_value().is_some_and(|(_, frame)| waited(frame, now)));
            let segment = self.segments.front_mut()?;
            let ready = segment.frames.first_key_value().is_some_and(|(offset, frame)| {
                frame.whole.is_some() && (*offset == segment.next || waited(frame, now))
            });
            // A frame that is not whole keeps back those behind it only as long as they may wait.
            let overtaken = !ready && segment.frames.values().skip(1).any(|frame| waited(frame, now));
            if overtaken {
                if let Some((_, frame)) = segment.frames.pop_first() {
                    self.pending -= frame.bytes.len();
                    self.dropped += 1;
                }
                continue;
            }
            if ready {
                let (offset, frame) = segment.frames.pop_first()?;
                self.pending -= frame.bytes.len();
                segment.next = offset + frame.bytes.len() as u64;
                segment.ended = offset > 0 && frame.bytes.first() == Some(&(FrameKind::End as u8));
                return Some(Frame { segment: segment.id, offset, bytes: frame.bytes });
            }
            // After its END nothing more can come, so the next segment need not wait.
            if !following && !segment.ended {
                return None;
            }
            self.retire();
        }
    }

    /// When [`Self::poll`] may have more to give without another fragment.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.segments
            .iter()
            .flat_map(|segment| segment.frames.values())
            .filter_map(|frame| frame.whole)
            .min()
            .map(|whole| whole + HOLD)
    }

    /// Fragments and frames that were given up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn retire(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        self.pending -= segment.frames.values().map(|frame| frame.bytes.len()).sum::<usize>();
        self.dropped += segment.frames.len() as u64;
        self.done.push_back(segment.id);
        if self.done.len() > 2 * MAX_SEGMENTS {
            self.done.pop_front();
        }
    }
}

fn waited(frame: &Pending, now: Instant) -> bool {
    frame.whole.is_some_and(|whole| now.saturating_duration_since(whole) >= HOLD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(segment: u8, frame: u64, len: u32, offset: u32, n: usize) -> Fragment {
        Fragment {
            segment: SegmentId([segment; 16]),
            frame,
            frame_len: len,
            offset,
            bytes: vec![u8::try_from(frame).expect("small"); n].into(),
        }
    }

    fn take(a: &mut Assembler, now: Instant) -> Vec<(u8, u64, usize)> {
        std::iter::from_fn(|| a.poll(now)).map(|f| (f.segment.0[0], f.offset, f.bytes.len())).collect()
    }

    #[test]
    fn frames_come_whole_and_in_file_order_whatever_the_order_of_fragments() {
        let now = Instant::now();
        let mut a = Assembler::default();
        a.push(&piece(1, 10, 20, 10, 10), now);
        assert_eq!(take(&mut a, now), []);
        a.push(&piece(1, 10, 20, 0, 10), now);
        assert_eq!(take(&mut a, now), [], "the header is still missing");
        a.push(&piece(1, 0, 10, 0, 10), now);
        assert_eq!(take(&mut a, now), [(1, 0, 10), (1, 10, 20)]);
    }

    #[test]
    fn a_lost_frame_is_waited_for_and_then_given_up() {
        let now = Instant::now();
        let mut a = Assembler::default();
        a.push(&piece(1, 0, 10, 0, 10), now);
        a.push(&piece(1, 10, 20, 0, 10), now);
        a.push(&piece(1, 30, 5, 0, 5), now);
        assert_eq!(take(&mut a, now), [(1, 0, 10)]);
        assert_eq!(a.deadline(), Some(now + HOLD));
        assert_eq!(take(&mut a, now + HOLD), [(1, 30, 5)]);
        a.push(&piece(1, 10, 20, 10, 10), now + HOLD);
        assert_eq!(take(&mut a, now + HOLD), [], "too late");
        assert_eq!(a.dropped(), 2);
    }

    #[test]
    fn the_next_segment_follows_when_the_one_before_has_nothing_more() {
        let now = Instant::now();
        let mut a = Assembler::default();
        a.push(&piece(1, 0, 10, 0, 10), now);
        a.push(&piece(2, 0, 10, 0, 10), now);
        assert_eq!(take(&mut a, now), [(1, 0, 10)]);
        a.push(&piece(1, 10, 5, 0, 5), now);
        assert_eq!(take(&mut a, now), [(1, 10, 5)]);
        assert_eq!(take(&mut a, now + HOLD), [(2, 0, 10)]);
        a.push(&piece(1, 15, 5, 0, 5), now + HOLD);
        assert_eq!(take(&mut a, now + 2 * HOLD), []);
    }

    #[test]
    fn after_an_end_frame_the_next_segment_need_not_wait() {
        let now = Instant::now();
        let mut a = Assembler::default();
        a.push(&piece(1, 0, 10, 0, 10), now);
        let end = Fragment { bytes: vec![FrameKind::End as u8; 10].into(), ..piece(1, 10, 10, 0, 10) };
        a.push(&end, now);
        a.push(&piece(2, 0, 10, 0, 10), now);
        assert_eq!(take(&mut a, now), [(1, 0, 10), (1, 10, 10), (2, 0, 10)]);
    }

    #[test]
    fn what_waits_is_bounded_and_contradictions_are_dropped() {
        let now = Instant::now();
        let mut a = Assembler::default();
        for n in 0..1000_u64 {
            a.push(&piece(1, 0, 1, 0, 1).clone_at(100_000 * n, 65_000), now);
        }
        assert!(a.pending <= MAX_PENDING);
        a.push(&piece(1, 0, 10, 5, 10), now);
        assert!(a.dropped() > 0);
    }

    impl Fragment {
        fn clone_at(&self, frame: u64, frame_len: u32) -> Self {
            Self { frame, frame_len, ..self.clone() }
        }
    }
}
