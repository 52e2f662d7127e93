//! Sessions of boxes: who is connected, who may connect.
//!
//! Belongs here: standing of client keys, the table of open sessions. Does not belong here: the protocol (`relay`).

use crate::base::ids::{BoxId, CameraId};
use crate::base::reason;
use crate::cloud::vault::{Database, PairingRow, PairingState, Vault};
use crate::trust::identity::Spki;
use crate::trust::tls::{KnownBoxes, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// The open sessions.
pub struct Sessions {
    vault: Vault,
    open: Mutex<BTreeMap<BoxId, Open>>,
}

struct Open {
    number: u64,
    cameras: BTreeSet<CameraId>,
    stop: CancellationToken,
}

/// One open session; dropping it closes it in the table, unless a newer one of the same box took its place.
pub struct Session<'a> {
    sessions: &'a Sessions,
    box_id: BoxId,
    number: u64,
    /// Told when the session must end.
    pub stop: CancellationToken,
}

impl Sessions {
    /// An empty table over the vault's pairings.
    #[must_use]
    pub fn new(vault: Vault) -> Self {
        Self { vault, open: Mutex::default() }
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

    /// A box's session begins. An older one of the same box is ended by the relay, once it knows whether it is a clone.
    #[must_use]
    pub fn begin(&self, box_id: BoxId) -> Session<'_> {
        let stop = CancellationToken::new();
        let mut open = self.open();
        let number = open.get(&box_id).map_or(0, |old| old.number + 1);
        open.insert(box_id, Open { number, cameras: BTreeSet::new(), stop: stop.clone() });
        Session { sessions: self, box_id, number, stop }
    }

    /// The cameras that stream on a box now; gives back those that no longer do.
    pub fn set_cameras(&self, box_id: BoxId, cameras: &[CameraId]) -> Vec<CameraId> {
        let mut table = self.open();
        let Some(open) = table.get_mut(&box_id) else { return Vec::new() };
        let before = std::mem::replace(&mut open.cameras, cameras.iter().copied().collect());
        before.difference(&open.cameras).copied().collect()
    }

    /// Whether any box has a session.
    #[must_use]
    pub fn any_connected(&self) -> bool {
        !self.open().is_empty()
    }

    /// Ends a box's session, for example because its pairing was revoked.
    pub fn close(&self, box_id: BoxId) {
        if let Some(open) = self.open().get(&box_id) {
            open.stop.cancel();
        }
    }

    /// Whether a box has a session.
    #[must_use]
    pub fn is_connected(&self, box_id: BoxId) -> bool {
        self.open().contains_key(&box_id)
    }

    /// Cameras of the connected boxes.
    #[must_use]
    pub fn cameras(&self) -> Vec<(CameraId, BoxId)> {
        let open = self.open();
        open.iter().flat_map(|(box_id, open)| open.cameras.iter().map(|camera| (*camera, *box_id))).collect()
    }

    /// Makes a pairing final at the first pinned session. The box's older pairings with us are over then.
    ///
    /// # Errors
    /// The database.
    pub fn activate(&self, row: &PairingRow, now: crate::base::units::WallTime) -> Result<(), super::vault::DbError> {
        self.vault.with_db(|db| {
            db.transaction(|db: &Database| {
                for other in db.pairings()?.iter().filter(|other| {
                    other.box_id == row.box_id && other.pairing != row.pairing && other.state == PairingState::Active
                }) {
                    db.set_pairing_state(other.pairing, PairingState::Revoked, now)?;
                }
                db.set_pairing_state(row.pairing, PairingState::Active, now)?;
                db.contact(row.box_id, now)
            })
        })
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<BoxId, Open>> {
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
        let mut open = self.sessions.open();
        if open.get(&self.box_id).is_some_and(|open| open.number == self.number) {
            open.remove(&self.box_id);
        }
    }
}
