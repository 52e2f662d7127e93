//! The store on a card that fails: every operation is a cut point; errors, stalls, damage, cards that go back in time.

use bytes::Bytes;
use mvb::base::chain::{Signer, SoftwareSigner};
use mvb::base::clock::Clock;
use mvb::base::ids::{BootId, CameraId, OrganisationId, SegmentId};
use mvb::base::units::{BootTime, ByteCount, MediaTime, Run, TimeStatement, WallTime};
use mvb::media::{AccessUnit, Codec, GapCause, Item, TrackId, TrackParams, UnitFlags};
use mvb::seal::frame::{FRAME_HEAD, FrameHead};
use mvb::seal::recipients::RecipientRole;
use mvb::seal::{
    Header, JournalEntry, Reader, RecipientSecret, Recipients, Record, SealedFrame, SegmentKey, SegmentSource, Tap,
};
use mvb::sim::volume::{FaultVolume, Loss, OpKind};
use mvb::store::rig::Rig;
use mvb::store::{CameraSettings, Limits, Options, Policy, SegmentState, Settings, State, Volume};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const STEP: Duration = Duration::from_millis(100);
/// What a cut may take per camera.
const BOUND: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Seen(Mutex<Vec<SealedFrame>>);

impl Tap for Seen {
    fn frame(&self, frame: &SealedFrame) {
        self.0.lock().expect("no panic holds it").push(frame.clone());
    }
}

/// A box with its card, internal storage and keys, in virtual time.
struct Scene {
    clock: Clock,
    signer: Arc<dyn Signer>,
    secret: RecipientSecret,
    recipients: Recipients,
    cameras: Vec<CameraId>,
    settings: Arc<Settings>,
    internal: tempfile::TempDir,
    volume: FaultVolume,
    tap: Arc<Seen>,
    limits: Limits,
    start: u32,
    /// Accepted units: camera, number, when.
    accepted: Vec<(CameraId, u32, BootTime)>,
    next: BTreeMap<CameraId, u32>,
    bytes: usize,
}

impl Scene {
    fn new(cameras: usize) -> Self {
        let secret = RecipientSecret::generate();
        let organisation = OrganisationId::random();
        Self {
            clock: boot(),
            signer: Arc::new(SoftwareSigner::generate()),
            recipients: Recipients { organisation, keys: vec![secret.public(RecipientRole::Organisation)] },
            secret,
            cameras: (0..cameras).map(|_| CameraId::random()).collect(),
            settings: Arc::default(),
            internal: tempfile::tempdir().expect("a folder"),
            volume: FaultVolume::new(),
            tap: Arc::default(),
            limits: Limits { keep_free: ByteCount(0), ..Limits::default() },
            start: 0,
            accepted: Vec::new(),
            next: BTreeMap::new(),
            bytes: 700,
        }
    }

    fn now(&self) -> TimeStatement {
        self.clock.statement()
    }

    fn open(&mut self) -> Rig {
        self.start += 1;
        let options = Options {
            volume: Arc::new(self.volume.clone()),
            internal: self.internal.path().to_owned(),
            run: Run { boot: self.clock.boot(), start: self.start },
            clock: self.clock.clone(),
            signer: self.signer.clone(),
            limits: self.limits,
        };
        let recipients = Some(self.recipients.clone());
        Rig::open(options, self.settings.clone(), recipients, self.tap.clone()).expect("the store always opens")
    }

    fn begin(&self, rig: &mut Rig) {
        for camera in &self.cameras {
            rig.session(*camera, u64::from(self.start));
            rig.item(*camera, &Item::Params(Arc::new(params())), self.now());
        }
    }

    /// One picture of each camera; a key frame once a second, the cameras not in step.
    fn pictures(&mut self, rig: &mut Rig, step: u32) {
        for (at, camera) in self.cameras.clone().into_iter().enumerate() {
            let number = self.next.entry(camera).or_default();
            let now = self.clock.statement();
            let key = (step as usize + 3 * at).is_multiple_of(10);
            rig.item(camera, &Item::Unit(unit(*number, key, now.at, self.bytes)), now);
            self.accepted.push((camera, *number, now.at));
            *number += 1;
        }
    }

    /// `steps` of a tenth of a second; `drain` = the card works.
    async fn record(&mut self, rig: &mut Rig, steps: std::ops::Range<u32>, drain: bool) {
        for step in steps {
            self.pictures(rig, step);
            if step % 5 == 4 {
                rig.tick(step % 10 == 9, self.now());
                if drain {
                    rig.drain();
                }
            }
            if self.volume.is_cut() {
                return;
            }
            tokio::time::advance(STEP).await;
        }
    }

