//! The vault: sealed segments as received, what proves them, and the promises that the cloud made about them.
//!
//! Belongs here: receiving, verifying, committing, receipts, journals, permission to erase. Does not belong here: the
//! wire (`relay`), opening footage (`play`), who is connected. Spec: `docs/spec/relay.md`, "Store" and "Journal".
//!
//! ```text
//! DATA/vault.db                                  SQLite (see `db`)
//! DATA/segments/<box hex>/<segment>.part         being received
//! DATA/segments/<box hex>/<segment>.mvs          committed: exactly the card's bytes
//! DATA/segments/<box hex>/<segment>.tail         bytes received live at or beyond the card's cut, never merged
//! DATA/segments/<box hex>/<segment>-<n>.…        another object with the same id (conflict), kept beside
//! ```
//!
//! **Receiving**: (1) write at the offset; (2) `fdatasync` the file, at the latest a second later or after 4 MiB;
//! (3) SQLite: the ranges. HAVE names only ranges of step 3.
//!
//! **Cut**: (1) synced copy of the bytes at or beyond `cut` in `.tail`, folder synced; (2) SQLite: tail ranges, shrunk
//! ranges; (3) truncate; (4) answer HAVE.
//!
//! **Commit**: (1) `fdatasync` the whole file; (2) verify: SHA-256 as the journal states it, every signature, END, and
//! that the header names this segment, box and organisation; (3) rename `.part` to `.mvs`; (4) sync the folder;
//! (5) SQLite, one transaction: state, receipt number, signed receipt; (6) answer COMMITTED. A cut before 5 leaves a
//! partial file that is complete: the next OBJECT goes through the steps again. A cut after 5 leaves a committed file
//! whose receipt is given again to the next OBJECT.
//!
//! Locks: each file has its own; the database's is held for one transaction; no call waits for another file's disk.
//! All methods block on the disk: call them off the runtime.

mod commit;
mod db;
pub mod disk;
mod journal;
pub mod keyring;
mod part;
mod ranges;
pub mod read;
mod receipt;
#[cfg(test)]
pub(crate) mod tests;

pub use commit::MayErase;
pub use db::Db as Database;
pub use db::{Alarm, DbError, FileState, Origin, PairingRow, PairingState, SegmentRow, Tail, Totals};
pub use journal::JournalAnswer;
pub use keyring::Keyring;
pub use part::MAX_FILE;
pub use ranges::{MAX_SENT, Ranges};
pub use read::{Reader, StoredFile};
use receipt::statement;

use crate::base::chain::Signer;
use crate::base::clock::Clock;
use crate::base::ids::{BoxId, Digest, OrganisationId, PairingId, SegmentId};
use crate::base::reason::{Coded, Counters};
use crate::base::units::{ByteCount, WallTime};
use db::Db;
use disk::{Disk, Step};
use part::{Part, Source, Written};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Alarm: a box's journal does not extend what is known of it.
pub const JOURNAL_FORK: &str = "journal-fork";
/// Alarm: journal entries are on a card that was taken out before they were sent.
pub const JOURNAL_ELSEWHERE: &str = "journal-elsewhere";
/// Alarm: a partial file is shorter than the database says.
pub const FILE_SHORT: &str = "vault-file-short";
/// Alarm: a segment is sealed to a key that is not the organisation's.
pub const RECIPIENT_FOREIGN: &str = "recipient-foreign";
/// Alarm: a second object with the id of a known one.
pub const SEGMENT_CONFLICT: &str = "segment-conflict";
/// Alarm: a box erased what was never committed here.
pub const DESTROYED_UNCOMMITTED: &str = "destroyed-uncommitted";
/// Alarm: an object was refused twice.
pub const SEGMENT_REJECTED: &str = "segment-rejected";

