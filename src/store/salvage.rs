//! Segments after a cut: what the last run left open is ended, what nobody accounts for is reported.
//!
//! Steps 3 and 4 of recovery in the `//!` of [`crate::store`]. Belongs here: deciding about files by what the journal and
//! the files themselves prove. Does not belong here: how a file's bytes are judged (see [`crate::seal::Scanner`]).

use crate::base::chain::{PublicKey, Signer};
use crate::base::clock::Clock;
use crate::base::ids::{CameraId, Digest, RecordingId, SegmentId};
use crate::base::units::{BootTime, ByteCount, Run};
use crate::media::{Gap, GapCause};
use crate::seal::sealer::MAX_SIZE;
use crate::seal::{EndReason, Finished, Header, JournalEntry, Prev, Scan, Scanner};
use crate::store::catalog::{Catalog, Cause, Unclosed};
use crate::store::journal::{self, Journal};
use crate::store::recovery::{Recovered, Stray, card, catalog, header};
use crate::store::volume::write_all_at;
use crate::store::{Error, FileInfo, Volume, segment_of, segment_path};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// A checkpoint each second, made durable within the next: the bound of what a cut takes on a healthy card.
const LOSS_BOUND: Duration = Duration::from_secs(2);

fn is_recovery(reason: EndReason) -> bool {
    matches!(reason, EndReason::PowerCut | EndReason::Crash)
}

/// Where recovery works.
pub(crate) struct Desk<'a> {
    pub(crate) volume: &'a dyn Volume,
    pub(crate) key: &'a PublicKey,
    pub(crate) signer: &'a Arc<dyn Signer>,
    pub(crate) run: Run,
    pub(crate) clock: &'a Clock,
    pub(crate) journal: Journal,
}

pub(crate) type Found = (Vec<Recovered>, Vec<Stray>, bool);

/// Files that the journal does not know.
#[derive(Default)]
pub(crate) struct Unknown {
    /// Of the last run: ours to take in.
    pub(crate) adopted: Vec<Header>,
    /// Not even a header: a file that was just begun when power went.
    pub(crate) torn: Vec<SegmentId>,
    pub(crate) strays: Vec<Stray>,
}

