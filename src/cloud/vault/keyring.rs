//! The organisation's keys as the vault needs them: which key ids are ours, and the secrets while they are unlocked.
//!
//! Belongs here: opening a header's stanza. Does not belong here: passphrases and files (see `cloud::keys`).

use crate::base::ids::KeyId;
use crate::seal::open::OpenError;
use crate::seal::{Header, RecipientSecret, SegmentKey};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Keys by what may be done with them; cheap to clone.
#[derive(Clone, Default)]
pub struct Keyring {
    ours: BTreeSet<KeyId>,
    secrets: Vec<Arc<RecipientSecret>>,
}

impl Keyring {
    /// A locked keyring: ids of the organisation's keys (old ones too) and of its recovery keys.
    #[must_use]
    pub fn locked(ours: impl IntoIterator<Item = KeyId>) -> Self {
        Self { ours: ours.into_iter().collect(), secrets: Vec::new() }
    }

    /// The same with secrets, newest first.
    #[must_use]
    pub fn unlocked(mut self, secrets: Vec<Arc<RecipientSecret>>) -> Self {
        self.secrets = secrets;
        self
    }

    /// One more key id that is ours.
    pub fn add(&mut self, id: KeyId) {
        self.ours.insert(id);
    }

    /// Whether footage cannot be opened.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.secrets.is_empty()
    }

    /// The secrets, newest first; none while locked.
    #[must_use]
    pub fn secrets(&self) -> &[Arc<RecipientSecret>] {
        &self.secrets
    }

    /// Whether a key id is the organisation's or one of its recovery keys.
    #[must_use]
    pub fn knows(&self, id: KeyId) -> bool {
        self.ours.contains(&id)
    }

    /// Key ids in the header that are not ours.
    #[must_use]
    pub fn foreign(&self, header: &Header) -> Vec<KeyId> {
        header.stanzas.iter().map(|stanza| stanza.key).filter(|key| !self.ours.contains(key)).collect()
    }

    /// Unwraps the segment's key with whichever secret fits; `None` while locked.
    #[must_use]
    pub fn open(&self, header: &Header) -> Option<Result<SegmentKey, OpenError>> {
        let mut last = None;
        for secret in &self.secrets {
            match SegmentKey::unwrap(header, secret) {
                Ok(key) => return Some(Ok(key)),
                // Another secret may have the stanza; a stanza that does not open is worth more than none.
                Err(error) => {
                    if !matches!(error, OpenError::NoStanza) || last.is_none() {
                        last = Some(error);
                    }
                }
            }
        }
        last.map(Err)
    }
}
