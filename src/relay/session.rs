//! One session of the box over one link: says HELLO, then keeps live, backlog, journal and time going.
//!
//! The loop is `select → event`, then a synchronous step that ends by sending what may be sent now. Blocking calls of the
//! store run on the blocking pool and come back as events. Spec: `docs/spec/relay.md`, "Session of the box".

use super::backlog::{Action, Backlog};
pub use super::ground::{Ended, Keeper, Party, Shared};
use super::link::{Class, Control, Link, SendError};
use super::live::{Outgoing, fragments};
use super::statement::{self, Committed, JournalAck};
use super::wire::control::{Blob, Held, Hello, Message, Welcome};
use super::wire::io::{read_one, write, write_all};
use super::wire::{ChunkHead, MAX_CONTROL, VERSION, Violation};
use crate::base::chain::{Head, Signed};
use crate::base::ids::{CameraId, SegmentId};
use crate::base::reason::Coded;
use crate::seal::{JournalEntry, Receipt};
use crate::trust::identity::{Generation, Spki};
use crate::trust::tls::Pins;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// HELLO to WELCOME.
const GREETING: Duration = Duration::from_secs(10);
/// Live bytes that the transport may hold unacknowledged; the rest waits where it can expire.
const LIVE_IN_FLIGHT: usize = 1024 * 1024;
/// Backlog bytes under way: while live flows, and when it does not.
const BACKLOG_BESIDE_LIVE: u32 = 256 * 1024;
const BACKLOG_ALONE: u32 = 2 * 1024 * 1024;
/// Journal entries are sent at the latest after this, even if they say nothing but that earlier ones were acknowledged.
const JOURNAL_AT_LEAST: Duration = Duration::from_secs(50);
const TIME_EVERY: Duration = Duration::from_secs(60);
const ERASE_EVERY: Duration = Duration::from_secs(10);
/// The journal is looked at this often; what it says about acknowledgements alone would otherwise be read without end.
const JOURNAL_EVERY: Duration = Duration::from_secs(1);
/// After it could not be read, or the cloud names a head that it does not have.
const JOURNAL_AFTER_FAILURE: Duration = Duration::from_secs(10);
const JOURNAL_BATCH: usize = 64;
const ERASE_BATCH: usize = 64;

enum Event {
    Message(Message),
    ControlEnded(Result<(), Violation>),
    LiveSent {
        bytes: usize,
        result: Result<(), SendError>,
    },
    ChunkSent {
        segment: SegmentId,
        len: u32,
        result: Result<(), SendError>,
    },
    /// The file cannot be read now; it is offered again later.
    ChunkUnreadable {
        segment: SegmentId,
        len: u32,
    },
    Journal(Vec<Signed>),
    JournalUnreadable,
    /// The store has kept what the cloud said of it.
    Settled(SegmentId),
    Offers(Vec<crate::seal::SegmentOffer>),
    EraseCandidates(Vec<Held>),
    Done,
    Revoked,
    RevokedLongAgo,
    PinsStored(u64),
}

struct Session<L: Link> {
    link: L,
    party: Party,
    shared: Shared,
    control: mpsc::Sender<Message>,
    work: JoinSet<Event>,
    backlog: Backlog,
    live_in_flight: usize,
    chunks_in_flight: u32,
    known: Option<Head>,
    journal_busy: bool,
    journal_sent: Option<Instant>,
    journal_next: Option<Instant>,
    /// The pairing is wiped: nothing is left but to hear the cloud close.
    revoked: bool,
    offers_busy: bool,
    offers_dirty: bool,
    time_asked: Option<Instant>,
    erase_asked: Option<Instant>,
    cameras: Option<Vec<CameraId>>,
}

