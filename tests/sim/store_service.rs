//! The store as a service: threads, tasks and a real folder; the relay's side of it; ordered shutdown.

use bytes::Bytes;
use mvb::base::chain::{Head, Signer, SoftwareSigner};
use mvb::base::clock::Clock;
use mvb::base::ids::{CameraId, OrganisationId};
use mvb::base::reason::Counters;
use mvb::base::tasks::Tasks;
use mvb::base::units::{MediaTime, Run, WallTime};
use mvb::media::{AccessUnit, Codec, Feed, Intake, Item, TrackId, TrackParams, UnitFlags};
use mvb::seal::recipients::RecipientRole;
use mvb::seal::{Receipt, RecipientSecret, Recipients, SealedFrame, SegmentSource, Tap};
use mvb::store::{Directory, Limits, Options, Recorder, SegmentState, Settings, State, Store};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Ahead {
    bytes: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Tap for Ahead {
    fn frame(&self, frame: &SealedFrame) {
        let mut all = self.bytes.lock().expect("no panic holds it");
        let file = all.entry(mvb::store::segment_path(frame.segment)).or_default();
        assert_eq!(file.len() as u64, frame.offset, "in file order, without holes");
        file.extend_from_slice(&frame.bytes);
    }
}

struct Place {
    folder: tempfile::TempDir,
    signer: Arc<dyn Signer>,
    recipients: Recipients,
    start: u32,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("card")).expect("a card");
        let keys = vec![RecipientSecret::generate().public(RecipientRole::Organisation)];
        let recipients = Recipients { organisation: OrganisationId::random(), keys };
        Self { folder, signer: Arc::new(SoftwareSigner::generate()), recipients, start: 0 }
    }

    fn card(&self) -> std::path::PathBuf {
        self.folder.path().join("card")
    }

    fn open(&mut self) -> (Store, Clock) {
        self.start += 1;
        let clock = Clock::system(WallTime(0));
        let opened = Store::open(Options {
            volume: Arc::new(Directory::open(self.card()).expect("opens")),
            internal: self.folder.path().join("internal"),
            run: Run { boot: clock.boot(), start: self.start },
            clock: clock.clone(),
            signer: self.signer.clone(),
            limits: Limits { keep_free: mvb::base::units::ByteCount(0), ..Limits::default() },
        })
        .expect("opens");
        assert!(opened.alarms.is_empty() && opened.strays.is_empty(), "{:?}", opened.alarms);
        assert!(opened.recovered.is_empty(), "the run before ended in order");
        (opened.store, clock)
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "{what} did not come in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder.join("segments"))
        .expect("lists")
        .map(|entry| entry.expect("reads"))
        .map(|entry| {
            let name = format!("segments/{}", entry.file_name().to_string_lossy());
            (name, std::fs::read(entry.path()).expect("reads"))
        })
        .collect()
}

