//! A box and a cloud on loopback QUIC: a real store with a recorder on one side, a real vault on the other, each in a
//! runtime of its own, so that either can be killed without a word.

use bytes::Bytes;
use mvb::base::chain::{PublicKey, Signer, SoftwareSigner};
use mvb::base::clock::Clock;
use mvb::base::ids::{BondId, BoxId, CameraId, OrganisationId, PairingId, SegmentId};
use mvb::base::reason::Counters;
use mvb::base::tasks::Tasks;
use mvb::base::units::{ByteCount, MediaTime, Run, WallTime};
use mvb::cloud::boxes::Boxes;
use mvb::cloud::command::Secret;
use mvb::cloud::keys::Keys;
use mvb::cloud::live::Hub;
use mvb::cloud::sessions::Sessions;
use mvb::cloud::vault::disk::{Disk, Hook};
use mvb::cloud::vault::{Keyring, PairingRow, PairingState, SegmentRow, Settings as VaultSettings, Vault};
use mvb::media::{AccessUnit, Codec, Feed, Intake, Item, TrackId, TrackParams, UnitFlags};
use mvb::relay::quic::QuicDialer;
use mvb::relay::session::{Keeper, Party};
use mvb::relay::uplink::{LiveTap, Status, StopReason, Uplink};
use mvb::seal::{JournalEntry, Recipients, SegmentSource};
use mvb::store::{Directory, Limits, Options, Recorder, RecorderHandle, Settings, Store};
use mvb::trust::identity::TlsKey;
use mvb::trust::tls::{Pins, Refusals};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::watch;

pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for a condition, with a deadline.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "{what} did not come in time");
        pause(Duration::from_millis(10));
    }
}

/// The two sides live in real time, on threads of their own.
#[allow(clippy::disallowed_methods, reason = "no task runs on this thread")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// The cloud's folder, and what a box must know of it.
pub struct Ground {
    pub folder: tempfile::TempDir,
    pub organisation: OrganisationId,
    pub recipients: Recipients,
    pub receipt_key: PublicKey,
    keyring: Keyring,
    keys: Mutex<Keys>,
}

/// Keys of one organisation for all tests: stretching a passphrase takes its time by design.
fn template() -> &'static (tempfile::TempDir, Keyring) {
    static TEMPLATE: OnceLock<(tempfile::TempDir, Keyring)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let pass = Secret::new("een lange wachtzin".into());
        Keys::create(folder.path(), Some("Test"), Some(&pass), WallTime(1)).expect("creates");
        let keyring = Keys::load(folder.path()).expect("reads").unlock(&pass).expect("opens");
        (folder, keyring)
    })
}

impl Ground {
    pub fn new() -> Self {
        let (made, keyring) = template();
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("keys")).expect("a folder");
        for file in std::fs::read_dir(made.path().join("keys")).expect("lists") {
            let file = file.expect("reads");
            std::fs::copy(file.path(), folder.path().join("keys").join(file.file_name())).expect("copies");
        }
        let keys = Keys::load(folder.path()).expect("reads");
        Self {
            organisation: keys.id(),
            recipients: Recipients { organisation: keys.id(), keys: vec![keys.sealing()] },
            receipt_key: keys.receipt.public_key(),
            keyring: keyring.clone(),
            keys: Mutex::new(keys),
            folder,
        }
    }

    pub fn pins(&self) -> Pins {
        let keys = self.keys.lock().expect("no panic holds it");
        Pins { issuers: keys.issuers.iter().map(TlsKey::spki).collect(), version: 1, generation: keys.generation }
    }
}

/// A running cloud.
pub struct Cloud {
    runtime: Option<Runtime>,
    pub tasks: Tasks,
    pub address: SocketAddr,
    pub vault: Vault,
    pub hub: Hub,
    pub sessions: Arc<Sessions>,
    pub counters: Counters,
    pub data: PathBuf,
}

