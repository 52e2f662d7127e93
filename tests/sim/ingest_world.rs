//! The real ingest server on loopback, a scripted camera before it, and a recorder that notes what it is given.

use mvb::base::clock::Clock;
use mvb::base::ids::CameraId;
use mvb::base::reason::Counters;
use mvb::base::tasks::Tasks;
use mvb::base::units::{BootTime, WallTime};
use mvb::ingest::digest::{Algorithm, ha1};
use mvb::ingest::{Camera as Enrolled, CameraStatus, Cameras, Config, Server, Status};
use mvb::media::{AccessUnit, Feed, GapCause, Intake, Item};
use mvb::sim::camera::picture::{heard, picture, seen};
use mvb::sim::camera::rtp::Sender;
use mvb::sim::camera::{Camera, Carrier, Hash, Script};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

pub const CAMERA: CameraId = CameraId([7; 16]);
/// One picture at 25 pictures a second, RTP ticks.
pub const FRAME: u32 = 3600;
const PATIENCE: Duration = Duration::from_secs(20);

/// What one session delivered.
#[derive(Debug, Clone, Default)]
pub struct Session {
    pub units: Vec<AccessUnit>,
    pub params: usize,
    pub losses: usize,
    pub ended: Option<&'static str>,
    /// Items that came when a newer session had the camera: a recorder drops them.
    pub too_late: usize,
}

impl Session {
    /// Numbers of the pictures, in order. Each must be whole.
    pub fn pictures(&self) -> Vec<u32> {
        let whole = |unit: &AccessUnit| match seen(&unit.data) {
            Some(seen) if seen.whole => seen.number,
            broken => panic!("{broken:?} of {} bytes, {:?}, end: {:?}", unit.data.len(), unit.flags, self.ended),
        };
        self.track(0).map(whole).collect()
    }

    /// Numbers of the sounds, in order.
    pub fn sounds(&self) -> Vec<u32> {
        self.track(1).map(|unit| heard(&unit.data).expect("a whole sound")).collect()
    }

    pub fn track(&self, track: u8) -> impl Iterator<Item = &AccessUnit> {
        self.units.iter().filter(move |unit| unit.track.0 == track)
    }

    /// Steps between pictures, ticks.
    pub fn steps(&self) -> Vec<i64> {
        let pts: Vec<i64> = self.track(0).map(|unit| unit.pts.0).collect();
        pts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Every picture from `numbers` is there, whole, in order, once, and none is said to be broken.
    pub fn holds(&self, numbers: impl IntoIterator<Item = u32>) {
        let (got, sent) = (self.pictures(), numbers.into_iter().collect::<Vec<u32>>());
        let missing: Vec<u32> = sent.iter().copied().filter(|number| !got.contains(number)).collect();
        assert!(missing.is_empty(), "{} of {} did not arrive: {missing:?}", missing.len(), sent.len());
        assert_eq!(got, sent);
        let broken = self.units.iter().filter(|unit| unit.flags.damaged || unit.flags.loss_before).count();
        assert_eq!((broken, self.losses, self.too_late), (0, 0, 0), "broken, gaps, too late");
    }
}

#[derive(Clone, Default)]
struct Recorder(watch::Sender<Vec<Session>>, Arc<Mutex<()>>);

struct Recording(Recorder, usize);

impl Intake for Recorder {
    fn open(&self, camera: CameraId) -> Box<dyn Feed> {
        assert_eq!(camera, CAMERA);
        let _one = self.1.lock().expect("not poisoned");
        self.0.send_modify(|sessions| sessions.push(Session::default()));
        let index = self.0.borrow().len() - 1;
        Box::new(Recording(self.clone(), index))
    }
}

impl Feed for Recording {
    fn push(&mut self, item: Item) {
        self.0.0.send_modify(|sessions| {
            let newest = sessions.len() - 1;
            let session = &mut sessions[self.1];
            match item {
                _ if self.1 != newest => session.too_late += 1,
                Item::Params(_) => session.params += 1,
                Item::Gap(gap) => {
                    assert_eq!(gap.cause, GapCause::PacketLoss);
                    session.losses += 1;
                }
                Item::Unit(unit) => session.units.push(unit),
            }
        });
    }

    fn end(self: Box<Self>, reason: &'static str) {
        self.0.0.send_modify(|sessions| sessions[self.1].ended = Some(reason));
    }
}

/// Which hashes a camera is enrolled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Md5,
    Sha256,
    Both,
}