fn push(feed: &mut dyn Feed, clock: &Clock, number: i64, key: bool) {
    let data = Bytes::from(vec![7; 3000]);
    let flags = UnitFlags { key, ..UnitFlags::default() };
    let captured = clock.boottime();
    feed.push(Item::Unit(AccessUnit { track: TrackId(0), pts: MediaTime(number * 3000), captured, flags, data }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_camera_sends_is_written_synced_offered_committed_and_ended_in_order() {
    let mut place = Place::new();
    let (store, clock) = place.open();
    let woken = Arc::<AtomicU64>::default();
    let wake = woken.clone();
    store.on_change(Box::new(move || {
        wake.fetch_add(1, Ordering::Relaxed);
    }));
    let tap = Arc::<Ahead>::default();
    let (_settings, settings) = watch::channel(Arc::<Settings>::default());
    let (key, recipients) = watch::channel(None);
    let counters = Counters::default();
    let (recorder, handle) = Recorder::new(store.clone(), settings, recipients, tap.clone(), None, counters.clone());
    let tasks = Tasks::default();
    let running = tasks.spawn("recorder", recorder.run(tasks.clone()));
    let camera = CameraId::random();
    let mut status = handle.status();

    let mut feed = handle.open(camera);
    let params = TrackParams {
        track: TrackId(0),
        codec: Codec::H264,
        timescale: 90_000,
        config: vec![1],
        width: 16,
        height: 16,
        channels: 0,
        sample_rate: 0,
    };
    feed.push(Item::Params(Arc::new(params)));
    push(feed.as_mut(), &clock, 0, true);
    until("seal-no-key", || status.borrow_and_update().alarms.contains(&"seal-no-key")).await;
    key.send_replace(Some(place.recipients.clone()));
    until("recording", || {
        push(feed.as_mut(), &clock, 1, true);
        status.borrow_and_update().cameras.iter().any(|camera| camera.state == State::Recording)
    })
    .await;

    // Written within half a second, whatever the sync does.
    push(feed.as_mut(), &clock, 2, false);
    let sent = Instant::now();
    until("the tap", || !tap.bytes.lock().expect("no panic holds it").is_empty()).await;
    until("written", || {
        let card = files(&place.card());
        let ahead = tap.bytes.lock().expect("no panic holds it");
        ahead.iter().all(|(path, bytes)| card.get(path).is_some_and(|file| file.len() == bytes.len()))
    })
    .await;
    assert!(sent.elapsed() < Duration::from_secs(3));
    until("a loss bound", || {
        let status = status.borrow_and_update();
        status.loss_bound > Duration::ZERO && status.loss_bound < Duration::from_secs(3)
    })
    .await;

    // A take-over, and the old session's words mean nothing any more.
    let mut second = handle.open(camera);
    push(second.as_mut(), &clock, 3, true);
    push(feed.as_mut(), &clock, 4, true);
    feed.end("closed");
    until("superseded", || counters.total("feed-superseded") == 1).await;
    let organisation = place.recipients.organisation;
    let offered = || store.offers(organisation, 10).expect("lists");
    until("the first segment", || !offered().is_empty()).await;
    let offer = offered().remove(0);
    assert!(woken.load(Ordering::Relaxed) > 0, "the relay was woken");
    let bytes = store.read(offer.segment, 0, usize::try_from(offer.size).expect("small")).expect("reads");
    assert_eq!(bytes.len() as u64, offer.size);
    let receipt = |sha256| Receipt {
        segment: offer.segment,
        size: offer.size,
        sha256,
        opened: true,
        statement: b"signed".to_vec(),
    };
    let wrong = mvb::base::ids::Digest([0; 32]);
    let committed = |receipt: Receipt| {
        let store = store.clone();
        tokio::task::spawn_blocking(move || store.committed(&receipt))
    };
    assert!(committed(receipt(wrong)).await.expect("runs").is_err(), "a receipt for other bytes is refused");
    committed(receipt(offer.sha256)).await.expect("runs").expect("is kept");
    assert!(offered().iter().all(|other| other.segment != offer.segment));

    // The journal as the relay reads it.
    let head = store.journal_head().expect("a head");
    let acknowledged = store.clone();
    tokio::task::spawn_blocking(move || acknowledged.journal_acknowledged(head, b"cloud"))
        .await
        .expect("runs")
        .expect("is appended");
    let all = store.journal(None, 1000).expect("reads");
    let mut reached: Option<Head> = None;
    for entry in &all {
        reached = Some(entry.check("journal", reached, &place.signer.public_key()).expect("follows"));
    }
    assert!(reached.is_some_and(|reached| reached.seq > head.seq));
    let tail = store.journal(Some(head), 1).expect("reads");
    assert_eq!(tail.first().map(|entry| entry.entry.seq), Some(head.seq + 1));
    let forged = Head { seq: head.seq, hash: wrong };
    assert!(store.journal(Some(forged), 1).is_err(), "another history is refused");

    // The last picture before the stop is on the card.
    push(second.as_mut(), &clock, 5, false);
    second.end("closed");
    assert!(tasks.stop(DEADLINE).await, "stops in time");
    running.await.expect("no panic").expect("all is durable");
    assert_eq!(files(&place.card()), *tap.bytes.lock().expect("no panic holds it"), "the card has what the relay has");
    drop((store, handle));

    let (store, _) = place.open();
    let recordings = store.recordings(None).expect("lists");
    let states: Vec<_> = recordings.iter().flat_map(|r| &r.segments).map(|segment| segment.state).collect();
    assert_eq!(states, [SegmentState::Uploaded, SegmentState::Sealed]);
    let listed = mvb::store::list(&Directory::open(place.card()).expect("opens")).expect("lists without the daemon");
    assert_eq!(listed.len(), recordings.len());
    assert_eq!(listed[0].size, recordings[0].size);
}