impl Cloud {
    pub fn start(ground: &Ground, listen: Option<SocketAddr>, hook: Option<Hook>, keep_free: u64) -> Self {
        let runtime = runtime();
        let inside = runtime.enter();
        let tasks = Tasks::default();
        let counters = Counters::default();
        let clock = Clock::system(WallTime(0));
        let receipt = ground.keys.lock().expect("no panic holds it").receipt.clone();
        let vault = Vault::open(
            VaultSettings {
                data: ground.folder.path().into(),
                organisation: ground.organisation,
                keep_free: ByteCount(keep_free),
                erase_after: Duration::ZERO,
            },
            hook.map_or_else(Disk::default, Disk::with_hook),
            clock.clone(),
            receipt,
            ground.keyring.clone(),
            counters.clone(),
        )
        .expect("the vault opens");
        let hub = Hub::new(vault.clone(), counters.clone());
        let sessions = Arc::new(Sessions::new(vault.clone()));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let boxes = Boxes::bind(
            listen.unwrap_or(any),
            &ground.keys,
            vault.clone(),
            hub.clone(),
            sessions.clone(),
            clock,
            counters.clone(),
        )
        .expect("binds");
        let address = boxes.address();
        tasks.spawn("boxes", boxes.run(tasks.clone()));
        let (flushed, stop) = (vault.clone(), tasks.stopping());
        tasks.spawn("flush", async move {
            while tokio::time::timeout(Duration::from_millis(100), stop.cancelled()).await.is_err() {
                let vault = flushed.clone();
                let _ = tokio::task::spawn_blocking(move || vault.flush()).await;
            }
        });
        drop(inside);
        let data = ground.folder.path().into();
        Self { runtime: Some(runtime), tasks, address, vault, hub, sessions, counters, data }
    }

    pub fn pair(&self, machine: &Machine, pairing: PairingId, state: PairingState) {
        let row = PairingRow {
            pairing,
            box_id: machine.box_id(),
            evidence: machine.signer.public_key(),
            identity: machine.identity.spki().0,
            serial: "T1".into(),
            state,
            from: WallTime(1),
            to: None,
            last_contact: None,
            erase_blocked: None,
        };
        self.vault.with_db(|db| db.insert_pairing(&row)).expect("stores");
    }

    pub fn rows(&self, box_id: BoxId, segment: SegmentId) -> Vec<SegmentRow> {
        self.vault.with_db(|db| db.variants(box_id, segment)).expect("reads")
    }

    pub fn committed_bytes(&self, box_id: BoxId, segment: SegmentId) -> Vec<u8> {
        let path = mvb::cloud::vault::folder(&self.data, box_id).join(format!("{segment}.mvs"));
        std::fs::read(path).expect("a committed file is there")
    }

    /// Without a word to anybody: sockets are gone, tasks end wherever they are.
    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(20));
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            if !std::thread::panicking() {
                runtime.block_on(self.tasks.stop(Duration::from_secs(5)));
            }
            runtime.shutdown_background();
        }
    }
}

/// What a box was told to keep.
#[derive(Default)]
pub struct Told {
    pub began: Mutex<Vec<PairingId>>,
    pub pins: Mutex<Vec<Pins>>,
    pub revoked: Mutex<Vec<PairingId>>,
}

impl Keeper for Told {
    fn began(&self, pairing: PairingId) -> std::io::Result<()> {
        self.began.lock().expect("no panic holds it").push(pairing);
        Ok(())
    }

    fn pins(&self, _: PairingId, pins: &Pins) -> std::io::Result<()> {
        self.pins.lock().expect("no panic holds it").push(pins.clone());
        Ok(())
    }

    fn revoked(&self, pairing: PairingId) -> std::io::Result<()> {
        self.revoked.lock().expect("no panic holds it").push(pairing);
        Ok(())
    }
}

