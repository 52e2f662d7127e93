//! The vault's file operations, each of them a point at which power may fail.
//!
//! Belongs here: plain operations on files and folders, announced to a [`Hook`] before they happen, so that a test can
//! cut after any of them. Does not belong here: what the files mean.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One operation that changes what survives a power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Bytes are written: they survive only after the next `Sync` of the file.
    Write { path: PathBuf, offset: u64, len: u64 },
    /// The file's bytes become durable.
    Sync { path: PathBuf },
    /// The file is cut.
    Truncate { path: PathBuf, len: u64 },
    /// A new name: survives only after the next `SyncFolder`.
    Rename { from: PathBuf, to: PathBuf },
    /// Names of the folder become durable.
    SyncFolder { path: PathBuf },
    /// A SQLite transaction is committed.
    Commit,
}

/// Sees each step before it happens; an error stands for the power cut.
pub type Hook = Arc<dyn Fn(&Step) -> io::Result<()> + Send + Sync>;

/// File operations below one folder.
#[derive(Clone, Default)]
pub struct Disk {
    hook: Option<Hook>,
}

impl Disk {
    /// A disk whose steps are announced.
    #[must_use]
    pub fn with_hook(hook: Hook) -> Self {
        Self { hook: Some(hook) }
    }

    /// Announces a step.
    ///
    /// # Errors
    /// The hook's, if there is one.
    pub fn step(&self, step: impl FnOnce() -> Step) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(&step()))
    }

    /// Makes a folder (mode 0700) and its parents.
    ///
    /// # Errors
    /// The operation's.
    pub fn make_folder(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        parent.map_or(Ok(()), |parent| self.sync_folder(parent))
    }

    /// Opens for reading and writing at offsets, creates if missing (mode 0600).
    ///
    /// # Errors
    /// The operation's.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The operation's.
    pub fn write_at(&self, file: &File, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.step(|| Step::Write { path: path.into(), offset, len: bytes.len() as u64 })?;
        file.write_all_at(bytes, offset)
    }

    /// Makes the file's bytes durable.
    ///
    /// # Errors
    /// The operation's.
    pub fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        self.step(|| Step::Sync { path: path.into() })?;
        file.sync_data()
    }

    /// Cuts the file.
    ///
    /// # Errors
    /// The operation's.
    pub fn truncate(&self, file: &File, path: &Path, len: u64) -> io::Result<()> {
        self.step(|| Step::Truncate { path: path.into(), len })?;
        file.set_len(len)
    }

    /// Renames, replacing.
    ///
    /// # Errors
    /// The operation's.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|| Step::Rename { from: from.into(), to: to.into() })?;
        fs::rename(from, to)
    }

    /// Makes the folder's names durable.
    ///
    /// # Errors
    /// The operation's.
    pub fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.step(|| Step::SyncFolder { path: path.into() })?;
        File::open(path)?.sync_all()
    }
}

/// Bytes that an unprivileged process may still write below `path`.
///
/// # Errors
/// The file system does not say.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(io::Error::from)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}
