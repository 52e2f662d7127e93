//! Boxes on the line: accepts their links, checks who they are, and joins the relay to vault and viewers.
//!
//! Belongs here: the two traits that `relay::receive` asks for, and the accepting loop. Does not belong here: the protocol
//! (`relay`), what is stored and promised ([`super::vault`]).

use crate::base::chain::{Signed, Signer};
use crate::base::clock::Clock;
use crate::base::ids::{CameraId, OrganisationId, SegmentId};
use crate::base::reason::{self, Coded, Counters};
use crate::base::tasks::Tasks;
use crate::base::units::{BootTime, WallTime};
use crate::cloud::keys::Keys;
use crate::cloud::live::{Fragment, Hub};
use crate::cloud::sessions::Sessions;
use crate::cloud::vault::{self, JournalAnswer, MayErase, PairingState, Peer, Vault, VaultError};
use crate::relay::bonds::Bonds;
use crate::relay::quic::{Attempt, QuicListener};
use crate::relay::receive::{self, Answer, Begun, Erasable, Party, Shared, Trouble, Watcher};
use crate::relay::statement::{self, JournalAck};
use crate::relay::wire::control::{Held, Hello, Object, Span, Subscribe};
use crate::relay::wire::{LiveHead, Violation};
use crate::trust::identity::IdentityError;
use crate::trust::tls::{self, Refusals};
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Alarm: two runs of one box answer at the same time.
pub const CLONE: &str = "clone";
/// Handshakes and sessions at a time; more are dropped.
pub const MAX_LINKS: usize = 1024;

/// Why boxes cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BoxesError {
    /// The address cannot be had.
    #[error("UDP address {address} for boxes cannot be used: choose another with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No serving certificate.
    #[error("the serving certificate cannot be made")]
    Certificate(#[source] IdentityError),
}

impl Coded for BoxesError {
    fn code(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "boxes-listen",
            Self::Certificate(_) => "boxes-certificate",
        }
    }
}

/// Vault and viewers as the relay sees them.
struct Desk {
    vault: Vault,
    hub: Hub,
    sessions: Arc<Sessions>,
    receipt_key: Arc<dyn Signer>,
    clock: Clock,
}

fn peer(party: &Party) -> Peer {
    Peer { box_id: party.box_id, pairing: party.pairing }
}

fn trouble(error: &VaultError) -> Trouble {
    match error {
        VaultError::Outside { .. } => Trouble::Violation(Violation::Outside),
        VaultError::NotOffered(_) => Trouble::Violation(Violation::Unasked),
        VaultError::BadOffer { .. } => Trouble::Violation(Violation::Malformed),
        VaultError::UnknownBox(_) => Trouble::Violation(Violation::WrongParty),
        VaultError::Io { .. } | VaultError::Db(_) => {
            tracing::error!(error = reason::chain(error), "vault");
            Trouble::Failed(error.code())
        }
    }
}

fn answer(said: vault::Answer) -> Answer {
    match said {
        vault::Answer::Have(ranges) => {
            Answer::Have(ranges.to_send().iter().map(|range| Span(range.start, range.end)).collect())
        }
        vault::Answer::Committed(statement) => Answer::Committed(statement),
        vault::Answer::Rejected(reason) => Answer::Rejected(reason),
    }
}

impl receive::Vault for Desk {
    fn begin(&self, party: &Party, hello: &Hello) -> Result<Begun, Trouble> {
        // A fork is alarmed and blocks erasing; receiving goes on.
        self.vault.check_head(peer(party), hello.journal).map_err(|error| trouble(&error))?;
        let row = self.sessions.pairing_of(&party.identity).filter(|row| row.pairing == party.pairing);
        let row = row.ok_or(Trouble::Violation(Violation::WrongParty))?;
        let failed = |error: &vault::DbError| {
            tracing::error!(error = reason::chain(error), "vault");
            Trouble::Failed(error.code())
        };
        match self.sessions.activate(&row, self.now()).map_err(|error| failed(&error))? {
            PairingState::Pending | PairingState::Active => {}
            // Revoked while the link waited for HELLO.
            PairingState::Revoking => return Err(Trouble::Revoked),
            PairingState::Revoked => return Err(Trouble::Failed("unknown-box")),
        }
        let journal = self.vault.with_db(|db| db.journal_head(party.box_id)).map_err(|error| failed(&error))?;
        self.sessions.greeted(party.link);
        Ok(Begun { journal, receipts: None })
    }

