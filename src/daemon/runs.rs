//! Counts starts of the daemon on internal storage: with the kernel's boot id that names a run.

use crate::base::fs;
use crate::base::reason::Coded;
use std::path::{Path, PathBuf};

/// Name of the file in the state folder: the number in decimal digits.
const FILE: &str = "starts";

/// Why starts cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    /// The file cannot be read or written.
    #[error("{}: the count of starts cannot be {action}; check that mvbd may write the state folder", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what we wrote.
    #[error("{}: the count of starts is damaged; write a number into it that is higher than any start so far", .0.display())]
    Damaged(PathBuf),
}

impl Coded for RunsError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "starts-io",
            Self::Damaged(_) => "starts-damaged",
        }
    }
}

/// The number of this start, durable before it is used: a number is never used twice.
///
/// # Errors
/// `Io`, `Damaged`. Guessing instead could repeat a run, which would look like a forged one.
pub fn next(state: &Path) -> Result<u32, RunsError> {
    let path = state.join(FILE);
    let before = match fs::read_if_exists(&path, 16) {
        Ok(None) => 0,
        Ok(Some(bytes)) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .ok_or_else(|| RunsError::Damaged(path.clone()))?,
        Err(source) => return Err(RunsError::Io { path, action: "read", source }),
    };
    let next = before.checked_add(1).ok_or_else(|| RunsError::Damaged(path.clone()))?;
    fs::replace(&path, format!("{next}\n").as_bytes(), 0o600).map_err(|source| RunsError::Io {
        path,
        action: "written",
        source,
    })?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_counted_and_a_damaged_count_is_not_guessed() {
        let dir = tempfile::tempdir().expect("folder");
        assert_eq!(next(dir.path()).expect("counts"), 1);
        assert_eq!(next(dir.path()).expect("counts"), 2);
        std::fs::write(dir.path().join(FILE), "two").expect("writes");
        assert_eq!(next(dir.path()).expect_err("damaged").code(), "starts-damaged");
    }
}