/// A box's card, keys and recorder.
pub struct Machine {
    folder: tempfile::TempDir,
    pub signer: Arc<SoftwareSigner>,
    pub identity: Arc<TlsKey>,
    pub store: Store,
    pub handle: RecorderHandle,
    pub clock: Clock,
    pub run: Run,
    pub tap: LiveTap,
    pub counters: Counters,
    pub told: Arc<Told>,
    /// Open as long as the machine: a camera that left would have its last segment closed half a minute later.
    feeds: Mutex<Vec<Box<dyn Feed>>>,
    _settings: watch::Sender<Arc<Settings>>,
    _key: watch::Sender<Option<Recipients>>,
    _runtime: Runtime,
}

impl Machine {
    pub fn new(recipients: &Recipients) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let card = folder.path().join("card");
        std::fs::create_dir(&card).expect("a card");
        let runtime = runtime();
        let inside = runtime.enter();
        let signer = Arc::new(SoftwareSigner::generate());
        let clock = Clock::system(WallTime(0));
        let run = Run { boot: clock.boot(), start: 1 };
        let store = Store::open(Options {
            volume: Arc::new(Directory::open(card).expect("opens")),
            internal: folder.path().join("internal"),
            run,
            clock: clock.clone(),
            signer: signer.clone(),
            limits: Limits { keep_free: ByteCount(0), ..Limits::default() },
        })
        .expect("opens")
        .store;
        let counters = Counters::default();
        let tap = LiveTap::new(counters.clone());
        let (_settings, settings) = watch::channel(Arc::<Settings>::default());
        let (_key, recipients) = watch::channel(Some(recipients.clone()));
        let (recorder, handle) =
            Recorder::new(store.clone(), settings, recipients, Arc::new(tap.clone()), None, counters.clone());
        let tasks = Tasks::default();
        tasks.spawn("recorder", recorder.run(tasks.clone()));
        drop(inside);
        let identity = Arc::new(TlsKey::generate().expect("a key"));
        let told = Arc::default();
        Self {
            folder,
            signer,
            identity,
            store,
            handle,
            clock,
            run,
            tap,
            counters,
            told,
            feeds: Mutex::default(),
            _settings,
            _key,
            _runtime: runtime,
        }
    }

    pub fn box_id(&self) -> BoxId {
        self.signer.public_key().box_id()
    }

    pub fn feed(&self, camera: CameraId) -> Box<dyn Feed> {
        let mut feed = self.handle.open(camera);
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
        feed
    }

    pub fn push(&self, feed: &mut dyn Feed, number: i64, size: usize) {
        let data = Bytes::from(vec![u8::try_from(number & 0xff).unwrap_or(0); size]);
        let flags = UnitFlags { key: number % 10 == 0, ..UnitFlags::default() };
        let captured = self.clock.boottime();
        feed.push(Item::Unit(AccessUnit { track: TrackId(0), pts: MediaTime(number * 3000), captured, flags, data }));
    }

    /// Records `count` segments of `units` frames; gives all segments that are finished then, committed or not. A new
    /// segment begins at a key frame that was captured late enough after the last one.
    pub fn record(&self, count: usize, units: i64, size: usize) -> Vec<SegmentId> {
        let before = self.finished().len();
        let mut feed = self.feed(CameraId::random());
        let start = self.clock.boottime();
        let mut push = |number: i64, late: Duration| {
            let data = Bytes::from(vec![u8::try_from(number & 0xff).unwrap_or(0); size]);
            let flags = UnitFlags { key: number % units == 0, ..UnitFlags::default() };
            let pts = MediaTime(number * 3000);
            feed.push(Item::Unit(AccessUnit { track: TrackId(0), pts, captured: start.plus(late), flags, data }));
        };
        for segment in 0..=count {
            let late = (mvb::seal::sealer::TARGET + Duration::from_secs(1)) * u32::try_from(segment).unwrap_or(0);
            let from = i64::try_from(segment).unwrap_or(0) * units;
            (from..from + units).take(if segment == count { 1 } else { usize::MAX }).for_each(|n| push(n, late));
            // The recorder's queue is bounded.
            until("finished segments", || self.finished().len() + 4 >= before + segment);
        }
        until("finished segments", || self.finished().len() >= before + count);
        self.feeds.lock().expect("no panic holds it").push(feed);
        self.finished()
    }

    /// Segments that the journal says are closed.
    fn finished(&self) -> Vec<SegmentId> {
        let entries = self.store.journal(None, 100_000).expect("reads");
        let closed =
            entries.iter().filter_map(|signed| match JournalEntry::decode(signed.entry.kind, &signed.entry.body) {
                Ok(Some(JournalEntry::Closed { segment, .. })) => Some(segment),
                _ => None,
            });
        closed.collect()
    }

    pub fn uncommitted(&self) -> Vec<SegmentId> {
        let organisation = self.organisation();
        self.store.offers(organisation, 1000).expect("lists").iter().map(|offer| offer.segment).collect()
    }

    fn organisation(&self) -> OrganisationId {
        self._key.borrow().as_ref().expect("recipients").organisation
    }

    pub fn card_bytes(&self, segment: SegmentId) -> Vec<u8> {
        std::fs::read(self.folder.path().join("card").join(mvb::store::segment_path(segment))).expect("the card has it")
    }
}

