//! The live half of the box, pure: what each camera's viewers get next.
//!
//! Nothing is queued without a subscriber. A new subscription starts with HEADER, META, PARAMS and everything since the
//! last key frame; a frame expires after 2 s, or when a newer GOP of its camera waits behind it. What expires is not
//! lost: the backlog brings it. Bounds: [`MAX_CACHE`] per camera, [`MAX_QUEUE`] in all.

use super::link::Class;
use super::wire::control::Subscribe;
use super::wire::{LiveHead, MAX_FRAGMENT};
use crate::base::ids::{CameraId, SegmentId};
use crate::base::reason::Counters;
use crate::seal::{FrameKind, SealedFrame};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes since the last key frame that are kept per camera; a longer GOP is joined at its end only.
pub const MAX_CACHE: usize = 8 * 1024 * 1024;
/// Bytes that wait for the link.
pub const MAX_QUEUE: usize = 16 * 1024 * 1024;
/// A frame older than this is of no use to a viewer.
pub const MAX_LATENCY: Duration = Duration::from_secs(2);
/// A camera that delivered nothing for this long does not stream.
const QUIET: Duration = Duration::from_secs(3);
/// Subscriptions at a time.
pub const MAX_SUBSCRIPTIONS: usize = 256;

/// A frame that waits for the link.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The frame of the file.
    pub frame: SealedFrame,
    /// How urgent.
    pub class: Class,
    /// When it is of no use any more.
    pub deadline: Instant,
    gop: u64,
}

#[derive(Default)]
struct Camera {
    segment: Option<SegmentId>,
    /// HEADER, META, PARAMS of the segment.
    start: Vec<SealedFrame>,
    /// Everything else since the last key frame.
    since_key: Vec<SealedFrame>,
    cached: usize,
    /// The GOP grew beyond the cache.
    overgrown: bool,
    gop: u64,
    heard: Option<Instant>,
}

/// All cameras and subscriptions of a box.
#[derive(Default)]
pub struct Live {
    cameras: HashMap<CameraId, Camera>,
    subscriptions: HashMap<u32, Subscribe>,
    queue: VecDeque<Outgoing>,
    queued: usize,
    counters: Counters,
}

impl Live {
    /// Nothing yet.
    #[must_use]
    pub fn new(counters: Counters) -> Self {
        Self { counters, ..Self::default() }
    }

    /// The next frame of a segment.
    pub fn frame(&mut self, frame: &SealedFrame, now: Instant) {
        let camera = self.cameras.entry(frame.camera).or_default();
        camera.heard = Some(now);
        camera.remember(frame);
        let gop = camera.gop;
        if let Some(latency) = self.latency(frame.camera, frame.hint.track.map(|track| track.0)) {
            self.push(frame.clone(), gop, now + latency);
        }
    }

    /// Starts a subscription; one with the same number is replaced. False beyond [`MAX_SUBSCRIPTIONS`].
    pub fn subscribe(&mut self, wanted: Subscribe, now: Instant) -> bool {
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS && !self.subscriptions.contains_key(&wanted.id) {
            return false;
        }
        let camera = wanted.camera;
        self.subscriptions.insert(wanted.id, wanted);
        // From the beginning for whoever looks already, too: the cloud asks once for all its viewers, and asks again when
        // it has lost the beginning.
        self.keep_queued(|queued| queued != camera);
        let Some(cached) = self.cameras.get(&camera) else { return true };
        let frames: Vec<_> = cached.start.iter().chain(&cached.since_key).cloned().collect();
        let gop = cached.gop;
        for frame in frames {
            if let Some(latency) = self.latency(camera, frame.hint.track.map(|track| track.0)) {
                self.push(frame, gop, now + latency);
            }
        }
        true
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, id: u32) {
        self.subscriptions.remove(&id);
        let watched: std::collections::HashSet<_> = self.subscriptions.values().map(|s| s.camera).collect();
        self.keep_queued(|camera| watched.contains(&camera));
    }

    /// Drops what waits of all other cameras.
    fn keep_queued(&mut self, keep: impl Fn(CameraId) -> bool) {
        self.queue.retain(|waiting| keep(waiting.frame.camera));
        self.queued = self.queue.iter().map(|waiting| waiting.frame.bytes.len()).sum();
    }

    /// The session is over: nobody looks any more.
    pub fn reset(&mut self) {
        self.subscriptions.clear();
        self.queue.clear();
        self.queued = 0;
    }

