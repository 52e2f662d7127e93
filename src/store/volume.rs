//! The card as a flat set of append-only files: what the store needs of a file system, and no more.
//!
//! Belongs here: the trait and the real file system. Does not belong here: mounting, formatting, card states (room
//! `system`). The fault volume of the tests is `sim::volume`. All calls block; the store calls them on its own lane.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A file in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Name without its folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// Room on the card, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Available to us.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// A file system as the store uses it. Paths are relative, `folder/name` or `name`.
///
/// Nothing is durable before [`Volume::sync`] of that file or [`Volume::sync_all`] returned `Ok`: neither bytes, nor a
/// file's existence, nor its absence. A failed sync says nothing about what became durable.
pub trait Volume: Send + Sync {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// The file system's.
    fn make_folder(&self, folder: &str) -> io::Result<()>;

    /// Makes an empty file.
    ///
    /// # Errors
    /// `AlreadyExists`, or the file system's.
    fn create(&self, path: &str) -> io::Result<()>;

    /// Writes at `offset`; may write less than asked (at least one byte, or an error).
    ///
    /// # Errors
    /// `NotFound`, or the file system's.
    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Reads at `offset`; 0 at the end of the file.
    ///
    /// # Errors
    /// `NotFound`, or the file system's.
    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Cuts the file to `size`.
    ///
    /// # Errors
    /// `NotFound`, or the file system's.
    fn truncate(&self, path: &str, size: u64) -> io::Result<()>;

    /// Removes the file.
    ///
    /// # Errors
    /// `NotFound`, or the file system's.
    fn unlink(&self, path: &str) -> io::Result<()>;

    /// Makes the file's bytes and its entry in its folder durable.
    ///
    /// # Errors
    /// `NotFound`, or the file system's.
    fn sync(&self, path: &str) -> io::Result<()>;

    /// Makes everything durable at once.
    ///
    /// # Errors
    /// The file system's.
    fn sync_all(&self) -> io::Result<()>;

    /// The files of a folder, in no order.
    ///
    /// # Errors
    /// The file system's.
    fn list(&self, folder: &str) -> io::Result<Vec<FileInfo>>;

    /// Bytes of a file.
    ///
    /// # Errors
    /// `NotFound`, or the file system's.
    fn size(&self, path: &str) -> io::Result<u64>;

    /// Room left.
    ///
    /// # Errors
    /// The file system's.
    fn space(&self) -> io::Result<Space>;

    /// No more writes to this file follow: a handle kept for it may go.
    fn release(&self, _path: &str) {}
}

/// Writes all of `bytes` at `offset`, through short writes.
///
/// # Errors
/// The first error; what was written before it stays.
pub fn write_all_at(volume: &dyn Volume, path: &str, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = volume.write_at(path, offset, bytes)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += n as u64;
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

/// The whole file, which must not be larger than `max`.
///
/// # Errors
/// The file system's; `InvalidData` if it is larger.
pub fn read_all(volume: &dyn Volume, path: &str, max: u64) -> io::Result<Vec<u8>> {
    let size = volume.size(path)?;
    let size = usize::try_from(size)
        .ok()
        .filter(|_| size <= max)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{size} bytes, at most {max} expected")))?;
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match volume.read_at(path, filled as u64, rest)? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// A folder of a real file system.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    top: File,
    // One descriptor per file that is being written: opened once, not per append. Short lock, never across a call that
    // blocks on the card.
    writing: Mutex<HashMap<String, Arc<File>>>,
}

impl Directory {
    /// Opens a folder that exists.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let top = File::open(&root)?;
        if !top.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, root.display().to_string()));
        }
        Ok(Self { root, top, writing: Mutex::default() })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn writer(&self, path: &str) -> io::Result<Arc<File>> {
        if let Some(file) = self.writing.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(file.clone());
        }
        let file = Arc::new(OpenOptions::new().write(true).open(self.root.join(path))?);
        self.keep(path, file.clone());
        Ok(file)
    }

    fn keep(&self, path: &str, file: Arc<File>) {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), file);
    }
}

impl Volume for Directory {
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        match std::fs::create_dir(self.root.join(folder)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.top.sync_all(),
        }
    }

    fn create(&self, path: &str) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(self.root.join(path))?;
        self.keep(path, Arc::new(file));
        Ok(())
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.writer(path)?.write_at(bytes, offset)
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        File::open(self.root.join(path))?.read_at(into, offset)
    }

    fn truncate(&self, path: &str, size: u64) -> io::Result<()> {
        self.writer(path)?.set_len(size)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.release(path);
        std::fs::remove_file(self.root.join(path))
    }

    fn sync(&self, path: &str) -> io::Result<()> {
        self.writer(path)?.sync_all()?;
        match self.root.join(path).parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        nix::unistd::syncfs(&self.top).map_err(io::Error::from)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<FileInfo>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.root.join(folder))? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if let Some(name) = entry.file_name().to_str().filter(|_| meta.is_file()) {
                files.push(FileInfo { name: name.to_owned(), size: meta.len() });
            }
        }
        Ok(files)
    }

    fn size(&self, path: &str) -> io::Result<u64> {
        std::fs::metadata(self.root.join(path)).map(|meta| meta.len())
    }

    fn space(&self) -> io::Result<Space> {
        let stat = nix::sys::statvfs::fstatvfs(&self.top)?;
        let block = stat.fragment_size();
        Ok(Space { free: stat.blocks_available() * block, total: stat.blocks() * block })
    }

    fn release(&self, path: &str) {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_what_is_written_at_offsets() {
        let dir = tempfile::tempdir().expect("folder");
        let volume = Directory::open(dir.path()).expect("opens");
        volume.make_folder("segments").expect("makes");
        volume.make_folder("segments").expect("is there");
        volume.create("segments/a").expect("creates");
        assert_eq!(volume.create("segments/a").expect_err("exists").kind(), io::ErrorKind::AlreadyExists);
        write_all_at(&volume, "segments/a", 0, b"hello").expect("writes");
        write_all_at(&volume, "segments/a", 3, b"p!").expect("writes");
        volume.sync("segments/a").expect("syncs");
        volume.sync_all().expect("syncs");
        assert_eq!(read_all(&volume, "segments/a", 10).expect("reads"), b"help!");
        assert!(read_all(&volume, "segments/a", 4).is_err());
        volume.truncate("segments/a", 4).expect("cuts");
        assert_eq!(volume.list("segments").expect("lists"), [FileInfo { name: "a".into(), size: 4 }]);
        assert!(volume.space().expect("space").total > 0);
        volume.unlink("segments/a").expect("unlinks");
        assert!(volume.size("segments/a").is_err());
    }
}
