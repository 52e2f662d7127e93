//! The vault's files as readers see them: listing, verifying and exporting, with or without the running daemon.
//!
//! Belongs here: finding files and reading their bytes, the tail after the cut included. Does not belong here: opening
//! them (`play`). SQLite's WAL lets several processes read; nothing here writes.

use super::db::{Db, FileState, PairingRow, SegmentRow};
use super::part::{read_at, tail_path};
use super::{DbError, VaultError, db_path, folder, stem};
use crate::base::chain::{Head, PublicKey};
use crate::base::ids::{BoxId, RecordingId};
use crate::seal::Header;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes at the start of a file that hold every header.
pub(super) const HEADER_REACH: usize = 64 * 1024;

/// One file in the vault.
#[derive(Debug, Clone)]
pub struct StoredFile {
    /// What is known about it.
    pub row: SegmentRow,
    /// Its bytes.
    pub path: PathBuf,
    /// Bytes beyond the cut, if there are any.
    pub tail: Option<PathBuf>,
}

impl StoredFile {
    fn new(data: &Path, row: SegmentRow) -> Self {
        let stem = stem(row.segment, row.variant);
        let folder = folder(data, row.box_id);
        let whole = folder.join(format!("{stem}.mvs"));
        let path = if whole.exists() { whole } else { folder.join(format!("{stem}.part")) };
        let tail = row.tail.as_ref().map(|_| tail_path(&path));
        Self { row, path, tail }
    }

    /// Bytes of the file that are there without a hole.
    #[must_use]
    pub fn reach(&self) -> u64 {
        match (self.row.state, self.row.object) {
            (FileState::Committed, Some((size, _))) => size,
            _ => self.row.have.prefix(),
        }
    }

    /// Bytes of the tail that follow the cut without a hole.
    #[must_use]
    pub fn tail_reach(&self) -> u64 {
        let Some(tail) = &self.row.tail else { return 0 };
        tail.have.within(&(tail.from..u64::MAX)).first().filter(|r| r.start == tail.from).map_or(0, |r| r.end - r.start)
    }

    /// All bytes of the file that are there without a hole.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let file = File::open(&self.path)?;
        read_at(&file, 0, usize::try_from(self.reach()).unwrap_or(usize::MAX))
    }

    /// What was received live: the bytes before the cut, then those of the tail. Only what is signed up to
    /// `row.tail.ckpt` is proven; the rest is provisional.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn live_bytes(&self) -> io::Result<Option<Vec<u8>>> {
        let (Some(tail), Some(path)) = (&self.row.tail, &self.tail) else { return Ok(None) };
        let Ok(cut) = usize::try_from(tail.from) else { return Ok(None) };
        let mut bytes = read_at(&File::open(&self.path)?, 0, cut)?;
        if bytes.len() < cut {
            return Ok(None);
        }
        bytes.extend(read_at(&File::open(path)?, 0, usize::try_from(self.tail_reach()).unwrap_or(0))?);
        Ok(Some(bytes))
    }
}

/// A data folder opened for reading only.
pub struct Reader {
    data: PathBuf,
    db: Db,
}

impl Reader {
    /// Opens the vault of a data folder.
    ///
    /// # Errors
    /// There is none, or the database cannot be used.
    pub fn open(data: &Path) -> Result<Self, VaultError> {
        let path = db_path(data);
        if !path.exists() {
            let source = io::Error::new(io::ErrorKind::NotFound, "no vault here: give the right --data");
            return Err(VaultError::Io { doing: "opening", path, source });
        }
        Ok(Self { data: data.into(), db: Db::open(&path)? })
    }

    /// All files, in the order of recordings.
    ///
    /// # Errors
    /// `Db`.
    pub fn files(&self) -> Result<Vec<StoredFile>, DbError> {
        Ok(self.db.segments()?.into_iter().map(|row| StoredFile::new(&self.data, row)).collect())
    }

    /// The files of one recording, in order.
    ///
    /// # Errors
    /// `Db`.
    pub fn recording(&self, recording: RecordingId) -> Result<Vec<StoredFile>, DbError> {
        let mut files = self.files()?;
        files.retain(|file| file.row.origin.is_some_and(|origin| origin.recording == recording));
        Ok(files)
    }

    /// All pairings.
    ///
    /// # Errors
    /// `Db`.
    pub fn pairings(&self) -> Result<Vec<PairingRow>, DbError> {
        self.db.pairings()
    }

    /// The cloud's head of a box's journal.
    ///
    /// # Errors
    /// `Db`.
    pub fn journal_head(&self, box_id: BoxId) -> Result<Option<Head>, DbError> {
        self.db.journal_head(box_id)
    }

    /// Frames of a box's journal.
    ///
    /// # Errors
    /// `Db`.
    pub fn journal_frames(&self, box_id: BoxId) -> Result<Vec<Vec<u8>>, DbError> {
        self.db.journal_frames(box_id)
    }

    /// The evidence key of a box.
    ///
    /// # Errors
    /// `Db`.
    pub fn evidence(&self, box_id: BoxId) -> Result<Option<PublicKey>, DbError> {
        self.db.evidence(box_id)
    }
}

/// The clear header of a file.
pub(super) fn header_of(path: &Path) -> Option<Header> {
    let start = read_at(&File::open(path).ok()?, 0, HEADER_REACH).ok()?;
    Header::decode(&start).ok().map(|(header, _)| header)
}
