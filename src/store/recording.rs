//! What the recorder decides, as a pure machine: recordings, segments, gaps, policy, overflow.
//!
//! A *recording* is one logical run of a camera across drops. A session that ends in order (`teardown`, `bye`) ends it.
//! A session that just vanishes leaves it waiting for [`RESUME_WITHIN`]: the camera that comes back in time goes on in
//! the same recording, in a new segment that begins with a GAP record. A new session while another is open supersedes
//! it the same way. The waiting segment stays open, so that its END can tell the truth.
//!
//! Segments roll at the first key frame after 10 s, at any unit after 15 s or before 32 MiB (the next is then
//! `starts_dependent`). Units before the first key frame are recorded too.

use crate::base::chain::Signer;
use crate::base::ids::{CameraId, RecordingId, SegmentId};
use crate::base::reason::Counters;
use crate::base::units::{BootTime, ByteCount, Run, TimeStatement};
use crate::media::{AccessUnit, Gap, GapCause, Item, TrackId, TrackParams};
use crate::seal::sealer::{MAX_SIZE, MAX_TIME, TARGET};
use crate::seal::{
    EndReason, JournalEntry, Meta, Prev, Recipients, SealedFrame, Sealer, SegmentFlags, SegmentStart, Tap, UploadClass,
};
use crate::store::lane::{Lane, Op};
use crate::store::recovery::Stand;
use crate::store::settings::{CameraSettings, Limits, Policy, Settings};
use crate::store::status::{CameraStatus, State};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A camera that comes back within this time goes on in its recording: longer than a WiFi roam or a battery change of
/// the car's access point, shorter than a pause that a person would call two recordings.
pub(crate) const RESUME_WITHIN: Duration = Duration::from_secs(30);
/// A hole at a take-over that is shorter is no gap: cameras restart with the next picture.
const GAP_LEAST: Duration = Duration::from_millis(500);
/// Room that a segment's clear frames need beyond its units.
const RESERVE: u64 = 4096;
/// The lane takes this much of the measured bit rate.
const LANE_SECONDS: u64 = 15;

/// Ends of a session after which nothing follows.
fn in_order(reason: &str) -> bool {
    matches!(reason, "teardown" | "bye")
}

/// The machine. It owns all sealers; it hands frames to the lane and then to the tap.
pub(crate) struct Core {
    run: Run,
    signer: Arc<dyn Signer>,
    lane: Arc<Lane>,
    tap: Arc<dyn Tap>,
    memory_max: ByteCount,
    counters: Counters,
    settings: Arc<Settings>,
    recipients: Option<Recipients>,
    cameras: BTreeMap<CameraId, Camera>,
    /// Bytes sealed for the card since the last second, and the rate that they make (bytes per second).
    second: u64,
    rate: u64,
}

#[derive(Default)]
struct Camera {
    session: Option<u64>,
    recording: Option<Recording>,
    /// Units that could not be recorded for want of a key, since when.
    no_key: Option<BootTime>,
    /// Until then an event wants footage.
    wanted_until: Option<BootTime>,
    /// Background segments that an event would promote, with the time of their end.
    promotable: VecDeque<(SegmentId, BootTime)>,
    last_unit: Option<BootTime>,
    bytes: u64,
    units: u64,
    segments: u64,
}

impl Camera {
    /// Whether what is recorded now is background.
    fn background(&self, policy: Policy, now: BootTime) -> bool {
        matches!(policy, Policy::OnEvent { .. }) && self.wanted_until.is_none_or(|until| until <= now)
    }
}

struct Recording {
    id: RecordingId,
    since: BootTime,
    tracks: BTreeMap<TrackId, Arc<TrackParams>>,
    open: Option<Open>,
    /// The last segment on the card.
    prev: Prev,
    /// Capture of the last unit.
    captured: BootTime,
    /// The camera is gone since.
    gone: Option<BootTime>,
    /// A new session has begun: the next unit starts a segment.
    resumed: bool,
    /// Overflow: what is missing on the card, from when, how many bytes.
    missing: Option<(BootTime, u64)>,
}