    /// Everything that the organisation's key opens on the card: units per camera.
    fn readable(&self) -> BTreeMap<CameraId, BTreeSet<u32>> {
        let mut all: BTreeMap<CameraId, BTreeSet<u32>> = BTreeMap::new();
        for (path, bytes) in self.volume.files() {
            if path.starts_with("segments/") {
                let (header, records) = opened(&bytes, &self.secret);
                let numbers = records.iter().filter_map(|record| match record {
                    Record::Unit(unit) => Some(number(unit)),
                    _ => None,
                });
                all.entry(header.camera).or_default().extend(numbers);
            }
        }
        all
    }

    /// Power comes back: another boot, the volume as it survived.
    fn reboot(&mut self, survivor: FaultVolume) {
        self.volume = survivor;
        self.clock = boot();
    }
}

fn boot() -> Clock {
    Clock::runtime(BootId::random(), BootTime(5_000_000), WallTime(1_800_000_000_000))
}

fn params() -> TrackParams {
    TrackParams {
        track: TrackId(0),
        codec: Codec::H264,
        timescale: 90_000,
        config: vec![1, 2, 3],
        width: 640,
        height: 360,
        channels: 0,
        sample_rate: 0,
    }
}

fn unit(number: u32, key: bool, captured: BootTime, bytes: usize) -> AccessUnit {
    let mut data = vec![0x5a; bytes];
    data[..4].copy_from_slice(&number.to_be_bytes());
    let flags = UnitFlags { key, ..UnitFlags::default() };
    AccessUnit { track: TrackId(0), pts: MediaTime(i64::from(number) * 9000), captured, flags, data: Bytes::from(data) }
}

fn number(unit: &AccessUnit) -> u32 {
    u32::from_be_bytes(*unit.data.first_chunk().expect("four bytes"))
}

/// A segment's header and records.
fn opened(bytes: &[u8], secret: &RecipientSecret) -> (Header, Vec<Record>) {
    let (header, mut at) = Header::decode(bytes).expect("a header");
    let key = SegmentKey::unwrap(&header, secret).expect("the organisation's key opens it");
    let mut reader = Reader::new(&bytes[..at], key);
    let mut records = Vec::new();
    while let Some(head) = bytes.get(at..at + FRAME_HEAD) {
        let head = FrameHead::parse(head).expect("a frame");
        let end = at + usize::try_from(head.frame_len()).expect("small");
        records.extend(reader.frame(&bytes[at..end]).expect("authentic"));
        at = end;
    }
    (header, records)
}

/// What must hold after every cut and recovery.
fn check_after_cut(scene: &Scene, rig: &Rig, cut: BootTime, what: &str) {
    assert!(rig.opened.alarms.is_empty(), "{what}: {:?}", rig.opened.alarms);
    let found = scene.readable();
    let recordings = rig.opened.store.recordings(None).expect("lists");
    for camera in &scene.cameras {
        let found = found.get(camera).cloned().unwrap_or_default();
        let of_camera = || scene.accepted.iter().filter(|(c, ..)| c == camera);
        let lost: Vec<_> = of_camera().filter(|(_, number, _)| !found.contains(number)).collect();
        let Some((_, first, first_at)) = lost.first() else { continue };
        assert!(cut.since(*first_at) <= BOUND, "{what}: unit {first} of {first_at:?} is lost, cut at {cut:?}");
        // Two segments of a camera may be unsynced at once, and the later one may survive: then the loss is a hole. It
        // must lie within the reported gap like any other.
        // A camera of which nothing was durable yet has no recording that could tell.
        if let Some(recording) = recordings.iter().find(|r| r.camera == *camera) {
            let last_at = lost.last().expect("not empty").2;
            let told = recording
                .gaps
                .iter()
                .any(|gap| gap.cause == GapCause::PowerCut && gap.from <= *first_at && gap.to >= last_at);
            assert!(told, "{what}: lost {first_at:?} to {last_at:?} is not reported: {:?}", recording.gaps);
        } else {
            assert!(found.is_empty(), "{what}: footage without a recording");
        }
    }
    for recording in &recordings {
        for segment in &recording.segments {
            assert!(
                !matches!(segment.state, SegmentState::Open | SegmentState::Absent | SegmentState::Damaged),
                "{what}: {segment:?}"
            );
        }
    }
}

fn check_files(scene: &Scene, rig: &mut Rig, what: &str) {
    for recording in rig.opened.store.recordings(None).expect("lists") {
        for segment in recording.segments.iter().filter(|segment| segment.state != SegmentState::Destroyed) {
            let state = segment.state;
            assert!(rig.compare(segment.segment).expect("reads"), "{what}: {state:?} differs from the journal");
        }
    }
    let _ = scene;
}

