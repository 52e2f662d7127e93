//! One session of a box on the cloud's side: checks who speaks, stores what comes, says what is kept.
//!
//! Streams are read by small tasks and handed, bounded, to one worker thread per session, so that a box's disk work keeps
//! its order and never blocks the runtime. Spec: `docs/spec/relay.md`, "Session of the cloud".

use super::bonds::{Bonds, Seat};
use super::link::Link;
use super::quic::{Fill, Incoming, QuicLink};
pub use super::vault::{Answer, Begun, Erasable, JournalAnswer, Party, Trouble, Vault, Watcher};
use super::wire::control::{Blob, Message, Subscribe, Welcome};
use super::wire::io::{read_one, write, write_all};
use super::wire::{ChunkHead, LiveHead, MAX_LIST, VERSION, Violation, stream};
use super::work::{Account, Job, Jobs, answer, work};
use crate::base::chain::{self, Signed};
use crate::base::ids::{CameraId, Digest};
use crate::base::reason::{Coded, Counters};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// HELLO must come within this, and REVOKED.
const GREETING: Duration = Duration::from_secs(10);
/// An older session that does not answer its challenge for this long is superseded without an alarm.
const CHALLENGE: Duration = Duration::from_secs(10);
/// A session that was told to stop and is stuck on a box that does not read is cut after this.
const STOPPING: Duration = Duration::from_secs(1);
/// Longest firmware name in HELLO, bytes.
const MAX_FIRMWARE: usize = 64;
/// Streams of one box that are read at a time.
const MAX_STREAMS: usize = 512;
/// Jobs that wait for a worker: at most this many pieces of 64 KiB.
const JOBS: usize = 128;

/// What all sessions share; cheap to clone.
#[derive(Clone)]
pub struct Shared {
    /// Storage.
    pub vault: Arc<dyn Vault>,
    /// Viewers.
    pub watcher: Arc<dyn Watcher>,
    /// Bonds and present sessions.
    pub bonds: Bonds,
    /// Cameras that somebody looks at, with what they want; of all boxes.
    pub wanted: watch::Receiver<Vec<Subscribe>>,
    /// Reasons.
    pub counters: Counters,
}

/// How a session ended: a stable code.
enum End {
    Quiet(String),
    Trouble(Trouble),
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Trouble(Trouble::Violation(violation))
    }
}

/// Runs one session to its end.
pub async fn run(link: QuicLink, party: Party, shared: Shared, stop: CancellationToken) {
    let party = Arc::new(party);
    let stuck = async {
        stop.cancelled().await;
        tokio::time::sleep(STOPPING).await;
    };
    let end = tokio::select! {
        end = serve(&link, &party, &shared, &stop) => match end {
            Ok(end) | Err(end) => end,
        },
        () = stuck => End::Quiet("shutdown".into()),
    };
    let code = match end {
        End::Quiet(code) => code,
        End::Trouble(Trouble::Violation(violation)) => {
            shared.counters.count(&violation);
            tracing::warn!(box_id = %party.box_id, code = violation.code(), "protocol violation");
            violation.code().to_owned()
        }
        End::Trouble(Trouble::Failed(code)) => {
            shared.counters.add(code, 1);
            code.to_owned()
        }
        End::Trouble(Trouble::Revoked) => "revoked".into(),
    };
    link.close(&code);
    shared.watcher.ended(&party, &code);
}

