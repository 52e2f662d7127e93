//! The store's handle: finished segments and the journal for the relay, recordings for people.
//!
//! Reads go to the card and to a connection of their own; whatever changes something runs on the writer's thread.

use crate::base::chain::{Head, PublicKey, Signed};
use crate::base::ids::{Digest, OrganisationId, SegmentId};
use crate::base::reason::Counters;
use crate::base::units::BootTime;
use crate::seal::{JournalEntry, Receipt, SegmentOffer, SegmentSource};
use crate::store::catalog::{Catalog, Totals};
use crate::store::journal;
use crate::store::lane::{Lane, Op};
use crate::store::recovery::Stand;
use crate::store::writer::Writer;
use crate::store::{Error, RecordingInfo, Space, Volume, segment_path};
use bytes::Bytes;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The cloud is asked about everything this often: 48 bytes for each segment.
const WALK_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Handle to the store; cheap to clone. Methods block on the disk: call them off the runtime. They wait for the writer,
/// which ends when the recorder has stopped or when the last handle is gone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    volume: Arc<dyn Volume>,
    stand: Stand,
    key: PublicKey,
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    reader: Mutex<Catalog>,
    walk: Mutex<Walk>,
    /// Refused twice by the cloud although the file is as the journal says: not offered again in this run.
    refused: Mutex<HashSet<SegmentId>>,
}

/// How far the cloud has been asked about everything that it gave receipts for.
#[derive(Default)]
struct Walk {
    organisation: Option<OrganisationId>,
    /// Journal entry that closed the last one asked about.
    after: u64,
    /// When all of them had been.
    ended: Option<BootTime>,
    /// The head that the cloud acknowledged last in this run.
    acknowledged: Option<Head>,
}

/// What the writer tells everybody.
#[derive(Default)]
pub(crate) struct Shared {
    head: Mutex<Option<Head>>,
    space: Mutex<Option<Space>>,
    short: AtomicBool,
    wake: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    alarms: Mutex<Vec<&'static str>>,
    pub(crate) counters: Counters,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn set_head(&self, head: Head) {
        *locked(&self.head) = Some(head);
    }

    pub(crate) fn head(&self) -> Option<Head> {
        *locked(&self.head)
    }

    /// `short`: less is free than must be.
    pub(crate) fn set_space(&self, space: Space, short: bool) {
        *locked(&self.space) = Some(space);
        self.short.store(short, Ordering::Relaxed);
    }

    pub(crate) fn space(&self) -> Option<Space> {
        *locked(&self.space)
    }

    pub(crate) fn raise(&self, code: &'static str) {
        let mut alarms = locked(&self.alarms);
        if !alarms.contains(&code) {
            alarms.push(code);
        }
    }

    pub(crate) fn lift(&self, code: &'static str) {
        locked(&self.alarms).retain(|raised| *raised != code);
    }

    pub(crate) fn alarms(&self) -> Vec<&'static str> {
        locked(&self.alarms).clone()
    }

    pub(crate) fn wake(&self) {
        let wake = locked(&self.wake).clone();
        if let Some(wake) = wake {
            wake();
        }
    }
}

impl Store {
    pub(crate) fn new(
        volume: Arc<dyn Volume>,
        stand: Stand,
        lane: Arc<Lane>,
        shared: Arc<Shared>,
        reader: Catalog,
    ) -> Self {
        let key = stand.signer.public_key();
        let (reader, walk, refused) = (Mutex::new(reader), Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { volume, stand, key, lane, shared, reader, walk, refused }))
    }

    pub(crate) fn stand(&self) -> &Stand {
        &self.0.stand
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.0.lane
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Counters of the card and of erasing, by reason code.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.shared.counters.clone()
    }

    /// All recordings, newest first. `paired` = the organisation that the box is paired with.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn recordings(&self, paired: Option<OrganisationId>) -> Result<Vec<RecordingInfo>, Error> {
        let read = locked(&self.0.reader).recordings(paired);
        read.map_err(|source| Error::Catalog { action: "list recordings", source })
    }

    pub(crate) fn totals(&self, paired: Option<OrganisationId>) -> Result<Totals, Error> {
        let read = locked(&self.0.reader).totals(paired);
        read.map_err(|source| Error::Catalog { action: "count segments", source })
    }

    /// Sets or lifts a hold: a held segment is never erased.
    ///
    /// # Errors
    /// `UnknownSegment`, or the journal cannot be written.
    pub fn hold(&self, segment: SegmentId, held: bool) -> Result<(), Error> {
        let known = locked(&self.0.reader).segment(segment);
        let known = known.map_err(|source| Error::Catalog { action: "find a segment", source })?;
        if known.is_none_or(|known| known.destroyed) {
            return Err(Error::UnknownSegment);
        }
        self.journal_entry(JournalEntry::Held { segment, held })
    }

    /// An administrator accepts a card that was rolled back: segments may be erased again.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn accept_card(&self) -> Result<(), Error> {
        self.call(|writer| {
            writer.frozen = false;
            writer.journal_now(&JournalEntry::Alarm { code: "card-accepted".into() })
        })?
        .map_err(|source| Error::Card { action: "journal on", path: "card".into(), source })?;
        self.0.shared.lift("card-rolled-back");
        Ok(())
    }

    fn journal_entry(&self, entry: JournalEntry) -> Result<(), Error> {
        let done = self.call(move |writer| writer.journal_now(&entry))?;
        done.map_err(|source| Error::Card { action: "journal on", path: "card".into(), source })
    }

    /// Compares a finished file with the journal; true if it is sound, else it is marked and an alarm raised.
    fn compare(&self, segment: SegmentId) -> Result<bool, Error> {
        let sound = self.call(move |writer| writer.compare(segment))??;
        if !sound {
            self.0.shared.raise("segment-damaged");
        }
        Ok(sound)
    }

    /// Runs `work` on the writer's thread and waits.
    fn call<T: Send + 'static>(&self, work: impl FnOnce(&mut Writer) -> T + Send + 'static) -> Result<T, Error> {
        let (answer, result) = std::sync::mpsc::sync_channel(1);
        let sent = self.0.lane.send(Op::Call(Box::new(move |writer| {
            // Who asked may have given up waiting.
            let _ = answer.send(work(writer));
        })));
        if !sent {
            return Err(Error::Stopped);
        }
        result.recv().map_err(|_| Error::Stopped)
    }
}