#[tokio::test(start_paused = true)]
async fn every_operation_is_a_cut_point_and_at_most_two_seconds_are_lost() {
    // A short run with a roll of every camera, receipts for the first segments, and a cut after `n` operations.
    async fn run(cut: Option<u64>) -> (Scene, u64, BTreeSet<SegmentId>) {
        let mut scene = Scene::new(4);
        if let Some(cut) = cut {
            scene.volume.cut_after(cut);
        }
        let Some(mut rig) = try_open(&mut scene) else { return (scene, 0, BTreeSet::new()) };
        scene.begin(&mut rig);
        let mut committed = BTreeSet::new();
        for second in 0..15_u32 {
            scene.record(&mut rig, second * 10..second * 10 + 10, true).await;
            for offer in rig.offers(&scene.recipients) {
                rig.commit(&offer, true).expect("keeps the receipt");
                committed.insert(offer.segment);
            }
            if scene.volume.is_cut() {
                break;
            }
        }
        let operations = scene.volume.operations();
        (scene, operations, committed)
    }
    let (_, operations, committed) = run(None).await;
    assert_eq!(committed.len(), 4, "every camera's first segment is committed");
    assert!(operations > 100, "{operations} operations");
    for cut in 0..operations {
        let loss = if cut % 2 == 0 { Loss::Torn } else { Loss::Reordered };
        for loss in [loss, Loss::Lost] {
            // Both kinds at every third point, one of them at each: the time is bounded.
            if loss == Loss::Lost && cut % 3 != 0 {
                continue;
            }
            let what = format!("cut after {cut} of {operations}, {loss:?}");
            let (mut scene, _, committed) = run(Some(cut)).await;
            let at = scene.now().at;
            scene.reboot(scene.volume.survivor(loss, cut));
            let mut rig = scene.open();
            check_after_cut(&scene, &rig, at, &what);
            let recordings = rig.opened.store.recordings(None).expect("lists");
            for segment in committed {
                let mut all = recordings.iter().flat_map(|recording| &recording.segments);
                let state = all.find(|s| s.segment == segment).map(|s| s.state);
                assert_eq!(state, Some(SegmentState::Uploaded), "{what}");
            }
            // It goes on, and ends in order.
            scene.begin(&mut rig);
            scene.accepted.clear();
            scene.record(&mut rig, 0..10, true).await;
            assert!(rig.shut_down(scene.now()), "{what}");
            drop(rig);
            let mut rig = scene.open();
            assert!(rig.opened.recovered.is_empty() && rig.opened.strays.is_empty(), "{what}: {:?}", rig.opened.strays);
            assert!(rig.opened.alarms.is_empty(), "{what}: {:?}", rig.opened.alarms);
            check_files(&scene, &mut rig, &what);
            let found = scene.readable();
            for (camera, number, _) in &scene.accepted {
                assert!(found[camera].contains(number), "{what}: unit {number} after recovery");
            }
        }
    }
}

/// Power may go before the store has opened at all.
fn try_open(scene: &mut Scene) -> Option<Rig> {
    scene.start += 1;
    let options = Options {
        volume: Arc::new(scene.volume.clone()),
        internal: scene.internal.path().to_owned(),
        run: Run { boot: scene.clock.boot(), start: scene.start },
        clock: scene.clock.clone(),
        signer: scene.signer.clone(),
        limits: scene.limits,
    };
    Rig::open(options, scene.settings.clone(), Some(scene.recipients.clone()), scene.tap.clone()).ok()
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_is_cut_is_done_again() {
    let mut scene = Scene::new(2);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..37, true).await;
    drop(rig);
    let at = scene.now().at;
    let torn = scene.volume.survivor(Loss::Torn, 7);
    let internal = copy_of(scene.internal.path());
    // How many operations a whole recovery takes.
    scene.reboot(torn.snapshot());
    drop(scene.open());
    let operations = scene.volume.operations();
    assert!(operations > 5);
    for cut in 0..operations {
        let what = format!("recovery cut after {cut}");
        scene.internal = copy_of(internal.path());
        scene.reboot(torn.snapshot());
        scene.volume.cut_after(cut);
        assert!(try_open(&mut scene).is_none(), "{what}");
        scene.reboot(scene.volume.survivor(if cut % 2 == 0 { Loss::Torn } else { Loss::Reordered }, cut));
        let mut rig = scene.open();
        check_after_cut(&scene, &rig, at, &what);
        check_files(&scene, &mut rig, &what);
    }
}

