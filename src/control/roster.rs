//! The enrolled cameras: who may deliver footage, and what is known of each.
//!
//! A camera is an identity of the organisation and rides in any car. The roster owns the list (a file replaced whole)
//! and publishes it; ingest learns credentials from it, the recorder names and policies. Passwords are never kept, only
//! their Digest hashes (HA1), and those only in the secrets file. Does not belong here: who is connected (see `ingest`).

use crate::base::fs;
use crate::base::ids::{CameraId, random_bytes};
use crate::base::reason::Coded;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Name of the file in the state folder.
const FILE: &str = "roster.json";
/// Largest file that is read: 256 cameras with all texts at their longest.
const MAX_FILE: u64 = 1 << 20;
/// More cameras than any vehicle or pool of a shift has.
const MAX_CAMERAS: usize = 256;

/// Which digests a camera may answer with (RFC 7616). ffmpeg and GStreamer know MD5 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Digests {
    /// MD5 only.
    #[default]
    Md5,
    /// SHA-256 only.
    Sha256,
    /// Both are offered.
    Both,
}

/// When a camera is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// While it streams.
    #[default]
    WhileStreaming,
    /// Always.
    Continuous,
}

/// Order in the backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Before others.
    High,
    /// Oldest first.
    #[default]
    Normal,
}

/// One enrolled camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Camera {
    /// Random, for ever.
    pub id: CameraId,
    /// Unique, 1 to 64 bytes.
    pub name: String,
    /// Who wears it.
    pub officer: Option<String>,
    /// User name in Digest.
    pub user: String,
    /// Path of its URL, without the slash.
    pub path: String,
    /// Digests that it may use.
    pub digest: Digests,
    /// When it is recorded.
    pub policy: Policy,
    /// Order in the backlog.
    pub priority: Priority,
}

/// What people do with cameras.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// Enrols → [`Enrolled`].
    Add {
        /// Unique name.
        name: String,
        /// Who wears it.
        officer: Option<String>,
        /// Digests that it may use.
        digest: Digests,
        /// Order in the backlog.
        priority: Priority,
    },
    /// → list of [`Camera`].
    List,
    /// Ends the enrolment; its session is closed, its footage stays.
    Remove {
        /// Name or id.
        camera: String,
    },
    /// Replaces the password → [`Enrolled`].
    Password {
        /// Name or id.
        camera: String,
    },
}

/// A new or renewed enrolment. The password is shown here and never again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// The camera.
    pub camera: Camera,
    /// Where it pushes to; the host is missing if only the network knows it.
    pub url: String,
    /// Its password.
    pub password: String,
}

/// Why an enrolment failed.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// The name is not usable.
    #[error("a camera's name is 1 to 64 bytes without control characters")]
    BadName,
    /// The officer's name is not usable.
    #[error("an officer's name is 1 to 256 bytes without control characters")]
    BadOfficer,
    /// The name is taken.
    #[error(
        "a camera called {0:?} is enrolled already: choose another name, or `mvbctl camera passwd` for a new password"
    )]
    NameTaken(String),
    /// No such camera.
    #[error("no camera is called {0:?}: `mvbctl camera list` shows all")]
    Unknown(String),
    /// Too many.
    #[error("{MAX_CAMERAS} cameras are enrolled: remove one first")]
    Full,
    /// The file cannot be read or written.
    #[error("{}: the roster cannot be {action}", path.display())]
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
    #[error("{}: the roster is damaged; restore it or remove the file and enrol the cameras again", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

impl Coded for RosterError {
    fn code(&self) -> &'static str {
        match self {
            Self::BadName => "camera-bad-name",
            Self::BadOfficer => "camera-bad-officer",
            Self::NameTaken(_) => "camera-name-taken",
            Self::Unknown(_) => "camera-unknown",
            Self::Full => "roster-full",
            Self::Io { .. } => "roster-io",
            Self::Damaged { .. } => "roster-damaged",
        }
    }
}

/// The enrolled cameras, in order of enrolment.
pub type Cameras = Arc<Vec<Camera>>;

/// The list and its file.
#[derive(Debug)]
pub struct Roster {
    path: PathBuf,
    cameras: watch::Sender<Cameras>,
}

impl Roster {
    /// Reads the state folder's list; a missing file is an empty roster.
    ///
    /// # Errors
    /// `Io`, `Damaged`.
    pub fn load(state: &Path) -> Result<Self, RosterError> {
        let path = state.join(FILE);
        let cameras = match fs::read_if_exists(&path, MAX_FILE) {
            Ok(None) => Vec::new(),
            Ok(Some(bytes)) => {
                serde_json::from_slice(&bytes).map_err(|source| RosterError::Damaged { path: path.clone(), source })?
            }
            Err(source) => return Err(RosterError::Io { path, action: "read", source }),
        };
        Ok(Self { path, cameras: watch::Sender::new(Arc::new(cameras)) })
    }