impl Desk<'_> {
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        self.journal.write(self.volume).map_err(card("write", journal::FOLDER))?;
        self.volume.sync_all().map_err(card("sync", journal::FOLDER))
    }

    pub(crate) fn append(&mut self, entry: &JournalEntry) {
        self.journal.append(entry, self.clock.boottime());
    }

    /// Steps 3 and 4 for the journal's last run. `whole`: the journal has no holes, so what it does not know was never
    /// durable. The last value: nothing was open, so the run ended in order.
    pub(crate) fn recover(&mut self, db: &Catalog, last: Run, files: &[FileInfo], whole: bool) -> Result<Found, Error> {
        let sizes: HashMap<SegmentId, u64> =
            files.iter().filter_map(|f| Some((segment_of(&f.name)?, f.size))).collect();
        let mut open = db.unclosed(last).map_err(catalog("find open segments"))?;
        let mut unknown = self.strays(db, Some(last), files)?;
        if !whole {
            let name = |segment: &SegmentId| Stray { name: format!("{segment}.mvs"), code: "unreadable" };
            unknown.strays.extend(unknown.torn.drain(..).as_slice().iter().map(name));
        }
        for header in unknown.adopted {
            info!(segment = %header.segment, "a segment whose journal entry was lost with the power is adopted");
            self.append(&JournalEntry::Adopted { segment: header.segment });
            open.push(Unclosed {
                segment: header.segment,
                camera: header.camera,
                recording: header.recording,
                opened_at: header.at,
                prev: Prev::Unknown,
            });
        }
        // Recordings whose last segment says that another follows: if none is found, it was lost whole.
        let mut expecting: BTreeMap<RecordingId, (CameraId, BootTime)> = BTreeMap::new();
        for (camera, recording, closed_at) in db.expecting(last).map_err(catalog("find the last segments"))? {
            expecting.insert(recording, (camera, closed_at));
        }
        let clean = open.is_empty() && unknown.torn.is_empty() && expecting.is_empty();
        let reason = if last.boot == self.run.boot { EndReason::Crash } else { EndReason::PowerCut };
        let cause = if reason == EndReason::Crash { GapCause::Crash } else { GapCause::PowerCut };

        // What the files prove about the time up to which the run lived.
        let mut alive = db.last_heard(last).map_err(catalog("find the last run"))?;
        let mut scans = Vec::new();
        for segment in open {
            let scan = match sizes.get(&segment.segment) {
                Some(_) => Some(self.scan(segment.segment).map_err(card("read", &segment_path(segment.segment)))?),
                None => None,
            };
            alive = alive.max(segment.opened_at);
            if let Some(point) = scan.as_ref().and_then(|(scan, _)| scan.last) {
                alive = alive.max(point.at);
            }
            scans.push((segment, scan));
        }

        let gap_from = |from: BootTime| Gap { from, to: alive.max(from).plus(LOSS_BOUND), cause };
        let mut recovered = Vec::new();
        let mut torn = unknown.torn;
        // Ends that recovery writes: the segment after such a one was told of another END, which the card lost.
        let mut ends: HashMap<SegmentId, Digest> = HashMap::new();
        for (mut segment, scan) in scans {
            if let Prev::Segment(before, digest) = &mut segment.prev {
                *digest = ends.get(before).copied().unwrap_or(*digest);
            }
            let Unclosed { segment: id, camera, recording, opened_at, .. } = segment;
            expecting.remove(&recording);
            let (lost, from) = match scan {
                Some((scan, _)) if scan.end.is_some_and(|end| is_recovery(end.reason)) => {
                    // A recovery that was itself cut ended it, and how much it took off is no longer known.
                    self.close(&scan)?;
                    ends.extend(scan.end.map(|end| (id, end.finished.end)));
                    (0, scan.last.map_or(opened_at, |point| point.at))
                }
                Some((scan, _)) if scan.end.is_some() => {
                    if let Some(at) = self.close(&scan)? {
                        expecting.insert(recording, (camera, at));
                    }
                    recovered.push(Recovered { segment: id, camera, recording, lost: ByteCount(0), gap: None });
                    continue;
                }
                Some((scan, scanner)) if scan.last.is_some() => {
                    let (lost, from, end) = self.end(&segment, &scan, &scanner, reason)?;
                    ends.extend(end.map(|end| (id, end)));
                    (lost, from)
                }
                Some((scan, _)) if scan.fault.is_some_and(|fault| fault.proven && fault.exceeds_power_cut()) => {
                    // More signatures fail than a power cut can spoil: somebody changed it, or the card rots. The file is
                    // proof of that, and stays.
                    warn!(segment = %id, "an open segment was altered; it is left as it is");
                    db.set_damaged(id).map_err(catalog("mark a segment"))?;
                    self.append(&JournalEntry::Alarm { code: "segment-damaged".into() });
                    unknown.strays.push(Stray { name: format!("{id}.mvs"), code: "damaged" });
                    (scan.size, opened_at)
                }
                scan => {
                    torn.push(id);
                    (scan.map_or(0, |(scan, _)| scan.size), opened_at)
                }
            };
            let gap = gap_from(from);
            self.append(&JournalEntry::Gap { camera, recording, gap, bytes: lost });
            recovered.push(Recovered { segment: id, camera, recording, lost: ByteCount(lost), gap: Some(gap) });
        }
        for (recording, (camera, at)) in expecting {
            self.append(&JournalEntry::Gap { camera, recording, gap: gap_from(at), bytes: 0 });
        }
        for segment in &torn {
            info!(%segment, "nothing of this segment was durable; it is destroyed");
            self.append(&JournalEntry::Destroyed { segment: *segment, cause: Cause::Torn as u8 });
        }
        self.settle()?;
        for segment in torn.into_iter().filter(|segment| sizes.contains_key(segment)) {
            let path = segment_path(segment);
            self.volume.unlink(&path).map_err(card("unlink", &path))?;
        }
        Ok((recovered, unknown.strays, clean))
    }

    /// Two walks of the same bytes: one for the verdict, one that recovery's END goes on from.
    fn scan(&self, segment: SegmentId) -> io::Result<(Scan, Scanner)> {
        let path = segment_path(segment);
        let mut verdict = Scanner::new(self.key.clone());
        let mut kept = Scanner::new(self.key.clone());
        let mut at = 0;
        let mut chunk = vec![0; 256 * 1024];
        loop {
            let n = self.volume.read_at(&path, at, &mut chunk)?;
            if n == 0 {
                return Ok((verdict.finish(), kept));
            }
            let bytes = chunk.get(..n).unwrap_or_default();
            verdict.push(bytes);
            kept.push(bytes);
            at += n as u64;
        }
    }

    /// A segment whose END is durable: only `closed` is missing. Returns when it ended if another was to follow.
    fn close(&mut self, scan: &Scan) -> Result<Option<BootTime>, Error> {
        let Some(end) = scan.end else { return Ok(None) };
        let Finished { segment, size, sha256, end: digest, .. } = end.finished;
        if scan.size > size {
            // A cut while the file system still knew a longer file; behind END nothing belongs to the segment.
            let path = segment_path(segment);
            self.volume.truncate(&path, size).map_err(card("cut", &path))?;
            self.volume.sync(&path).map_err(card("sync", &path))?;
        }
        let cut = scan.last.map(|point| point.offset).filter(|_| is_recovery(end.reason));
        self.append(&JournalEntry::Closed { segment, size, sha256, end: digest, reason: end.reason, cut });
        let follows = matches!(end.reason, EndReason::Next | EndReason::Overflow);
        Ok(follows.then_some(end.at))
    }

    /// Step 3: truncate to the last valid checkpoint, END, sync, `closed`.
    fn end(
        &mut self,
        segment: &Unclosed,
        scan: &Scan,
        scanner: &Scanner,
        reason: EndReason,
    ) -> Result<(u64, BootTime, Option<Digest>), Error> {
        let path = segment_path(segment.segment);
        let now = self.clock.boottime();
        let (Some(last), Some((bytes, finished))) =
            (scan.last, scanner.recovery_end(reason, segment.prev, self.run, now, self.signer))
        else {
            return Ok((0, segment.opened_at, None));
        };
        self.volume.truncate(&path, last.offset).map_err(card("cut", &path))?;
        // Between the two no power cut may leave an END behind old bytes.
        self.volume.sync(&path).map_err(card("sync", &path))?;
        write_all_at(self.volume, &path, last.offset, &bytes).map_err(card("write", &path))?;
        self.volume.sync(&path).map_err(card("sync", &path))?;
        self.volume.release(&path);
        let entry = JournalEntry::Closed {
            segment: segment.segment,
            size: finished.size,
            sha256: finished.sha256,
            end: finished.end,
            reason,
            cut: Some(last.offset),
        };
        self.append(&entry);
        let lost = scan.size.saturating_sub(last.offset);
        info!(segment = %segment.segment, lost, "recovered");
        Ok((lost, last.at, Some(finished.end)))
    }

    /// Files that the journal does not know: those of the last run are ours to adopt, the rest is only reported.
    pub(crate) fn strays(&self, db: &Catalog, last: Option<Run>, files: &[FileInfo]) -> Result<Unknown, Error> {
        let known: BTreeMap<SegmentId, bool> = db.known().map_err(catalog("list segments"))?;
        let Unknown { mut adopted, mut torn, mut strays } = Unknown::default();
        for file in files {
            let stray = |code| Stray { name: file.name.clone(), code };
            let Some(segment) = segment_of(&file.name) else {
                strays.push(stray("unreadable"));
                continue;
            };
            match known.get(&segment) {
                Some(false) => continue,
                // Erased by the journal and here again (or its unlink was cut off).
                Some(true) => {
                    strays.push(stray("replayed"));
                    continue;
                }
                None => {}
            }
            match header(self.volume, segment) {
                Some(header) if header.box_id != self.key.box_id() => strays.push(stray("foreign")),
                Some(header) if Some(header.run) == last => adopted.push(header),
                Some(_) => strays.push(stray("replayed")),
                None if last.is_some() && file.size <= MAX_SIZE => torn.push(segment),
                None => strays.push(stray("unreadable")),
            }
        }
        for stray in &strays {
            warn!(file = stray.name, code = stray.code, "a segment file that the journal does not account for");
        }
        Ok(Unknown { adopted, torn, strays })
    }
}
