//! A card over a real folder whose unsynced writes live in this process only: `kill -9` of the process is a power cut.
//!
//! For runs of the real daemon. What a cut leaves is exactly what was synced; the torn and reordered cases are
//! [`super::volume::FaultVolume`]'s.

use crate::store::{Directory, FileInfo, Space, Volume, volume};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What happened to a file since its last sync.
#[derive(Debug, Default)]
struct Unsynced {
    /// The folder does not know it yet.
    created: bool,
    unlinked: bool,
    /// Its whole contents, while anything is unsynced.
    bytes: Vec<u8>,
    /// Everything before is on the card already.
    clean_to: usize,
}

/// The card.
#[derive(Debug)]
pub struct PowerVolume {
    card: Directory,
    unsynced: Mutex<BTreeMap<String, Unsynced>>,
}

impl PowerVolume {
    /// Over a folder that exists.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        Ok(Self { card: Directory::open(root)?, unsynced: Mutex::default() })
    }

    fn unsynced(&self) -> MutexGuard<'_, BTreeMap<String, Unsynced>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file's pending state, read from the card on first touch.
    fn touch<'a>(&self, pending: &'a mut BTreeMap<String, Unsynced>, path: &str) -> io::Result<&'a mut Unsynced> {
        if !pending.contains_key(path) {
            let bytes = volume::read_all(&self.card, path, u64::MAX)?;
            let clean_to = bytes.len();
            pending.insert(path.to_owned(), Unsynced { bytes, clean_to, ..Unsynced::default() });
        }
        match pending.get_mut(path) {
            Some(file) if !file.unlinked => Ok(file),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn flush(&self, path: &str, file: &Unsynced) -> io::Result<()> {
        if file.unlinked {
            return match self.card.unlink(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        if file.created {
            self.card.create(path)?;
        } else {
            self.card.truncate(path, file.clean_to as u64)?;
        }
        let tail = file.bytes.get(file.clean_to..).unwrap_or_default();
        volume::write_all_at(&self.card, path, file.clean_to as u64, tail)?;
        self.card.sync(path)
    }
}

impl Volume for PowerVolume {
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.card.make_folder(folder)
    }

    fn create(&self, path: &str) -> io::Result<()> {
        let mut pending = self.unsynced();
        if self.touch(&mut pending, path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        pending.insert(path.to_owned(), Unsynced { created: true, ..Unsynced::default() });
        Ok(())
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut pending = self.unsynced();
        let file = self.touch(&mut pending, path)?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = offset + bytes.len();
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        file.bytes[offset..end].copy_from_slice(bytes);
        file.clean_to = file.clean_to.min(offset);
        Ok(bytes.len())
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        match self.unsynced().get(path) {
            Some(file) if file.unlinked => Err(io::ErrorKind::NotFound.into()),
            Some(file) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(file.bytes.len());
                let n = into.len().min(file.bytes.len() - offset);
                into[..n].copy_from_slice(&file.bytes[offset..offset + n]);
                Ok(n)
            }
            None => self.card.read_at(path, offset, into),
        }
    }

    fn truncate(&self, path: &str, size: u64) -> io::Result<()> {
        let mut pending = self.unsynced();
        let file = self.touch(&mut pending, path)?;
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        file.bytes.resize(size, 0);
        file.clean_to = file.clean_to.min(size);
        Ok(())
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.touch(&mut self.unsynced(), path)?.unlinked = true;
        Ok(())
    }

    fn sync(&self, path: &str) -> io::Result<()> {
        let mut pending = self.unsynced();
        match pending.get(path) {
            Some(file) => self.flush(path, file)?,
            None => return self.card.sync(path),
        }
        pending.remove(path);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut pending = self.unsynced();
        for (path, file) in pending.iter() {
            self.flush(path, file)?;
        }
        pending.clear();
        self.card.sync_all()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<FileInfo>> {
        let pending = self.unsynced();
        let mut files: BTreeMap<String, u64> =
            self.card.list(folder)?.into_iter().map(|file| (file.name, file.size)).collect();
        for (path, file) in pending.iter() {
            let Some(name) = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')) else { continue };
            if file.unlinked {
                files.remove(name);
            } else {
                files.insert(name.to_owned(), file.bytes.len() as u64);
            }
        }
        Ok(files.into_iter().map(|(name, size)| FileInfo { name, size }).collect())
    }

    fn size(&self, path: &str) -> io::Result<u64> {
        match self.unsynced().get(path) {
            Some(file) if file.unlinked => Err(io::ErrorKind::NotFound.into()),
            Some(file) => Ok(file.bytes.len() as u64),
            None => self.card.size(path),
        }
    }

    fn space(&self) -> io::Result<Space> {
        self.card.space()
    }

    fn release(&self, path: &str) {
        self.card.release(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::volume::write_all_at;

    #[test]
    fn only_what_was_synced_is_there_after_the_process_is_gone() {
        let dir = tempfile::tempdir().expect("folder");
        let volume = PowerVolume::open(dir.path()).expect("opens");
        volume.make_folder("segments").expect("makes");
        volume.create("segments/a").expect("creates");
        write_all_at(&volume, "segments/a", 0, b"kept").expect("writes");
        volume.sync_all().expect("syncs");
        write_all_at(&volume, "segments/a", 4, b" and lost").expect("writes");
        volume.create("segments/b").expect("creates");
        assert_eq!(volume.size("segments/a").expect("size"), 13);
        assert_eq!(volume.list("segments").expect("lists").len(), 2);
        drop(volume);
        let after = PowerVolume::open(dir.path()).expect("opens");
        assert_eq!(volume::read_all(&after, "segments/a", 100).expect("reads"), b"kept");
        assert_eq!(after.list("segments").expect("lists").len(), 1);
        after.unlink("segments/a").expect("unlinks");
        assert!(after.size("segments/a").is_err());
        drop(after);
        assert_eq!(Directory::open(dir.path()).expect("opens").size("segments/a").expect("size"), 4);
    }
}