/// Conflicting objects kept for one segment id; more are refused.
const MAX_VARIANTS: usize = 4;
/// Received bytes of one file that may wait for a sync.
const MAX_UNSYNCED: u64 = 4 * 1024 * 1024;
/// A partial file that got nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// Partial files open at one time; a box that opens more gets its oldest closed.
const MAX_OPEN: usize = 512;
/// Backlog bytes that a box may have under way when the disk has room.
const CREDIT: u64 = 32 * 1024 * 1024;

/// Why the vault did not do what a box asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The disk failed.
    #[error("vault: {doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The box is not known.
    #[error("box {0} is not paired")]
    UnknownBox(BoxId),
    /// Bytes outside any possible file, or outside the object.
    #[error("bytes {from}..{to} of segment {segment} lie outside the file")]
    Outside { segment: SegmentId, from: u64, to: u64 },
    /// A chunk of something that was not offered.
    #[error("chunk of segment {0}, which was not offered")]
    NotOffered(SegmentId),
    /// An offer that cannot be true.
    #[error("offer of segment {segment}: {what}")]
    BadOffer { segment: SegmentId, what: &'static str },
}

impl Coded for VaultError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "vault-io",
            Self::Db(_) => "vault-database",
            Self::UnknownBox(_) => "unknown-box",
            Self::Outside { .. } => "bytes-outside-object",
            Self::NotOffered(_) => "chunk-not-offered",
            Self::BadOffer { .. } => "bad-offer",
        }
    }
}

/// A session's box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Which box.
    pub box_id: BoxId,
    /// Under which agreement.
    pub pairing: PairingId,
}

/// What a box offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Which file.
    pub segment: SegmentId,
    /// Bytes.
    pub size: u64,
    /// Digest as the journal states it.
    pub sha256: Digest,
    /// Where recovery's END begins.
    pub cut: Option<u64>,
}

/// The answer to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These bytes are durable; send the rest.
    Have(Ranges),
    /// Kept: the signed receipt.
    Committed(Vec<u8>),
    /// Refused for good.
    Rejected(String),
}

/// The fields of a receipt, to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptFields {
    /// Owner.
    pub organisation: OrganisationId,
    /// For whom.
    pub peer: Peer,
    /// Which file.
    pub segment: SegmentId,
    /// Bytes.
    pub size: u64,
    /// Digest.
    pub sha256: Digest,
    /// The key unwrapped and the commitment matched.
    pub opened: bool,
    /// Never used twice.
    pub number: u64,
    /// Cloud time.
    pub at: WallTime,
}

/// What the vault is told when it opens.
pub struct Settings {
    /// The data folder.
    pub data: PathBuf,
    /// Whose footage is taken.
    pub organisation: OrganisationId,
    /// Credit ends when fewer bytes are free.
    pub keep_free: ByteCount,
    /// Time between a receipt and permission to erase.
    pub erase_after: Duration,
}

/// The open vault; cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    settings: Settings,
    disk: Disk,
    clock: Clock,
    receipt_key: Arc<dyn Signer>,
    counters: Counters,
    db: Mutex<Db>,
    keyring: RwLock<Keyring>,
    slots: Mutex<Slots>,
    /// Rows refused since the cloud started.
    refused: Mutex<HashSet<i64>>,
    room: Mutex<Room>,
}

type Slots = HashMap<(BoxId, SegmentId), Arc<Mutex<Slot>>>;

/// One segment that is being received.
#[derive(Default)]
struct Slot {
    /// The file that bytes go to; `None` when it is committed or refused.
    part: Option<Part>,
    touched: Option<Instant>,
}

/// Free space as last asked for.
struct Room {
    free: u64,
    asked: Option<Instant>,
}