async fn serve(link: &QuicLink, party: &Arc<Party>, shared: &Shared, stop: &CancellationToken) -> Result<End, End> {
    let greeting = async {
        let (mut reader, writer) = link.accept_control().await.map_err(|_| Violation::NoControl)?;
        loop {
            match read_one(&mut reader).await {
                Ok(Some(Message::Hello(hello))) => return Ok((reader, writer, hello)),
                // A message of a later version that need not be understood.
                Ok(None) => {}
                Ok(Some(_)) => return Err(Violation::OutOfOrder),
                Err(Ok(())) => return Err(Violation::NoControl),
                Err(Err(violation)) => return Err(violation),
            }
        }
    };
    let (mut reader, mut writer, hello) = tokio::select! {
        biased;
        // Nothing was begun that must be brought to its end.
        () = stop.cancelled() => return Ok(End::Quiet("shutdown".into())),
        greeted = tokio::time::timeout(GREETING, greeting) => greeted.map_err(|_| Violation::NoControl)??,
    };
    if party.revoked {
        return revoke(link, party, shared, reader, writer).await;
    }
    if hello.min > VERSION || hello.max < VERSION {
        return Err(Violation::Version.into());
    }
    if hello.firmware.len() > MAX_FIRMWARE {
        return Err(Violation::Length.into());
    }
    if (hello.box_id, hello.organisation, hello.pairing) != (party.box_id, party.organisation, party.pairing) {
        return Err(Violation::WrongParty.into());
    }
    let (mut seat, challenged) = shared.bonds.join(party, &hello)?;
    let began = {
        let (vault, party, hello) = (shared.vault.clone(), party.clone(), hello.clone());
        tokio::task::spawn_blocking(move || vault.begin(&party, &hello))
            .await
            .map_err(|_| End::Trouble(Trouble::Failed("internal")))?
    };
    let began = match began {
        Ok(began) => began,
        Err(Trouble::Revoked) => return revoke(link, party, shared, reader, writer).await,
        Err(trouble) => return Err(End::Trouble(trouble)),
    };
    let welcome = Welcome {
        version: VERSION,
        features: 0,
        organisation: party.organisation,
        time: shared.vault.now(),
        journal: began.journal,
        receipts: began.receipts,
    };
    write(&mut writer, Message::Welcome(welcome)).await.map_err(|e| End::Quiet(e.to_string()))?;
    shared.watcher.began(party, &hello);

    let (control, queue) = mpsc::channel(256);
    let (prompt, live) = mpsc::channel(JOBS);
    let (backlog, files) = mpsc::channel(JOBS);
    let mut helpers = JoinSet::new();
    helpers.spawn(write_all(writer, queue));
    let (messages, mut incoming) = mpsc::channel(64);
    helpers.spawn(async move {
        loop {
            let read = match read_one(&mut reader).await {
                Ok(None) => continue,
                Ok(Some(message)) => Ok(message),
                Err(end) => Err(end),
            };
            let over = read.is_err();
            if messages.send(read).await.is_err() || over {
                return;
            }
        }
    });
    // Ends by itself when the last sender of jobs is gone.
    let account = Arc::<Account>::default();
    let worker = |todo| {
        let (vault, party, control, account) = (shared.vault.clone(), party.clone(), control.clone(), account.clone());
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let say = |message| answer(&runtime, &control, message);
            work(&*vault, &party, todo, &say, &account)
        })
    };
    let (mut prompt_worker, mut backlog_worker) = (worker(live), worker(files));
    let worker = async {
        tokio::select! {
            done = &mut prompt_worker => done,
            done = &mut backlog_worker => done,
        }
    };
    let mut session = Session {
        party: party.clone(),
        shared: shared.clone(),
        control,
        jobs: Jobs { prompt, backlog },
        pending: None,
        streams: JoinSet::new(),
        subscribed: BTreeMap::new(),
        watched: watch::Sender::default(),
        cameras: Vec::new(),
        next_subscription: 1,
        credit: None,
        account,
        // A clone is one only if the older session answers after the new one said HELLO.
        challenged,
        awaited: None,
    };
    let end = session.run(link, &mut incoming, &mut seat, worker, stop).await;
    drop(session);
    end
}