fn copy_of(folder: &std::path::Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(folder).expect("lists") {
        let entry = entry.expect("reads");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copies");
    }
    copy
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_card_lose_nothing_when_they_pass() {
    for (kind, error) in [
        (OpKind::Write, io::ErrorKind::Other),
        (OpKind::Sync, io::ErrorKind::Other),
        (OpKind::Create, io::ErrorKind::Other),
        (OpKind::Write, io::ErrorKind::StorageFull),
    ] {
        let mut scene = Scene::new(2);
        let mut rig = scene.open();
        scene.begin(&mut rig);
        if kind == OpKind::Create {
            scene.volume.fail(kind, 3, error);
        }
        scene.record(&mut rig, 0..20, true).await;
        scene.volume.fail(kind, 3, error);
        scene.volume.short_writes(true);
        scene.record(&mut rig, 20..35, true).await;
        scene.volume.short_writes(false);
        scene.record(&mut rig, 35..60, true).await;
        assert_eq!(rig.trouble(), None, "{kind:?}: the card takes footage again");
        assert!(rig.shut_down(scene.now()), "{kind:?}");
        let found = scene.readable();
        assert!(scene.accepted.iter().all(|(camera, number, _)| found[camera].contains(number)), "{kind:?} {error:?}");
        check_files(&scene, &mut rig, "after errors");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_sync_the_unsynced_bytes_are_written_again() {
    let mut scene = Scene::new(1);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..9, true).await;
    scene.volume.fail(OpKind::Sync, 1, io::ErrorKind::Other);
    scene.record(&mut rig, 9..10, true).await;
    assert_eq!(rig.trouble(), Some("card-io-error"));
    // The kernel dropped the pages of the failed sync.
    let dropped = scene.volume.survivor(Loss::Lost, 0).files();
    for (path, bytes) in scene.volume.files() {
        if !dropped.contains_key(&path) && path.starts_with("segments/") {
            scene.volume.chop(&path, bytes.len() / 3);
        }
    }
    scene.record(&mut rig, 10..20, true).await;
    assert_eq!(rig.trouble(), None);
    assert!(rig.shut_down(scene.now()));
    let found = scene.readable();
    assert!(scene.accepted.iter().all(|(camera, number, _)| found[camera].contains(number)));
}

#[tokio::test(start_paused = true)]
async fn a_stall_of_ten_seconds_loses_nothing_and_a_longer_one_says_what_is_missing() {
    let mut scene = Scene::new(2);
    // 10 pictures of 100 kB a second and camera: 2 MB/s in all, 30 MB in 15 s.
    scene.bytes = 100_000;
    scene.limits.memory_max = ByteCount(26 << 20);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..30, true).await;
    scene.record(&mut rig, 30..130, false).await;
    rig.drain();
    let status = rig.cameras(scene.now());
    assert!(status.iter().all(|camera| camera.state == State::Recording), "{status:?}");
    scene.record(&mut rig, 130..150, true).await;
    let whole = scene.accepted.len();
    scene.record(&mut rig, 150..320, false).await;
    let status = rig.cameras(scene.now());
    assert!(status.iter().all(|camera| camera.state == State::LiveOnly), "{status:?}");
    rig.drain();
    scene.record(&mut rig, 320..340, true).await;
    assert!(rig.cameras(scene.now()).iter().all(|camera| camera.state == State::Recording));
    assert!(rig.shut_down(scene.now()));

    let found = scene.readable();
    assert!(scene.accepted[..whole].iter().all(|(camera, number, _)| found[camera].contains(number)));
    let recordings = rig.opened.store.recordings(None).expect("lists");
    for camera in &scene.cameras {
        let lost: Vec<_> =
            scene.accepted.iter().filter(|(c, n, _)| c == camera && !found[camera].contains(n)).map(|l| l.2).collect();
        assert!(!lost.is_empty(), "17 s do not fit");
        let gaps: Vec<_> = recordings.iter().filter(|r| r.camera == *camera).flat_map(|r| &r.gaps).collect();
        let overflow: Vec<_> = gaps.iter().filter(|gap| gap.cause == GapCause::Overflow).collect();
        assert_eq!(overflow.len(), 1, "{gaps:?}");
        assert!(lost.iter().all(|at| (overflow[0].from..=overflow[0].to).contains(at)), "{overflow:?} {lost:?}");
    }
    assert!(rig.counters.total("lane-overflow") >= 2);
    // The relay saw everything all the same.
    let mut live: BTreeSet<(CameraId, SegmentId)> = BTreeSet::new();
    live.extend(scene.tap.0.lock().expect("no panic holds it").iter().map(|frame| (frame.camera, frame.segment)));
    assert!(live.len() > recordings.iter().map(|r| r.segments.len()).sum::<usize>(), "live-only segments on top");
    // And the next start finds nothing to report.
    drop(rig);
    let rig = scene.open();
    assert!(rig.opened.recovered.is_empty() && rig.opened.alarms.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_or_missing_catalog_is_rebuilt_from_the_journal() {
    let mut scene = Scene::new(2);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..130, true).await;
    let offer = rig.offers(&scene.recipients).remove(0);
    rig.commit(&offer, true).expect("keeps");
    rig.hold(offer.segment, true);
    assert!(rig.shut_down(scene.now()));
    let before = serde_json::to_value(rig.opened.store.recordings(None).expect("lists")).expect("json");
    drop(rig);
    let path = scene.internal.path().join("catalog.db");
    for damage in ["missing", "garbage", "half"] {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        let bytes = std::fs::read(&path).expect("reads");
        match damage {
            "missing" => std::fs::remove_file(&path).expect("removes"),
            "garbage" => std::fs::write(&path, vec![0xa5; bytes.len()]).expect("writes"),
            _ => std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("writes"),
        }
        let rig = scene.open();
        let after = serde_json::to_value(rig.opened.store.recordings(None).expect("lists")).expect("json");
        assert_eq!(after, before, "{damage}");
        assert_eq!(rig.opened.alarms.contains(&"catalog-rebuilt"), damage != "missing", "{damage}");
        assert_eq!(rig.offers(&scene.recipients).len(), 3, "{damage}: the receipt is remembered");
    }
}

/// A scene after a boot with the card as it was half-way, and that card.
async fn rolled_back() -> (Scene, FaultVolume) {
    let mut scene = Scene::new(1);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..120, true).await;
    let old = scene.volume.survivor(Loss::Lost, 0);
    scene.record(&mut rig, 120..240, true).await;
    assert!(rig.shut_down(scene.now()));
    drop(rig);
    scene.reboot(old.snapshot());
    (scene, old)
}

#[tokio::test(start_paused = true)]
async fn a_card_that_was_rolled_back_is_left_alone_until_it_is_accepted() {
    let (mut scene, old) = rolled_back().await;
    scene.limits.keep_free = ByteCount(u64::MAX);
    let mut rig = scene.open();
    assert!(rig.opened.alarms.contains(&"card-rolled-back"), "{:?}", rig.opened.alarms);
    assert!(rig.opened.recovered.is_empty());
    // It records on, and neither truncates nor erases what was there.
    for offer in rig.offers(&scene.recipients) {
        rig.commit(&offer, true).expect("keeps");
        rig.erase_answered(&[offer.segment], &[], scene.now());
    }
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..30, true).await;
    assert!(rig.shut_down(scene.now()));
    drop(rig);
    let now = scene.volume.files();
    for (path, bytes) in old.files() {
        assert_eq!(now.get(&path), Some(&bytes), "{path}");
    }
    // Still frozen after the next start, but no new alarm entry and the new journal goes on.
    scene.clock = boot();
    let mut rig = scene.open();
    assert!(rig.opened.alarms.contains(&"card-rolled-back"));
    assert!(rig.opened.recovered.is_empty());
    assert!(rig.shut_down(scene.now()));
}

