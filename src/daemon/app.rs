//! The box's assembly: reads top to bottom as the boot order, and `shut_down` as the order of shutdown.
//!
//! Belongs here: who gets which handle, in which order, and what must not outlive what. Does not belong here: what any
//! part does. Boot: state folder (locked), run, trust, recipients and roster, store (recovers), recorder, uplink, cameras,
//! control socket, metrics, READY. Shutdown: cameras, recorder (every segment ended and durable), uplink (may flush for a
//! moment), the rest. The deadlines of `shut_down` add up to less than the unit's `TimeoutStopSec`.

use crate::base::chain::Signer;
use crate::base::clock::Clock;
use crate::base::reason::{Coded, Counters, chain};
use crate::base::tasks::Tasks;
use crate::base::units::{Run, WallTime};
use crate::control::Status;
use crate::control::config::Config;
use crate::control::roster::{Cameras, Roster, RosterError};
use crate::control::socket::{Server, SocketError};
use crate::daemon::agreement::{Agreement, AgreementError, View};
use crate::daemon::machine::Machine;
use crate::daemon::supervisor::{self, Board};
use crate::daemon::{cameras, gather, metrics, runs, services, systemd, uplink};
use crate::ingest;
use crate::relay::uplink::LiveTap;
use crate::store::{self, CameraSettings, Limits, Policy, Recorder, RecorderHandle, Settings, Store};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Cameras are told to stop within this.
const CAMERAS_STOP: Duration = Duration::from_secs(2);
/// The recorder ends and syncs every segment within this: its own limit (20 s) and a little.
const RECORDER_STOP: Duration = Duration::from_secs(22);
/// A standing session may send what is on its way.
const UPLINK_FLUSH: Duration = Duration::from_millis(500);
/// Everything else ends within this.
const REST_STOP: Duration = Duration::from_secs(4);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state folder cannot be used.
    #[error("state folder {}: cannot be {action}; choose another with --state, or give mvbd the right to it", path.display())]
    State {
        /// Which folder.
        path: PathBuf,
        /// `made`, `locked`.
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process has the state folder.
    #[error("another mvbd uses the state folder {}: stop it first", .0.display())]
    AlreadyRunning(PathBuf),
    /// Starts cannot be counted.
    #[error(transparent)]
    Runs(#[from] runs::RunsError),
    /// Enrolled cameras.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// Secrets, pairing, recipient keys.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// The card's folder cannot be used.
    #[error("storage.path {}: cannot be used; check that the card is mounted and that mvbd may write it", path.display())]
    Card {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[source] store::Error),
    /// Cameras cannot be accepted.
    #[error(transparent)]
    Listen(#[from] cameras::ListenError),
    /// Control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Signals.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// A second signal came during shutdown.
    #[error("interrupted during shutdown")]
    Interrupted,
    /// The recorder stopped by itself: the daemon may not go on (docs/adr/0004).
    #[error("the recorder stopped: {0}")]
    RecorderStopped(String),
    /// The RTSP server stopped by itself: a box that takes no camera must be started again.
    #[error("the server for cameras stopped: {0}")]
    CamerasStopped(String),
}

impl Coded for AppError {
    fn code(&self) -> &'static str {
        match self {
            Self::State { .. } => "state-folder",
            Self::AlreadyRunning(_) => "already-running",
            Self::Runs(error) => error.code(),
            Self::Roster(error) => error.code(),
            Self::Agreement(error) => error.code(),
            Self::Card { .. } => "card-unusable",
            Self::Store(error) => error.code(),
            Self::Listen(error) => error.code(),
            Self::Socket(error) => error.code(),
            Self::Signals(_) => "signals",
            Self::Interrupted => "interrupted",
            Self::RecorderStopped(_) => "recorder-stopped",
            Self::CamerasStopped(_) => "cameras-stopped",
        }
    }
}

/// Everything that is opened; nothing runs yet.
pub struct App {
    tasks: Tasks,
    board: Board,
    counters: Counters,
    config: Config,
    recorder: Recorder,
    handle: RecorderHandle,
    ingest: ingest::Server,
    uplink: uplink::Ground,
    link: watch::Sender<gather::Link>,
    services: Arc<services::Services>,
    socket: Server,
    snapshot: metrics::Snapshot,
    /// Held as long as the daemon lives; dropped, it opens the folder for the next.
    _lock: Flock<File>,
}

impl App {
    /// Opens everything and recovers the store. Blocks on the disk where that is before the first task.
    ///
    /// # Errors
    /// The first part that cannot be used.
    pub async fn load(config: Config, state: &Path, machine: &dyn Machine) -> Result<Self, AppError> {
        let (tasks, board, counters) = (Tasks::default(), Board::default(), Counters::default());
        let began = Instant::now();
        let lock = lock(state)?;
        let clock = machine.clock(floor());
        let run = Run { boot: clock.boot(), start: runs::next(state)? };
        let agreement = Arc::new(Agreement::open(state)?);
        let signer = agreement.evidence();
        let box_id = signer.public_key().box_id();
        tracing::info!(%box_id, start = run.start, version = env!("CARGO_PKG_VERSION"), "box");

        let roster = Arc::new(Roster::load(state)?);

        let store = open_store(&config, state, run, clock.clone(), signer, machine)?;
        let recipients = agreement.recipients();
        let settings = follow_settings(&tasks, &config, roster.watch(), &agreement);
        let tap = LiveTap::new(counters.clone());
        let (recorder, handle) =
            Recorder::new(store.clone(), settings, recipients, Arc::new(tap.clone()), None, counters.clone());

        let uplink = uplink::Ground {
            agreement: agreement.clone(),
            store: store.clone(),
            tap,
            clock: clock.clone(),
            box_id,
            run,
            interface: config.interface.clone(),
            on_wrong_certificate: config.on_wrong_certificate,
            counters: counters.clone(),
        };
        let link = watch::Sender::new(gather::Link::default());

        let credentials = cameras::follow(&tasks, &roster, agreement.clone());
        let ingest = ingest::Config { listen: config.rtsp, udp_ports: config.udp_ports.clone() };
        let intake = Arc::new(handle.clone());
        let ingest = ingest::Server::bind(ingest, credentials, intake, clock.clone(), counters.clone())
            .await
            .map_err(|source| cameras::ListenError { address: config.rtsp, source })?;

        let snapshot = snapshot(Sources {
            config: config.clone(),
            clock,
            run,
            box_id,
            began,
            roster: roster.clone(),
            agreement: agreement.view(),
            recorder: handle.status(),
            link: link.subscribe(),
            tap: uplink.tap.clone(),
            ingest: ingest.status(),
            board: board.clone(),
            counters: [counters.clone(), store.counters()],
        });
        let services = Arc::new(services::Services::new(&config, roster, agreement, store, snapshot.clone()));
        let socket = Server::bind(&state.join(&config.socket)).await?;
        Ok(Self {
            tasks,
            board,
            counters,
            config,
            recorder,
            handle,
            ingest,
            uplink,
            link,
            services,
            socket,
            snapshot,
            _lock: lock,
        })
    }

    /// Runs until told to stop (`stop` yields a word for the log) or until the recorder stops, then shuts down in order;
    /// a second word ends that at once.
    ///
    /// # Errors
    /// `RecorderStopped`, `Interrupted`.
    pub async fn run(self, mut stop: mpsc::Receiver<&'static str>) -> Result<(), AppError> {
        let (board, counters) = (self.board.clone(), self.counters.clone());
        let parts = Parts {
            // Its own set, so that shutdown can wait for the sessions alone.
            cameras: Tasks::default(),
            recorder: self.tasks.part(),
            uplink: self.tasks.part(),
            rest: self.tasks.part(),
        };

        board.set("recorder", "running", None);
        let link = self.link.subscribe();
        let mut recorder = self.tasks.spawn("recorder", self.recorder.run(parts.recorder.clone()));
        self.tasks.spawn("uplinks", uplink::run(parts.uplink.clone(), self.uplink, self.link));
        let rtsp = self.ingest.address();
        board.set("cameras", "running", None);
        let mut ingest = parts.cameras.spawn("cameras", self.ingest.run(parts.cameras.clone()));
        let services = self.services.clone();
        let rest = parts.rest.clone();
        self.tasks
            .spawn("control-socket", self.socket.run(rest.clone(), move |command| services.clone().apply(command)));
        if let Some(address) = self.config.metrics {
            let snapshot = self.snapshot.clone();
            let serve = move |part| metrics::run(part, address, snapshot.clone());
            self.tasks
                .spawn("metrics-keeper", supervisor::keep(rest.clone(), "metrics", board.clone(), counters, serve));
        }
        let snapshot = self.snapshot.clone();
        let line = move || gather::line(&snapshot());
        self.tasks.spawn("systemd", systemd::run(rest, self.handle.status(), line));
        systemd::ready();
        tracing::info!(%rtsp, "ready");

        // A handle that has given its result may not be asked again.
        let (why, recorder) = tokio::select! {
            Some(signal) = stop.recv() => {
                tracing::info!(signal, "shutting down; a second signal exits at once");
                (Ok(()), Some(recorder))
            }
            ended = &mut ingest => {
                board.set("cameras", "stopped", None);
                (Err(AppError::CamerasStopped(said(ended))), Some(recorder))
            }
            ended = &mut recorder => {
                board.set("recorder", "stopped", None);
                (Err(AppError::RecorderStopped(said(ended))), None)
            }
        };
        let connected = link.borrow().state == "connected";
        systemd::stopping(CAMERAS_STOP + RECORDER_STOP + UPLINK_FLUSH + REST_STOP);
        tokio::select! {
            biased;
            Some(signal) = stop.recv() => {
                tracing::warn!(signal, "second signal: exit at once, recovery ends the segments");
                Err(AppError::Interrupted)
            }
            clean = shut_down(&self.tasks, parts, recorder, connected) => why.and(clean),
        }
    }
}

/// The daemon's tasks by the order in which they stop.
struct Parts {
    cameras: Tasks,
    recorder: Tasks,
    uplink: Tasks,
    rest: Tasks,
}

/// Stops in order. What misses its deadline is abandoned: recovery exists for that.
async fn shut_down(
    tasks: &Tasks,
    parts: Parts,
    recorder: Option<JoinHandle<Result<(), store::Error>>>,
    connected: bool,
) -> Result<(), AppError> {
    // Each session hands over its last frame before the recorder ends the segments.
    if !parts.cameras.stop(CAMERAS_STOP).await {
        tracing::warn!("some cameras' sessions did not end in time");
    }
    parts.recorder.stopping().cancel();
    let clean = match recorder {
        None => Ok(()),
        Some(recorder) => match tokio::time::timeout(RECORDER_STOP, recorder).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(ended) => Err(AppError::RecorderStopped(said(ended))),
            Err(_) => Err(AppError::RecorderStopped("not within its deadline".into())),
        },
    };
    if connected {
        // The last signed frames are on their way to viewers and cloud; what misses this goes with the backlog.
        tokio::time::sleep(UPLINK_FLUSH).await;
    }
    parts.uplink.stopping().cancel();
    parts.rest.stopping().cancel();
    if !tasks.stop(REST_STOP).await {
        tracing::warn!("some tasks did not stop in time and were abandoned");
    }
    clean
}