struct Open {
    sealer: Sealer,
    started: BootTime,
    captured: BootTime,
    live_only: bool,
    background: bool,
    /// Something was sealed since the last checkpoint.
    fresh: bool,
    units: u64,
    /// Settings changed: end at the next key frame.
    roll: bool,
}

impl Core {
    pub(crate) fn new(
        stand: &Stand,
        lane: Arc<Lane>,
        tap: Arc<dyn Tap>,
        counters: Counters,
        settings: Arc<Settings>,
        recipients: Option<Recipients>,
    ) -> Self {
        let core = Self {
            run: stand.run,
            signer: stand.signer.clone(),
            lane,
            tap,
            memory_max: stand.limits.memory_max,
            counters,
            settings,
            recipients,
            cameras: BTreeMap::new(),
            second: 0,
            rate: 0,
        };
        core.journal_recipients(stand.clock.boottime());
        core
    }

    /// A session of a camera starts.
    pub(crate) fn session(&mut self, camera: CameraId, session: u64) {
        let camera = self.cameras.entry(camera).or_default();
        camera.session = Some(session);
        if let Some(recording) = &mut camera.recording {
            recording.gone = None;
            recording.resumed = true;
        }
    }

    /// Whether items of this session count; a superseded one's are dropped.
    pub(crate) fn current(&self, camera: CameraId, session: u64) -> bool {
        self.cameras.get(&camera).and_then(|camera| camera.session) == Some(session)
    }

    /// The session is over.
    pub(crate) fn ended(&mut self, camera: CameraId, session: u64, reason: &str, now: TimeStatement) {
        if !self.current(camera, session) {
            return;
        }
        let Some(state) = self.cameras.get_mut(&camera) else { return };
        state.session = None;
        if in_order(reason) {
            self.finish(camera, EndReason::Finished, now.at);
        } else if let Some(recording) = &mut state.recording {
            recording.gone = Some(now.at);
        }
        self.no_key_over(camera, now.at);
    }

    /// The next item of the camera's current session.
    pub(crate) fn item(&mut self, camera: CameraId, item: &Item, now: TimeStatement) {
        if self.recipients.is_none() {
            let state = self.cameras.entry(camera).or_default();
            if let Item::Unit(_) = item {
                state.no_key.get_or_insert(now.at);
                self.counters.add("seal-no-key", 1);
            }
            if let Item::Params(params) = item {
                // Kept, for the key may come in mid-session.
                recording(state, now.at).tracks.insert(params.track, params.clone());
            }
            return;
        }
        let state = self.cameras.entry(camera).or_default();
        let recording = recording(state, now.at);
        match item {
            Item::Params(params) => {
                let known = recording.tracks.insert(params.track, params.clone());
                if known.as_ref() == Some(params) || recording.resumed {
                    return;
                }
                if let Some(open) = &mut recording.open {
                    let frame = open.sealer.params(params, now.at);
                    open.fresh = true;
                    let live_only = open.live_only;
                    self.hand_over(camera, [frame], live_only);
                }
            }
            Item::Gap(gap) => self.gap(camera, gap, now.at),
            Item::Unit(unit) => self.unit(camera, unit, now),
        }
    }

    /// Twice a second; `second` every other time: then checkpoints are laid out and synced.
    pub(crate) fn tick(&mut self, second: bool, now: TimeStatement) {
        if !second {
            self.lane.send(Op::Flush);
            return;
        }
        self.rate = self.second.max(self.rate - self.rate / 10);
        self.second = 0;
        let wanted = self.rate.saturating_mul(LANE_SECONDS).max(Limits::LANE_LEAST.0);
        self.lane.set_capacity(ByteCount(wanted.min(self.memory_max.0)));

        let ids: Vec<CameraId> = self.cameras.keys().copied().collect();
        for camera in ids {
            self.expire(camera, now.at);
            let Some(recording) = self.cameras.get_mut(&camera).and_then(|state| state.recording.as_mut()) else {
                continue;
            };
            if recording.gone.is_some_and(|gone| now.at.since(gone) >= RESUME_WITHIN) {
                self.finish(camera, EndReason::Finished, now.at);
                continue;
            }
            // Nothing new needs no new signature: a camera that is away costs no writes.
            if let Some(open) = recording.open.as_mut().filter(|open| open.fresh) {
                let frame = open.sealer.checkpoint(now.at);
                open.fresh = false;
                let live_only = open.live_only;
                self.hand_over(camera, [frame], live_only);
            }
        }
        self.lane.send(Op::Sync(now.at));
    }