#[tokio::test(start_paused = true)]
async fn a_card_that_was_rolled_back_and_lost_its_name_is_noticed_all_the_same() {
    let (mut scene, _) = rolled_back().await;
    scene.volume.unlink("card.id").expect("there");
    let rig = scene.open();
    assert!(rig.opened.alarms.contains(&"card-rolled-back"), "{:?}", rig.opened.alarms);
    assert!(rig.opened.recovered.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_open_segment_that_was_altered_while_the_power_was_off_is_not_taken_for_a_torn_one() {
    let mut scene = Scene::new(1);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..100, true).await;
    let card = scene.volume.survivor(Loss::Lost, 0);
    drop(rig);
    scene.reboot(card);
    let files = scene.volume.files();
    let (path, bytes) = files.iter().find(|(path, _)| path.starts_with("segments/")).expect("one");
    let camera = scene.cameras[0].0;
    let at = bytes.windows(16).position(|window| window == camera).expect("the header names it");
    scene.volume.flip(path, at, 1);
    let altered = scene.volume.files()[path].clone();
    let rig = scene.open();
    assert_eq!(scene.volume.files().get(path), Some(&altered), "proof, and it stays");
    assert_eq!(rig.opened.strays.iter().map(|stray| stray.code).collect::<Vec<_>>(), ["damaged"]);
    assert!(rig.offers(&scene.recipients).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_card_goes_on_with_the_journal_and_the_old_one_is_known_when_it_returns() {
    let mut scene = Scene::new(1);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..30, true).await;
    assert!(rig.shut_down(scene.now()));
    drop(rig);
    let first = std::mem::replace(&mut scene.volume, FaultVolume::new());

    let mut rig = scene.open();
    assert_eq!(rig.opened.alarms, ["segments-absent"]);
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..30, true).await;
    let entries = rig.opened.store.journal(None, 10).expect("reads");
    let kind = JournalEntry::decode(entries[0].entry.kind, &entries[0].entry.body);
    assert!(entries[0].entry.seq > 0 && matches!(kind, Ok(Some(JournalEntry::Card { .. }))), "goes on behind the hole");
    assert!(rig.shut_down(scene.now()));
    drop(rig);
    let second = std::mem::replace(&mut scene.volume, first);

    let mut rig = scene.open();
    assert_eq!(rig.opened.alarms, ["segments-absent"], "the second card's segments");
    assert_eq!(rig.offers(&scene.recipients).len(), 1, "only what is on this card is offered");
    assert!(rig.shut_down(scene.now()));
    drop(rig);
    let first = std::mem::replace(&mut scene.volume, second);
    let mut rig = scene.open();
    assert_eq!(rig.opened.alarms, ["segments-absent"]);
    assert!(rig.shut_down(scene.now()));
    drop(rig);
    // The first card's journal now has a file that says where the entries in between are.
    scene.volume = first;
    std::fs::remove_file(scene.internal.path().join("catalog.db")).expect("removes");
    assert_eq!(scene.open().opened.alarms, Vec::<&str>::new(), "a rebuilt catalog knows this card alone");
}

#[tokio::test(start_paused = true)]
async fn replayed_and_foreign_segments_are_reported_and_left_alone() {
    let mut other = Scene::new(1);
    let mut rig = other.open();
    other.begin(&mut rig);
    other.record(&mut rig, 0..20, true).await;
    assert!(rig.shut_down(other.now()));
    let foreign = other.volume.files().into_iter().find(|(path, _)| path.starts_with("segments/")).expect("one");

    let mut scene = Scene::new(1);
    scene.limits.keep_free = ByteCount(u64::MAX);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..120, true).await;
    let offer = rig.offers(&scene.recipients).remove(0);
    let path = mvb::store::segment_path(offer.segment);
    let erased = (path.clone(), scene.volume.files()[&path].clone());
    rig.commit(&offer, true).expect("keeps");
    rig.erase_answered(&[offer.segment], &[], scene.now());
    scene.record(&mut rig, 120..150, true).await;
    assert!(!scene.volume.files().contains_key(&path), "erased");
    assert!(rig.shut_down(scene.now()));
    drop(rig);

    for (path, bytes) in [&foreign, &erased] {
        scene.volume.plant(path, bytes);
    }
    scene.clock = boot();
    let rig = scene.open();
    let mut codes: Vec<_> = rig.opened.strays.iter().map(|stray| stray.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["foreign", "replayed"]);
    let files = scene.volume.files();
    assert!(files.contains_key(&foreign.0) && files.contains_key(&erased.0));
}

