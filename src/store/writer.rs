//! The writer: the only one who changes the card, the catalog and the state on internal storage.
//!
//! A plain synchronous machine over a [`Volume`]; [`run`] drives it from a thread of its own, the tests drive it
//! directly. The numbered order of its steps is in the `//!` of [`crate::store`].

use crate::base::chain::Head;
use crate::base::clock::Clock;
use crate::base::ids::{Digest, SegmentId};
use crate::base::reason::Coded;
use crate::base::units::{BootTime, ByteCount};
use crate::seal::{EndReason, Finished, FrameKind, JournalEntry, Receipt, SealedFrame};
use crate::store::append::Appender;
use crate::store::catalog::{Catalog, Cause};
use crate::store::erase::Permissions;
use crate::store::error::card_code;
use crate::store::internal::{CardId, Heads, Receipts};
use crate::store::journal::Journal;
use crate::store::lane::{Lane, Op};
use crate::store::source::Shared;
use crate::store::{Error, Volume, segment_path};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tracing::{error, info, warn};

/// Unsynced bytes that force a sync before the second is over: a burst of pre-roll must not fill the lane.
const SYNC_EARLY: u64 = 8 << 20;
/// The head goes to internal storage not more often than this while entries come.
const HEAD_AT_MOST: Duration = Duration::from_secs(5);
/// Segments erased with one group sync: enough for any camera rate, small enough to stop in time.
const ERASE_AT_ONCE: usize = 16;
/// Attempts to make everything durable before the writer stops.
const LAST_ATTEMPTS: u32 = 3;

struct OpenFile {
    file: Appender,
    ended: Option<(Finished, EndReason)>,
}

/// See the module.
pub(crate) struct Writer {
    pub(crate) volume: Arc<dyn Volume>,
    pub(crate) internal: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) lane: Arc<Lane>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: Journal,
    pub(crate) catalog: Catalog,
    pub(crate) receipts: Receipts,
    pub(crate) heads: Heads,
    pub(crate) heads_saved: (Option<Head>, BootTime),
    pub(crate) card: CardId,
    /// Nothing is erased: the card was rolled back.
    pub(crate) frozen: bool,
    pub(crate) permissions: Permissions,
    pub(crate) keep_free: ByteCount,
    open: HashMap<SegmentId, OpenFile>,
    /// Journaled as destroyed, not durable yet: unlinked after the next sync.
    doomed: Vec<SegmentId>,
}

/// What a writer stands on; see [`Writer`].
pub(crate) struct Parts {
    pub(crate) volume: Arc<dyn Volume>,
    pub(crate) internal: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) lane: Arc<Lane>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: Journal,
    pub(crate) catalog: Catalog,
    pub(crate) receipts: Receipts,
    pub(crate) heads: Heads,
    pub(crate) card: CardId,
    pub(crate) frozen: bool,
    pub(crate) keep_free: ByteCount,
}

/// Runs the writer until it is told to stop or everybody who could tell it is gone.
pub(crate) fn run(mut writer: Writer, ops: &Receiver<Op>) {
    while let Ok(first) = ops.recv() {
        let mut sync = None;
        let mut next = Some(first);
        // After a stall many syncs wait in the queue; one stands for all of them.
        while let Some(op) = next {
            match op {
                Op::Sync(at) => sync = Some(at),
                Op::Stop(answer) => {
                    let durable = writer.finish();
                    // Who asked may have given up waiting.
                    let _ = answer.send(durable);
                    return;
                }
                op => writer.apply(op),
            }
            next = ops.try_recv().ok();
        }
        if let Some(at) = sync {
            writer.group_sync(Some(at));
        }
    }
    writer.finish();
}

impl Writer {
    pub(crate) fn new(parts: Parts) -> Self {
        let now = parts.clock.boottime();
        Self {
            volume: parts.volume,
            internal: parts.internal,
            clock: parts.clock,
            lane: parts.lane,
            shared: parts.shared,
            journal: parts.journal,
            catalog: parts.catalog,
            receipts: parts.receipts,
            heads_saved: (parts.heads.head, now),
            heads: parts.heads,
            card: parts.card,
            frozen: parts.frozen,
            permissions: Permissions::default(),
            keep_free: parts.keep_free,
            open: HashMap::new(),
            doomed: Vec::new(),
        }
    }