pub struct World {
    pub address: SocketAddr,
    pub counters: Counters,
    sessions: watch::Receiver<Vec<Session>>,
    status: watch::Receiver<Status>,
    tasks: Tasks,
    _cameras: watch::Sender<Arc<Cameras>>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Known::Both).await
    }

    pub async fn with(known: Known) -> Self {
        // Below the ephemeral ports, and other ones in each process: several may run at once.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let place = std::process::id().wrapping_mul(17).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let first = 20_000 + u16::try_from(place % 190).expect("few") * 64;
        let camera = Enrolled {
            id: CAMERA,
            path: "cam".into(),
            user: "u".into(),
            md5: (known != Known::Sha256).then(|| ha1(Algorithm::Md5, "u", "p")),
            sha256: (known != Known::Md5).then(|| ha1(Algorithm::Sha256, "u", "p")),
        };
        let (enrolled, cameras) = watch::channel(Arc::new(Cameras(vec![camera])));
        let (recorder, counters) = (Recorder::default(), Counters::default());
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), udp_ports: first..=first + 63 };
        let clock = Clock::system(WallTime(0));
        let sessions = recorder.0.subscribe();
        let server = Server::bind(config, cameras, Arc::new(recorder), clock, counters.clone()).await.expect("binds");
        let (address, status, tasks) = (server.address(), server.status(), Tasks::default());
        let running = tasks.clone();
        tasks.spawn("server", async move { server.run(running).await });
        Self { address, counters, sessions, status, tasks, _cameras: enrolled }
    }

    pub fn script(&self, carrier: Carrier) -> Script {
        Script {
            server: self.address,
            path: "cam".into(),
            user: "u".into(),
            password: "p".into(),
            hash: Hash::Sha256,
            carrier,
            sound: false,
            sets: true,
        }
    }

    pub async fn camera(&self, carrier: Carrier) -> Camera {
        Camera::publish(self.script(carrier)).await.expect("publishes")
    }

    pub fn status(&self) -> CameraStatus {
        self.status.borrow().cameras.get(&CAMERA).cloned().unwrap_or_default()
    }

    pub fn sessions(&self) -> Vec<Session> {
        self.sessions.borrow().clone()
    }

    /// Waits until session `index` has something; its state then.
    pub async fn until(&self, what: &str, index: usize, has: impl Fn(&Session) -> bool) -> Session {
        let mut sessions = self.sessions.clone();
        let found = sessions.wait_for(|sessions| sessions.get(index).is_some_and(&has));
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found.expect("the server runs")[index].clone(),
            Err(_) => {
                let now: Vec<_> = self.sessions().iter().map(|s| (s.units.len(), s.losses, s.ended)).collect();
                panic!(
                    "{what} does not happen; units, losses, end of each session: {now:?}; {:?}",
                    self.counters.snapshot()
                )
            }
        }
    }

    pub async fn ended(&self, index: usize) -> Session {
        self.until("the end of the session", index, |session| session.ended.is_some()).await
    }

    /// Waits until no session has the camera.
    pub async fn gone(&self) {
        let mut status = self.status.clone();
        let gone = status.wait_for(|status| status.cameras.get(&CAMERA).is_some_and(|camera| !camera.connected));
        tokio::time::timeout(PATIENCE, gone).await.expect("the camera is gone").expect("the server runs");
    }

    pub async fn stop(self) {
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

/// A clip in the making: numbers and times go on from picture to picture.
pub struct Clip {
    pub sender: Sender,
    pub timestamp: u32,
    pub number: u32,
    /// A key picture each so many, with its size and that of the others.
    pub group: u32,
    pub sizes: (usize, usize),
}

impl Default for Clip {
    fn default() -> Self {
        Self { sender: Sender::new(96, 0x1234_5678, 65_000), timestamp: 0, number: 0, group: 50, sizes: (20_000, 3000) }
    }
}

impl Clip {
    /// Packets of the next picture.
    pub fn next(&mut self) -> Vec<Vec<u8>> {
        let key = self.number.is_multiple_of(self.group);
        let nals = picture(self.number, key, if key { self.sizes.0 } else { self.sizes.1 });
        let packets = self.sender.picture(&nals, self.timestamp);
        self.number += 1;
        self.timestamp = self.timestamp.wrapping_add(FRAME);
        packets
    }

    /// Sends the next `count` pictures, each `every` after the one before.
    pub async fn send(&mut self, camera: &mut Camera, count: u32, every: Duration) {
        let start = tokio::time::Instant::now();
        for n in 0..count {
            tokio::time::sleep_until(start + every * n).await;
            camera.send_all(0, &self.next()).await.expect("sends");
        }
    }
}

pub fn seconds(time: BootTime, before: BootTime) -> f64 {
    (time.0 as f64 - before.0 as f64) / 1e6
}