async fn revoke(
    link: &QuicLink,
    party: &Arc<Party>,
    shared: &Shared,
    mut reader: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
    mut writer: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
) -> Result<End, End> {
    let told = async {
        write(&mut writer, Message::Revoke { pairing: party.pairing }).await.map_err(|_| Violation::NoControl)?;
        loop {
            match read_one(&mut reader).await {
                Ok(Some(Message::Revoked { pairing })) if pairing == party.pairing => return Ok(()),
                // Whatever else it says is not for us any more.
                Ok(_) => {}
                Err(Ok(())) => return Err(Violation::NoControl),
                Err(Err(violation)) => return Err(violation),
            }
        }
    };
    tokio::time::timeout(GREETING, told).await.map_err(|_| End::Quiet("revoke-unanswered".into()))??;
    let (vault, party) = (shared.vault.clone(), party.clone());
    let stored = tokio::task::spawn_blocking(move || vault.revoked(&party)).await;
    match stored {
        Ok(Ok(())) => {}
        Ok(Err(trouble)) => return Err(End::Trouble(trouble)),
        Err(_) => return Err(End::Trouble(Trouble::Failed("internal"))),
    }
    link.close("revoked");
    Ok(End::Quiet("revoked".into()))
}

struct Session {
    party: Arc<Party>,
    shared: Shared,
    control: mpsc::Sender<Message>,
    jobs: Jobs,
    /// Waits for room in its queue; until then no message is read.
    pending: Option<Job>,
    streams: JoinSet<Result<(), Violation>>,
    subscribed: BTreeMap<CameraId, u32>,
    /// Their cameras, for those who read streams.
    watched: watch::Sender<BTreeSet<CameraId>>,
    cameras: Vec<CameraId>,
    next_subscription: u32,
    credit: Option<u64>,
    account: Arc<Account>,
    challenged: Option<Digest>,
    awaited: Option<(Digest, Instant)>,
}

