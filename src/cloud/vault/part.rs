//! One file that is still being received: bytes in any order, proven as far as they reach without a hole.
//!
//! Belongs here: writing at offsets, what is held, the running scan, moving bytes beyond a cut aside. Does not belong
//! here: answers to the box, receipts (see [`super`]). Spec: `docs/spec/relay.md`, "Store".
//!
//! Invariants:
//! 1. `row.have` names only bytes that were synced before the row was written.
//! 2. The scanner has been fed exactly the bytes `0..scanned` as they are in the file.
//! 3. Bytes below `row.ckpt_offset` are covered by a verified checkpoint without a hole and are never replaced.

use crate::base::chain::PublicKey;
use crate::cloud::vault::disk::Disk;
use crate::cloud::vault::read::HEADER_REACH;
use crate::cloud::vault::{Origin, Ranges, SegmentRow, Tail};
use crate::seal::frame::{FRAME_HEAD, FrameHead};
use crate::seal::{FrameKind, Header, Scan, Scanner};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// No segment is longer: the sealer's cap and room for one more access unit, checkpoint and END.
pub const MAX_FILE: u64 = crate::seal::sealer::MAX_SIZE + 16 * 1024 * 1024;

/// The most separate ranges that are kept for one file; a fragment that would open another one is dropped.
const MAX_RANGES: usize = 4096;

/// How bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Live: what is already held stays.
    Live,
    /// Backlog: asked for, so it replaces unproven bytes that differ.
    Chunk,
}

/// What became of received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// At least one byte was new.
    New,
    /// All of them were held, equal.
    Known,
    /// Some differ from held bytes that may not be replaced; those were dropped.
    Differs,
    /// Opens too many separate ranges; dropped.
    TooScattered,
}

/// An open partial file.
pub struct Part {
    /// What the database knows, ahead of it only by [`Self::dirty`].
    pub row: SegmentRow,
    /// `<segment>.part`, or the conflict's name.
    pub path: PathBuf,
    file: File,
    /// The database claims more than the file holds: set when it was opened.
    pub short: bool,
    dirty: Ranges,
    changed: bool,
    key: PublicKey,
    scanner: Option<Scanner>,
    scanned: u64,
}

