//! One session of the box over one link: says HELLO, then keeps live, backlog, journal and time going.
//!
//! The loop is `select → event`, then a synchronous step that ends by sending what may be sent now. Blocking calls of the
//! store run on the blocking pool and come back as events. Spec: `docs/spec/relay.md`, "Session of the box".

use super::backlog::{Action, Backlog};
use super::greet::{GREETING, greet, or_reason};
pub use super::ground::{Ended, Keeper, Party, Shared};
use super::link::{Class, Control, Link, SendError};
use super::live::{Outgoing, fragments};
use super::report::{Heard, Report};
use super::statement::{self, Committed, JournalAck};
use super::wire::control::{Blob, Held, Message};
use super::wire::io::{read_one, write_all};
use super::wire::{ChunkHead, MAX_LIST, Violation};
use crate::base::chain::Signed;
use crate::base::ids::{CameraId, SegmentId};
use crate::base::reason::Coded;
use crate::seal::Receipt;
use crate::trust::identity::{Generation, Spki};
use crate::trust::tls::{MAX_ISSUERS, Pins};
use bytes::Bytes;
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Live bytes that the transport may hold unacknowledged; the rest waits where it can expire.
const LIVE_IN_FLIGHT: usize = 1024 * 1024;
/// Backlog bytes under way: while live flows, and when it does not.
const BACKLOG_BESIDE_LIVE: u32 = 256 * 1024;
const BACKLOG_ALONE: u32 = 2 * 1024 * 1024;
const TIME_EVERY: Duration = Duration::from_secs(60);
const ERASE_EVERY: Duration = Duration::from_secs(10);
const JOURNAL_BATCH: usize = 64;
const ERASE_BATCH: usize = 64;
/// Answers of the cloud that the store may be working on; the next is read when one of them is done.
const MAX_ANSWERS: usize = 64;
/// Longest text, and most tracks, of a subscription.
const MAX_SUBSCRIPTION: usize = 256;

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
    /// It could not.
    Unsettled(SegmentId),
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
    /// What the cloud's answers made the store do.
    answers: JoinSet<Event>,
    backlog: Backlog,
    live_in_flight: usize,
    chunks_in_flight: u32,
    report: Report,
    /// The pairing is wiped: nothing is left but to hear the cloud close.
    revoked: bool,
    offers_busy: bool,
    offers_dirty: bool,
    time_asked: Option<Instant>,
    erase_asked: Option<Instant>,
    /// Named in the last ERASE?, until it is answered.
    erase_named: HashSet<SegmentId>,
    cameras: Option<Vec<CameraId>>,
}