impl Session {
    async fn run(
        &mut self,
        link: &QuicLink,
        incoming: &mut mpsc::Receiver<Result<Message, Result<(), Violation>>>,
        seat: &mut Seat,
        worker: impl Future<Output = Result<Result<(), Trouble>, tokio::task::JoinError>>,
        stop: &CancellationToken,
    ) -> Result<End, End> {
        // Faster than a round trip would help nobody; the disk's free space is looked at as often.
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wanted = self.shared.wanted.clone();
        wanted.mark_changed();
        let jobs = self.jobs.clone();
        tokio::pin!(worker);
        if self.challenged.is_some() {
            tracing::warn!(box_id = %self.party.box_id, "a new run of the box while an older session is open: asking it");
        }
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(End::Quiet("shutdown".into())),
                () = seat.stop.cancelled() => return Ok(End::Quiet("superseded".into())),
                reason = link.closed() => return Ok(End::Quiet(reason)),
                done = &mut worker => return match done {
                    Ok(Err(trouble)) => Err(End::Trouble(trouble)),
                    _ => Err(End::Trouble(Trouble::Failed("internal"))),
                },
                Some(nonce) = seat.challenges.recv() => {
                    self.awaited = Some((nonce, Instant::now()));
                    self.tell(Message::Challenge { nonce });
                }
                room = jobs.room(self.pending.as_ref()) => {
                    // A worker that is gone is noticed above.
                    if let (Ok(room), Some(job)) = (room, self.pending.take()) {
                        room.send(job);
                    }
                }
                message = incoming.recv(), if self.pending.is_none() => match message {
                    Some(Ok(message)) => self.message(message)?,
                    Some(Err(Err(violation))) => return Err(violation.into()),
                    Some(Err(Ok(()))) | None => return Ok(End::Quiet("relay-control-ended".into())),
                },
                stream = link.accept(), if self.streams.len() < MAX_STREAMS => match stream {
                    Ok(stream) => self.stream(stream),
                    Err(_) => return Ok(End::Quiet("link".into())),
                },
                Some(done) = self.streams.join_next() => match done {
                    Ok(Ok(())) => {}
                    Ok(Err(violation)) => return Err(violation.into()),
                    Err(_) => return Err(End::Trouble(Trouble::Failed("internal"))),
                },
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return Ok(End::Quiet("shutdown".into()));
                    }
                    wanted.borrow_and_update();
                    self.subscribe();
                }
                _ = tick.tick() => {
                    if self.awaited.is_some_and(|(_, since)| since.elapsed() >= CHALLENGE) {
                        return Ok(End::Quiet("superseded".into()));
                    }
                    self.tick();
                }
            }
        }
    }

    /// Puts a message on its way; false if the queue is full, which is counted.
    fn tell(&self, message: Message) -> bool {
        let queued = self.control.try_send(message).is_ok();
        if !queued {
            self.shared.counters.add("relay-control-full", 1);
        }
        queued
    }

    fn tick(&mut self) {
        let received = self.account.received.load(Ordering::Relaxed);
        let total = received.saturating_add(self.shared.vault.credit(&self.party));
        // The total never falls: what was allowed stays allowed, a full disk only stops its growth.
        if self.credit.is_none_or(|before| total > before) {
            // Allowed before it is said; when the queue is full it is said again at the next tick.
            self.account.allowed.store(total, Ordering::Relaxed);
            if self.tell(Message::Credit { total }) {
                self.credit = Some(total);
            }
        }
    }

    /// Subscribes to what somebody looks at and the box has, and ends what is over.
    fn subscribe(&mut self) {
        let wanted: Vec<Subscribe> = {
            let wanted = self.shared.wanted.borrow();
            wanted.iter().filter(|want| self.cameras.contains(&want.camera)).cloned().collect()
        };
        let over: Vec<_> = self
            .subscribed
            .keys()
            .filter(|camera| !wanted.iter().any(|want| want.camera == **camera))
            .copied()
            .collect();
        for camera in over {
            if let Some(id) = self.subscribed.remove(&camera) {
                self.tell(Message::Unsubscribe { id });
            }
        }
        for mut want in wanted {
            if self.subscribed.contains_key(&want.camera) {
                continue;
            }
            want.id = self.next_subscription;
            self.next_subscription += 1;
            self.subscribed.insert(want.camera, want.id);
            self.tell(Message::Subscribe(want));
        }
        self.watched.send_replace(self.subscribed.keys().copied().collect());
    }

    fn message(&mut self, message: Message) -> Result<(), End> {
        match message {
            Message::TimeAsk { at } => {
                self.tell(Message::Time { at, wall: self.shared.vault.now() });
            }
            Message::Object(object) => self.pending = Some(Job::Object(object)),
            Message::Journal { entries } => {
                let entries = entries
                    .iter()
                    .map(|Blob(frame)| match Signed::from_frame(frame) {
                        Ok((signed, used)) if used == frame.len() => Ok(signed),
                        Ok(_) | Err(chain::Error::Truncated) => Err(Violation::Malformed),
                        Err(_) => Err(Violation::BadJournal),
                    })
                    .collect::<Result<_, _>>()?;
                self.pending = Some(Job::Journal(entries));
            }
            Message::EraseAsk { segments } => {
                if segments.len() > MAX_LIST {
                    return Err(Violation::TooMany.into());
                }
                self.pending = Some(Job::Erase(segments));
            }
            Message::Cameras { cameras, at } => {
                if cameras.len() > MAX_LIST {
                    return Err(Violation::TooMany.into());
                }
                self.shared.watcher.cameras(&self.party, &cameras, at);
                self.cameras = cameras;
                // A camera that went away is subscribed to again when it is back.
                self.subscribe();
            }
            Message::Alive { nonce } => {
                if self.awaited.take().map(|(awaited, _)| awaited) != Some(nonce) {
                    return Err(Violation::OutOfOrder.into());
                }
                self.shared.watcher.cloned(&self.party);
                return Err(End::Quiet("superseded".into()));
            }
            Message::PinsStored { .. } | Message::CommandDone { .. } => {}
            Message::Command { id, .. } => {
                self.tell(Message::CommandDone { id, code: "unknown-command".into(), body: Blob(Vec::new()) });
            }
            _ => return Err(Violation::OutOfOrder.into()),
        }
        Ok(())
    }

    fn stream(&mut self, stream: Incoming) {
        let reader = StreamReader {
            jobs: self.jobs.clone(),
            party: self.party.clone(),
            watcher: self.shared.watcher.clone(),
            watched: self.watched.subscribe(),
            counters: self.shared.counters.clone(),
        };
        self.streams.spawn(reader.read(stream));
    }
}