#[tokio::test(start_paused = true)]
async fn bit_rot_and_a_truncated_segment_are_found_when_the_cloud_refuses_them() {
    let mut scene = Scene::new(2);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..130, true).await;
    let offers = rig.offers(&scene.recipients);
    let path = |at: usize| mvb::store::segment_path(offers[at].segment);
    scene.volume.flip(&path(0), 3000, 0x10);
    let size = usize::try_from(offers[1].size).expect("small");
    scene.volume.chop(&path(1), size - 10);
    for offer in &offers[..2] {
        assert!(!rig.compare(offer.segment).expect("reads"));
    }
    let left: Vec<_> = rig.offers(&scene.recipients).into_iter().map(|offer| offer.segment).collect();
    assert!(!left.contains(&offers[0].segment) && !left.contains(&offers[1].segment), "damaged files are not offered");
    let recordings = rig.opened.store.recordings(None).expect("lists");
    let damaged = recordings.iter().flat_map(|r| &r.segments).filter(|s| s.state == SegmentState::Damaged).count();
    assert_eq!(damaged, 2);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_cut_off_is_written_again_by_recovery() {
    let mut scene = Scene::new(1);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..20, true).await;
    drop(rig);
    // END is on the card, `closed` is not: then its last bytes are taken away.
    let mut rig = reopened(&mut scene);
    assert_eq!(rig.opened.recovered.len(), 1);
    assert!(rig.shut_down(scene.now()));
    drop(rig);
    let (path, bytes) = scene.volume.files().into_iter().find(|(path, _)| path.starts_with("segments/")).expect("one");
    scene.volume.chop(&path, bytes.len() - 5);
    // It is closed in the journal: recovery does not touch it, and a comparison finds it.
    let mut rig = reopened(&mut scene);
    assert!(rig.opened.recovered.is_empty());
    assert_eq!(scene.volume.files()[&path].len(), bytes.len() - 5, "not truncated");
    let segment = rig.offers(&scene.recipients)[0].segment;
    assert!(!rig.compare(segment).expect("reads"));
}