    /// New settings hold from the next segment on, which starts at the next key frame.
    pub(crate) fn set_settings(&mut self, settings: Arc<Settings>) {
        for (camera, state) in &mut self.cameras {
            let changed = settings.cameras.get(camera) != self.settings.cameras.get(camera)
                || settings.organisation != self.settings.organisation
                || settings.box_name != self.settings.box_name;
            if let Some(open) = state.recording.as_mut().and_then(|recording| recording.open.as_mut()) {
                open.roll |= changed;
            }
        }
        self.settings = settings;
    }

    /// New recipients hold at once: open segments end, and a new owner begins new recordings.
    pub(crate) fn set_recipients(&mut self, recipients: Option<Recipients>, now: TimeStatement) {
        if recipients == self.recipients {
            return;
        }
        let owner = |recipients: &Option<Recipients>| recipients.as_ref().map(|recipients| recipients.organisation);
        let same_owner = owner(&recipients).is_some() && owner(&recipients) == owner(&self.recipients);
        let ids: Vec<CameraId> = self.cameras.keys().copied().collect();
        for camera in ids {
            if same_owner {
                self.end_segment(camera, EndReason::Next, now.at);
            } else {
                let tracks = self.tracks(camera);
                self.finish(camera, EndReason::Finished, now.at);
                if let Some(state) = self.cameras.get_mut(&camera).filter(|state| state.session.is_some()) {
                    recording(state, now.at).tracks = tracks;
                }
                self.no_key_over(camera, now.at);
            }
        }
        self.recipients = recipients;
        self.journal_recipients(now.at);
    }

    /// An event promotes the background footage of a camera and records on.
    pub(crate) fn event(&mut self, camera: CameraId, now: TimeStatement) {
        let Policy::OnEvent { post, .. } = self.camera_settings(camera).policy else { return };
        let Some(state) = self.cameras.get_mut(&camera) else { return };
        state.wanted_until = Some(now.at.plus(post));
        let mut promoted: Vec<SegmentId> = state.promotable.drain(..).map(|(segment, _)| segment).collect();
        let open = state.recording.as_mut().and_then(|recording| recording.open.as_mut());
        if let Some(open) = open.filter(|open| open.background) {
            open.background = false;
            promoted.push(open.sealer.segment());
        }
        for segment in promoted {
            self.lane.send(Op::Journal(JournalEntry::Promoted { segment }, now.at));
        }
    }

    /// Ends everything; the caller then stops the writer.
    pub(crate) fn shut_down(&mut self, now: TimeStatement) {
        let ids: Vec<CameraId> = self.cameras.keys().copied().collect();
        for camera in ids {
            self.no_key_over(camera, now.at);
            self.finish(camera, EndReason::Shutdown, now.at);
        }
    }