    /// Does one operation. Errors of the card are kept as `trouble` and tried again with the next one.
    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Frame(frame) => self.frame(frame),
            Op::Ended(finished, reason) => {
                if let Some(open) = self.open.get_mut(&finished.segment) {
                    open.ended = Some((finished, reason));
                }
            }
            Op::Journal(entry, at) => self.journal.append(&entry, at),
            Op::Flush => {
                let written = self.write();
                self.note(written);
            }
            Op::Sync(at) => self.group_sync(Some(at)),
            Op::Expire(segment) => self.doom(segment, Cause::Background),
            Op::Call(call) => call(self),
            Op::Stop(answer) => {
                let durable = self.finish();
                // Who asked may have given up waiting.
                let _ = answer.send(durable);
            }
        }
    }

    fn frame(&mut self, frame: SealedFrame) {
        if frame.kind == FrameKind::Header {
            let file = Appender::create(segment_path(frame.segment));
            self.open.insert(frame.segment, OpenFile { file, ended: None });
        }
        let len = frame.bytes.len() as u64;
        match self.open.get_mut(&frame.segment) {
            Some(open) if open.file.end() == frame.offset => open.file.push(frame.bytes),
            _ => {
                error!(segment = %frame.segment, offset = frame.offset, "a frame that does not follow was dropped");
                self.lane.released(len);
            }
        }
        if self.open.values().map(|open| open.file.pending()).sum::<u64>() >= SYNC_EARLY
            && self.lane.trouble().is_none()
        {
            self.group_sync(None);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        // The journal first: if only a part of this survives a cut, a file without `opened` is the worse half.
        self.journal.write(self.volume.as_ref())?;
        for open in self.open.values_mut() {
            open.file.write(self.volume.as_ref())?;
        }
        Ok(())
    }

    /// Steps 3 to 6. `at` = when the checkpoints were laid out; `None` for a sync between two of them.
    pub(crate) fn group_sync(&mut self, at: Option<BootTime>) {
        let idle =
            !self.journal.waiting() && self.doomed.is_empty() && self.open.values().all(|o| o.file.pending() == 0);
        if idle && self.lane.trouble().is_none() {
            // Nothing to make durable: a box that only waits must not keep its card awake.
            if let Some(at) = at {
                self.lane.set_synced(at);
            }
            self.keep_head();
            self.make_room();
            return;
        }
        if let Err(error) = self.write() {
            self.note(Err(error));
            self.make_room();
            return;
        }
        if let Err(error) = self.volume.sync_all() {
            self.journal.rewind();
            self.open.values_mut().for_each(|open| open.file.rewind());
            self.note(Err(error));
            return;
        }
        let released = self.open.values_mut().map(|open| open.file.synced()).sum();
        self.lane.released(released);
        if let Some(at) = at {
            self.lane.set_synced(at);
        }
        self.note(Ok(()));
        self.project();
        self.close_ended();
        self.unlink_doomed();
        self.make_room();
    }

    /// Step 4: END is durable, so `closed` may be said.
    fn close_ended(&mut self) {
        let now = self.clock.boottime();
        let Self { open, journal, volume, .. } = self;
        open.retain(|segment, open| {
            let Some((finished, reason)) = open.ended.filter(|_| open.file.pending() == 0) else { return true };
            let Finished { size, sha256, end, .. } = finished;
            journal.append(&JournalEntry::Closed { segment: *segment, size, sha256, end, reason, cut: None }, now);
            volume.release(open.file.path());
            false
        });
    }

    /// Step 5: what the journal holds durably goes to internal storage and to the catalog.
    fn project(&mut self) {
        let durable = self.journal.synced();
        if let Some((_, last)) = durable.last() {
            self.heads.reached(self.card, last.head, self.frozen);
            let card = self.card;
            let volume = self.volume.clone();
            let projected = self.catalog.transaction(|catalog| {
                for (signed, _) in &durable {
                    catalog.apply(signed, &|segment| crate::store::recovery::header(volume.as_ref(), segment))?;
                }
                catalog.set_position(last, card)
            });
            if let Err(error) = projected {
                // The catalog catches up from the journal at the next start.
                self.shared.counters.add("catalog-failed", 1);
                error!(%error, "the catalog cannot be written");
            }
            self.shared.set_head(last.head);
            self.shared.wake();
        }
        self.keep_head();
    }

    fn keep_head(&mut self) {
        let now = self.clock.boottime();
        let (saved, at) = self.heads_saved;
        // 5 s and the next group sync: well within the 10 s that are promised.
        if saved != self.heads.head && now.since(at) >= HEAD_AT_MOST {
            self.save_heads(now);
        }
    }

    fn save_heads(&mut self, now: BootTime) {
        match self.heads.save(&self.internal) {
            Ok(()) => self.heads_saved = (self.heads.head, now),
            Err(error) => {
                self.shared.counters.add("internal-storage-failed", 1);
                error!(%error, "the journal's head cannot be kept on internal storage");
            }
        }
    }

    fn note(&self, result: io::Result<()>) {
        let before = self.lane.trouble();
        match result {
            Ok(()) => {
                if let Some(code) = before {
                    info!(code, "the card takes footage again");
                    self.lane.set_trouble(None);
                }
            }
            Err(error) => {
                let code = card_code(&error);
                self.shared.counters.add(code, 1);
                if before != Some(code) {
                    error!(code, %error, "the card does not take footage; it waits in memory");
                    self.lane.set_trouble(Some(code));
                }
            }
        }
    }

    /// Step 6, first half.
    pub(crate) fn doom(&mut self, segment: SegmentId, cause: Cause) {
        if self.frozen || self.doomed.contains(&segment) {
            return;
        }
        match self.catalog.segment(segment) {
            Ok(Some(known)) if !known.destroyed && known.sha256.is_some() => {}
            // Not closed yet, gone, or never heard of.
            _ => return,
        }
        self.journal.append(&JournalEntry::Destroyed { segment, cause: cause as u8 }, self.clock.boottime());
        self.doomed.push(segment);
    }

    /// Step 6, second half: whatever was doomed before this sync is now durable in the journal.
    fn unlink_doomed(&mut self) {
        for segment in std::mem::take(&mut self.doomed) {
            unlink(self.volume.as_ref(), segment);
        }
    }

    /// Retention when the card is full; see [`crate::store::erase`].
    fn make_room(&mut self) {
        let Ok(space) = self.volume.space() else { return };
        let short = space.free < self.keep_free.0;
        self.shared.set_space(space, short);
        if !short {
            self.permissions.enough();
            return;
        }
        if !self.doomed.is_empty() {
            return;
        }
        if self.frozen {
            self.shared.counters.add("erase-frozen", 1);
            return;
        }
        let chosen = match self.permissions.choose(&self.catalog, self.clock.boottime(), ERASE_AT_ONCE) {
            Ok(chosen) => chosen,
            Err(error) => {
                error!(%error, "the catalog cannot say what may be erased");
                return;
            }
        };
        for (segment, cause) in chosen {
            if cause == Cause::Full {
                warn!(%segment, "the card is full: footage that was never uploaded is erased");
                self.shared.counters.add("erased-not-uploaded", 1);
                self.shared.raise("erased-not-uploaded");
                self.journal.append(&JournalEntry::Alarm { code: "card-full".into() }, self.clock.boottime());
            }
            self.doom(segment, cause);
        }
    }

    /// Appends to the journal and makes it durable at once.
    ///
    /// # Errors
    /// The card's; the entry stays and becomes durable later.
    pub(crate) fn journal_now(&mut self, entry: &JournalEntry) -> io::Result<()> {
        self.journal.append(entry, self.clock.boottime());
        self.group_sync(None);
        match self.lane.trouble() {
            None => Ok(()),
            Some(code) => Err(io::Error::other(code)),
        }
    }

    /// Step 7.
    ///
    /// # Errors
    /// The receipt is for something else than the journal says, or cannot be kept.
    pub(crate) fn receipt(&mut self, receipt: &Receipt) -> Result<(), Error> {
        let catalog = |source| Error::Catalog { action: "keep a receipt", source };
        let known = self.catalog.segment(receipt.segment).map_err(catalog)?.ok_or(Error::UnknownSegment)?;
        if (known.size, known.sha256) != (Some(receipt.size), Some(receipt.sha256)) {
            return Err(Error::Damaged);
        }
        self.receipts.keep(receipt).map_err(|source| Error::Internal { action: "keep a receipt", source })?;
        self.catalog.receipt(receipt).map_err(catalog)
    }

    /// The cloud does not hold these: their receipts are withdrawn, durably, and they are offered again.
    ///
    /// # Errors
    /// Internal storage or the catalog cannot be written; those before the error are withdrawn.
    pub(crate) fn withdraw(&mut self, segments: &[SegmentId]) -> Result<(), Error> {
        for segment in segments {
            warn!(%segment, "the cloud does not hold what it gave a receipt for: offered again");
            self.receipts
                .withdraw(*segment)
                .map_err(|source| Error::Internal { action: "withdraw a receipt", source })?;
            let catalog = |source| Error::Catalog { action: "withdraw a receipt", source };
            self.catalog.withdraw_receipt(*segment).map_err(catalog)?;
            self.shared.counters.add("receipt-withdrawn", 1);
        }
        Ok(())
    }

    /// Compares a finished file with the journal; marks it `damaged` if it differs. True if it is sound.
    ///
    /// # Errors
    /// The file or the catalog cannot be read.
    pub(crate) fn compare(&mut self, segment: SegmentId) -> Result<bool, Error> {
        let catalog = |source| Error::Catalog { action: "compare a segment", source };
        let known = self.catalog.segment(segment).map_err(catalog)?.ok_or(Error::UnknownSegment)?;
        let found = digest_of(self.volume.as_ref(), segment);
        let sound = matches!(&found, Ok((size, digest)) if (Some(*size), Some(*digest)) == (known.size, known.sha256));
        if !sound {
            warn!(%segment, error = found.err().map(|e| e.to_string()), "the file differs from the journal");
            self.catalog.set_damaged(segment).map_err(catalog)?;
            self.shared.counters.count(&Error::Damaged);
            self.journal.append(&JournalEntry::Alarm { code: Error::Damaged.code().into() }, self.clock.boottime());
        }
        Ok(sound)
    }

    /// Makes everything durable, as far as the card lets us; true if it is.
    pub(crate) fn finish(&mut self) -> bool {
        let done = |writer: &Self| !writer.journal.waiting() && writer.open.is_empty() && writer.doomed.is_empty();
        for _ in 0..LAST_ATTEMPTS {
            self.group_sync(None);
            if done(self) {
                break;
            }
        }
        // One more: the last `closed` were appended by the sync that made their ENDs durable.
        self.group_sync(None);
        self.save_heads(self.clock.boottime());
        done(self)
    }
}

fn unlink(volume: &dyn Volume, segment: SegmentId) {
    match volume.unlink(&segment_path(segment)) {
        Ok(()) => info!(%segment, "erased"),
        // It is journaled as destroyed; a file that stays is reported as a stray at the next start.
        Err(error) => warn!(%segment, %error, "an erased segment's file cannot be unlinked"),
    }
}

/// Size and SHA-256 of a segment's file as it is on the card.
pub(crate) fn digest_of(volume: &dyn Volume, segment: SegmentId) -> io::Result<(u64, Digest)> {
    let path = segment_path(segment);
    let mut hash = Sha256::new();
    let mut at = 0;
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let n = volume.read_at(&path, at, &mut chunk)?;
        if n == 0 {
            return Ok((at, Digest(hash.finalize().into())));
        }
        hash.update(chunk.get(..n).unwrap_or_default());
        at += n as u64;
    }
}