/// A running uplink; it can be killed while the store lives on.
pub struct Line {
    runtime: Option<Runtime>,
    pub tasks: Tasks,
    pub status: watch::Receiver<Status>,
    pub running: tokio::task::JoinHandle<StopReason>,
}

impl Line {
    pub fn start(
        machine: &Machine,
        ground: &Ground,
        address: SocketAddr,
        pairing: PairingId,
        source: Arc<dyn SegmentSource>,
    ) -> Self {
        let dialer = dialer(&machine.identity, ground.pins(), address);
        let party = Party {
            box_id: machine.box_id(),
            organisation: ground.organisation,
            pairing,
            receipt_key: ground.receipt_key.clone(),
            bond: BondId::random(),
            run: machine.run,
            firmware: "test".into(),
        };
        Self::with(dialer, party, machine, source)
    }

    pub fn with(dialer: QuicDialer, party: Party, machine: &Machine, source: Arc<dyn SegmentSource>) -> Self {
        let runtime = runtime();
        let inside = runtime.enter();
        let tasks = Tasks::default();
        let uplink = Uplink::new(
            dialer,
            party,
            &machine.tap,
            source,
            machine.clock.clone(),
            machine.told.clone(),
            machine.counters.clone(),
        );
        let status = uplink.status();
        let running = tasks.spawn("uplink", uplink.run(tasks.clone()));
        drop(inside);
        Self { runtime: Some(runtime), tasks, status, running }
    }

    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(20));
        }
    }

    /// What the service ended with.
    pub fn ended(mut self) -> StopReason {
        let runtime = self.runtime.take().expect("once");
        let reason = runtime.block_on(async {
            tokio::time::timeout(DEADLINE, &mut self.running).await.expect("ends in time").expect("no panic")
        });
        runtime.shutdown_background();
        reason
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            if !std::thread::panicking() {
                runtime.block_on(self.tasks.stop(Duration::from_secs(5)));
            }
            runtime.shutdown_background();
        }
    }
}

pub fn dialer(identity: &Arc<TlsKey>, pins: Pins, address: SocketAddr) -> QuicDialer {
    QuicDialer {
        address: address.to_string(),
        interface: None,
        identity: identity.clone(),
        pins,
        refusals: Refusals::new(Counters::default()),
    }
}

pub fn seed() -> u64 {
    let seed = std::env::var("MVB_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_127);
    println!("seed {seed}; repeat with MVB_SEED={seed}");
    seed
}