impl SegmentSource for Store {
    fn offers(&self, organisation: OrganisationId, limit: usize) -> io::Result<Vec<SegmentOffer>> {
        let refused = locked(&self.0.refused).clone();
        let read = locked(&self.0.reader).offers(organisation, limit.saturating_add(refused.len()));
        let mut offers = read.map_err(|source| Error::Catalog { action: "list the backlog", source })?;
        offers.retain(|offer| !refused.contains(&offer.segment));
        offers.truncate(limit);
        Ok(offers)
    }

    fn read(&self, segment: SegmentId, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.volume.read_at(&segment_path(segment), offset + filled as u64, rest)? {
                0 => break,
                n => filled += n,
            }
        }
        if filled < len {
            // Only ranges of the size in the journal are asked for: somebody cut the file, or the card did.
            self.compare(segment)?;
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }

    fn committed(&self, receipt: &Receipt) -> io::Result<()> {
        let receipt = receipt.clone();
        Ok(self.call(move |writer| writer.receipt(&receipt))??)
    }

    fn rejected(&self, segment: SegmentId, reason: &str) -> io::Result<()> {
        self.0.shared.counters.add("segment-rejected", 1);
        if self.compare(segment)? {
            tracing::warn!(%segment, reason, "the cloud refuses a segment that is as the journal says");
            self.0.shared.raise("segment-rejected");
            locked(&self.0.refused).insert(segment);
        }
        Ok(())
    }

    fn journal(&self, after: Option<Head>, limit: usize) -> io::Result<Vec<Signed>> {
        let Some(until) = self.journal_head() else { return Ok(Vec::new()) };
        journal::read(self.0.volume.as_ref(), &self.0.key, after, until, limit)
    }

    fn journal_head(&self) -> Option<Head> {
        self.0.shared.head()
    }

    fn journal_acknowledged(&self, head: Head, statement: &[u8]) -> io::Result<()> {
        locked(&self.0.walk).acknowledged = Some(head);
        Ok(self.journal_entry(JournalEntry::Acknowledged { head, statement: statement.to_vec() })?)
    }

    fn on_change(&self, wake: Box<dyn Fn() + Send + Sync>) {
        *locked(&self.0.shared.wake) = Some(Arc::from(wake));
    }

    fn session_began(&self, organisation: OrganisationId, known: Option<Head>) -> io::Result<()> {
        let behind = {
            let mut walk = locked(&self.0.walk);
            let behind = walk.acknowledged.is_some_and(|head| known.is_none_or(|known| known.seq < head.seq));
            if behind || walk.organisation != Some(organisation) {
                *walk = Walk { organisation: Some(organisation), ..Walk::default() };
            }
            behind
        };
        if behind {
            tracing::warn!("the cloud has less than it acknowledged: it is asked about everything again");
            self.0.shared.counters.add("cloud-behind", 1);
        }
        Ok(self.call(|writer| writer.permissions.session_began())?)
    }

    fn erase_candidates(&self, organisation: OrganisationId, limit: usize) -> io::Result<Vec<(SegmentId, Digest)>> {
        let plenty = |space: Space| space.free > space.total / 10 && !self.0.shared.short.load(Ordering::Relaxed);
        let now = self.0.stand.clock.boottime();
        let after = if self.0.shared.space().is_none_or(plenty) {
            let mut walk = locked(&self.0.walk);
            if walk.ended.is_some_and(|at| now.since(at) < WALK_EVERY) {
                return Ok(Vec::new());
            }
            if walk.ended.take().is_some() {
                walk.after = 0;
            }
            walk.after
        } else {
            // Asked for in time: while a tenth of the card is still free.
            0
        };
        let read = locked(&self.0.reader).uploaded(Some(organisation), after, limit);
        let found = read.map_err(|source| Error::Catalog { action: "list what may be erased", source })?;
        let mut walk = locked(&self.0.walk);
        match found.last() {
            Some(last) => walk.after = last.seq,
            None => walk.ended = Some(now),
        }
        Ok(found.into_iter().map(|one| (one.segment, one.sha256)).collect())
    }

    fn erase_answered(&self, yes: &[SegmentId], no: &[SegmentId], unknown: &[SegmentId]) -> io::Result<()> {
        let (yes, no, unknown) = (yes.to_vec(), no.to_vec(), unknown.to_vec());
        let withdrawn = self.call(move |writer| {
            writer.permissions.answered(&yes, &no, writer.clock.boottime());
            writer.withdraw(&unknown)
        })?;
        self.0.shared.wake();
        Ok(withdrawn?)
    }
}