    fn live(&self, party: &Party, head: &LiveHead, bytes: &[u8]) -> Result<(), Trouble> {
        let offset = head.frame.saturating_add(u64::from(head.offset));
        if offset.saturating_add(bytes.len() as u64) > vault::MAX_FILE {
            return Err(Trouble::Violation(Violation::Outside));
        }
        if !self.hub.is_watched(party.box_id, head.camera) {
            // Nobody asked for it, or not any more: the backlog brings it.
            self.vault.counters().add("live-unasked", 1);
            return Ok(());
        }
        self.vault.live(peer(party), head.segment, offset, bytes).map_err(|error| trouble(&error))
    }

    fn object(&self, party: &Party, object: &Object) -> Result<Answer, Trouble> {
        let offer =
            vault::Object { segment: object.segment, size: object.size, sha256: object.sha256, cut: object.cut };
        self.vault.object(peer(party), &offer).map(answer).map_err(|error| trouble(&error))
    }

    fn chunk(&self, party: &Party, segment: SegmentId, offset: u64, bytes: &[u8]) -> Result<Option<Answer>, Trouble> {
        let said = self.vault.chunk(peer(party), segment, offset, bytes);
        said.map(|said| said.map(answer)).map_err(|error| trouble(&error))
    }

    fn journal(&self, party: &Party, entries: &[Signed]) -> Result<receive::JournalAnswer, Trouble> {
        match self.vault.journal(peer(party), entries).map_err(|error| trouble(&error))? {
            JournalAnswer::Kept(head) => {
                let (organisation, box_id) = (party.organisation, party.box_id);
                let ack = JournalAck { organisation, box_id, head, at: self.now() };
                let signed = statement::sign(statement::JOURNAL_ACK, &ack, &*self.receipt_key);
                Ok(receive::JournalAnswer::Kept(signed))
            }
            JournalAnswer::SendAfter(head) => Ok(receive::JournalAnswer::After(head)),
            JournalAnswer::Forked => Ok(receive::JournalAnswer::Forked),
            JournalAnswer::Refused(code) => {
                tracing::warn!(box_id = %party.box_id, code, "journal entries refused");
                Err(Trouble::Violation(Violation::BadJournal))
            }
        }
    }

    fn erase(&self, party: &Party, asked: &[Held]) -> Result<Erasable, Trouble> {
        let asked: Vec<_> = asked.iter().map(|Held(segment, digest)| (*segment, *digest)).collect();
        let may = self.vault.may_erase(party.box_id, &asked).map_err(|error| trouble(&error))?;
        let with = |wanted: MayErase| {
            asked.iter().zip(&may).filter(|(_, may)| **may == wanted).map(|((segment, _), _)| *segment).collect()
        };
        Ok(Erasable { yes: with(MayErase::Yes), no: with(MayErase::No), unknown: with(MayErase::Unknown) })
    }

    fn revoked(&self, party: &Party) -> Result<(), Trouble> {
        let now = self.now();
        let stored = self.vault.with_db(|db| db.set_pairing_state(party.pairing, PairingState::Revoked, now));
        stored.map_err(|error| Trouble::Failed(error.code()))
    }

    fn credit(&self, _: &Party) -> u64 {
        self.vault.credit()
    }

    fn now(&self) -> WallTime {
        self.clock.statement().wall
    }
}

impl Watcher for Desk {
    fn live(&self, party: &Party, head: &LiveHead, bytes: &Bytes) {
        let fragment = Fragment {
            segment: head.segment,
            frame: head.frame,
            frame_len: head.frame_len,
            offset: head.offset,
            bytes: bytes.clone(),
        };
        self.hub.fragment(party.box_id, head.camera, &fragment);
    }

    fn cameras(&self, party: &Party, cameras: &[CameraId], at: BootTime) {
        for camera in self.sessions.set_cameras(party.link, cameras) {
            self.hub.state(party.box_id, camera, "offline");
        }
        for camera in cameras {
            self.hub.box_time(party.box_id, *camera, at);
        }
    }

    fn began(&self, party: &Party, hello: &Hello) {
        tracing::info!(box_id = %party.box_id, firmware = hello.firmware, "a box is connected");
    }

    fn ended(&self, party: &Party, reason: &str) {
        tracing::info!(box_id = %party.box_id, reason, "a box's session ended");
    }

    fn cloned(&self, party: &Party) {
        let text =
            "two runs of this box answer at the same time: its keys were copied. Revoke it and look at the vehicle";
        self.vault.alarm(CLONE, Some(party.box_id), None, text);
    }
}

