//! The keys that footage is sealed to: those of the pairing and those that an administrator added.
//!
//! Owns the list of added recovery keys (a file replaced whole) and publishes the whole set. Without any key nothing is
//! recorded (`seal-no-key`). Unpairing keeps the organisation's keys until a new pairing replaces them, so that a box
//! whose pairing was revoked on the road goes on recording. Changes are journaled by the recorder that takes the set.

use crate::base::fs;
use crate::base::ids::{KeyId, OrganisationId};
use crate::base::reason::Coded;
use crate::seal::recipients::{MAX_RECIPIENTS, RecipientRole};
use crate::seal::{RecipientKey, Recipients, keyfile};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Name of the file in the state folder.
const FILE: &str = "recipients.json";
/// Largest file that is read.
const MAX_FILE: u64 = 64 * 1024;

/// Owner of footage that was recorded before the first pairing: no organisation's cloud takes it.
pub const NO_ORGANISATION: OrganisationId = OrganisationId([0; 16]);

/// What people do with recipient keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// Adds an offline recovery key → [`Listed`].
    Add {
        /// The text of the public key file.
        public: String,
        /// What people call it.
        name: String,
    },
    /// → list of [`Listed`].
    List,
    /// Removes an added key; those of the pairing stay.
    Remove {
        /// Its id.
        key: KeyId,
    },
}

/// One key as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its id.
    pub key: KeyId,
    /// `organisation` or `recovery`.
    pub role: String,
    /// `pairing` or the name that it was added under.
    pub origin: String,
}

/// Why the set cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum RecipientsError {
    /// The text is no public key.
    #[error(
        "this is no public recipient key: expected `mvb-recipient-1 recovery` and 64 hex digits, or the digits alone"
    )]
    NoKey,
    /// It is there already.
    #[error("the key {0} is there already")]
    Present(KeyId),
    /// Not an added key.
    #[error("no added key {0}: keys of the pairing change with the pairing (`mvbctl recipients list`)")]
    Unknown(KeyId),
    /// Too many.
    #[error("a segment is sealed to at most {MAX_RECIPIENTS} keys: remove one first")]
    Full,
    /// The file cannot be read or written.
    #[error("{}: the list of recipients cannot be {action}", path.display())]
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
    #[error("{}: the list of recipients is damaged; restore it, or remove it and add the keys again", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

impl Coded for RecipientsError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoKey => "recipient-no-key",
            Self::Present(_) => "recipient-present",
            Self::Unknown(_) => "recipient-unknown",
            Self::Full => "recipients-full",
            Self::Io { .. } => "recipients-io",
            Self::Damaged { .. } => "recipients-damaged",
        }
    }
}

/// Added keys as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    added: Vec<Added>,
}

/// Keys that came with a pairing; `trust` keeps them, also after unpairing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// Owner of new footage.
    pub organisation: OrganisationId,
    /// X25519.
    pub sealing: [u8; 32],
    /// X25519, offline.
    pub recovery: Vec<[u8; 32]>,
}

impl Stated {
    /// All of them, the organisation's first.
    pub fn keys(&self) -> impl Iterator<Item = RecipientKey> {
        let recovery = self.recovery.iter().map(|key| RecipientKey { role: RecipientRole::Recovery, public: *key });
        std::iter::once(RecipientKey { role: RecipientRole::Organisation, public: self.sealing }).chain(recovery)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Added {
    name: String,
    public: String,
}

/// The set and its file.
#[derive(Debug)]
pub struct Keyring {
    path: PathBuf,
    stated: Option<Stated>,
    kept: Kept,
    set: watch::Sender<Option<Recipients>>,
}

impl Keyring {
    /// Reads the state folder's list of added keys and joins it with those of the pairing.
    ///
    /// # Errors
    /// `Io`, `Damaged`: then nothing is recorded rather than something sealed to the wrong keys.
    pub fn load(state: &Path, stated: Option<Stated>) -> Result<Self, RecipientsError> {
        let path = state.join(FILE);
        let kept: Kept = match fs::read_if_exists(&path, MAX_FILE) {
            Ok(None) => Kept::default(),
            Ok(Some(bytes)) => {
                serde_json::from_slice(&bytes).map_err(|_| RecipientsError::Damaged { path: path.clone() })?
            }
            Err(source) => return Err(RecipientsError::Io { path, action: "read", source }),
        };
        let set = recipients(stated.as_ref(), &kept).ok_or_else(|| RecipientsError::Damaged { path: path.clone() })?;
        Ok(Self { path, stated, kept, set: watch::Sender::new(set) })
    }

    /// The set, and every change of it; `None`: nothing may be recorded.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Recipients>> {
        self.set.subscribe()
    }

    /// A pairing or a pinned session states the organisation's keys.
    pub fn state(&mut self, stated: Stated) {
        self.stated = Some(stated);
        if let Some(set) = recipients(self.stated.as_ref(), &self.kept) {
            self.set.send_if_modified(|present| std::mem::replace(present, set.clone()) != set);
        }
    }

    /// Adds a recovery key from the text of its public key file.
    ///
    /// # Errors
    /// `NoKey`, `Present`, `Full`, `Io`: nothing has changed.
    pub fn add(&mut self, public: &str, name: &str) -> Result<Listed, RecipientsError> {
        let public = keyfile::read_recovery(public).ok_or(RecipientsError::NoKey)?.public;
        let key = RecipientKey { role: RecipientRole::Recovery, public };
        if !key.is_usable() {
            return Err(RecipientsError::NoKey);
        }
        if self.set.borrow().iter().flat_map(|set| &set.keys).any(|present| present.public == public) {
            return Err(RecipientsError::Present(key.id()));
        }
        let mut kept = self.kept.clone();
        let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        kept.added.push(Added { name: name.clone(), public: data_encoding::HEXLOWER.encode(&public) });
        self.replace(kept)?;
        Ok(Listed { key: key.id(), role: "recovery".into(), origin: name })
    }

    /// Removes an added key.
    ///
    /// # Errors
    /// `Unknown`, `Io`: nothing has changed.
    pub fn remove(&mut self, id: KeyId) -> Result<(), RecipientsError> {
        let mut kept = self.kept.clone();
        kept.added.retain(|added| keyfile::read_recovery(&added.public).is_none_or(|key| key.id() != id));
        if kept.added.len() == self.kept.added.len() {
            return Err(RecipientsError::Unknown(id));
        }
        self.replace(kept)
    }

    /// All keys, those of the pairing first.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let added = |key: &RecipientKey| {
            let hex = data_encoding::HEXLOWER.encode(&key.public);
            self.kept.added.iter().find(|added| added.public == hex).map(|added| added.name.clone())
        };
        let set = self.set.borrow();
        let keys = set.iter().flat_map(|set| &set.keys);
        keys.map(|key| Listed {
            key: key.id(),
            role: if key.role == RecipientRole::Organisation { "organisation" } else { "recovery" }.into(),
            origin: added(key).unwrap_or_else(|| "pairing".into()),
        })
        .collect()
    }

    fn replace(&mut self, kept: Kept) -> Result<(), RecipientsError> {
        let stated = self.stated.as_ref().map_or(0, |stated| 1 + stated.recovery.len());
        if stated + kept.added.len() > MAX_RECIPIENTS {
            return Err(RecipientsError::Full);
        }
        let set = recipients(self.stated.as_ref(), &kept).ok_or(RecipientsError::NoKey)?;
        let written = |source| RecipientsError::Io { path: self.path.clone(), action: "written", source };
        let bytes = serde_json::to_vec_pretty(&kept).map_err(|error| written(error.into()))?;
        fs::replace(&self.path, &bytes, 0o600).map_err(written)?;
        self.kept = kept;
        self.set.send_replace(set);
        Ok(())
    }
}

