//! Carries out commands: one owner of what the cloud knows, one `apply`.
//!
//! Belongs here: the meaning of each [`Command`], status, the background work of the vault. Does not belong here: sockets,
//! pages, protocols, start-up order (see [`super::app`]).

use crate::base::clock::Clock;
use crate::base::ids::{BoxId, CameraId};
use crate::base::reason::{self, Coded, Counters};
use crate::base::tasks::Tasks;
use crate::cloud::audit::{Audit, local_user};
use crate::cloud::command::{BoxStatus, Command, Reply, Secret, Status};
use crate::cloud::keys::Keys;
use crate::cloud::live::Hub;
use crate::cloud::page::{Camera, Source};
use crate::cloud::pairing::Pairing;
use crate::cloud::sessions::Sessions;
use crate::cloud::vault::{DbError, PairingState, Vault};
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Files per transaction batch when opening what came while locked.
const OPEN_BATCH: u32 = 32;

/// Where the parts listen, for status.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Sessions of boxes, UDP.
    pub boxes: SocketAddr,
    /// Pairing, TCP.
    pub pairing: SocketAddr,
    /// The page.
    pub page: Option<SocketAddr>,
}

/// What the daemon does on request; shared by socket, page and background tasks.
pub struct Service {
    pub(super) keys: Arc<Mutex<Keys>>,
    pub(super) vault: Vault,
    pub(super) audit: Audit,
    pub(super) hub: Hub,
    pub(super) sessions: Arc<Sessions>,
    pub(super) pairing: Arc<Pairing>,
    pub(super) counters: Counters,
    pub(super) clock: Clock,
    pub(super) started: Instant,
    pub(super) addresses: Addresses,
    pub(super) unlocked: Notify,
}

/// A refusal: code and words.
struct Refusal(String, String);

impl<E: Coded + std::error::Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.code().into(), reason::chain(&error))
    }
}

impl Coded for DbError {
    fn code(&self) -> &'static str {
        "vault-database"
    }
}

impl Service {
    /// Carries out one command of the local user `uid`. Never panics; refusals are replies. Blocks on disk and on the
    /// passphrase's key derivation: call it off the runtime.
    pub fn apply(&self, command: Command, uid: u32) -> Reply {
        let who = local_user(uid);
        let (action, object) = describe(&command);
        let result = self.carry_out(command, uid);
        if let Some(action) = action {
            let outcome = result.as_ref().map_or_else(|refusal| refusal.0.as_str(), |_| "ok");
            if let Err(error) = self.audit.note(action, &who, &object, outcome) {
                // What cannot be audited is not given out. (A revocation that was done stays done: it errs on the safe side.)
                return Reply::Refused { code: error.code().into(), message: reason::chain(&error) };
            }
        }
        result.unwrap_or_else(|Refusal(code, message)| Reply::Refused { code, message })
    }