/// The service that accepts boxes.
pub struct Boxes {
    listener: QuicListener,
    address: SocketAddr,
    organisation: OrganisationId,
    sessions: Arc<Sessions>,
    hub: Hub,
    shared: Shared,
    wanted: watch::Sender<Vec<Subscribe>>,
}

impl Boxes {
    /// Takes the address.
    ///
    /// # Errors
    /// `Listen`, `Certificate`.
    pub fn bind(
        listen: SocketAddr,
        keys: &Mutex<Keys>,
        vault: Vault,
        hub: Hub,
        sessions: Arc<Sessions>,
        clock: Clock,
        counters: Counters,
    ) -> Result<Self, BoxesError> {
        let (config, organisation, receipt_key) = {
            let keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
            let [active, _] = &keys.issuers;
            let certificate = active.issue(&keys.serving, keys.generation).map_err(BoxesError::Certificate)?;
            let refusals = Refusals::new(counters.clone());
            let config = tls::cloud_server(&keys.serving, certificate, sessions.clone(), refusals);
            let receipt_key: Arc<dyn Signer> = keys.receipt.clone();
            (config, keys.id(), receipt_key)
        };
        let failed = |source| BoxesError::Listen { address: listen, source };
        let listener = QuicListener::bind(listen, config).map_err(failed)?;
        let address = listener.address().map_err(failed)?;
        let wanted = watch::Sender::default();
        let desk = Arc::new(Desk { vault, hub: hub.clone(), sessions: sessions.clone(), receipt_key, clock });
        let shared = Shared {
            vault: desk.clone(),
            watcher: desk,
            bonds: Bonds::default(),
            wanted: wanted.subscribe(),
            counters,
        };
        Ok(Self { listener, address, organisation, sessions, hub, shared, wanted })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts boxes until told to stop, then waits for their sessions to end.
    pub async fn run(self, tasks: Tasks) {
        let stop = tasks.stopping();
        let mut looked_at = self.hub.wanted();
        looked_at.mark_changed();
        let room = Arc::new(tokio::sync::Semaphore::new(MAX_LINKS));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = looked_at.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.wanted.send_replace(looked_at.borrow_and_update().iter().map(|camera| page(*camera)).collect());
                }
                attempt = self.listener.accept() => {
                    let Some(attempt) = attempt else { break };
                    let Ok(place) = room.clone().try_acquire_owned() else {
                        self.shared.counters.add("boxes-busy", 1);
                        continue;
                    };
                    let (sessions, shared, organisation) = (self.sessions.clone(), self.shared.clone(), self.organisation);
                    let stop = stop.child_token();
                    tasks.spawn("box", async move {
                        let _place = place;
                        serve(attempt, organisation, &sessions, shared, stop).await;
                    });
                }
            }
        }
        // Sessions have the same signal; what is left of them a moment later is closed here.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), async {
            while self.sessions.any_connected() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        self.listener.close("shutdown");
    }
}

async fn serve(
    attempt: Attempt,
    organisation: OrganisationId,
    sessions: &Arc<Sessions>,
    shared: Shared,
    stop: tokio_util::sync::CancellationToken,
) {
    let Some(link) = attempt.finish().await else {
        shared.counters.add("box-handshake-failed", 1);
        return;
    };
    let Some(identity) = link.peer() else {
        shared.counters.add("box-handshake-failed", 1);
        return;
    };
    let asked = sessions.clone();
    let known = identity.clone();
    let row = tokio::task::spawn_blocking(move || asked.pairing_of(&known)).await.ok().flatten();
    // Revoked between handshake and now.
    let Some(row) = row.filter(|row| row.state != PairingState::Revoked) else {
        crate::relay::link::Link::close(&link, "unknown-box");
        return;
    };
    let revoked = row.state == PairingState::Revoking;
    let Some(session) = sessions.begin(row.box_id, stop) else {
        shared.counters.add("box-too-many-links", 1);
        crate::relay::link::Link::close(&link, "relay-too-many");
        return;
    };
    let (box_id, pairing, number) = (row.box_id, row.pairing, session.number);
    let party = Party { box_id, identity, pairing, organisation, revoked, link: number };
    receive::run(link, party, shared, session.stop.clone()).await;
}

/// What the local page asks of a box.
fn page(camera: CameraId) -> Subscribe {
    Subscribe {
        id: 0,
        camera,
        tracks: Vec::new(),
        max_latency_ms: 0,
        priority: 0,
        user: "local".into(),
        purpose: "live page".into(),
    }
}
