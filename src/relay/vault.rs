//! What a session of the cloud stands on: storage and viewers, as traits that the cloud implements.

use super::wire::control::{Held, Hello, Object, Span};
use super::wire::{LiveHead, Violation};
use crate::base::chain::{Head, Signed};
use crate::base::ids::{BoxId, CameraId, OrganisationId, PairingId, SegmentId};
use crate::base::units::{BootTime, WallTime};
use crate::trust::identity::Spki;
use bytes::Bytes;

/// A box that has proved its key, and what is known of it.
#[derive(Debug, Clone)]
pub struct Party {
    /// Which box.
    pub box_id: BoxId,
    /// Its TLS key.
    pub identity: Spki,
    /// Their agreement.
    pub pairing: PairingId,
    /// Whose cloud this is.
    pub organisation: OrganisationId,
    /// It gets nothing but REVOKE.
    pub revoked: bool,
    /// Number of its link; no two have the same.
    pub link: u64,
}

/// Why storing did not go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The box's fault: the session is closed with the code.
    Violation(Violation),
    /// Ours: the session is closed with a stable code, and the box comes again.
    Failed(&'static str),
    /// The pairing has ended, which the box does not know yet: it gets nothing but REVOKE. Only from [`Vault::begin`].
    Revoked,
}

/// The answer to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These bytes are durable.
    Have(Vec<Span>),
    /// The signed statement.
    Committed(Vec<u8>),
    /// Refused for good, by a stable code.
    Rejected(String),
}

/// The answer to journal entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalAnswer {
    /// Durable; the signed statement.
    Kept(Vec<u8>),
    /// Send those after this head.
    After(Option<Head>),
    /// They contradict what is known: an alarm was raised, nothing was stored. The session goes on.
    Forked,
}

/// The answer to ERASE?.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erasable {
    /// These may go.
    pub yes: Vec<SegmentId>,
    /// These are held, and must stay on the card all the same.
    pub no: Vec<SegmentId>,
    /// These are not held with that digest: the box must not rely on its receipt, and offers them again.
    pub unknown: Vec<SegmentId>,
}

/// What the vault says at the start of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The box's journal as stored.
    pub journal: Option<Head>,
    /// Highest receipt number given to the box.
    pub receipts: Option<u64>,
}

/// Where a session's bytes go. Every method but `credit` and `now`, which answer at once, blocks on the disk and is called
/// off the runtime. A session calls it from two threads at a time: one for OBJECT and CHUNK, one for everything else.
///
/// Contract: an offset is written once. Bytes that differ from what a verified checkpoint covers are never written;
/// equal ranges from two links are one write. `Have` names only bytes that were synced before they were recorded.
pub trait Vault: Send + Sync {
    /// A session begins: compares journal heads, confirms a pending pairing, notes the contact.
    ///
    /// # Errors
    /// See [`Trouble`]; the same for all others.
    fn begin(&self, party: &Party, hello: &Hello) -> Result<Begun, Trouble>;
    /// Bytes that came live.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn live(&self, party: &Party, head: &LiveHead, bytes: &[u8]) -> Result<(), Trouble>;
    /// A finished file is offered.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn object(&self, party: &Party, object: &Object) -> Result<Answer, Trouble>;
    /// Bytes of an offered file; an answer when it is complete.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn chunk(&self, party: &Party, segment: SegmentId, offset: u64, bytes: &[u8]) -> Result<Option<Answer>, Trouble>;
    /// Consecutive journal entries.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn journal(&self, party: &Party, entries: &[Signed]) -> Result<JournalAnswer, Trouble>;
    /// Which of these may be erased now.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn erase(&self, party: &Party, asked: &[Held]) -> Result<Erasable, Trouble>;
    /// The box has wiped the pairing.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn revoked(&self, party: &Party) -> Result<(), Trouble>;
    /// Chunk bytes that the box may have under way; 0 when there is no room.
    fn credit(&self, party: &Party) -> u64;
    /// Wall time.
    fn now(&self) -> WallTime;
}

/// Who is told about live footage. Never blocks.
pub trait Watcher: Send + Sync {
    /// A fragment came.
    fn live(&self, party: &Party, head: &LiveHead, bytes: &Bytes);
    /// The cameras that stream on the box now, at this instant of its boot time.
    fn cameras(&self, party: &Party, cameras: &[CameraId], at: BootTime);
    /// The session began.
    fn began(&self, party: &Party, hello: &Hello);
    /// It ended, for a stable reason.
    fn ended(&self, party: &Party, reason: &str);
    /// Two sessions of one box answer at the same time: its key was copied.
    fn cloned(&self, party: &Party);
}