    /// The cameras as they are now.
    pub(crate) fn status(&self, now: BootTime) -> Vec<CameraStatus> {
        let synced = self.lane.synced_at();
        let status = |(camera, state): (&CameraId, &Camera)| {
            let recording = state.recording.as_ref();
            let open = recording.and_then(|recording| recording.open.as_ref());
            let what = match (open, recording) {
                _ if state.no_key.is_some() && state.session.is_some() => State::NoKey,
                (_, Some(recording)) if recording.gone.is_some() => State::Waiting,
                (Some(open), _) if open.live_only => State::LiveOnly,
                (Some(open), _) if open.background => State::Background,
                (Some(_), _) => State::Recording,
                _ => State::Idle,
            };
            let at_risk = state.last_unit.is_some_and(|last| last >= synced);
            CameraStatus {
                camera: *camera,
                state: what,
                recording: recording.map(|recording| recording.id),
                since: recording.map(|recording| recording.since),
                bytes: ByteCount(state.bytes),
                units: state.units,
                segments: state.segments,
                loss_bound: if at_risk { now.since(synced) } else { Duration::ZERO },
            }
        };
        self.cameras.iter().map(status).collect()
    }

    /// Whether cameras stream and there is no key to seal to.
    pub(crate) fn lacks_key(&self) -> bool {
        self.recipients.is_none()
    }

    /// Whose footage is made now.
    pub(crate) fn organisation(&self) -> Option<crate::base::ids::OrganisationId> {
        self.recipients.as_ref().map(|recipients| recipients.organisation)
    }

    fn tracks(&self, camera: CameraId) -> BTreeMap<TrackId, Arc<TrackParams>> {
        let recording = self.cameras.get(&camera).and_then(|state| state.recording.as_ref());
        recording.map(|recording| recording.tracks.clone()).unwrap_or_default()
    }

    fn camera_settings(&self, camera: CameraId) -> CameraSettings {
        self.settings.cameras.get(&camera).cloned().unwrap_or_else(|| CameraSettings::named(camera.to_string()))
    }

    fn journal_recipients(&self, now: BootTime) {
        if let Some(recipients) = &self.recipients {
            let keys = recipients.keys.iter().map(crate::seal::RecipientKey::id).collect();
            self.lane.send(Op::Journal(JournalEntry::Recipients { organisation: recipients.organisation, keys }, now));
        }
    }

    fn no_key_over(&mut self, camera: CameraId, now: BootTime) {
        let Some(state) = self.cameras.get_mut(&camera) else { return };
        let Some(from) = state.no_key.take() else { return };
        // Nothing was recorded that could have an id: the gap gets one of its own.
        let recording = state.recording.as_ref().map_or_else(RecordingId::random, |recording| recording.id);
        let gap = Gap { from, to: now, cause: GapCause::NoKey };
        self.lane.send(Op::Journal(JournalEntry::Gap { camera, recording, gap, bytes: 0 }, now));
    }

    /// To the lane first, then to the tap; `live_only` frames to the tap alone.
    fn hand_over(&mut self, camera: CameraId, frames: impl IntoIterator<Item = SealedFrame>, live_only: bool) {
        for frame in frames {
            if !live_only {
                let len = frame.bytes.len() as u64;
                self.second += len;
                if let Some(state) = self.cameras.get_mut(&camera) {
                    state.bytes += len;
                }
                if !self.lane.send(Op::Frame(frame.clone())) {
                    self.counters.add("store-stopped", 1);
                    continue;
                }
            }
            self.tap.frame(&frame);
        }
    }

    fn gap(&mut self, camera: CameraId, gap: &Gap, now: BootTime) {
        let Some(recording) = self.cameras.get_mut(&camera).and_then(|state| state.recording.as_mut()) else { return };
        let id = recording.id;
        if let Some(open) = &mut recording.open {
            let frame = open.sealer.gap(gap);
            open.fresh = true;
            let live_only = open.live_only;
            self.hand_over(camera, [frame], live_only);
        }
        // Lost packets are told in the segment; the journal would drown in them on a bad radio.
        if gap.cause != GapCause::PacketLoss {
            self.lane.send(Op::Journal(JournalEntry::Gap { camera, recording: id, gap: *gap, bytes: 0 }, now));
        }
        self.counters.count(&gap.cause);
    }