/// Runs one session to its end.
pub async fn run<L: Link>(link: L, control: Control, party: Party, shared: Shared, stop: CancellationToken) -> Ended {
    let (mut reader, mut writer) = control;
    let welcome = match greet(&link, &mut reader, &mut writer, &party, &shared, &stop).await {
        Ok(welcome) => welcome,
        Err(Ended::Stopped) => return Ended::Stopped,
        Err(ended) => return close(&link, ended),
    };
    let (messages, queue) = mpsc::channel(256);
    let mut session = Session {
        link: link.clone(),
        party,
        report: Report::new(welcome.journal),
        shared: shared.clone(),
        control: messages,
        work: JoinSet::new(),
        answers: JoinSet::new(),
        backlog: Backlog::default(),
        live_in_flight: 0,
        chunks_in_flight: 0,
        revoked: false,
        offers_busy: false,
        offers_dirty: true,
        time_asked: None,
        erase_asked: None,
        erase_named: HashSet::new(),
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

fn close<L: Link>(link: &L, ended: Ended) -> Ended {
    link.close(match &ended {
        Ended::Stopped => "shutdown",
        Ended::Revoked => "revoked",
        Ended::Link(_) => "link",
        Ended::Violation(violation) => violation.code(),
    });
    ended
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
                Some(done) = self.answers.join_next() => done.unwrap_or(Event::Done),
                event = incoming.recv(), if self.answers.len() < MAX_ANSWERS => {
                    event.unwrap_or(Event::ControlEnded(Ok(())))
                }
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

    /// What a word of the cloud makes the store do: bounded by [`MAX_ANSWERS`].
    fn answer(&mut self, work: impl FnOnce() -> Event + Send + 'static) {
        self.answers.spawn_blocking(work);
    }

    /// A word that nobody asked for changes nothing; it may have crossed ours on its way.
    fn unasked(&self) {
        self.shared.counters.add("relay-unasked-answer", 1);
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
                self.backlog.unread(segment, len, Instant::now());
                self.offers_dirty = true;
            }
            Event::Journal(entries) => {
                if let Some(entries) = self.report.read(&entries, Instant::now()) {
                    self.tell(Message::Journal { entries });
                }
            }
            Event::JournalUnreadable => self.report.unreadable(Instant::now()),
            Event::Settled(segment) => {
                self.backlog.done(segment);
                self.offers_dirty = true;
            }
            Event::Unsettled(segment) => {
                self.backlog.set_aside(segment, Instant::now());
                self.offers_dirty = true;
            }
            Event::Offers(offers) => {
                self.offers_busy = false;
                self.backlog.offer(&offers, Instant::now());
            }
            Event::EraseCandidates(segments) => {
                if !segments.is_empty() {
                    self.erase_named = segments.iter().map(|Held(segment, _)| *segment).collect();
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
                if wanted.tracks.len().max(wanted.user.len()).max(wanted.purpose.len()) > MAX_SUBSCRIPTION {
                    return Some(Ended::Violation(Violation::Length));
                }
                if !self.shared.live().subscribe(wanted, now) {
                    return Some(Ended::Violation(Violation::TooMany));
                }
            }
            Message::Unsubscribe { id } => self.shared.live().unsubscribe(id),
            Message::Have { segment, ranges } => {
                if ranges.len() > MAX_LIST {
                    return Some(Ended::Violation(Violation::TooMany));
                }
                self.backlog.have(segment, &ranges, now);
            }
            Message::Committed { statement } => return self.committed(statement.0),
            Message::Rejected { segment, reason } => {
                if self.backlog.settle(segment).is_none() {
                    self.unasked();
                    return None;
                }
                self.shared.counters.add("backlog-rejected", 1);
                tracing::warn!(%segment, reason, "the cloud refused a segment");
                let source = self.shared.source.clone();
                self.answer(move || match source.rejected(segment, &reason) {
                    Ok(()) => Event::Settled(segment),
                    Err(error) => {
                        tracing::error!(%segment, %error, "a refused segment cannot be looked at");
                        Event::Unsettled(segment)
                    }
                });
            }
            Message::JournalAck { statement } => return self.acknowledged(statement.0),
            Message::JournalAfter { head } => self.report.after(head, now),
            Message::Erase { yes, no, unknown } => {
                if yes.len().max(no.len()).max(unknown.len()) > MAX_LIST {
                    return Some(Ended::Violation(Violation::TooMany));
                }
                let named = std::mem::take(&mut self.erase_named);
                let asked = |segments: Vec<SegmentId>| segments.into_iter().filter(|s| named.contains(s)).collect();
                let (yes, no, unknown): (Vec<_>, Vec<_>, Vec<_>) = (asked(yes), asked(no), asked(unknown));
                if yes.is_empty() && no.is_empty() && unknown.is_empty() {
                    self.unasked();
                    return None;
                }
                let source = self.shared.source.clone();
                self.answer(move || {
                    if let Err(error) = source.erase_answered(&yes, &no, &unknown) {
                        tracing::error!(%error, "erasing failed");
                    }
                    Event::Done
                });
            }
            Message::Pins { issuers, version, generation } => {
                if !(1..=MAX_ISSUERS).contains(&issuers.len()) {
                    return Some(Ended::Violation(Violation::Malformed));
                }
                let pins = Pins {
                    issuers: issuers.into_iter().map(|key| Spki(key.0)).collect(),
                    version,
                    generation: Generation(generation),
                };
                let (keeper, pairing) = (self.shared.keeper.clone(), self.party.pairing);
                self.answer(move || match keeper.pins(pairing, &pins) {
                    Ok(()) => Event::PinsStored(version),
                    Err(error) => {
                        tracing::error!(%error, version, "new pins cannot be stored");
                        Event::Done
                    }
                });
            }
            Message::Revoke { pairing } if pairing == self.party.pairing => {
                let keeper = self.shared.keeper.clone();
                self.answer(move || match keeper.revoked(pairing) {
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
        let Some(object) = self.backlog.object(said.segment) else {
            self.unasked();
            return None;
        };
        let ours = (said.organisation, said.box_id) == (party.organisation, party.box_id);
        if !ours || (said.size, said.sha256) != (object.size, object.sha256) {
            return Some(Ended::Violation(Violation::BadStatement));
        }
        if self.backlog.settle(said.segment).is_none() {
            self.unasked();
            return None;
        }
        let receipt = Receipt {
            segment: said.segment,
            size: said.size,
            sha256: said.sha256,
            opened: said.opened,
            statement: bytes,
        };
        let source = self.shared.source.clone();
        // Settled only then: until the receipt is stored the segment would be offered again.
        self.answer(move || match source.committed(&receipt) {
            Ok(()) => Event::Settled(receipt.segment),
            Err(error) => {
                tracing::error!(segment = %receipt.segment, %error, "a receipt cannot be stored");
                Event::Unsettled(receipt.segment)
            }
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
        if self.report.acknowledged(said.head) == Heard::Unasked {
            self.unasked();
            return None;
        }
        let source = self.shared.source.clone();
        self.answer(move || {
            if let Err(error) = source.journal_acknowledged(said.head, &bytes) {
                tracing::error!(%error, "an acknowledgement cannot be journaled");
            }
            Event::Done
        });
        None
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
            let wanted = self.backlog.wanted();
            self.block(move || match source.offers(organisation, wanted) {
                Ok(offers) => Event::Offers(offers),
                Err(error) => {
                    tracing::error!(%error, "the backlog cannot be read");
                    Event::Offers(Vec::new())
                }
            });
        }
        if let Some(known) = self.report.poll(self.shared.source.journal_head(), now) {
            let source = self.shared.source.clone();
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