/// Reads one stream: the fragments of a frame, or one chunk.
struct StreamReader {
    jobs: Jobs,
    party: Arc<Party>,
    watcher: Arc<dyn Watcher>,
    watched: watch::Receiver<BTreeSet<CameraId>>,
    counters: Counters,
}

impl StreamReader {
    /// A stream that the box gave up is no violation; one that it ended in the middle of a piece is.
    async fn read(self, mut stream: Incoming) -> Result<(), Violation> {
        let mut kind = [0];
        match stream.fill(&mut kind).await {
            Fill::Full => {}
            Fill::Short => return Err(Violation::Length),
            Fill::End | Fill::GivenUp => return Ok(()),
        }
        match kind[0] {
            stream::LIVE => self.live(stream).await,
            stream::CHUNK => self.chunk(stream).await,
            _ => Err(Violation::UnknownType),
        }
    }

    /// The fragments of one frame; the first byte was read.
    async fn live(&self, mut stream: Incoming) -> Result<(), Violation> {
        let mut frame = None;
        loop {
            let mut head = [0; LiveHead::SIZE];
            head[0] = stream::LIVE;
            if !filled(&mut stream, &mut head[1..]).await? {
                return Ok(());
            }
            let head = LiveHead::from_bytes(&head)?;
            let of = LiveHead { offset: 0, len: 0, ..head };
            if *frame.get_or_insert(of) != of {
                return Err(Violation::Malformed);
            }
            let mut bytes = vec![0; head.len as usize];
            if !filled(&mut stream, &mut bytes).await? {
                return Ok(());
            }
            if self.watched.borrow().contains(&head.camera) {
                let bytes = Bytes::from(bytes);
                self.watcher.live(&self.party, &head, &bytes);
                if !self.jobs.send(Job::Live(head, bytes)).await {
                    return Ok(());
                }
            } else {
                // On its way when the subscription ended, or never asked for.
                self.counters.add("live-unsubscribed", 1);
            }
            let mut kind = [0];
            match stream.fill(&mut kind).await {
                Fill::Full if kind[0] == stream::LIVE => {}
                // A stream carries one frame, or one chunk.
                Fill::Full => return Err(Violation::Malformed),
                Fill::Short => return Err(Violation::Length),
                Fill::End | Fill::GivenUp => return Ok(()),
            }
        }
    }

    /// One chunk; the first byte was read.
    async fn chunk(&self, mut stream: Incoming) -> Result<(), Violation> {
        let mut head = [0; ChunkHead::SIZE];
        head[0] = stream::CHUNK;
        if !filled(&mut stream, &mut head[1..]).await? {
            return Ok(());
        }
        let head = ChunkHead::from_bytes(&head)?;
        let mut bytes = vec![0; head.len as usize];
        if !filled(&mut stream, &mut bytes).await? {
            return Ok(());
        }
        let _ = self.jobs.send(Job::Chunk(head, bytes.into())).await;
        // Read to its end: a stream that is dropped before looks to the box as if it were refused.
        match stream.fill(&mut [0]).await {
            Fill::Full | Fill::Short => Err(Violation::Length),
            Fill::End | Fill::GivenUp => Ok(()),
        }
    }
}

/// Fills `buf` in the middle of a piece; false if the box gave the stream up.
async fn filled(stream: &mut Incoming, buf: &mut [u8]) -> Result<bool, Violation> {
    match stream.fill(buf).await {
        Fill::Full => Ok(true),
        Fill::GivenUp => Ok(false),
        Fill::End | Fill::Short => Err(Violation::Length),
    }
}