    fn unit(&mut self, camera: CameraId, unit: &AccessUnit, now: TimeStatement) {
        let size = Sealer::size_of(unit);
        let fits = self.lane.fits(size + RESERVE);
        let half_empty = self.lane.half_empty();
        let policy = self.settings.cameras.get(&camera).map(|settings| settings.policy).unwrap_or_default();
        let Some(state) = self.cameras.get_mut(&camera) else { return };
        state.units += 1;
        state.last_unit = Some(now.at);
        let background = state.background(policy, now.at);
        let Some(recording) = state.recording.as_mut() else { return };
        let video = |track: &TrackId| recording.tracks.get(track).is_some_and(|params| params.codec.is_video());
        let start_point = unit.flags.key && (video(&unit.track) || !recording.tracks.keys().any(video));

        let resumed = std::mem::take(&mut recording.resumed);
        let (last_captured, missing) = (recording.captured, recording.missing);
        let next = recording.open.as_ref().and_then(|open| {
            let age = now.at.since(open.started).max(unit.captured.since(open.captured));
            if !open.live_only && !fits {
                Some(EndReason::Overflow)
            } else if resumed
                || (open.live_only && half_empty && fits)
                || (start_point && (age >= TARGET || open.roll || open.background != background))
                || (open.units > 0 && (age >= MAX_TIME || open.sealer.size() + size + RESERVE > MAX_SIZE))
            {
                Some(EndReason::Next)
            } else {
                None
            }
        });
        if let Some(reason) = next {
            self.end_segment(camera, reason, now.at);
        }
        let live_only = !fits || missing.is_some() && !half_empty;
        self.ensure_open(camera, unit, live_only, now);
        if resumed && last_captured != BootTime::default() && unit.captured.since(last_captured) >= GAP_LEAST {
            self.gap(camera, &Gap { from: last_captured, to: unit.captured, cause: GapCause::CameraGone }, now.at);
        }
        self.note_missing(camera, unit, size, live_only, now.at);

        let Some(recording) = self.cameras.get_mut(&camera).and_then(|state| state.recording.as_mut()) else { return };
        recording.captured = recording.captured.max(unit.captured);
        if let Some(open) = &mut recording.open {
            let frames = open.sealer.unit(unit);
            open.fresh = true;
            open.units += 1;
            let live_only = open.live_only;
            self.hand_over(camera, frames, live_only);
        }
    }

    /// Keeps account of what an overflow keeps off the card, and journals it when it is over.
    fn note_missing(&mut self, camera: CameraId, unit: &AccessUnit, size: u64, live_only: bool, now: BootTime) {
        let Some(recording) = self.cameras.get_mut(&camera).and_then(|state| state.recording.as_mut()) else { return };
        if live_only {
            let (_, bytes) = recording.missing.get_or_insert((recording.captured.max(recording.since), 0));
            *bytes += size;
            self.counters.add("lane-overflow-bytes", size);
            return;
        }
        let id = recording.id;
        if let Some((from, bytes)) = recording.missing.take() {
            let gap = Gap { from, to: unit.captured.max(from), cause: self.overflow_cause() };
            if let Some(open) = self.open(camera) {
                let frame = open.sealer.gap(&gap);
                self.hand_over(camera, [frame], false);
            }
            self.lane.send(Op::Journal(JournalEntry::Gap { camera, recording: id, gap, bytes }, now));
        }
    }

    fn open(&mut self, camera: CameraId) -> Option<&mut Open> {
        self.cameras.get_mut(&camera)?.recording.as_mut()?.open.as_mut()
    }

    fn overflow_cause(&self) -> GapCause {
        if self.lane.trouble().is_some() { GapCause::NoCard } else { GapCause::Overflow }
    }

