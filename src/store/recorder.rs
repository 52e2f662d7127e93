//! The recorder: takes what cameras send, has it sealed, hands it to the lane and to the relay.
//!
//! The service's shell: a queue bounded in bytes, the half-second tick, settings. What it decides is in `recording`.

use crate::base::clock::Clock;
use crate::base::ids::CameraId;
use crate::base::reason::Counters;
use crate::base::tasks::Tasks;
use crate::base::units::{BootTime, ByteCount, TimeSource};
use crate::media::{Feed, Gap, GapCause, Intake, Item};
use crate::seal::{JournalEntry, Recipients, Tap};
use crate::store::catalog::Totals;
use crate::store::lane::Op;
use crate::store::recording::Core;
use crate::store::{Error, Settings, Status, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

/// Frames are written at least this often; every second tick is a checkpoint and a group sync.
const TICK: Duration = Duration::from_millis(500);
/// Items that wait for the recorder: it only falls behind when the processor does.
const QUEUE_AT_MOST: u64 = 32 << 20;
/// Items taken from the queue at once, so that a tick is never late by more than they take.
const AT_ONCE: usize = 64;
/// The catalog is asked for totals every so many ticks.
const TOTALS_EVERY: u32 = 10;
/// How long the last sync may take at shutdown: longer than the stall of a card that is still healthy.
const LAST_SYNC: Duration = Duration::from_secs(20);

/// Sees every item in plain, for the picture on the box's own page. Never blocks.
pub trait Preview: Send + Sync {
    /// The next item of a camera.
    fn item(&self, camera: CameraId, item: &Item);
    /// The camera's session is over.
    fn ended(&self, camera: CameraId);
}

enum Message {
    Open(CameraId, u64),
    Item(CameraId, u64, Item),
    End(CameraId, u64, &'static str),
    Event(CameraId),
}

/// The service that owns all sealers.
pub struct Recorder {
    store: Store,
    core: Core,
    clock: Clock,
    queue: mpsc::UnboundedReceiver<Message>,
    queued: Arc<AtomicU64>,
    settings: watch::Receiver<Arc<Settings>>,
    recipients: watch::Receiver<Option<Recipients>>,
    preview: Option<Arc<dyn Preview>>,
    counters: Counters,
    status: watch::Sender<Status>,
    totals: Arc<std::sync::Mutex<Totals>>,
    ticks: u32,
    /// Who vouched best for the time, of what the journal was told in this run.
    vouched: TimeSource,
}

/// Handle to the recorder; cheap to clone. It is the [`Intake`] that ingest delivers to.
#[derive(Clone)]
pub struct RecorderHandle {
    queue: mpsc::UnboundedSender<Message>,
    queued: Arc<AtomicU64>,
    sessions: Arc<AtomicU64>,
    counters: Counters,
    status: watch::Receiver<Status>,
}

impl Recorder {
    /// A recorder on an opened store. `tap` sees each sealed frame after the lane took it. Without recipients nothing is
    /// recorded, and the status says `seal-no-key`.
    #[must_use]
    pub fn new(
        store: Store,
        settings: watch::Receiver<Arc<Settings>>,
        recipients: watch::Receiver<Option<Recipients>>,
        tap: Arc<dyn Tap>,
        preview: Option<Arc<dyn Preview>>,
        counters: Counters,
    ) -> (Self, RecorderHandle) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let queued = Arc::<AtomicU64>::default();
        let (status, watching) = watch::channel(Status::default());
        let core = Core::new(
            store.stand(),
            store.lane().clone(),
            tap,
            counters.clone(),
            settings.borrow().clone(),
            recipients.borrow().clone(),
        );
        let handle = RecorderHandle {
            queue,
            queued: queued.clone(),
            sessions: Arc::default(),
            counters: counters.clone(),
            status: watching,
        };
        let clock = store.stand().clock.clone();
        let totals = Arc::default();
        // `run started` has said this much.
        let vouched = clock.statement().source;
        let recorder = Self {
            store,
            core,
            clock,
            queue: receiver,
            queued,
            settings,
            recipients,
            preview,
            counters,
            status,
            totals,
            ticks: 0,
            vouched,
        };
        (recorder, handle)
    }

    /// Runs until `tasks` is told to stop; then ends every segment, and returns when all is durable. Start it with
    /// `tasks.spawn("recorder", recorder.run(tasks.clone()))` and stop it after ingest and before the relay.
    ///
    /// # Errors
    /// The last sync failed or took too long: what was not durable is lost.
    pub async fn run(mut self, tasks: Tasks) -> Result<(), Error> {
        let stopping = tasks.stopping();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut messages = Vec::with_capacity(AT_ONCE);
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                _ = tick.tick() => self.tick(&tasks),
                Ok(()) = self.settings.changed() => {
                    let settings = self.settings.borrow_and_update().clone();
                    self.core.set_settings(settings);
                }
                Ok(()) = self.recipients.changed() => {
                    let recipients = self.recipients.borrow_and_update().clone();
                    self.core.set_recipients(recipients, self.clock.statement());
                    self.publish();
                }
                n = self.queue.recv_many(&mut messages, AT_ONCE) => {
                    if n == 0 {
                        // Every handle is gone: nobody will ever deliver again.
                        break;
                    }
                    messages.drain(..).for_each(|message| self.message(message));
                }
            }
        }
        self.finish().await
    }

    /// What was delivered before the stop is still recorded; then everything is ended and made durable.
    async fn finish(mut self) -> Result<(), Error> {
        self.queue.close();
        while let Ok(message) = self.queue.try_recv() {
            self.message(message);
        }
        self.core.shut_down(self.clock.statement());
        let (answer, durable) = oneshot::channel();
        if !self.store.lane().send(Op::Stop(answer)) {
            return Err(Error::Stopped);
        }
        let durable = matches!(tokio::time::timeout(LAST_SYNC, durable).await, Ok(Ok(true)));
        self.publish();
        if durable { Ok(()) } else { Err(Error::Stopped) }
    }

    fn message(&mut self, message: Message) {
        let now = self.clock.statement();
        match message {
            Message::Open(camera, session) => self.core.session(camera, session),
            Message::Item(camera, session, item) => {
                self.queued.fetch_sub(weight(&item), Ordering::Relaxed);
                if !self.core.current(camera, session) {
                    self.counters.add("feed-superseded", 1);
                    return;
                }
                self.core.item(camera, &item, now);
                if let Some(preview) = &self.preview {
                    preview.item(camera, &item);
                }
            }
            Message::End(camera, session, reason) => {
                if let Some(preview) = self.preview.as_ref().filter(|_| self.core.current(camera, session)) {
                    preview.ended(camera);
                }
                self.core.ended(camera, session, reason, now);
                self.publish();
            }
            Message::Event(camera) => self.core.event(camera, now),
        }
    }

    fn tick(&mut self, tasks: &Tasks) {
        let second = self.ticks.is_multiple_of(2);
        self.core.tick(second, self.clock.statement());
        if self.ticks.is_multiple_of(TOTALS_EVERY) {
            // The catalog is on a disk: asked off the runtime, shown with the next status.
            let (store, totals, paired) = (self.store.clone(), self.totals.clone(), self.core.organisation());
            let ask = move || match store.totals(paired) {
                Ok(new) => *totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = new,
                Err(error) => tracing::warn!(error = crate::base::reason::chain(&error), "no totals"),
            };
            tasks.spawn("store-totals", async move {
                // A panic inside is logged by the runtime; the totals then stay as they are.
                let _ = tokio::task::spawn_blocking(ask).await;
            });
        }
        self.ticks = self.ticks.wrapping_add(1);
        self.state_time();
        if second {
            self.publish();
        }
    }

    /// Better knowledge of wall time goes to the journal: corrections are appended, never rewritten.
    fn state_time(&mut self) {
        let time = self.clock.statement();
        if time.source > self.vouched {
            self.store.lane().send(Op::Journal(JournalEntry::Time { time }, time.at));
            self.vouched = time.source;
        }
    }

    fn publish(&self) {
        let now: BootTime = self.clock.boottime();
        let (lane, shared) = (self.store.lane(), self.store.shared());
        let cameras = self.core.status(now);
        let totals = *self.totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let space = shared.space();
        let mut alarms = shared.alarms();
        alarms.extend(self.core.lacks_key().then_some("seal-no-key"));
        alarms.extend(lane.trouble());
        let live_only = cameras.iter().any(|camera| camera.state == crate::store::State::LiveOnly);
        alarms.extend(live_only.then_some("lane-overflow"));
        self.status.send_replace(Status {
            lane_used: lane.used(),
            lane_capacity: lane.capacity(),
            loss_bound: cameras.iter().map(|camera| camera.loss_bound).max().unwrap_or_default(),
            cameras,
            card_free: ByteCount(space.map_or(0, |space| space.free)),
            card_total: ByteCount(space.map_or(0, |space| space.total)),
            backlog_segments: totals.backlog_segments,
            backlog: totals.backlog,
            other_organisation_segments: totals.other_organisation,
            damaged_segments: totals.damaged,
            journal: shared.head(),
            alarms,
        });
    }
}