    /// The next frame to send.
    pub fn poll(&mut self, now: Instant) -> Option<Outgoing> {
        while let Some(next) = self.queue.pop_front() {
            self.queued -= next.frame.bytes.len();
            let newer = || {
                self.queue.iter().any(|w| w.frame.camera == next.frame.camera && w.gop > next.gop && w.frame.hint.key)
            };
            // A frame that already waited while its successor GOP arrived only delays that one.
            if next.deadline <= now {
                self.counters.add("live-expired", 1);
            } else if next.class == Class::Live && newer() {
                self.counters.add("live-superseded", 1);
            } else {
                return Some(next);
            }
        }
        None
    }

    /// Whether something waits.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Number of subscriptions.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Cameras that stream now.
    #[must_use]
    pub fn streaming(&self, now: Instant) -> Vec<CameraId> {
        let heard = |camera: &Camera| camera.heard.is_some_and(|at| now.duration_since(at) < QUIET);
        let mut cameras: Vec<_> = self.cameras.iter().filter(|(_, c)| heard(c)).map(|(id, _)| *id).collect();
        cameras.sort_unstable();
        cameras
    }

    /// How long a frame is of use to whoever looks at the camera (and track); `None` if nobody does.
    fn latency(&self, camera: CameraId, track: Option<u8>) -> Option<Duration> {
        self.subscriptions
            .values()
            .filter(|s| s.camera == camera)
            .filter(|s| track.is_none_or(|track| s.tracks.is_empty() || s.tracks.contains(&track)))
            .map(|s| match s.max_latency_ms {
                0 => MAX_LATENCY,
                ms => Duration::from_millis(ms.into()).min(MAX_LATENCY),
            })
            .max()
    }

    fn push(&mut self, frame: SealedFrame, gop: u64, deadline: Instant) {
        let class = match frame.kind {
            FrameKind::Unit if frame.hint.key && frame.hint.video => Class::Key,
            FrameKind::Unit if frame.hint.video => Class::Live,
            FrameKind::Unit => Class::Audio,
            FrameKind::Header | FrameKind::Meta | FrameKind::Params | FrameKind::Event => Class::Key,
            FrameKind::Gap | FrameKind::Checkpoint | FrameKind::End => Class::Live,
        };
        self.queued += frame.bytes.len();
        self.queue.push_back(Outgoing { frame, class, deadline, gop });
        while self.queued > MAX_QUEUE {
            let Some(oldest) = self.queue.pop_front() else { break };
            self.queued -= oldest.frame.bytes.len();
            self.counters.add("live-queue-full", 1);
        }
    }
}

/// A frame as LIVE fragments of at most [`MAX_FRAGMENT`].
#[must_use]
pub fn fragments(next: &Outgoing) -> Vec<Bytes> {
    let frame = &next.frame;
    let total = frame.bytes.len();
    let mut pieces = Vec::with_capacity(2 * total.div_ceil(MAX_FRAGMENT));
    for start in (0..total).step_by(MAX_FRAGMENT) {
        let end = total.min(start + MAX_FRAGMENT);
        let head = LiveHead {
            segment: frame.segment,
            camera: frame.camera,
            recording: frame.recording,
            kind: frame.kind as u8,
            track: frame.hint.track.map_or(255, |track| track.0),
            key: frame.hint.key,
            disposable: frame.hint.disposable,
            video: frame.hint.video,
            number: frame.number,
            frame: frame.offset,
            frame_len: u32::try_from(total).unwrap_or(u32::MAX),
            offset: u32::try_from(start).unwrap_or(u32::MAX),
            len: u32::try_from(end - start).unwrap_or(u32::MAX),
            captured: frame.hint.captured,
        };
        pieces.push(Bytes::copy_from_slice(&head.to_bytes()));
        pieces.push(frame.bytes.slice(start..end));
    }
    pieces
}

impl Camera {
    fn remember(&mut self, frame: &SealedFrame) {
        if self.segment != Some(frame.segment) {
            *self = Self { segment: Some(frame.segment), gop: self.gop + 1, heard: self.heard, ..Self::default() };
        }
        match frame.kind {
            FrameKind::Header | FrameKind::Meta => self.start.push(frame.clone()),
            FrameKind::Params => {
                // A newer set of the same track replaces the older one.
                self.start.retain(|kept| kept.kind != FrameKind::Params || kept.hint.track != frame.hint.track);
                self.start.push(frame.clone());
            }
            FrameKind::Unit if frame.hint.key && frame.hint.video && frame.hint.first => {
                self.since_key.clear();
                self.cached = 0;
                self.overgrown = false;
                self.gop += 1;
                self.keep(frame);
            }
            _ => self.keep(frame),
        }
    }

    fn keep(&mut self, frame: &SealedFrame) {
        self.cached += frame.bytes.len();
        if self.overgrown || self.cached > MAX_CACHE {
            self.overgrown = true;
            self.since_key.clear();
        } else {
            self.since_key.push(frame.clone());
        }
    }
}
