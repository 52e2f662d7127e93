//! Which bond belongs to which key, and which session of a box is the present one. Spec: `docs/spec/relay.md`, "Bonds".

use super::receive::Party;
use super::wire::Violation;
use super::wire::control::Hello;
use crate::base::ids::{BondId, BoxId, Digest, random_bytes};
use crate::base::units::Run;
use crate::trust::identity::Spki;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Which bond belongs to which key, and which session of a box is the present one; shared by all sessions.
#[derive(Clone, Default)]
pub struct Bonds(Arc<Mutex<BondTable>>);

#[derive(Default)]
struct BondTable {
    keys: HashMap<BondId, (Spki, u32)>,
    present: BTreeMap<BoxId, Present>,
    next: u64,
}

struct Present {
    session: u64,
    run: Run,
    challenge: mpsc::Sender<Digest>,
    stop: CancellationToken,
}

/// A session's place in the table; gives it back when dropped.
pub(super) struct Seat {
    bonds: Bonds,
    bond: BondId,
    box_id: BoxId,
    session: u64,
    pub stop: CancellationToken,
    pub challenges: mpsc::Receiver<Digest>,
}

impl Bonds {
    fn table(&self) -> std::sync::MutexGuard<'_, BondTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a seat. An older session of the same box is challenged if it claims another run (it may be a clone), and
    /// ended in any case: one link per box in this version.
    pub(super) fn join(&self, party: &Party, hello: &Hello) -> Result<(Seat, Option<Digest>), Violation> {
        let mut table = self.table();
        match table.keys.get_mut(&hello.bond) {
            Some((key, _)) if *key != party.identity => return Err(Violation::ForeignBond),
            Some((_, users)) => *users += 1,
            None => {
                table.keys.insert(hello.bond, (party.identity.clone(), 1));
            }
        }
        table.next += 1;
        let session = table.next;
        let (challenge, challenges) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let present = Present { session, run: hello.run, challenge, stop: stop.clone() };
        let mut challenged = None;
        if let Some(old) = table.present.insert(party.box_id, present) {
            let nonce = Digest(random_bytes());
            if old.run != hello.run && old.challenge.try_send(nonce).is_ok() {
                challenged = Some(nonce);
            } else {
                old.stop.cancel();
            }
        }
        drop(table);
        let seat = Seat { bonds: self.clone(), bond: hello.bond, box_id: party.box_id, session, stop, challenges };
        Ok((seat, challenged))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.bonds.table();
        if table.present.get(&self.box_id).is_some_and(|present| present.session == self.session) {
            table.present.remove(&self.box_id);
        }
        if let Some((_, users)) = table.keys.get_mut(&self.bond) {
            *users -= 1;
            if *users == 0 {
                table.keys.remove(&self.bond);
            }
        }
    }
}