/// The set that is published, `Some(None)` if there is no key at all; `None` if a kept key is malformed. Keys of the
/// pairing come first; what is too many for a header is cut from the end, so that they always stay.
#[allow(clippy::option_option)]
fn recipients(stated: Option<&Stated>, kept: &Kept) -> Option<Option<Recipients>> {
    let mut keys: Vec<_> = stated.into_iter().flat_map(Stated::keys).collect();
    for added in &kept.added {
        keys.push(keyfile::read_recovery(&added.public)?);
    }
    let mut seen = std::collections::HashSet::new();
    keys.retain(|key| {
        let usable = key.is_usable();
        if !usable {
            tracing::error!(key = %key.id(), "nothing can be sealed to this key: it is left out");
        }
        usable && seen.insert(key.public)
    });
    let organisation = stated.map_or(NO_ORGANISATION, |stated| stated.organisation);
    keys.truncate(MAX_RECIPIENTS);
    Some((!keys.is_empty()).then_some(Recipients { organisation, keys }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::RecipientSecret;

    fn public() -> [u8; 32] {
        RecipientSecret::generate().public(RecipientRole::Recovery).public
    }

    fn text() -> String {
        crate::seal::keyfile::public_text(&RecipientSecret::generate().public(RecipientRole::Recovery))
    }

    #[test]
    fn without_a_key_there_is_no_set_and_an_added_key_makes_one() {
        let dir = tempfile::tempdir().expect("folder");
        let mut keyring = Keyring::load(dir.path(), None).expect("empty");
        assert_eq!(*keyring.watch().borrow(), None);
        let added = keyring.add(&text(), "safe").expect("added");
        let set = keyring.watch().borrow().clone().expect("a set");
        assert_eq!((set.organisation, set.keys.len()), (NO_ORGANISATION, 1));
        let mut again = Keyring::load(dir.path(), None).expect("reads");
        assert_eq!(again.list(), std::slice::from_ref(&added));
        again.remove(added.key).expect("removed");
        assert_eq!(*again.watch().borrow(), None);
        assert_eq!(again.remove(added.key).expect_err("gone").code(), "recipient-unknown");
    }

    #[test]
    fn a_key_that_nothing_can_be_sealed_to_never_makes_a_set() {
        let dir = tempfile::tempdir().expect("folder");
        let mut keyring = Keyring::load(dir.path(), None).expect("empty");
        let organisation = OrganisationId::random();
        keyring.state(Stated { organisation, sealing: [0; 32], recovery: Vec::new() });
        assert_eq!(*keyring.watch().borrow(), None, "no recording rather than footage that nobody can open");
        keyring.state(Stated { organisation, sealing: [0; 32], recovery: vec![public()] });
        assert_eq!(keyring.watch().borrow().clone().expect("a set").keys.len(), 1);
    }

    #[test]
    fn a_new_pairing_replaces_the_organisations_keys_and_keeps_added_ones() {
        let dir = tempfile::tempdir().expect("folder");
        let mut keyring = Keyring::load(dir.path(), None).expect("empty");
        keyring.add(&text(), "safe").expect("added");
        let (first, second) = (OrganisationId::random(), OrganisationId::random());
        let stated = |organisation, recovery| Stated { organisation, sealing: public(), recovery };
        keyring.state(stated(first, vec![public(), public()]));
        assert_eq!(keyring.list().len(), 4);
        keyring.state(stated(second, Vec::new()));
        let set = keyring.watch().borrow().clone().expect("a set");
        assert_eq!((set.organisation, set.keys.len()), (second, 2));
        assert_eq!(Keyring::load(dir.path(), None).expect("reads").list().len(), 1);
    }
}