/// Runs one session to its end.
pub async fn run<L: Link>(link: L, control: Control, party: Party, shared: Shared, stop: CancellationToken) -> Ended {
    let (mut reader, mut writer) = control;
    let hello = Message::Hello(Hello {
        min: VERSION,
        max: VERSION,
        features: 0,
        box_id: party.box_id,
        organisation: party.organisation,
        pairing: party.pairing,
        bond: party.bond,
        run: party.run,
        at: shared.clock.boottime(),
        journal: shared.source.journal_head(),
        receipts: None,
        firmware: party.firmware.clone(),
    });
    let greeting = async {
        write(&mut writer, hello).await.map_err(|error| Ended::Link(error.to_string()))?;
        read(&mut reader).await
    };
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => return Ended::Stopped,
        greeted = tokio::time::timeout(GREETING, greeting) => match greeted {
            Err(_) => return close(&link, Ended::Link("relay-greeting-timeout".into())),
            Ok(Err(ended)) => return close(&link, or_reason(&link, ended).await),
            Ok(Ok(message)) => message,
        },
    };
    let welcome = match first {
        Message::Welcome(welcome) => welcome,
        Message::Revoke { pairing } if pairing == party.pairing => {
            let keeper = shared.keeper.clone();
            if !matches!(tokio::task::spawn_blocking(move || keeper.revoked(pairing)).await, Ok(Ok(()))) {
                return close(&link, Ended::Link("revoke-not-stored".into()));
            }
            let _ = write(&mut writer, Message::Revoked { pairing }).await;
            // The cloud closes once it has heard; it asks again if this was lost.
            let _ = tokio::time::timeout(GREETING, link.closed()).await;
            return close(&link, Ended::Revoked);
        }
        _ => return close(&link, Ended::Violation(Violation::OutOfOrder)),
    };
    if let Err(violation) = check(&welcome, &party) {
        return close(&link, Ended::Violation(violation));
    }
    let keeper = shared.keeper.clone();
    let pairing = party.pairing;
    if !matches!(tokio::task::spawn_blocking(move || keeper.began(pairing)).await, Ok(Ok(()))) {
        return close(&link, Ended::Link("pairing-not-stored".into()));
    }
    let (messages, queue) = mpsc::channel(256);
    let mut session = Session {
        link: link.clone(),
        party,
        known: welcome.journal,
        shared: shared.clone(),
        control: messages,
        work: JoinSet::new(),
        backlog: Backlog::default(),
        live_in_flight: 0,
        chunks_in_flight: 0,
        journal_busy: false,
        journal_sent: None,
        journal_next: None,
        revoked: false,
        offers_busy: false,
        offers_dirty: true,
        time_asked: None,
        erase_asked: None,
        cameras: None,
    };
    let (events, incoming) = mpsc::channel(64);
    let mut helpers = JoinSet::new();
    helpers.spawn(write_all(writer, queue));
    helpers.spawn(async move {
        let ended = loop {
            match read_one(&mut reader).await {
                Ok(Some(message)) => {
                    if events.send(Event::Message(message)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(ended) => break ended,
            }
        };
        let _ = events.send(Event::ControlEnded(ended)).await;
    });
    let ended = session.run(incoming, stop).await;
    shared.live().reset();
    close(&link, ended)
}

fn check(welcome: &Welcome, party: &Party) -> Result<(), Violation> {
    if welcome.version != VERSION {
        return Err(Violation::Version);
    }
    if welcome.organisation == party.organisation { Ok(()) } else { Err(Violation::WrongParty) }
}

fn close<L: Link>(link: &L, ended: Ended) -> Ended {
    link.close(match &ended {
        Ended::Stopped => "shutdown",
        Ended::Revoked => "revoked",
        Ended::Link(_) => "link",
        Ended::Violation(violation) => violation.code(),
    });
    ended
}

/// A broken stream says little; the link's own reason says why.
async fn or_reason<L: Link>(link: &L, ended: Ended) -> Ended {
    match ended {
        Ended::Link(_) => match tokio::time::timeout(Duration::from_millis(200), link.closed()).await {
            Ok(reason) => Ended::Link(reason),
            Err(_) => ended,
        },
        other => other,
    }
}

impl<L: Link> Session<L> {
    async fn run(&mut self, mut incoming: mpsc::Receiver<Event>, stop: CancellationToken) -> Ended {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let link = self.link.clone();
        let shared = self.shared.clone();
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                reason = link.closed() => return if self.revoked { Ended::Revoked } else { Ended::Link(reason) },
                event = incoming.recv() => event.unwrap_or(Event::ControlEnded(Ok(()))),
                Some(done) = self.work.join_next() => done.unwrap_or(Event::Done),
                () = shared.live_bell.notified() => Event::Done,
                () = shared.store_bell.notified() => { self.offers_dirty = true; Event::Done }
                _ = tick.tick() => { self.offers_dirty = true; self.tick(); Event::Done }
            };
            if let Some(ended) = self.apply(event) {
                return match ended {
                    _ if self.revoked => Ended::Revoked,
                    Ended::Link(_) => or_reason(&link, ended).await,
                    other => other,
                };
            }
            if !self.revoked {
                self.send();
            }
        }
    }

    fn tell(&self, message: Message) {
        // A control queue that is full means a dead link; the idle time-out ends it.
        if self.control.try_send(message).is_err() {
            self.shared.counters.add("relay-control-full", 1);
        }
    }

    /// Time, cameras, erasing.
    fn tick(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>, every| at.is_none_or(|at| now.duration_since(at) >= every);
        if due(self.time_asked, TIME_EVERY) {
            self.time_asked = Some(now);
            self.tell(Message::TimeAsk { at: self.shared.clock.boottime() });
        }
        let cameras = self.shared.live().streaming(now);
        if self.cameras.as_ref() != Some(&cameras) {
            self.cameras = Some(cameras.clone());
            self.tell(Message::Cameras { cameras, at: self.shared.clock.boottime() });
        }
        if due(self.erase_asked, ERASE_EVERY) {
            self.erase_asked = Some(now);
            let (source, organisation) = (self.shared.source.clone(), self.party.organisation);
            self.block(move || match source.erase_candidates(organisation, ERASE_BATCH) {
                Ok(found) => Event::EraseCandidates(found.into_iter().map(|(s, d)| Held(s, d)).collect()),
                Err(_) => Event::Done,
            });
        }
    }

    fn block(&mut self, work: impl FnOnce() -> Event + Send + 'static) {
        self.work.spawn_blocking(work);
    }

    fn apply(&mut self, event: Event) -> Option<Ended> {
        match event {
            Event::Message(message) => return self.message(message),
            Event::ControlEnded(Ok(())) => return Some(Ended::Link("relay-control-ended".into())),
            Event::ControlEnded(Err(violation)) => return Some(Ended::Violation(violation)),
            Event::LiveSent { bytes, result } => {
                self.live_in_flight -= bytes;
                if result == Err(SendError::Expired) {
                    self.shared.counters.add("live-expired", 1);
                }
            }
            Event::ChunkSent { segment, len, result } => {
                self.chunks_in_flight -= len;
                match result {
                    Ok(()) => self.backlog.acked(segment, Instant::now()),
                    Err(_) => self.backlog.lost(segment),
                }
            }
            Event::ChunkUnreadable { segment, len } => {
                self.chunks_in_flight -= len;
                self.shared.counters.add("backlog-unreadable", 1);
                self.backlog.unread(segment, len);
            }
            Event::Journal(entries) => self.journal(entries),
            Event::JournalUnreadable => {
                self.journal_busy = false;
                self.journal_next = Some(Instant::now() + JOURNAL_AFTER_FAILURE);
            }
            Event::Settled(segment) => {
                self.backlog.done(segment);
                self.offers_dirty = true;
            }
            Event::Offers(offers) => {
                self.offers_busy = false;
                self.backlog.offer(&offers);
            }
            Event::EraseCandidates(segments) => {
                if !segments.is_empty() {
                    self.tell(Message::EraseAsk { segments });
                }
            }
            Event::Revoked => {
                self.revoked = true;
                self.tell(Message::Revoked { pairing: self.party.pairing });
                // The cloud closes once it has heard; a cloud that does not changes nothing here.
                self.work.spawn(async {
                    tokio::time::sleep(GREETING).await;
                    Event::RevokedLongAgo
                });
            }
            Event::RevokedLongAgo => return Some(Ended::Revoked),
            Event::PinsStored(version) => self.tell(Message::PinsStored { version }),
            Event::Done => {}
        }
        None
    }

    fn message(&mut self, message: Message) -> Option<Ended> {
        let now = Instant::now();
        match message {
            Message::Time { at, wall } => {
                let rtt = self.shared.clock.boottime().since(at);
                let half = u64::try_from(rtt.as_millis() / 2).unwrap_or(u64::MAX);
                let wall = crate::base::units::WallTime(wall.0.saturating_add(i64::try_from(half).unwrap_or(0)));
                self.shared.clock.heard_from_cloud(wall, half.saturating_add(1));
            }
            Message::Credit { total } => self.backlog.credit(total),
            Message::Subscribe(wanted) => {
                if !self.shared.live().subscribe(wanted, now) {
                    return Some(Ended::Violation(Violation::TooMany));
                }
            }
            Message::Unsubscribe { id } => self.shared.live().unsubscribe(id),
            Message::Have { segment, ranges } => {
                if ranges.len() > 256 {
                    return Some(Ended::Violation(Violation::TooMany));
                }
                self.backlog.have(segment, &ranges, now);
            }
            Message::Committed { statement } => return self.committed(statement.0),
            Message::Rejected { segment, reason } => {
                self.shared.counters.add("backlog-rejected", 1);
                tracing::warn!(%segment, reason, "the cloud refused a segment");
                let source = self.shared.source.clone();
                self.block(move || {
                    if let Err(error) = source.rejected(segment, &reason) {
                        tracing::error!(%segment, %error, "a refused segment cannot be looked at");
                    }
                    Event::Settled(segment)
                });
            }
            Message::JournalAck { statement } => return self.acknowledged(statement.0),
            Message::JournalAfter { head } => {
                self.known = head;
                self.journal_busy = false;
                self.journal_sent = None;
                self.journal_next = None;
            }
            Message::Erase { yes, no } => {
                let source = self.shared.source.clone();
                self.block(move || {
                    if let Err(error) = source.erase_answered(&yes, &no) {
                        tracing::error!(%error, "erasing failed");
                    }
                    Event::Done
                });
            }
            Message::Pins { issuers, version, generation } => {
                let pins = Pins {
                    issuers: issuers.into_iter().map(|key| Spki(key.0)).collect(),
                    version,
                    generation: Generation(generation),
                };
                let (keeper, pairing) = (self.shared.keeper.clone(), self.party.pairing);
                self.block(move || match keeper.pins(pairing, &pins) {
                    Ok(()) => Event::PinsStored(version),
                    Err(error) => {
                        tracing::error!(%error, version, "new pins cannot be stored");
                        Event::Done
                    }
                });
            }
            Message::Revoke { pairing } if pairing == self.party.pairing => {
                let keeper = self.shared.keeper.clone();
                self.block(move || match keeper.revoked(pairing) {
                    Ok(()) => Event::Revoked,
                    Err(error) => {
                        tracing::error!(%error, "the end of the pairing cannot be stored");
                        Event::Done
                    }
                });
            }
            Message::Challenge { nonce } => self.tell(Message::Alive { nonce }),
            Message::Command { id, .. } => {
                self.tell(Message::CommandDone { id, code: "unknown-command".into(), body: Blob(Vec::new()) });
            }
            Message::CommandDone { .. } => {}
            _ => return Some(Ended::Violation(Violation::OutOfOrder)),
        }
        None
    }

    fn committed(&mut self, bytes: Vec<u8>) -> Option<Ended> {
        let said: Committed = match statement::open(statement::COMMITTED, &bytes, &self.party.receipt_key) {
            Ok(said) => said,
            Err(violation) => return Some(Ended::Violation(violation)),
        };
        let party = &self.party;
        let object = self.backlog.object(said.segment)?;
        let ours = (said.organisation, said.box_id) == (party.organisation, party.box_id);
        if !ours || (said.size, said.sha256) != (object.size, object.sha256) {
            return Some(Ended::Violation(Violation::BadStatement));
        }
        let receipt = Receipt {
            segment: said.segment,
            size: said.size,
            sha256: said.sha256,
            opened: said.opened,
            statement: bytes,
        };
        let source = self.shared.source.clone();
        self.block(move || {
            if let Err(error) = source.committed(&receipt) {
                tracing::error!(segment = %receipt.segment, %error, "a receipt cannot be stored");
            }
            // Only now: until it is stored the segment would be offered again.
            Event::Settled(receipt.segment)
        });
        None
    }

    fn acknowledged(&mut self, bytes: Vec<u8>) -> Option<Ended> {
        let said: JournalAck = match statement::open(statement::JOURNAL_ACK, &bytes, &self.party.receipt_key) {
            Ok(said) => said,
            Err(violation) => return Some(Ended::Violation(violation)),
        };
        if (said.organisation, said.box_id) != (self.party.organisation, self.party.box_id) {
            return Some(Ended::Violation(Violation::BadStatement));
        }
        self.known = Some(said.head);
        self.journal_busy = false;
        let source = self.shared.source.clone();
        self.block(move || {
            if let Err(error) = source.journal_acknowledged(said.head, &bytes) {
                tracing::error!(%error, "an acknowledgement cannot be journaled");
            }
            Event::Done
        });
        None
    }

    fn journal(&mut self, entries: Vec<Signed>) {
        self.journal_busy = false;
        // An acknowledgement is an entry too: alone it waits, or box and cloud would acknowledge each other for ever.
        let news = entries.iter().any(|signed| {
            !matches!(
                JournalEntry::decode(signed.entry.kind, &signed.entry.body),
                Ok(Some(JournalEntry::Acknowledged { .. }))
            )
        });
        let waited = self.journal_sent.is_none_or(|at| at.elapsed() >= JOURNAL_AT_LEAST);
        if entries.is_empty() || !(news || waited) {
            return;
        }
        let mut size = 0;
        let fits = |signed: &&Signed| {
            size += signed.bytes.len() + 80;
            size < MAX_CONTROL - 1024
        };
        let entries = entries.iter().take_while(fits).map(|signed| Blob(signed.to_frame())).collect();
        self.journal_busy = true;
        self.journal_sent = Some(Instant::now());
        self.tell(Message::Journal { entries });
    }

    /// Sends what may be sent now: live first.
    fn send(&mut self) {
        let now = Instant::now();
        while self.live_in_flight < LIVE_IN_FLIGHT {
            let Some(next) = self.shared.live().poll(now) else { break };
            self.send_live(next);
        }
        let waiting = self.shared.live().is_waiting();
        let beside = self.live_in_flight > 0;
        let room = if beside { BACKLOG_BESIDE_LIVE } else { BACKLOG_ALONE };
        while !waiting && self.chunks_in_flight < room {
            match self.backlog.poll(now) {
                Some(Action::Offer(object)) => self.tell(Message::Object(object)),
                Some(Action::Chunk { segment, offset, len }) => self.send_chunk(segment, offset, len),
                None => break,
            }
        }
        if self.offers_dirty && !self.offers_busy && self.backlog.room() > 0 {
            (self.offers_dirty, self.offers_busy) = (false, true);
            let (source, organisation) = (self.shared.source.clone(), self.party.organisation);
            self.block(move || match source.offers(organisation, 2 * super::backlog::MAX_OBJECTS) {
                Ok(offers) => Event::Offers(offers),
                Err(error) => {
                    tracing::error!(%error, "the backlog cannot be read");
                    Event::Offers(Vec::new())
                }
            });
        }
        let head = self.shared.source.journal_head();
        let due = self.journal_next.is_none_or(|at| at <= now);
        if !self.journal_busy && due && head != self.known {
            self.journal_busy = true;
            self.journal_next = Some(now + JOURNAL_EVERY);
            let (source, known) = (self.shared.source.clone(), self.known);
            self.block(move || match source.journal(known, JOURNAL_BATCH) {
                Ok(entries) => Event::Journal(entries),
                Err(error) => {
                    tracing::error!(%error, "the journal cannot be read from where the cloud has it");
                    Event::JournalUnreadable
                }
            });
        }
    }

    fn send_live(&mut self, next: Outgoing) {
        let pieces = fragments(&next);
        let bytes = next.frame.bytes.len();
        self.live_in_flight += bytes;
        let link = self.link.clone();
        self.work.spawn(async move {
            let result = link.send(next.class, pieces, Some(next.deadline)).await;
            Event::LiveSent { bytes, result }
        });
    }

    fn send_chunk(&mut self, segment: SegmentId, offset: u64, len: u32) {
        self.chunks_in_flight += len;
        let (link, source) = (self.link.clone(), self.shared.source.clone());
        self.work.spawn(async move {
            let read = tokio::task::spawn_blocking(move || source.read(segment, offset, len as usize)).await;
            match read {
                Ok(Ok(bytes)) if bytes.len() == len as usize => {
                    let head = Bytes::copy_from_slice(&ChunkHead { segment, offset, len }.to_bytes());
                    let result = link.send(Class::Backlog, vec![head, bytes], None).await;
                    Event::ChunkSent { segment, len, result }
                }
                _ => Event::ChunkUnreadable { segment, len },
            }
        });
    }
}

async fn read(reader: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<Message, Ended> {
    loop {
        match read_one(reader).await {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {}
            Err(Ok(())) => return Err(Ended::Link("relay-control-ended".into())),
            Err(Err(violation)) => return Err(Ended::Violation(violation)),
        }
    }
}