impl RecorderHandle {
    /// The state, republished every second and at each change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// An event (button, alarm) promotes the camera's background footage and records on.
    pub fn event(&self, camera: CameraId) {
        self.send(Message::Event(camera));
    }

    fn send(&self, message: Message) {
        if self.queue.send(message).is_err() {
            self.counters.add("recorder-stopped", 1);
        }
    }
}

impl Intake for RecorderHandle {
    fn open(&self, camera: CameraId) -> Box<dyn Feed> {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        self.send(Message::Open(camera, session));
        Box::new(Session { handle: self.clone(), camera, session, lost_since: None })
    }
}

struct Session {
    handle: RecorderHandle,
    camera: CameraId,
    session: u64,
    /// Capture of the first unit that the full queue did not take.
    lost_since: Option<BootTime>,
}

fn weight(item: &Item) -> u64 {
    match item {
        Item::Unit(unit) => unit.data.len() as u64 + 256,
        Item::Params(params) => params.config.len() as u64 + 256,
        Item::Gap(_) => 256,
    }
}

impl Feed for Session {
    fn push(&mut self, item: Item) {
        let weight = weight(&item);
        let queued = self.handle.queued.load(Ordering::Relaxed);
        if let (Item::Unit(unit), true) = (&item, queued + weight > QUEUE_AT_MOST) {
            self.lost_since.get_or_insert(unit.captured);
            self.handle.counters.add("recorder-queue-full", 1);
            return;
        }
        if let (Item::Unit(unit), Some(from)) = (&item, self.lost_since.take()) {
            let gap = Item::Gap(Gap { from, to: unit.captured, cause: GapCause::Overflow });
            self.handle.queued.fetch_add(256, Ordering::Relaxed);
            self.handle.send(Message::Item(self.camera, self.session, gap));
        }
        self.handle.queued.fetch_add(weight, Ordering::Relaxed);
        self.handle.send(Message::Item(self.camera, self.session, item));
    }

    fn end(self: Box<Self>, reason: &'static str) {
        self.handle.send(Message::End(self.camera, self.session, reason));
    }
}