fn said<E: std::error::Error>(ended: Result<Result<(), E>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "by itself".to_owned(),
        Ok(Err(error)) => chain(&error),
        Err(_) => "panicked; see the log".to_owned(),
    }
}

/// Makes the state folder and takes it for this process.
fn lock(state: &Path) -> Result<Flock<File>, AppError> {
    let failed = |action| move |source| AppError::State { path: state.to_owned(), action, source };
    std::fs::create_dir_all(state).map_err(failed("made"))?;
    let file = File::create(state.join("lock")).map_err(failed("locked"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(AppError::AlreadyRunning(state.to_owned())),
        Err((_, error)) => Err(failed("locked")(error.into())),
    }
}

fn open_store(
    config: &Config,
    state: &Path,
    run: Run,
    clock: Clock,
    signer: Arc<dyn Signer>,
    machine: &dyn Machine,
) -> Result<Store, AppError> {
    let card = |source| AppError::Card { path: config.storage.clone(), source };
    std::fs::create_dir_all(&config.storage).map_err(card)?;
    let opened = Store::open(store::Options {
        volume: machine.card(&config.storage).map_err(card)?,
        internal: state.join("store"),
        run,
        clock,
        signer,
        limits: Limits { memory_max: config.memory_max, keep_free: config.keep_free },
    })
    .map_err(AppError::Store)?;
    for recovered in &opened.recovered {
        tracing::warn!(segment = %recovered.segment, camera = %recovered.camera, cut = %recovered.lost, "recovered");
    }
    for stray in &opened.strays {
        tracing::warn!(file = stray.name, code = stray.code, "left alone on the card");
    }
    Ok(opened.store)
}

/// What the recorder is told of cameras, renewed with the roster.
fn follow_settings(
    tasks: &Tasks,
    config: &Config,
    mut roster: watch::Receiver<Cameras>,
    agreement: &Agreement,
) -> watch::Receiver<Arc<Settings>> {
    let config = config.clone();
    let mut view = agreement.view();
    let made = move |cameras: &Cameras, view: &View| Arc::new(settings(&config, cameras, view.owner.clone()));
    let (sender, receiver) = watch::channel(made(&roster.borrow_and_update(), &view.borrow_and_update()));
    let stop = tasks.stopping();
    tasks.spawn("settings", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = roster.changed() => if changed.is_err() { return },
                changed = view.changed() => if changed.is_err() { return },
            }
            sender.send_replace(made(&roster.borrow_and_update(), &view.borrow_and_update()));
        }
    });
    receiver
}

