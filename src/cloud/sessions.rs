//! Sessions of boxes: who is connected, who may connect.
//!
//! Belongs here: standing of client keys, the table of open sessions. Does not belong here: the protocol (`relay`).

use crate::base::ids::{BoxId, CameraId};
use crate::base::reason;
use crate::base::units::WallTime;
use crate::cloud::vault::{Database, DbError, PairingRow, PairingState, Vault};
use crate::trust::identity::Spki;
use crate::trust::tls::{KnownBoxes, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Links of one box that have not said HELLO: one that hangs, and the one that the box tries next.
const SILENT_LINKS: usize = 2;
/// Links of one box in all: one works, the others were superseded or challenged and end within seconds.
const BOX_LINKS: usize = 8;

/// The open links of boxes, by their number.
pub struct Sessions {
    vault: Vault,
    open: Mutex<BTreeMap<u64, Open>>,
    numbers: AtomicU64,
}

struct Open {
    box_id: BoxId,
    /// It said HELLO and was let in.
    greeted: bool,
    cameras: BTreeSet<CameraId>,
    stop: CancellationToken,
}

/// One open link; dropping it takes it out of the table.
pub struct Session<'a> {
    sessions: &'a Sessions,
    /// Its place in the table; no two links have the same.
    pub number: u64,
    /// Told when the session must end.
    pub stop: CancellationToken,
}

impl Sessions {
    /// An empty table over the vault's pairings.
    #[must_use]
    pub fn new(vault: Vault) -> Self {
        Self { vault, open: Mutex::default(), numbers: AtomicU64::new(0) }
    }

    /// The newest pairing of a TLS identity.
    #[must_use]
    pub fn pairing_of(&self, identity: &Spki) -> Option<PairingRow> {
        match self.vault.with_db(|db| db.pairing_of_identity(&identity.0)) {
            Ok(row) => row,
            Err(error) => {
                tracing::error!(error = reason::chain(&error), "looking a box up");
                None
            }
        }
    }

    /// A box has a link; `None` if it has too many. Of those that said nothing yet the oldest is ended for it. A session
    /// that works is ended by the relay, once it knows whether the new one is a clone.
    #[must_use]
    pub fn begin(&self, box_id: BoxId, stop: CancellationToken) -> Option<Session<'_>> {
        let mut open = self.open();
        if open.values().filter(|link| link.box_id == box_id).count() >= BOX_LINKS {
            return None;
        }
        let silent: Vec<_> = open
            .values()
            .filter(|link| link.box_id == box_id && !link.greeted && !link.stop.is_cancelled())
            .map(|link| link.stop.clone())
            .collect();
        for old in silent.iter().take((silent.len() + 1).saturating_sub(SILENT_LINKS)) {
            old.cancel();
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        open.insert(number, Open { box_id, greeted: false, cameras: BTreeSet::new(), stop: stop.clone() });
        Some(Session { sessions: self, number, stop })
    }

    /// The link said HELLO and was let in.
    pub fn greeted(&self, number: u64) {
        if let Some(link) = self.open().get_mut(&number) {
            link.greeted = true;
        }
    }

    /// The cameras that stream on a box now; gives back those that no longer do.
    pub fn set_cameras(&self, number: u64, cameras: &[CameraId]) -> Vec<CameraId> {
        let mut table = self.open();
        let Some(open) = table.get_mut(&number) else { return Vec::new() };
        let before = std::mem::replace(&mut open.cameras, cameras.iter().copied().collect());
        before.difference(&open.cameras).copied().collect()
    }

    /// Whether any box has a link.
    #[must_use]
    pub fn any_connected(&self) -> bool {
        !self.open().is_empty()
    }

    /// Ends every link of a box, with or without a session, for example because its pairing was revoked.
    pub fn close(&self, box_id: BoxId) {
        for link in self.open().values().filter(|link| link.box_id == box_id) {
            link.stop.cancel();
        }
    }

    /// Whether a box has a session.
    #[must_use]
    pub fn is_connected(&self, box_id: BoxId) -> bool {
        self.open().values().any(|link| link.box_id == box_id && link.greeted)
    }

    /// Cameras of the connected boxes.
    #[must_use]
    pub fn cameras(&self) -> Vec<(CameraId, BoxId)> {
        let open = self.open();
        open.values().flat_map(|link| link.cameras.iter().map(|camera| (*camera, link.box_id))).collect()
    }

    /// Makes a pairing final at the first pinned session, unless it ended in the meantime; gives its state. The box's
    /// older pairings with us are over then.
    ///
    /// # Errors
    /// The database.
    pub fn activate(&self, row: &PairingRow, now: WallTime) -> Result<PairingState, DbError> {
        self.vault.with_db(|db| {
            db.transaction(|db: &Database| {
                let state = db.pairing(row.pairing)?.map_or(PairingState::Revoked, |row| row.state);
                if matches!(state, PairingState::Revoking | PairingState::Revoked) {
                    return Ok(state);
                }
                for other in db.pairings()?.iter().filter(|other| {
                    other.box_id == row.box_id && other.pairing != row.pairing && other.state == PairingState::Active
                }) {
                    db.set_pairing_state(other.pairing, PairingState::Revoked, now)?;
                }
                db.set_pairing_state(row.pairing, PairingState::Active, now)?;
                db.contact(row.box_id, now)?;
                Ok(PairingState::Active)
            })
        })
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownBoxes for Sessions {
    fn standing(&self, identity: &Spki) -> Standing {
        match self.pairing_of(identity).map(|row| row.state) {
            Some(PairingState::Pending | PairingState::Active) => Standing::Known,
            // Completes TLS until it confirmed, so that it can be told.
            Some(PairingState::Revoking) => Standing::Revoked,
            Some(PairingState::Revoked) | None => Standing::Unknown,
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.sessions.open().remove(&self.number);
    }
}
