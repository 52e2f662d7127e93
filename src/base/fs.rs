//! File helpers for small durable state: replaced whole, never half.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces `path` so that after a power cut it holds the old or the new bytes, never a mixture: write beside it,
/// fsync, rename, fsync of the folder. The file's mode is `mode` (for example `0o600`).
///
/// # Errors
/// The failing operation's error; the old file is then untouched.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let mut beside = name.to_owned();
    beside.push(".new");
    let beside = folder.join(beside);
    step()?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    step()?;
    file.write_all(bytes)?;
    step()?;
    file.sync_all()?;
    step()?;
    std::fs::rename(&beside, path)?;
    step()?;
    File::open(folder)?.sync_all()
}

/// Comes before each operation of [`replace`]: where tests cut the power.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "fails in tests only")]
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use faults::step;

/// The file's bytes, or `None` if it does not exist.
///
/// # Errors
/// Any other failure, and a file larger than `max` bytes.
pub fn read_if_exists(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(meta) if meta.len() > max => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} bytes, at most {max} expected", meta.len())))
        }
        Ok(_) => std::fs::read(path).map(Some),
    }
}

/// Operations of [`replace`] that fail, for tests of what a power cut or a failing card leaves behind. Per thread.
#[cfg(test)]
pub mod faults {
    use std::cell::Cell;
    use std::io;

    /// What happens to the operation whose turn it is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// It fails, and so does every later one: the power is gone.
        Cut,
        /// It fails; later ones succeed.
        Once,
    }

    thread_local! {
        static PLAN: Cell<Option<(u32, Fault)>> = const { Cell::new(None) };
        static REACHED: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `work`: `after` operations succeed, then the fault comes. Gives back whether it was reached.
    pub fn with<T>(after: u32, fault: Fault, work: impl FnOnce() -> T) -> (T, bool) {
        PLAN.set(Some((after, fault)));
        REACHED.set(false);
        let done = work();
        PLAN.set(None);
        (done, REACHED.get())
    }

    pub(super) fn step() -> io::Result<()> {
        match PLAN.get() {
            None => Ok(()),
            Some((0, fault)) => {
                REACHED.set(true);
                if fault == Fault::Once {
                    PLAN.set(None);
                }
                Err(io::Error::other("the test's fault"))
            }
            Some((left, fault)) => {
                PLAN.set(Some((left - 1, fault)));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_leaves_the_new_bytes_and_no_neighbour() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("state");
        replace(&path, b"one", 0o600).expect("writes");
        replace(&path, b"two", 0o600).expect("writes");
        assert_eq!(read_if_exists(&path, 10).expect("reads").as_deref(), Some(&b"two"[..]));
        assert!(read_if_exists(&path, 2).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1);
    }
}