impl Vault {
    /// Opens or creates the vault below `settings.data`.
    ///
    /// # Errors
    /// `Io`, `Db`.
    pub fn open(
        settings: Settings,
        disk: Disk,
        clock: Clock,
        receipt_key: Arc<dyn Signer>,
        keyring: Keyring,
        counters: Counters,
    ) -> Result<Self, VaultError> {
        let segments = settings.data.join("segments");
        disk.make_folder(&segments).map_err(|source| VaultError::Io { doing: "creating", path: segments, source })?;
        let db = Db::open(&db_path(&settings.data))?;
        Ok(Self(Arc::new(Inner {
            settings,
            disk,
            clock,
            receipt_key,
            counters,
            db: Mutex::new(db),
            keyring: RwLock::new(keyring),
            slots: Mutex::default(),
            refused: Mutex::default(),
            room: Mutex::new(Room { free: u64::MAX, asked: None }),
        })))
    }

    /// Writes bytes that came live. What cannot be stored (disk full, too scattered, not what is held) is counted and
    /// dropped: the backlog brings it again.
    ///
    /// # Errors
    /// `Io`, `Db`, `UnknownBox`, `Outside`.
    pub fn live(&self, peer: Peer, segment: SegmentId, offset: u64, bytes: &[u8]) -> Result<(), VaultError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > MAX_FILE {
            return Err(VaultError::Outside { segment, from: offset, to: end });
        }
        if self.free_bytes() < self.0.settings.keep_free.0 / 2 {
            self.0.counters.add("vault-full", 1);
            return Ok(());
        }
        let slot = self.slot(peer.box_id, segment);
        let mut slot = lock(&slot);
        self.open_part(&mut slot, peer.box_id, segment)?;
        let Some(part) = &mut slot.part else {
            self.0.counters.add("live-after-commit", 1);
            return Ok(());
        };
        // Bytes beyond the card's end belong to a run that is over: what was received of it is in the tail already.
        let limit = part.row.cut.or(part.row.object.map(|(size, _)| size)).unwrap_or(MAX_FILE);
        let usable = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = bytes.get(..usable).unwrap_or_default();
        if bytes.is_empty() {
            self.0.counters.add("live-beyond-cut", 1);
            return Ok(());
        }
        self.write(part, Source::Live, offset, bytes)?;
        if part.unsynced() > MAX_UNSYNCED {
            self.flush_part(part)?;
        }
        Ok(())
    }

    /// A finished file is offered.
    ///
    /// # Errors
    /// `Io`, `Db`, `UnknownBox`, `BadOffer`.
    pub fn object(&self, peer: Peer, offer: &Object) -> Result<Answer, VaultError> {
        let segment = offer.segment;
        if offer.size > MAX_FILE || offer.size == 0 {
            return Err(VaultError::BadOffer { segment, what: "size" });
        }
        if offer.cut.is_some_and(|cut| cut >= offer.size) {
            return Err(VaultError::BadOffer { segment, what: "cut beyond the end" });
        }
        let slot = self.slot(peer.box_id, segment);
        let mut slot = lock(&slot);
        slot.touched = Some(Instant::now());
        let stated = Some((offer.size, offer.sha256));
        if slot.part.as_ref().is_none_or(|part| part.row.object.is_some() && part.row.object != stated) {
            // Not the file in hand: look for the one that was offered like this, else for one without an offer.
            if let Some(part) = slot.part.as_mut() {
                self.flush_part(part)?;
            }
            slot.part = None;
            let rows = self.db().variants(peer.box_id, segment)?;
            let row = match rows.iter().find(|row| row.object == stated) {
                Some(row) if row.state == FileState::Committed => return self.committed_again(peer, row),
                Some(row) if row.state == FileState::Rejected && lock(&self.0.refused).contains(&row.id) => {
                    return Ok(Answer::Rejected(row.reason.clone().unwrap_or_default()));
                }
                // Refused before this start of the cloud: it may have been this machine's fault, so once more.
                Some(row) if row.state == FileState::Rejected => {
                    SegmentRow { state: FileState::Partial, attempts: 0, reason: None, ..row.clone() }
                }
                Some(row) => row.clone(),
                None => match rows.iter().find(|row| row.object.is_none()) {
                    Some(row) => row.clone(),
                    None => match self.new_variant(peer, segment, rows.len())? {
                        Ok(row) => row,
                        Err(refused) => return Ok(refused),
                    },
                },
            };
            slot.part = Some(self.part(row)?);
        }
        let Some(part) = &mut slot.part else { return Err(VaultError::NotOffered(segment)) };
        let path = part.path.clone();
        let io = |doing| move |source| VaultError::Io { doing, path, source };
        if part.row.object.is_none() {
            // Without a cut the object's size is where the card ended all the same.
            let end = offer.cut.unwrap_or(offer.size);
            if part.held().end() > end {
                if let Err(error) = part.move_tail(&self.0.disk, end).map_err(io("moving the tail of")) {
                    // The next OBJECT starts from what the database says.
                    slot.part = None;
                    return Err(error);
                }
                (part.row.object, part.row.cut) = (stated, offer.cut);
                self.store(part)?;
                part.drop_beyond(&self.0.disk, end).map_err(|source| VaultError::Io {
                    doing: "cutting",
                    path: part.path.clone(),
                    source,
                })?;
            }
            (part.row.object, part.row.cut) = (stated, offer.cut);
            part.touch();
        }
        self.flush_part(part)?;
        if part.row.have.covers(&(0..offer.size)) {
            return self.finish(peer, &mut slot);
        }
        Ok(Answer::Have(part.row.have.clone()))
    }

    /// Bytes of an offered file. An answer comes when the last ones are there.
    ///
    /// # Errors
    /// `Io`, `Db`, `Outside`, `NotOffered`.
    pub fn chunk(
        &self,
        peer: Peer,
        segment: SegmentId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Option<Answer>, VaultError> {
        let slot = self.slot(peer.box_id, segment);
        let mut slot = lock(&slot);
        slot.touched = Some(Instant::now());
        let Some((part, size)) = slot.part.as_mut().and_then(|p| p.row.object.map(|(size, _)| (p, size))) else {
            // A chunk that was still under way on another link when the file was committed.
            return if self.db().variants(peer.box_id, segment)?.iter().any(|row| row.state != FileState::Partial) {
                self.0.counters.add("chunk-after-commit", 1);
                Ok(None)
            } else {
                Err(VaultError::NotOffered(segment))
            };
        };
        let end = offset.saturating_add(bytes.len() as u64);
        if end > size {
            return Err(VaultError::Outside { segment, from: offset, to: end });
        }
        self.write(part, Source::Chunk, offset, bytes)?;
        if part.held().covers(&(0..size)) {
            return self.finish(peer, &mut slot).map(Some);
        }
        if part.unsynced() > MAX_UNSYNCED {
            self.flush_part(part)?;
        }
        Ok(None)
    }

    /// Makes everything received so far durable and closes idle files; to be called once a second.
    pub fn flush(&self) {
        let slots: Vec<_> = lock(&self.0.slots).iter().map(|(key, slot)| (*key, slot.clone())).collect();
        let crowded = slots.len() > MAX_OPEN;
        for (key, slot) in slots {
            let mut slot = lock(&slot);
            if let Some(part) = slot.part.as_mut().filter(|part| part.needs_flush())
                && let Err(error) = self.flush_part(part)
            {
                // The bytes stay unclaimed; the next second tries again.
                self.0.counters.count(&error);
                tracing::error!(segment = %key.1, error = crate::base::reason::chain(&error), "vault flush failed");
                continue;
            }
            let idle = if crowded { IDLE / 10 } else { IDLE };
            if slot.part.is_none() || slot.touched.is_none_or(|at| at.elapsed() > idle) {
                slot.part = None;
                drop(slot);
                self.forget_slot(key);
            }
        }
    }

    /// Backlog bytes that a box may have under way: 0 when the disk is nearly full.
    #[must_use]
    pub fn credit(&self) -> u64 {
        if self.free_bytes() < self.0.settings.keep_free.0 { 0 } else { CREDIT }
    }

    /// Free bytes on the vault's disk, at most a second old.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let mut room = lock(&self.0.room);
        if room.asked.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            room.free = disk::free_bytes(&self.0.settings.data).unwrap_or(u64::MAX);
            room.asked = Some(Instant::now());
        }
        room.free
    }

    /// The vault's counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Runs statements on the database, under its lock.
    ///
    /// # Errors
    /// `f`'s.
    pub fn with_db<T>(&self, f: impl FnOnce(&Db) -> Result<T, DbError>) -> Result<T, DbError> {
        f(&self.db())
    }

    /// Raises an alarm; a failing database is logged, because an alarm has no better place to go.
    pub fn alarm(&self, code: &'static str, box_id: Option<BoxId>, segment: Option<SegmentId>, text: &str) {
        self.0.counters.add(code, 1);
        match self.db().alarm(code, box_id, segment, text, self.now()) {
            Ok(true) => tracing::warn!(code, ?box_id, ?segment, text, "alarm"),
            Ok(false) => {}
            Err(error) => tracing::error!(code, text, error = crate::base::reason::chain(&error), "alarm not stored"),
        }
    }

    fn now(&self) -> WallTime {
        self.0.clock.statement().wall
    }

    fn db(&self) -> MutexGuard<'_, Db> {
        lock(&self.0.db)
    }

    fn slot(&self, box_id: BoxId, segment: SegmentId) -> Arc<Mutex<Slot>> {
        lock(&self.0.slots).entry((box_id, segment)).or_default().clone()
    }

    /// Drops an empty slot that nobody else holds.
    fn forget_slot(&self, key: (BoxId, SegmentId)) {
        let mut slots = lock(&self.0.slots);
        if slots.get(&key).is_some_and(|slot| Arc::strong_count(slot) <= 2 && lock(slot).part.is_none()) {
            slots.remove(&key);
        }
    }

    /// Opens the file that live bytes of a segment go to, if there still is one.
    fn open_part(&self, slot: &mut Slot, box_id: BoxId, segment: SegmentId) -> Result<(), VaultError> {
        slot.touched = Some(Instant::now());
        if slot.part.is_some() {
            return Ok(());
        }
        let rows = self.db().variants(box_id, segment)?;
        if rows.is_empty() {
            slot.part = Some(self.create_part(box_id, segment, 0)?);
        } else if let Some(row) = rows.into_iter().rfind(|row| row.state == FileState::Partial) {
            slot.part = Some(self.part(row)?);
        }
        Ok(())
    }

    fn create_part(&self, box_id: BoxId, segment: SegmentId, variant: u32) -> Result<Part, VaultError> {
        let folder = self.folder(box_id);
        let io = |source| VaultError::Io { doing: "creating", path: folder.clone(), source };
        self.0.disk.make_folder(&folder).map_err(io)?;
        let path = folder.join(format!("{}.part", stem(segment, variant)));
        self.0.disk.open(&path).and_then(|_| self.0.disk.sync_folder(&folder)).map_err(io)?;
        let row = {
            let db = self.db();
            if db.evidence(box_id)?.is_none() {
                return Err(VaultError::UnknownBox(box_id));
            }
            self.commit_step()?;
            let id = db.insert_segment(box_id, segment, variant, self.now())?;
            db.segment(id)?.ok_or(DbError::Malformed { what: "segment" })?
        };
        self.part(row)
    }

    fn part(&self, row: SegmentRow) -> Result<Part, VaultError> {
        let key = self.db().evidence(row.box_id)?.ok_or(VaultError::UnknownBox(row.box_id))?;
        let stem = stem(row.segment, row.variant);
        let folder = self.folder(row.box_id);
        let whole = folder.join(format!("{stem}.mvs"));
        // A cut between rename and commit: the whole file already has its final name.
        let path = if whole.exists() { whole } else { folder.join(format!("{stem}.part")) };
        let (box_id, segment) = (row.box_id, row.segment);
        let opening = |source| VaultError::Io { doing: "opening", path: path.clone(), source };
        let part = Part::open(&self.0.disk, path.clone(), row, key).map_err(opening)?;
        if part.short {
            self.0.counters.add(FILE_SHORT, 1);
            let text = "a file of the vault holds less than its database says; the rest is asked for again";
            self.alarm(FILE_SHORT, Some(box_id), Some(segment), text);
        }
        Ok(part)
    }

    /// A row for another object of the same id, or the refusal when there are too many.
    fn new_variant(
        &self,
        peer: Peer,
        segment: SegmentId,
        known: usize,
    ) -> Result<Result<SegmentRow, Answer>, VaultError> {
        if known > 0 {
            self.alarm(
                SEGMENT_CONFLICT,
                Some(peer.box_id),
                Some(segment),
                "the box offers another file with the id of one that was received: both are kept",
            );
        }
        if known >= MAX_VARIANTS {
            return Ok(Err(Answer::Rejected("conflict-limit".into())));
        }
        let variant = u32::try_from(known).unwrap_or(u32::MAX);
        Ok(Ok(self.create_part(peer.box_id, segment, variant)?.row))
    }

    fn write(&self, part: &mut Part, source: Source, offset: u64, bytes: &[u8]) -> Result<(), VaultError> {
        let path = part.path.clone();
        let written = part.write(&self.0.disk, source, offset, bytes).map_err(|source| VaultError::Io {
            doing: "writing",
            path,
            source,
        })?;
        match written {
            Written::New => {}
            Written::Known => self.0.counters.add("bytes-known", bytes.len() as u64),
            Written::Differs => self.0.counters.add("bytes-differ", bytes.len() as u64),
            Written::TooScattered => self.0.counters.add("bytes-too-scattered", bytes.len() as u64),
        }
        Ok(())
    }

    /// Receiving, steps 2 and 3.
    fn flush_part(&self, part: &mut Part) -> Result<(), VaultError> {
        if !part.needs_flush() {
            return Ok(());
        }
        let path = part.path.clone();
        part.sync(&self.0.disk).map_err(|source| VaultError::Io { doing: "syncing", path, source })?;
        self.store(part)
    }

    fn store(&self, part: &Part) -> Result<(), VaultError> {
        self.commit_step()?;
        Ok(self.db().update_segment(&part.row)?)
    }

    fn commit_step(&self) -> Result<(), VaultError> {
        let path = || db_path(&self.0.settings.data);
        self.0.disk.step(|| Step::Commit).map_err(|source| VaultError::Io { doing: "committing", path: path(), source })
    }

    fn folder(&self, box_id: BoxId) -> PathBuf {
        folder(&self.0.settings.data, box_id)
    }
}

/// An empty vault, for tests of its neighbours.
#[cfg(test)]
pub(crate) fn empty(data: &Path) -> Vault {
    let settings = Settings {
        data: data.into(),
        organisation: OrganisationId([0; 16]),
        keep_free: ByteCount(0),
        erase_after: Duration::ZERO,
    };
    let (clock, key) = (Clock::system(WallTime(0)), Arc::new(crate::base::chain::SoftwareSigner::generate()));
    Vault::open(settings, Disk::default(), clock, key, Keyring::default(), Counters::default()).expect("opens")
}

/// The database of a data folder.
#[must_use]
pub fn db_path(data: &Path) -> PathBuf {
    data.join("vault.db")
}

/// Where files of a box are.
#[must_use]
pub fn folder(data: &Path, box_id: BoxId) -> PathBuf {
    data.join("segments").join(box_id.to_string())
}

fn stem(segment: SegmentId, variant: u32) -> String {
    if variant == 0 { segment.to_string() } else { format!("{segment}-{variant}") }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere left no half-made state: every change ends in the database.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