    fn ensure_open(&mut self, camera: CameraId, unit: &AccessUnit, live_only: bool, now: TimeStatement) {
        let settings = self.camera_settings(camera);
        let Some(recipients) = self.recipients.clone() else { return };
        let Some(state) = self.cameras.get_mut(&camera) else { return };
        let background = state.background(settings.policy, now.at);
        let Some(recording) = state.recording.as_mut().filter(|recording| recording.open.is_none()) else { return };
        let segment = SegmentId::random();
        let (id, prev) = (recording.id, recording.prev);
        let start = SegmentStart {
            segment,
            run: self.run,
            at: now.at,
            camera,
            recording: id,
            flags: SegmentFlags { starts_dependent: !unit.flags.key, background, live_only },
            meta: Meta {
                organisation: self.settings.organisation.clone(),
                box_name: self.settings.box_name.clone(),
                camera: settings.name,
                officer: settings.officer,
                purpose: settings.purpose,
                legal_basis: settings.legal_basis,
                retention: settings.retention,
                incident: None,
                firmware: self.settings.firmware.clone(),
                time: now,
            },
            params: recording.tracks.values().cloned().collect(),
            prev,
        };
        let (sealer, frames) = Sealer::start(start, &recipients, self.signer.clone());
        recording.open = Some(Open {
            sealer,
            started: now.at,
            captured: unit.captured,
            live_only,
            background,
            fresh: true,
            units: 0,
            roll: false,
        });
        state.segments += 1;
        if !live_only {
            let organisation = recipients.organisation;
            let opened = JournalEntry::Opened { segment, organisation, camera, recording: id, prev, background };
            self.lane.send(Op::Journal(opened, now.at));
            if settings.class != UploadClass::Normal && !background {
                self.lane.send(Op::Journal(JournalEntry::Class { segment, class: settings.class as u8 }, now.at));
            }
        }
        self.hand_over(camera, frames, live_only);
    }

    fn end_segment(&mut self, camera: CameraId, reason: EndReason, now: BootTime) {
        let Some(state) = self.cameras.get_mut(&camera) else { return };
        let Some(recording) = state.recording.as_mut() else { return };
        let Some(open) = recording.open.take() else { return };
        let (live_only, background) = (open.live_only, open.background);
        let (frame, finished) = open.sealer.end(reason, now);
        if !live_only {
            recording.prev = Prev::Segment(finished.segment, finished.end);
            if background {
                state.promotable.push_back((finished.segment, now));
            }
        }
        if reason == EndReason::Overflow {
            self.counters.add("lane-overflow", 1);
            tracing::warn!(%camera, "the card does not keep up: live only until the lane is half empty");
        }
        self.hand_over(camera, [frame], live_only);
        if !live_only {
            self.lane.send(Op::Ended(finished, reason));
        }
    }

    /// The recording is over.
    fn finish(&mut self, camera: CameraId, reason: EndReason, now: BootTime) {
        self.end_segment(camera, reason, now);
        let cause = self.overflow_cause();
        let Some(recording) = self.cameras.get_mut(&camera).and_then(|state| state.recording.take()) else { return };
        if let Some((from, bytes)) = recording.missing {
            let gap = Gap { from, to: recording.captured.max(from), cause };
            self.lane.send(Op::Journal(JournalEntry::Gap { camera, recording: recording.id, gap, bytes }, now));
        }
    }

    /// Background footage that is older than the policy keeps.
    fn expire(&mut self, camera: CameraId, now: BootTime) {
        let pre = match self.camera_settings(camera).policy {
            Policy::OnEvent { pre, .. } => pre,
            _ => Duration::MAX,
        };
        let Some(state) = self.cameras.get_mut(&camera) else { return };
        while let Some((segment, ended)) = state.promotable.front().copied() {
            // A segment more than the policy says: the event may come at its first picture.
            if now.since(ended) <= pre.saturating_add(MAX_TIME) {
                break;
            }
            state.promotable.pop_front();
            self.lane.send(Op::Expire(segment));
        }
    }
}

fn recording(state: &mut Camera, now: BootTime) -> &mut Recording {
    state.recording.get_or_insert_with(|| Recording {
        id: RecordingId::random(),
        since: now,
        tracks: BTreeMap::new(),
        open: None,
        prev: Prev::First,
        captured: BootTime::default(),
        gone: None,
        resumed: false,
        missing: None,
    })
}
