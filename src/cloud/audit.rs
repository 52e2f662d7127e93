//! The cloud's audit log: who did what, as a signed chain in one append-only file (`base::chain`, log name `audit`).
//!
//! Belongs here: the entries' meaning, appending, checking. Does not belong here: the box's journal. An entry is durable
//! before the action that it describes is answered. A file cut off inside its last entry (power cut) is cut back to the
//! entry before; anything else that does not check is an error, never repaired silently.

use crate::base::chain::{self, Head, Signed, Signer};
use crate::base::clock::Clock;
use crate::base::reason::Coded;
use crate::base::units::{Run, WallTime};
use crate::base::{cbor, ids};
use minicbor::{Decode, Encode};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The chain's name.
pub const LOG: &str = "audit";

/// The one kind of entry so far: body = [`Event`].
const KIND: u16 = 1;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[cbor(map)]
pub struct Event {
    /// The cloud's wall time.
    #[n(0)]
    pub at: WallTime,
    /// Stable code of the action, for example `pair-create`.
    #[n(1)]
    pub action: String,
    /// Who: `uid:1000` for a local user, `box:…` for a box, `cloud` for itself.
    #[n(2)]
    pub who: String,
    /// What it was done to.
    #[n(3)]
    pub object: String,
    /// `ok`, or the code of the refusal.
    #[n(4)]
    pub outcome: String,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be read or written.
    #[error("audit log {}: {doing} failed", path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    /// An entry does not follow or does not check: somebody changed the file.
    #[error("audit log {} is damaged: keep a copy and move it away to start a new one", path.display())]
    Chain { path: PathBuf, source: chain::Error },
}

impl Coded for AuditError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "audit-io",
            Self::Chain { .. } => "audit-damaged",
        }
    }
}

/// The open log; cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    path: PathBuf,
    signer: Arc<dyn Signer>,
    clock: Clock,
    run: Run,
    state: Mutex<(File, Option<Head>)>,
}

impl Audit {
    /// Opens the file, checks every entry and cuts off a half-written last one.
    ///
    /// # Errors
    /// `Io`, `Chain`.
    pub fn open(path: &Path, signer: Arc<dyn Signer>, clock: Clock) -> Result<Self, AuditError> {
        let io = |doing| move |source| AuditError::Io { path: path.into(), doing, source };
        let file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(io("opening"))?;
        let bytes = std::fs::read(path).map_err(io("reading"))?;
        let (mut head, mut at) = (None, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match Signed::from_frame(rest) {
                Ok((entry, used)) => {
                    head = Some(
                        entry
                            .check(LOG, head, &signer.public_key())
                            .map_err(|source| AuditError::Chain { path: path.into(), source })?,
                    );
                    at += used;
                }
                Err(chain::Error::Truncated) => {
                    file.set_len(at as u64).and_then(|()| file.sync_all()).map_err(io("cutting"))?;
                    break;
                }
                Err(source) => return Err(AuditError::Chain { path: path.into(), source }),
            }
        }
        let run = Run { boot: clock.boot(), start: 0 };
        Ok(Self(Arc::new(Inner { path: path.into(), signer, clock, run, state: Mutex::new((file, head)) })))
    }

    /// Appends one event, durably.
    ///
    /// # Errors
    /// `Io`: then the action must not be done.
    pub fn note(&self, action: &str, who: &str, object: &str, outcome: &str) -> Result<(), AuditError> {
        let inner = &*self.0;
        let limited = |text: &str| text.chars().take(512).collect::<String>();
        let event = Event {
            at: inner.clock.statement().wall,
            action: limited(action),
            who: limited(who),
            object: limited(object),
            outcome: limited(outcome),
        };
        let mut state = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, head) = &mut *state;
        let at = inner.clock.boottime();
        let entry = Signed::append(LOG, *head, &*inner.signer, inner.run, at, KIND, cbor::encode(&event));
        let before = file.metadata().map(|meta| meta.len());
        let written = file.write_all(&entry.to_frame()).and_then(|()| file.sync_data());
        if let Err(source) = written {
            // A half entry would make the next one unreadable.
            if let Ok(len) = before {
                let _ = file.set_len(len);
            }
            return Err(AuditError::Io { path: inner.path.clone(), doing: "writing", source });
        }
        *head = Some(entry.head(LOG));
        tracing::info!(action, who, object, outcome, "audit");
        Ok(())
    }

    /// The last entry.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// Name of a local user in the log.
#[must_use]
pub fn local_user(uid: u32) -> String {
    format!("uid:{uid}")
}

/// Name of a box in the log.
#[must_use]
pub fn box_name(id: ids::BoxId) -> String {
    format!("box:{id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::chain::SoftwareSigner;

    #[test]
    fn the_log_survives_a_cut_and_refuses_a_flip() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("audit.log");
        let signer: Arc<dyn Signer> = Arc::new(SoftwareSigner::generate());
        let open = || Audit::open(&path, signer.clone(), Clock::system(WallTime(0)));
        let log = open().expect("new");
        for n in 0..3 {
            log.note("pair-create", "uid:0", &n.to_string(), "ok").expect("writes");
        }
        let (whole, head) = (std::fs::read(&path).expect("reads"), log.head());
        std::fs::write(&path, &whole[..whole.len() - 1]).expect("writes");
        let log = open().expect("cut back");
        assert_eq!(log.head().map(|h| h.seq), Some(1));
        log.note("pair-create", "uid:0", "again", "ok").expect("writes");
        assert_eq!(open().expect("opens").head().map(|h| h.seq), head.map(|h| h.seq));
        let mut flipped = std::fs::read(&path).expect("reads");
        flipped[40] ^= 1;
        std::fs::write(&path, flipped).expect("writes");
        assert_eq!(open().err().map(|e| e.code()), Some("audit-damaged"));
    }
}