fn settings(config: &Config, cameras: &Cameras, organisation: String) -> Settings {
    let camera = |camera: &crate::control::roster::Camera| CameraSettings {
        name: camera.name.clone(),
        officer: camera.officer.clone(),
        purpose: config.footage.purpose.clone(),
        legal_basis: config.footage.legal_basis.clone(),
        retention: config.footage.retention.clone(),
        policy: match camera.policy {
            crate::control::roster::Policy::WhileStreaming => Policy::WhileStreaming,
            crate::control::roster::Policy::Continuous => Policy::Continuous,
        },
        class: match camera.priority {
            crate::control::roster::Priority::High => crate::seal::UploadClass::Marked,
            crate::control::roster::Priority::Normal => crate::seal::UploadClass::Normal,
        },
    };
    Settings {
        organisation,
        box_name: config.box_name.clone(),
        firmware: env!("CARGO_PKG_VERSION").to_owned(),
        cameras: cameras.iter().map(|enrolled| (enrolled.id, camera(enrolled))).collect(),
    }
}

/// What a status is made of.
struct Sources {
    config: Config,
    clock: Clock,
    run: Run,
    box_id: crate::base::ids::BoxId,
    began: Instant,
    roster: Arc<Roster>,
    agreement: watch::Receiver<View>,
    recorder: watch::Receiver<store::Status>,
    link: watch::Receiver<gather::Link>,
    tap: LiveTap,
    ingest: watch::Receiver<ingest::Status>,
    board: Board,
    counters: [Counters; 2],
}