fn reopened(scene: &mut Scene) -> Rig {
    scene.reboot(scene.volume.survivor(Loss::Kept, 0));
    scene.open()
}

#[tokio::test(start_paused = true)]
async fn another_organisation_begins_new_recordings_and_the_old_backlog_waits() {
    let mut scene = Scene::new(2);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..40, true).await;
    let old = scene.recipients.clone();
    let secret = RecipientSecret::generate();
    let keys = vec![secret.public(RecipientRole::Organisation)];
    let new = Recipients { organisation: OrganisationId::random(), keys };
    rig.set_recipients(Some(new.clone()), scene.now());
    scene.record(&mut rig, 40..80, true).await;
    rig.set_recipients(None, scene.now());
    let status = |rig: &Rig, scene: &Scene| rig.cameras(scene.now()).iter().map(|c| c.state).collect::<Vec<_>>();
    scene.record(&mut rig, 80..100, true).await;
    assert_eq!(status(&rig, &scene), [State::NoKey; 2]);
    rig.set_recipients(Some(new.clone()), scene.now());
    scene.record(&mut rig, 100..110, true).await;
    assert_eq!(status(&rig, &scene), [State::Recording; 2]);
    assert!(rig.shut_down(scene.now()));
    assert_eq!(rig.offers(&old).len(), 2);
    assert_eq!(rig.offers(&new).len(), 4);
    let recordings = rig.opened.store.recordings(Some(new.organisation)).expect("lists");
    assert_eq!(recordings.iter().filter(|recording| recording.other_organisation).count(), 2);
    assert_eq!(recordings.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_recording_goes_on_across_a_drop_and_ends_with_a_teardown() {
    let mut scene = Scene::new(1);
    let camera = scene.cameras[0];
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..20, true).await;
    rig.ended(camera, 1, "closed", scene.now());
    assert_eq!(rig.cameras(scene.now())[0].state, State::Waiting);
    tokio::time::advance(Duration::from_secs(8)).await;
    rig.tick(true, scene.now());
    rig.session(camera, 2);
    rig.item(camera, &Item::Params(Arc::new(params())), scene.now());
    scene.record(&mut rig, 0..20, true).await;
    rig.ended(camera, 1, "closed", scene.now());
    assert_eq!(rig.cameras(scene.now())[0].state, State::Recording, "the old session's end means nothing");
    rig.ended(camera, 2, "teardown", scene.now());
    rig.session(camera, 3);
    scene.record(&mut rig, 0..10, true).await;
    rig.ended(camera, 3, "media-timeout", scene.now());
    tokio::time::advance(Duration::from_secs(31)).await;
    rig.tick(true, scene.now());
    assert_eq!(rig.cameras(scene.now())[0].state, State::Idle);
    assert!(rig.shut_down(scene.now()));
    let recordings = rig.opened.store.recordings(None).expect("lists");
    let shape: Vec<_> = recordings.iter().rev().map(|r| (r.segments.len(), r.gaps.len())).collect();
    assert_eq!(shape, [(2, 1), (1, 0)]);
    let gap = recordings[1].gaps[0];
    assert!(gap.cause == GapCause::CameraGone && gap.to.since(gap.from) >= Duration::from_secs(8), "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn segments_start_at_key_frames_and_carry_their_flags() {
    let mut scene = Scene::new(1);
    let camera = scene.cameras[0];
    let mut rig = scene.open();
    scene.begin(&mut rig);
    // Joined in mid-GOP, then a camera that sends no key frame for 30 s.
    scene.record(&mut rig, 5..12, true).await;
    for _ in 0..300 {
        let now = scene.now();
        rig.item(camera, &Item::Unit(unit(9999, false, now.at, 500)), now);
        tokio::time::advance(STEP).await;
    }
    assert!(rig.shut_down(scene.now()));
    let mut headers: Vec<_> = scene
        .volume
        .files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("segments/"))
        .map(|(_, bytes)| opened(&bytes, &scene.secret).0)
        .collect();
    headers.sort_by_key(|header| header.at);
    assert!(headers[0].flags.starts_dependent, "the first picture was no key frame");
    assert!(headers.len() >= 3, "cut at the time cap");
    assert!(headers[1..].iter().all(|header| header.flags.starts_dependent));
}