impl Part {
    /// Opens the file of a row; what the row says is held is scanned again.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(disk: &Disk, path: PathBuf, row: SegmentRow, key: PublicKey) -> io::Result<Self> {
        let file = disk.open(&path)?;
        let len = file.metadata()?.len();
        let short = row.have.end() > len;
        let scanner = Some(Scanner::new(key.clone()));
        let (dirty, changed) = (Ranges::default(), false);
        let mut part = Self { row, path, file, short, dirty, changed, key, scanner, scanned: 0 };
        if short {
            // A database that is newer than the files, as after a restore: what is not there is asked for again.
            part.forget_from(len)?;
        } else {
            part.scan()?;
        }
        Ok(part)
    }

    /// Everything in the file, durable or not.
    #[must_use]
    pub fn held(&self) -> Ranges {
        let mut held = self.row.have.clone();
        held.extend(&self.dirty);
        held
    }

    /// Whether the database is behind.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.changed || !self.dirty.is_empty()
    }

    /// Bytes that a power cut would take.
    #[must_use]
    pub fn unsynced(&self) -> u64 {
        self.dirty.len()
    }

    /// Writes received bytes at their offset. The caller has checked that they end within [`MAX_FILE`].
    ///
    /// # Errors
    /// The file cannot be written or read.
    pub fn write(&mut self, disk: &Disk, source: Source, offset: u64, bytes: &[u8]) -> io::Result<Written> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        let held = self.held();
        let mut verdict = Written::Known;
        let mut write = held.missing(&range);
        if held.as_slice().len() >= MAX_RANGES {
            let mut after = held.clone();
            after.insert(range.clone());
            if after.as_slice().len() > held.as_slice().len() {
                return Ok(Written::TooScattered);
            }
        }
        for overlap in held.within(&range) {
            let new = part_of(bytes, offset, &overlap);
            let mut old = vec![0; new.len()];
            self.file.read_exact_at(&mut old, overlap.start)?;
            if old == new {
                continue;
            }
            verdict = Written::Differs;
            if source == Source::Chunk {
                let replace = overlap.start.max(self.row.ckpt_offset)..overlap.end;
                if !replace.is_empty() {
                    verdict = Written::New;
                    self.forget_scan_from(replace.start);
                    write.push(replace);
                }
            }
        }
        let in_order = offset == self.scanned && write == [range];
        for range in write {
            let piece = part_of(bytes, offset, &range);
            disk.write_at(&self.file, &self.path, range.start, piece)?;
            if source == Source::Live {
                self.row.live_bytes += range.end - range.start;
            }
            self.dirty.insert(range);
            if verdict == Written::Known {
                verdict = Written::New;
            }
        }
        if in_order {
            // The usual case: no need to read back what was just written.
            if let Some(scanner) = &mut self.scanner {
                scanner.push(bytes);
                self.scanned += bytes.len() as u64;
            }
        }
        self.scan()?;
        Ok(verdict)
    }

    /// Makes everything written durable; the caller then writes `row` to the database.
    ///
    /// # Errors
    /// The file cannot be synced: nothing more is claimed than before.
    pub fn sync(&mut self, disk: &Disk) -> io::Result<()> {
        if !self.dirty.is_empty() {
            disk.sync(&self.file, &self.path)?;
            let dirty = std::mem::take(&mut self.dirty);
            self.row.have.extend(&dirty);
        }
        self.changed = false;
        Ok(())
    }

    /// Notes that the row changed without new bytes.
    pub fn touch(&mut self) {
        self.changed = true;
    }

    /// Moves bytes at or beyond `cut` to the tail file beside and makes both durable. The caller then writes `row`, and
    /// after that calls [`Self::drop_beyond`]. Twice the same is the same as once.
    ///
    /// # Errors
    /// A file cannot be read, written or synced.
    pub fn move_tail(&mut self, disk: &Disk, cut: u64) -> io::Result<()> {
        self.sync(disk)?;
        let beyond = Ranges::from_iter(self.row.have.within(&(cut..u64::MAX)));
        self.row.cut = Some(cut);
        if beyond.is_empty() {
            return Ok(());
        }
        let ckpt = self.row.ckpt.filter(|_| self.row.ckpt_offset > cut);
        let path = tail_path(&self.path);
        let tail = disk.open(&path)?;
        for range in beyond.as_slice() {
            let mut at = range.start;
            while at < range.end {
                let piece = self.read(at, usize::try_from(range.end - at).unwrap_or(PIECE).min(PIECE))?;
                disk.write_at(&tail, &path, at - cut, &piece)?;
                at += piece.len() as u64;
            }
        }
        disk.sync(&tail, &path)?;
        if let Some(folder) = path.parent() {
            disk.sync_folder(folder)?;
        }
        let mut have = self.row.tail.take().filter(|t| t.from == cut).map(|t| t.have).unwrap_or_default();
        have.extend(&beyond);
        self.row.tail = Some(Tail { from: cut, have, ckpt });
        self.forget_from(cut)
    }

    /// Cuts the file at `end`, after the database stopped claiming bytes beyond it.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub fn drop_beyond(&mut self, disk: &Disk, end: u64) -> io::Result<()> {
        if self.file.metadata()?.len() > end {
            disk.truncate(&self.file, &self.path, end)?;
            disk.sync(&self.file, &self.path)?;
        }
        Ok(())
    }

    /// Forgets what no checkpoint proves, by the file as it is now, up to `size`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn keep_proven(&mut self, size: u64) -> io::Result<()> {
        let proven = self.row.ckpt_offset.min(size);
        self.scanner = None;
        self.forget_from(proven)?;
        let now = self.scanner.as_ref().and_then(Scanner::last).map_or(0, |point| point.offset);
        if now < proven {
            // It was proven when it came; the disk has changed it since.
            self.forget_from(now)?;
        }
        Ok(())
    }

    /// Forgets everything at or beyond `end`; a scan that had gone further starts again.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn forget_from(&mut self, end: u64) -> io::Result<()> {
        self.row.have.split_off(end);
        self.dirty.split_off(end);
        self.changed = true;
        self.forget_scan_from(end);
        self.scan()
    }

    /// The verdict over the whole file, if it is all there: `size` bytes, synced. The scan starts again afterwards.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn verdict(&mut self, size: u64) -> io::Result<Option<Scan>> {
        self.scan()?;
        if self.scanned < size || !self.row.have.covers(&(0..size)) {
            return Ok(None);
        }
        let verdict = self.scanner.take().map(Scanner::finish);
        self.scanned = 0;
        Ok(verdict)
    }

    /// Access units in the first `size` bytes, counted by the clear heads of their first parts.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn count_units(&self, size: u64) -> io::Result<u64> {
        let start = self.read(0, HEADER_REACH)?;
        let Ok((_, header)) = Header::decode(&start) else { return Ok(0) };
        let (mut at, mut units) = (header as u64, 0);
        while at < size {
            let Some(head) = FrameHead::parse(&self.read(at, FRAME_HEAD)?) else { break };
            units += u64::from(head.kind == FrameKind::Unit as u8 && head.is_first());
            at += head.frame_len();
        }
        Ok(units)
    }

    /// Up to `len` bytes at `offset`; fewer at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        read_at(&self.file, offset, len)
    }

    /// Feeds the scanner whatever follows without a hole.
    fn scan(&mut self) -> io::Result<()> {
        let reach = self.held().prefix();
        if self.scanner.is_none() {
            self.scanner = Some(Scanner::new(self.key.clone()));
            self.scanned = 0;
        }
        while self.scanned < reach {
            let len = usize::try_from(reach - self.scanned).unwrap_or(PIECE).min(PIECE);
            let bytes = self.read(self.scanned, len)?;
            if bytes.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than the database says"));
            }
            if let Some(scanner) = &mut self.scanner {
                scanner.push(&bytes);
            }
            self.scanned += bytes.len() as u64;
        }
        if let Some(point) = self.scanner.as_ref().and_then(Scanner::last)
            && point.offset > self.row.ckpt_offset
        {
            self.row.ckpt = Some(point.number);
            self.row.ckpt_offset = point.offset;
            self.changed = true;
        }
        if self.row.origin.is_none()
            && let Some(header) = self.scanner.as_ref().and_then(Scanner::header)
        {
            self.row.origin =
                Some(Origin { camera: header.camera, recording: header.recording, run: header.run, at: header.at });
            self.changed = true;
        }
        Ok(())
    }

    fn forget_scan_from(&mut self, start: u64) {
        if start < self.row.ckpt_offset {
            self.row.ckpt = None;
            self.row.ckpt_offset = 0;
        }
        if start < self.scanned {
            self.scanner = None;
            self.scanned = 0;
        }
    }
}

const PIECE: usize = 256 * 1024;

/// Where the bytes beyond a cut of `path` are kept.
#[must_use]
pub fn tail_path(path: &Path) -> PathBuf {
    path.with_extension("tail")
}

/// Up to `len` bytes at `offset` of any file.
///
/// # Errors
/// The file cannot be read.
pub fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut got = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

/// The bytes of `range` out of `bytes`, which begin at `offset`. Empty if they do not hold it.
fn part_of<'a>(bytes: &'a [u8], offset: u64, range: &Range<u64>) -> &'a [u8] {
    let from = usize::try_from(range.start.saturating_sub(offset)).unwrap_or(usize::MAX);
    let to = usize::try_from(range.end.saturating_sub(offset)).unwrap_or(usize::MAX);
    bytes.get(from..to).unwrap_or_default()
}