fn snapshot(sources: Sources) -> metrics::Snapshot {
    Arc::new(move || {
        let (recorder, view) = (sources.recorder.borrow().clone(), sources.agreement.borrow().clone());
        let sessions = cameras::sessions(&sources.ingest.borrow());
        let cameras = gather::cameras(&sources.roster.cameras(), &sessions, &recorder);
        let mut link = sources.link.borrow().clone();
        link.subscriptions = sources.tap.subscriptions() as u64;
        let quarantined = (link.state == "quarantined").then_some("wrong-certificate");
        let alarms = gather::alarms(recorder.alarms.iter().copied().chain(quarantined));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: sources.config.box_name.clone(),
            serial: sources.config.serial.clone(),
            box_id: sources.box_id,
            run: sources.run,
            uptime_seconds: sources.began.elapsed().as_secs(),
            time: sources.clock.statement(),
            verdict: Status::judge(&alarms, &cameras),
            cameras,
            card: gather::card(&sources.config.storage, &recorder),
            uplink: gather::uplink(link, &recorder),
            pairing: view.pairing,
            recipients: view.recipients,
            alarms,
            services: sources.board.services(),
            reasons: sources
                .counters
                .iter()
                .flat_map(Counters::snapshot)
                .map(|(code, n)| (code.to_owned(), n))
                .collect(),
            memory: gather::memory(),
        }
    })
}

/// No statement of ours may lie before the release of this version.
fn floor() -> WallTime {
    // 2026-11-01T00:00:00Z; moved with each release.
    WallTime(1_793_491_200_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::command::{Command, Reply};
    use crate::control::socket;
    use crate::control::status::Verdict;
    use crate::daemon::machine::Real;

    fn config(folder: &Path) -> Config {
        Config {
            storage: folder.join("card"),
            socket: "mvbd.sock".into(),
            metrics: None,
            rtsp: ([127, 0, 0, 1], 0).into(),
            ..Config::default()
        }
    }

    async fn ask(state: &Path, command: Command) -> Reply {
        let path = state.join("mvbd.sock");
        tokio::task::spawn_blocking(move || socket::ask(&path, command))
            .await
            .expect("runs")
            .expect("listens")
            .expect("answers")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_boots_answers_and_stops_and_counts_its_starts() {
        let dir = tempfile::tempdir().expect("folder");
        for start in 1..=2 {
            let app = App::load(config(dir.path()), dir.path(), &Real).await.expect("opens");
            let again = App::load(config(dir.path()), dir.path(), &Real).await;
            assert_eq!(again.err().map(|error| error.code()), Some("already-running"));
            let (stop, stopped) = mpsc::channel(1);
            let running = tokio::spawn(app.run(stopped));
            let Reply::Done(value) = ask(dir.path(), Command::Status).await else { panic!("refused") };
            let status: Status = serde_json::from_value(value).expect("a status");
            assert_eq!(status.run.start, start);
            assert!(matches!(status.verdict, Verdict::NotRecording { .. } | Verdict::Ready), "{:?}", status.verdict);
            stop.send("test").await.expect("runs");
            running.await.expect("no panic").expect("clean");
            assert!(!dir.path().join("mvbd.sock").exists());
        }
    }
}