#[tokio::test(start_paused = true)]
async fn background_expires_unless_an_event_promotes_it() {
    let mut scene = Scene::new(1);
    let camera = scene.cameras[0];
    let policy = Policy::OnEvent { pre: Duration::from_secs(10), post: Duration::from_secs(5) };
    let cameras = [(camera, CameraSettings { policy, ..CameraSettings::named("Bodycam 1") })].into();
    scene.settings = Arc::new(Settings { cameras, ..Settings::default() });
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..600, true).await;
    assert_eq!(rig.cameras(scene.now())[0].state, State::Background);
    let states = |rig: &Rig| {
        let recordings = rig.opened.store.recordings(None).expect("lists");
        recordings[0].segments.iter().map(|s| (s.state == SegmentState::Destroyed, s.background)).collect::<Vec<_>>()
    };
    let before = states(&rig);
    assert!(before.iter().filter(|(destroyed, _)| *destroyed).count() >= 2, "{before:?}");
    rig.event(camera, scene.now());
    assert_eq!(rig.cameras(scene.now())[0].state, State::Recording);
    scene.record(&mut rig, 600..1200, true).await;
    assert_eq!(rig.cameras(scene.now())[0].state, State::Background, "after the event");
    let after = states(&rig);
    let kept = after.iter().filter(|(destroyed, background)| !destroyed && !background).count();
    assert!((2..=5).contains(&kept), "pre-roll and what followed the event: {after:?}");
    assert!(rig.shut_down(scene.now()));
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_on_a_receipt_or_without_one_while_the_cloud_may_still_answer() {
    let mut scene = Scene::new(1);
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..360, true).await;
    assert!(rig.shut_down(scene.now()));
    let offers = rig.offers(&scene.recipients);
    assert!(offers.len() >= 2);
    // One is uploaded, the rest never was.
    rig.commit(&offers[0], true).expect("keeps");
    drop(rig);
    scene.limits.keep_free = ByteCount(u64::MAX);
    let mut rig = scene.open();
    let there =
        |scene: &Scene, at: usize| scene.volume.files().contains_key(&mvb::store::segment_path(offers[at].segment));
    for second in 0..60 {
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        rig.tick(true, scene.now());
        rig.drain();
        if second < 25 {
            assert!((0..offers.len()).all(|at| there(&scene, at)), "second {second}: the cloud may still answer");
        }
        assert!(there(&scene, 1) || !there(&scene, 0), "what was uploaded goes before what was not");
    }
    assert!(!there(&scene, 0), "the cloud does not answer: the receipt suffices");
    assert!(!there(&scene, 1), "the card is still short");
}

#[tokio::test(start_paused = true)]
async fn a_full_card_gives_up_what_is_dispensable_first_and_held_footage_never() {
    let mut scene = Scene::new(1);
    scene.bytes = 20_000;
    let mut rig = scene.open();
    scene.begin(&mut rig);
    scene.record(&mut rig, 0..620, true).await;
    let offers = rig.offers(&scene.recipients);
    assert!(offers.len() >= 5);
    // Uploaded with a yes; uploaded with a no; uploaded but not opened; held; the rest was never uploaded.
    for (offer, opened) in [(&offers[0], true), (&offers[1], true), (&offers[2], false)] {
        rig.commit(offer, opened).expect("keeps");
    }
    rig.hold(offers[3].segment, true);
    rig.erase_answered(&[offers[0].segment], &[offers[1].segment, offers[2].segment], scene.now());
    rig.tick(true, scene.now());
    rig.drain();
    let used: u64 = scene.volume.files().values().map(|bytes| bytes.len() as u64).sum();
    scene.volume.set_capacity(used + 100_000);
    drop(rig);
    scene.limits.keep_free = ByteCount(600_000);
    let mut rig = scene.open();
    rig.erase_answered(&[offers[0].segment], &[offers[1].segment, offers[2].segment], scene.now());
    scene.begin(&mut rig);
    let gone =
        |scene: &Scene, at: usize| !scene.volume.files().contains_key(&mvb::store::segment_path(offers[at].segment));
    for second in 0..4 {
        rig.tick(true, scene.now());
        rig.drain();
        if second == 1 {
            assert!(gone(&scene, 0), "uploaded and freshly allowed goes first");
            assert!(!gone(&scene, 4) || scene.volume.space().expect("space").free < 600_000);
        }
    }
    scene.record(&mut rig, 0..200, true).await;
    assert!(rig.counters.total("erased-not-uploaded") > 0, "then what was never uploaded, counted");
    for (at, why) in [(1, "the cloud said no"), (2, "not opened, so the cloud said no"), (3, "held")] {
        assert!(!gone(&scene, at), "{why}");
    }
    assert_eq!(rig.trouble(), None);
    assert!(rig.shut_down(scene.now()));
}