    /// The list, and every change of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Cameras> {
        self.cameras.subscribe()
    }

    /// The list now.
    #[must_use]
    pub fn cameras(&self) -> Cameras {
        self.cameras.borrow().clone()
    }

    /// A camera as it will be enrolled; nothing is kept yet.
    ///
    /// # Errors
    /// `BadName`, `BadOfficer`, `NameTaken`, `Full`.
    pub fn draft(
        &self,
        name: &str,
        officer: Option<String>,
        digest: Digests,
        priority: Priority,
    ) -> Result<Camera, RosterError> {
        let good = |text: &str, most: usize| (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
        let name = name.trim();
        if !good(name, 64) {
            return Err(RosterError::BadName);
        }
        if officer.as_deref().is_some_and(|officer| !good(officer, 256)) {
            return Err(RosterError::BadOfficer);
        }
        let cameras = self.cameras();
        if cameras.iter().any(|camera| camera.name == name) {
            return Err(RosterError::NameTaken(name.to_owned()));
        }
        if cameras.len() >= MAX_CAMERAS {
            return Err(RosterError::Full);
        }
        let path = free_path(name, &cameras);
        Ok(Camera {
            id: CameraId::random(),
            name: name.to_owned(),
            officer,
            user: path.clone(),
            path,
            digest,
            policy: Policy::default(),
            priority,
        })
    }

    /// A camera by its name or id.
    ///
    /// # Errors
    /// `Unknown`.
    pub fn find(&self, wanted: &str) -> Result<Camera, RosterError> {
        let cameras = self.cameras();
        cameras
            .iter()
            .find(|camera| camera.name == wanted || camera.id.to_string() == wanted)
            .cloned()
            .ok_or_else(|| RosterError::Unknown(wanted.to_owned()))
    }

    /// Adds a drafted camera; durable before it is published.
    ///
    /// # Errors
    /// `Io`: nothing has changed.
    pub fn add(&self, camera: Camera) -> Result<(), RosterError> {
        let mut cameras = Vec::clone(&self.cameras());
        cameras.push(camera);
        self.replace(cameras)
    }

    /// Removes a camera.
    ///
    /// # Errors
    /// `Io`: nothing has changed.
    pub fn remove(&self, id: CameraId) -> Result<(), RosterError> {
        let mut cameras = Vec::clone(&self.cameras());
        cameras.retain(|camera| camera.id != id);
        self.replace(cameras)
    }

    /// Publishes the same list again: a credential behind it has changed.
    pub fn republish(&self) {
        self.cameras.send_modify(|_| {});
    }

    fn replace(&self, cameras: Vec<Camera>) -> Result<(), RosterError> {
        let written = |source| RosterError::Io { path: self.path.clone(), action: "written", source };
        let bytes = serde_json::to_vec_pretty(&cameras).map_err(|error| written(error.into()))?;
        fs::replace(&self.path, &bytes, 0o600).map_err(written)?;
        self.cameras.send_replace(Arc::new(cameras));
        Ok(())
    }
}

/// A password of 100 random bits in letters and digits that are not mistaken for one another.
#[must_use]
pub fn new_password() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    random_bytes::<20>().iter().map(|b| char::from(LETTERS[usize::from(b % 32)])).collect()
}

/// The name in lower-case letters and digits, made unique by a number.
fn free_path(name: &str, cameras: &[Camera]) -> String {
    let mut path = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            path.push(c);
        } else if !path.is_empty() && !path.ends_with('-') {
            path.push('-');
        }
    }
    let path = match path.trim_end_matches('-') {
        "" => "camera".to_owned(),
        path => path.to_owned(),
    };
    let taken = |candidate: &str| cameras.iter().any(|camera| camera.path == candidate);
    if !taken(&path) {
        return path;
    }
    (2..).map(|number: u32| format!("{path}-{number}")).find(|path| !taken(path)).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cameras_survive_a_restart_and_changes_are_published() {
        let dir = tempfile::tempdir().expect("folder");
        let roster = Roster::load(dir.path()).expect("empty");
        let watch = roster.watch();
        for name in ["Café 12", "Cafe-12", "Caf\u{e9} 12!"] {
            let camera = roster.draft(name, None, Digests::Md5, Priority::Normal).expect("fine");
            roster.add(camera).expect("written");
        }
        assert!(watch.has_changed().expect("open"));
        let again = Roster::load(dir.path()).expect("reads");
        assert_eq!(again.cameras(), roster.cameras());
        let paths: Vec<String> = again.cameras().iter().map(|camera| camera.path.clone()).collect();
        assert_eq!(paths, ["caf-12", "cafe-12", "caf-12-2"]);
        let id = again.find("Cafe-12").expect("enrolled").id;
        again.remove(id).expect("written");
        assert_eq!(again.find("Cafe-12").expect_err("gone").code(), "camera-unknown");
    }

    #[test]
    fn bad_and_taken_names_are_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let roster = Roster::load(dir.path()).expect("empty");
        let draft = |name: &str| roster.draft(name, None, Digests::Md5, Priority::Normal);
        roster.add(draft("one").expect("fine")).expect("written");
        assert_eq!(draft("one").expect_err("taken").code(), "camera-name-taken");
        assert_eq!(draft(" ").expect_err("empty").code(), "camera-bad-name");
        assert_eq!(draft("a\nb").expect_err("two lines").code(), "camera-bad-name");
    }

    #[test]
    fn a_damaged_file_is_said_and_not_overwritten() {
        let dir = tempfile::tempdir().expect("folder");
        std::fs::write(dir.path().join(FILE), "[{").expect("writes");
        assert_eq!(Roster::load(dir.path()).expect_err("damaged").code(), "roster-damaged");
        assert_eq!(std::fs::read(dir.path().join(FILE)).expect("still there"), b"[{");
    }

    #[test]
    fn passwords_differ() {
        assert_ne!(new_password(), new_password());
        assert_eq!(new_password().len(), 20);
    }
}
