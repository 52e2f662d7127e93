//! Why the store could not do something.

use crate::base::reason::Coded;
use std::io;

/// Failures of the store. Those of the card while recording are not errors but states: see [`crate::store::Status`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The card's file system failed.
    #[error("{action} {path}")]
    Card { action: &'static str, path: String, source: io::Error },
    /// Internal storage failed.
    #[error("internal storage: {action}")]
    Internal { action: &'static str, source: io::Error },
    /// The catalog failed in a way that a rebuild did not cure.
    #[error("catalog: {action}")]
    Catalog { action: &'static str, source: rusqlite::Error },
    /// The writer is gone (shutdown, or it could not start).
    #[error("the store's writer has stopped")]
    Stopped,
    /// Nothing is known of this segment.
    #[error("no such segment")]
    UnknownSegment,
    /// The segment's file is not what the journal says.
    #[error("the file differs from the journal")]
    Damaged,
}

impl Coded for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Card { source, .. } => card_code(source),
            Self::Internal { .. } => "internal-storage-failed",
            Self::Catalog { .. } => "catalog-failed",
            Self::Stopped => "store-stopped",
            Self::UnknownSegment => "segment-unknown",
            Self::Damaged => "segment-damaged",
        }
    }
}

/// What an error of the card's file system means to an operator.
#[must_use]
pub fn card_code(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "card-full",
        io::ErrorKind::ReadOnlyFilesystem => "card-read-only",
        io::ErrorKind::NotFound => "card-file-missing",
        _ => "card-io-error",
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::UnknownSegment => Self::new(io::ErrorKind::NotFound, error),
            Error::Damaged => Self::new(io::ErrorKind::InvalidData, error),
            other => Self::other(other),
        }
    }
}
