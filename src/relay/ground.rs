//! What a session of the box stands on: whom it speaks for, what it shares with other sessions, how it ends.

use super::live::Live;
use super::wire::Violation;
use crate::base::chain::PublicKey;
use crate::base::clock::Clock;
use crate::base::ids::{BondId, BoxId, OrganisationId, PairingId};
use crate::base::reason::Counters;
use crate::base::units::Run;
use crate::seal::SegmentSource;
use crate::trust::tls::Pins;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What the box keeps because the cloud said so. Durable when a call returns; may block.
pub trait Keeper: Send + Sync {
    /// The first words on a pinned session: a pending pairing is confirmed by it.
    ///
    /// # Errors
    /// It could not be stored.
    fn began(&self, pairing: PairingId) -> io::Result<()>;
    /// New pins.
    ///
    /// # Errors
    /// They could not be stored, or may not replace the present ones.
    fn pins(&self, pairing: PairingId, pins: &Pins) -> io::Result<()>;
    /// The cloud ended the pairing: wipe identity and address, nothing else.
    ///
    /// # Errors
    /// It could not be stored; the cloud will say it again.
    fn revoked(&self, pairing: PairingId) -> io::Result<()>;
}

/// Who speaks with whom.
#[derive(Debug, Clone)]
pub struct Party {
    /// The box.
    pub box_id: BoxId,
    /// The cloud's organisation.
    pub organisation: OrganisationId,
    /// Their agreement.
    pub pairing: PairingId,
    /// The key that signs the cloud's statements.
    pub receipt_key: PublicKey,
    /// This set of links.
    pub bond: BondId,
    /// This run.
    pub run: Run,
    /// Firmware, at most 64 bytes.
    pub firmware: String,
}

/// What sessions of a box share; cheap to clone.
#[derive(Clone)]
pub struct Shared {
    /// Frames for viewers.
    pub live: Arc<Mutex<Live>>,
    /// Rung when `live` has something new.
    pub live_bell: Arc<Notify>,
    /// Rung when the store has something new.
    pub store_bell: Arc<Notify>,
    /// Finished segments and journal.
    pub source: Arc<dyn SegmentSource>,
    /// Where the cloud's time goes.
    pub clock: Clock,
    /// Pins, revocation.
    pub keeper: Arc<dyn Keeper>,
    /// Reasons.
    pub counters: Counters,
}

impl Shared {
    /// The live half; hold it shortly.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Asked to stop.
    Stopped,
    /// The pairing is over; everything is wiped.
    Revoked,
    /// The link broke, or the cloud closed it; its code.
    Link(String),
    /// The cloud broke the protocol.
    Violation(Violation),
}
