//! The RTSP server as a service: accepts connections, knows which camera is connected, and supersedes old sessions.

use super::cameras::Cameras;
use super::connection;
use super::transport::Ports;
use crate::base::clock::Clock;
use crate::base::ids::CameraId;
use crate::base::reason::Counters;
use crate::base::tasks::Tasks;
use crate::media::Intake;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections that have not authenticated; the oldest gives way to a new one.
const MAX_STRANGERS: usize = 128;
/// All connections.
const MAX_CONNECTIONS: usize = 512;
/// Wrong logins of one address within [`LOGIN_WINDOW`]; after that it is refused until the window ends.
const MAX_WRONG: u32 = 20;
const LOGIN_WINDOW: Duration = Duration::from_secs(60);

/// What the server is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where cameras connect to.
    pub listen: SocketAddr,
    /// Ports for RTP over UDP; an empty range = TCP only.
    pub udp_ports: RangeInclusive<u16>,
}

/// State of one camera that has been connected since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CameraStatus {
    /// A session records now.
    pub connected: bool,
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// Where from.
    pub remote: Option<SocketAddr>,
    /// Units delivered since the start.
    pub accepted: u64,
    /// RTP packets lost on the way since the start.
    pub lost: u64,
    /// A picture was announced and none has come for 10 s, though sound may.
    pub no_video: bool,
    /// Stable code of the end of the last session.
    pub last_end: Option<&'static str>,
    /// Sessions since the start.
    pub sessions: u64,
}

/// State of all cameras.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// By id.
    pub cameras: BTreeMap<CameraId, CameraStatus>,
}

/// What connections share.
pub(super) struct Shared {
    pub cameras: watch::Receiver<Arc<Cameras>>,
    pub intake: Arc<dyn Intake>,
    pub clock: Clock,
    pub counters: Counters,
    pub ports: Option<Ports>,
    pub status: watch::Sender<Status>,
    pub tasks: Tasks,
    sessions: Mutex<HashMap<CameraId, Held>>,
    strangers: Mutex<VecDeque<(u64, CancellationToken)>>,
    wrong: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

/// Who has a camera's session.
struct Held {
    connection: u64,
    superseded: CancellationToken,
    over: CancellationToken,
}

/// A camera's session, for the connection that has it now.
pub(super) struct Turn {
    /// Told when a newer session takes over.
    pub superseded: CancellationToken,
    /// Dropped when everything is delivered.
    pub over: DropGuard,
    /// Told when the older session has delivered everything.
    pub older: Option<CancellationToken>,
}

impl Shared {
    /// A session of a camera begins: the older one ends as superseded.
    pub fn begin(&self, camera: CameraId, connection: u64) -> Turn {
        let (superseded, over) = (CancellationToken::new(), CancellationToken::new());
        let held = Held { connection, superseded: superseded.clone(), over: over.clone() };
        let older = lock(&self.sessions).insert(camera, held).map(|older| {
            older.superseded.cancel();
            older.over
        });
        Turn { superseded, over: over.drop_guard(), older }
    }

    /// Whether the connection still has the camera's session; gives it back.
    pub fn end(&self, camera: CameraId, connection: u64) -> bool {
        let mut sessions = lock(&self.sessions);
        let present = sessions.get(&camera).is_some_and(|held| held.connection == connection);
        if present {
            sessions.remove(&camera);
        }
        present
    }

    /// The connection has authenticated or is gone.
    pub fn known(&self, connection: u64) {
        lock(&self.strangers).retain(|(number, _)| *number != connection);
    }

    fn stranger(&self, connection: u64, stop: CancellationToken) {
        let mut strangers = lock(&self.strangers);
        strangers.push_back((connection, stop));
        if strangers.len() > MAX_STRANGERS
            && let Some((_, oldest)) = strangers.pop_front()
        {
            self.counters.add("rtsp-too-many-strangers", 1);
            oldest.cancel();
        }
    }

    /// Whether the address may try to log in.
    pub fn may_try(&self, from: IpAddr, now: Instant) -> bool {
        lock(&self.wrong).get(&from).is_none_or(|(wrong, until)| *wrong < MAX_WRONG || *until <= now)
    }

    /// A login went wrong.
    pub fn wrong_login(&self, from: IpAddr, now: Instant) {
        let mut wrong = lock(&self.wrong);
        wrong.retain(|_, (_, until)| *until > now);
        wrong.entry(from).or_insert((0, now + LOGIN_WINDOW)).0 += 1;
    }

    /// Changes a camera's status.
    pub fn update(&self, camera: CameraId, change: impl FnOnce(&mut CameraStatus)) {
        self.status.send_modify(|status| change(status.cameras.entry(camera).or_default()));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server, listening.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Shared,
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn bind(
        config: Config,
        cameras: watch::Receiver<Arc<Cameras>>,
        intake: Arc<dyn Intake>,
        clock: Clock,
        counters: Counters,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let ports = (config.udp_ports.end() > config.udp_ports.start()).then(|| Ports::new(config.udp_ports));
        let shared = Shared {
            cameras,
            intake,
            clock,
            counters,
            ports,
            status: watch::Sender::default(),
            tasks: Tasks::default(),
            sessions: Mutex::default(),
            strangers: Mutex::default(),
            wrong: Mutex::default(),
        };
        Ok(Self { listener, address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// State of the cameras, at each change and once a second while they stream.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// Serves until told to stop; every session then ends as `shutdown`, its last frame delivered.
    ///
    /// # Errors
    /// Accepting fails for good.
    pub async fn run(self, tasks: Tasks) -> io::Result<()> {
        let Self { listener, mut shared, .. } = self;
        shared.tasks = tasks.clone();
        let shared = Arc::new(shared);
        let stop = tasks.stopping();
        let room = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
        let mut number = 0_u64;
        loop {
            let (stream, from) = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, or reset before it was accepted: the next one may go well.
                        shared.counters.add("rtsp-accept", 1);
                        tracing::warn!(%error, "cannot accept a camera");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let Ok(place) = room.clone().try_acquire_owned() else {
                shared.counters.add("rtsp-too-many-connections", 1);
                continue;
            };
            number += 1;
            let dropped = stop.child_token();
            shared.stranger(number, dropped.clone());
            let (shared, number) = (shared.clone(), number);
            tasks.spawn("camera", async move {
                let _place = place;
                connection::serve(stream, from, number, shared.clone(), dropped).await;
                shared.known(number);
            });
        }
    }
}