    fn carry_out(&self, command: Command, uid: u32) -> Result<Reply, Refusal> {
        match command {
            Command::Status => Ok(Reply::Status(Box::new(self.status()?))),
            Command::PairCreate { serial, host } => {
                let (code, valid) = self.pairing.create(serial, host)?;
                Ok(Reply::Code { code, valid_seconds: valid.as_secs() })
            }
            Command::PairRevoke { box_id } => self.revoke(box_id),
            Command::Unlock { passphrase } => {
                let keyring = self.keys().unlock(&passphrase)?;
                self.vault.set_keyring(keyring);
                self.unlocked.notify_one();
                Ok(Reply::Done)
            }
            Command::LendKeys { .. } => {
                // The socket's mode lets root and the daemon's own user in; the key goes to no other even if that changes.
                if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
                    let text = "the organisation key is lent only to the user that mvb-cloud runs as";
                    return Err(Refusal("cloud-no-permission".into(), text.into()));
                }
                let keyring = self.vault.keyring();
                if keyring.is_locked() {
                    return Err(Refusal(
                        "cloud-locked".into(),
                        "the organisation key is locked: run `mvb-cloud unlock`".into(),
                    ));
                }
                let secrets = keyring.secrets().iter().map(|s| Secret::new(HEX.encode(&*s.to_bytes()))).collect();
                Ok(Reply::Keys { secrets })
            }
            Command::RecoveryAdd { public, name } => {
                let id = self.keys().add_recovery(&public, &name, self.clock.statement().wall)?;
                let mut keyring = self.vault.keyring();
                keyring.add(id);
                self.vault.set_keyring(keyring);
                Ok(Reply::Recovery { id })
            }
            Command::AlarmClear { id } => {
                let who = local_user(uid);
                let now = self.clock.statement().wall;
                match self.vault.with_db(|db| db.clear_alarm(id, &who, now))? {
                    Some(_) => Ok(Reply::Done),
                    None => {
                        let text = format!("no open alarm {id}: see `mvb-cloud status`");
                        Err(Refusal("unknown-alarm".into(), text))
                    }
                }
            }
        }
    }

    fn revoke(&self, box_id: BoxId) -> Result<Reply, Refusal> {
        let now = self.clock.statement().wall;
        let rows = self.vault.with_db(super::vault::Database::pairings)?;
        let open: Vec<_> = rows
            .iter()
            .filter(|row| row.box_id == box_id && matches!(row.state, PairingState::Pending | PairingState::Active))
            .collect();
        if open.is_empty() {
            let text = format!("box {box_id} has no pairing that could be ended: see `mvb-cloud pair list`");
            return Err(Refusal("not-paired".into(), text));
        }
        for row in open {
            self.vault.with_db(|db| db.set_pairing_state(row.pairing, PairingState::Revoking, now))?;
        }
        self.sessions.close(box_id);
        Ok(Reply::Done)
    }

    fn status(&self) -> Result<Status, DbError> {
        let (pairings, totals, alarms) =
            self.vault.with_db(|db| Ok((db.pairings()?, db.totals(None)?, db.alarms()?)))?;
        let mut boxes = Vec::with_capacity(pairings.len());
        for row in pairings {
            let (head, totals, backlog) = self.vault.with_db(|db| {
                Ok((db.journal_head(row.box_id)?, db.totals(Some(row.box_id))?, db.backlog(row.box_id)?))
            })?;
            boxes.push(BoxStatus {
                box_id: row.box_id,
                pairing: row.pairing,
                state: row.state,
                serial: row.serial,
                connected: self.sessions.is_connected(row.box_id),
                last_contact: row.last_contact,
                journal_seq: head.map(|head| head.seq),
                totals,
                backlog,
                erase_blocked: row.erase_blocked,
            });
        }
        let (organisation, name) = {
            let keys = self.keys();
            (keys.id(), keys.name().to_owned())
        };
        Ok(Status {
            organisation,
            name,
            locked: self.vault.keyring().is_locked(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_seconds: self.started.elapsed().as_secs(),
            boxes_listen: self.addresses.boxes.to_string(),
            pairing_listen: self.addresses.pairing.to_string(),
            page: self.addresses.page.map(|address| format!("http://{address}/")),
            open_codes: self.pairing.open_codes(),
            boxes,
            totals,
            free_bytes: self.vault.free_bytes(),
            credit: self.vault.credit() > 0,
            alarms,
            reasons: self.counters.snapshot().into_iter().map(|(code, n)| (code.to_owned(), n)).collect(),
            viewers: self.hub.viewers(),
        })
    }

    /// Makes received bytes durable once a second, and opens what came while locked after an unlock.
    pub async fn background(self: Arc<Self>, tasks: Tasks) {
        let stop = tasks.stopping();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // A start with a passphrase opens what the last run left.
        self.unlocked.notify_one();
        loop {
            let open = tokio::select! {
                () = stop.cancelled() => break,
                _ = second.tick() => false,
                () = self.unlocked.notified() => true,
            };
            let service = self.clone();
            let work = tokio::task::spawn_blocking(move || {
                service.vault.flush();
                if open {
                    service.open_earlier();
                }
            });
            if work.await.is_err() {
                self.counters.add("vault-flush-panicked", 1);
            }
        }
        let service = self.clone();
        // The last bytes of a stopping daemon; if this is lost the box sends them again.
        let _ = tokio::task::spawn_blocking(move || service.vault.flush()).await;
    }

    fn open_earlier(&self) {
        let mut after = 0;
        loop {
            match self.vault.open_earlier(after, OPEN_BATCH) {
                Ok(Some(last)) => after = last,
                Ok(None) => break,
                Err(error) => {
                    self.counters.count(&error);
                    tracing::error!(error = reason::chain(&error), "opening earlier footage");
                    break;
                }
            }
            self.vault.flush();
        }
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Service {
    fn cameras(&self) -> Vec<Camera> {
        let rows = match self.vault.with_db(super::vault::Database::cameras) {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(error = reason::chain(&error), "listing cameras");
                return Vec::new();
            }
        };
        let mut list: BTreeMap<CameraId, Camera> = BTreeMap::new();
        for (camera, box_id) in rows.into_iter().chain(self.sessions.cameras()) {
            let connected = self.sessions.is_connected(box_id);
            let entry =
                list.entry(camera).or_insert_with(|| Camera { id: camera, name: camera.to_string(), connected });
            entry.connected |= connected;
        }
        list.into_values().collect()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let mut line = |name: &str, help: &str, value: u64| {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
        };
        if let Ok(status) = self.status() {
            line("mvb_cloud_locked", "1 while the organisation key is locked.", u64::from(status.locked));
            line("mvb_cloud_segments_committed", "Files complete, proven and durable.", status.totals.committed);
            line("mvb_cloud_segments_opened", "Committed files whose key opened.", status.totals.opened);
            line("mvb_cloud_segments_partial", "Files being received.", status.totals.partial);
            line("mvb_cloud_segments_rejected", "Files that did not verify.", status.totals.rejected);
            line("mvb_cloud_committed_bytes", "Bytes of committed files.", status.totals.committed_bytes);
            line("mvb_cloud_free_bytes", "Free bytes on the vault's disk.", status.free_bytes);
            line("mvb_cloud_alarms", "Alarms that nobody cleared.", status.alarms.len() as u64);
            let connected = status.boxes.iter().filter(|b| b.connected).count() as u64;
            line("mvb_cloud_boxes_connected", "Boxes with an open session.", connected);
            let backlog = status.boxes.iter().map(|b| b.backlog).sum();
            line("mvb_cloud_backlog_segments", "Files that boxes closed and that are not committed.", backlog);
            line("mvb_cloud_viewers", "Pictures being watched.", status.viewers as u64);
        }
        text.push_str(
            "# HELP mvb_reason_total Stops, drops, skips and refusals by code.\n# TYPE mvb_reason_total counter\n",
        );
        for (code, n) in self.counters.snapshot() {
            let _ = writeln!(text, "mvb_reason_total{{code=\"{code}\"}} {n}");
        }
        text
    }
}

/// Action and object for the audit log; reading is not audited.
fn describe(command: &Command) -> (Option<&'static str>, String) {
    match command {
        Command::Status => (None, String::new()),
        Command::PairCreate { serial, .. } => (Some("pair-create"), serial.clone().unwrap_or_else(|| "any box".into())),
        Command::PairRevoke { box_id } => (Some("pair-revoke"), box_id.to_string()),
        Command::Unlock { .. } => (Some("unlock"), "organisation key".into()),
        Command::LendKeys { purpose } => (Some("lend-keys"), purpose.clone()),
        Command::RecoveryAdd { name, .. } => (Some("recovery-add"), name.clone()),
        Command::AlarmClear { id } => (Some("alarm-clear"), id.to_string()),
    }
}
