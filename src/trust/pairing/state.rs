//! What the box keeps of its pairings: the present one, a new one that waits for its first session, and whose keys
//! footage is sealed to.
//!
//! A new pairing is `pending` until its first pinned session; only then it replaces the older one. A wipe removes identity
//! and cloud address and nothing else: footage, evidence key and recipients stay. Spec: `docs/spec/pairing.md`, "State".

use crate::base::chain::PublicKey;
use crate::base::fs;
use crate::base::ids::{OrganisationId, PairingId};
use crate::base::reason::Coded;
use crate::trust::identity::{Generation, Spki, TlsKey};
use crate::trust::pairing::messages::CloudAnswer;
use crate::trust::secrets::{SecretsError, SecretsFile};
use crate::trust::tls::{MAX_ISSUERS, Pins};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

const MAX_FILE: u64 = 256 * 1024;
/// The identities in the secrets file.
const IDENTITIES: &str = "identity/";
/// The identity that is used for the next pairing, kept before the code is tried.
const NEXT_IDENTITY: &str = "identity/next";

/// One pairing as kept on internal storage. Nothing in it is secret; the identity is in the secrets file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairing {
    /// Host of the code.
    pub host: String,
    /// Everything that the cloud answered.
    pub answer: CloudAnswer,
    /// Highest generation of a serving certificate seen.
    pub generation: Generation,
}

/// Keys that footage is sealed to, beside those that an administrator adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrganisationKeys {
    /// Owner.
    pub organisation: OrganisationId,
    /// Its name.
    pub name: String,
    /// X25519.
    pub sealing_key: [u8; 32],
    /// X25519, offline.
    pub recovery_keys: Vec<[u8; 32]>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    current: Option<Pairing>,
    pending: Option<Pairing>,
    keys: Option<OrganisationKeys>,
}

/// Why the state cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written.
    #[error("{}: cannot be read or written", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is damaged.
    #[error("{}: damaged; remove it and pair again", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    /// The secrets file.
    #[error("the secrets file")]
    Secrets(#[from] SecretsError),
    /// The message names another pairing than the one it came for.
    #[error("another pairing")]
    OtherPairing,
    /// A set of pins that is older than the stored one, or cannot be used.
    #[error("pins that cannot replace the stored ones: {what}")]
    Pins { what: &'static str },
    /// A key that cannot be made.
    #[error("no new identity")]
    Identity(#[from] crate::trust::identity::IdentityError),
}

impl Coded for StateError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "pairing-io",
            Self::Damaged { .. } => "pairing-damaged",
            Self::Secrets(error) => error.code(),
            Self::OtherPairing => "pairing-other",
            Self::Pins { .. } => "pairing-pins",
            Self::Identity(_) => "pairing-identity",
        }
    }
}

/// The pairings of a box.
pub struct Pairings {
    path: PathBuf,
    file: File,
}

impl Pairings {
    /// Reads the file and ends what a power cut interrupted; a missing file is an unpaired box.
    ///
    /// # Errors
    /// `Io`, `Damaged`, `Secrets`.
    pub fn open(path: &Path, secrets: &mut SecretsFile) -> Result<Self, StateError> {
        let bytes =
            fs::read_if_exists(path, MAX_FILE).map_err(|source| StateError::Io { path: path.to_owned(), source })?;
        let file = match bytes {
            None => File::default(),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| StateError::Damaged { path: path.to_owned(), source })?,
        };
        let mut pairings = Self { path: path.to_owned(), file };
        // A wipe takes the key first: a pairing without one is wiped to the end.
        let half = |kept: &Pairing| secrets.named(&identity_name(kept.answer.pairing)).is_none();
        let half: Vec<PairingId> = pairings.kept().filter(|kept| half(kept)).map(|kept| kept.answer.pairing).collect();
        half.into_iter().try_for_each(|id| pairings.wipe(id, secrets))?;
        pairings.tidy(secrets);
        Ok(pairings)
    }

    /// The pairing that had a session.
    #[must_use]
    pub fn current(&self) -> Option<&Pairing> {
        self.file.current.as_ref()
    }

    /// The pairing that waits for its first session.
    #[must_use]
    pub fn pending(&self) -> Option<&Pairing> {
        self.file.pending.as_ref()
    }

    /// Keys that footage is sealed to; they stay after unpairing.
    #[must_use]
    pub fn keys(&self) -> Option<&OrganisationKeys> {
        self.file.keys.as_ref()
    }

    /// The identity to pair with next: made once and kept, so that a lost reply can be asked for again.
    ///
    /// # Errors
    /// `Secrets`, `Identity`.
    pub fn next_identity(&self, secrets: &mut SecretsFile) -> Result<TlsKey, StateError> {
        if let Some(pkcs8) = secrets.named(NEXT_IDENTITY) {
            return Ok(TlsKey::from_pkcs8(pkcs8)?);
        }
        let key = TlsKey::generate()?;
        secrets.set_named(NEXT_IDENTITY, Some(key.pkcs8().to_vec()))?;
        Ok(key)
    }

    /// The identity of a pairing.
    ///
    /// # Errors
    /// `Identity`; `OtherPairing` if it was wiped.
    pub fn identity(&self, pairing: PairingId, secrets: &SecretsFile) -> Result<TlsKey, StateError> {
        let pkcs8 = secrets.named(&identity_name(pairing)).ok_or(StateError::OtherPairing)?;
        Ok(TlsKey::from_pkcs8(pkcs8)?)
    }

    /// Keeps a new pairing as pending; its keys are used for new footage from now on only once it is confirmed.
    ///
    /// # Errors
    /// `Io`, `Secrets`; what was kept before is then kept still.
    pub fn begin(&mut self, host: &str, answer: CloudAnswer, secrets: &mut SecretsFile) -> Result<(), StateError> {
        if self.file.current.as_ref().is_some_and(|current| current.answer.pairing == answer.pairing) {
            return Ok(());
        }
        // The key first: a crash in between leaves a key without pairing, and the next identity to ask again with.
        let identity = self.next_identity(secrets)?;
        secrets.set_named(&identity_name(answer.pairing), Some(identity.pkcs8().to_vec()))?;
        let generation = Generation(answer.generation);
        let pending = Some(Pairing { host: host.to_owned(), answer, generation });
        self.save(File { pending, ..self.file.clone() })?;
        self.tidy(secrets);
        Ok(())
    }

    /// The pending pairing had its first pinned session: it is the box's pairing now, an older one is dropped.
    ///
    /// # Errors
    /// `Io`; `OtherPairing` if it is not the pending one. It is then pending still.
    pub fn confirm(&mut self, pairing: PairingId, secrets: &mut SecretsFile) -> Result<(), StateError> {
        let pending = self.file.pending.as_ref().filter(|pending| pending.answer.pairing == pairing);
        let pending = pending.ok_or(StateError::OtherPairing)?;
        let keys = OrganisationKeys {
            organisation: pending.answer.organisation,
            name: pending.answer.name.clone(),
            sealing_key: pending.answer.sealing_key,
            recovery_keys: pending.answer.recovery_keys.iter().map(|key| key.0).collect(),
        };
        self.save(File { current: Some(pending.clone()), pending: None, keys: Some(keys) })?;
        self.tidy(secrets);
        Ok(())
    }

    /// REVOKE from the cloud, or unpairing on the box: wipes identity and cloud address, nothing else.
    ///
    /// # Errors
    /// `Io`, `Secrets`; `OtherPairing` if neither pairing has the id.
    pub fn wipe(&mut self, pairing: PairingId, secrets: &mut SecretsFile) -> Result<(), StateError> {
        if !self.kept().any(|kept| kept.answer.pairing == pairing) {
            return Err(StateError::OtherPairing);
        }
        let other = |kept: &Option<Pairing>| kept.clone().filter(|kept| kept.answer.pairing != pairing);
        let file = File {
            current: other(&self.file.current),
            pending: other(&self.file.pending),
            keys: self.file.keys.clone(),
        };
        // The key first: a crash in between leaves a pairing without identity, which is wiped again at start.
        secrets.set_named(&identity_name(pairing), None)?;
        self.save(file)
    }

    /// Replaces the pins of a pairing; durable when it returns, so that the caller can acknowledge.
    ///
    /// # Errors
    /// `Pins` for an older version or unusable keys, `OtherPairing`, `Io`.
    pub fn set_pins(&mut self, pairing: PairingId, pins: &Pins) -> Result<(), StateError> {
        if !(1..=MAX_ISSUERS).contains(&pins.issuers.len()) {
            return Err(StateError::Pins { what: "number of keys" });
        }
        if pins.issuers.iter().any(|key| PublicKey::from_spki(&key.0).is_none()) {
            return Err(StateError::Pins { what: "no usable key" });
        }
        let mut file = self.file.clone();
        let kept = file.find(pairing)?;
        if pins.version < kept.answer.pins_version {
            return Err(StateError::Pins { what: "older than the stored set" });
        }
        kept.answer.pins_version = pins.version;
        kept.answer.issuers =
            pins.issuers.iter().map(|key| crate::trust::pairing::messages::RawSpki(key.0.clone())).collect();
        kept.generation = kept.generation.max(pins.generation);
        self.save(file)
    }

    /// A serving certificate of this generation was accepted: a lower one is refused from now on.
    ///
    /// # Errors
    /// `OtherPairing`, `Io`.
    pub fn saw_generation(&mut self, pairing: PairingId, generation: Generation) -> Result<(), StateError> {
        let mut file = self.file.clone();
        let kept = file.find(pairing)?;
        if generation <= kept.generation {
            return Ok(());
        }
        kept.generation = generation;
        self.save(file)
    }

    fn kept(&self) -> impl Iterator<Item = &Pairing> {
        [&self.file.current, &self.file.pending].into_iter().flatten()
    }

    /// Removes identities that no pairing has any more, and the next one if a pairing has it. A failure harms nobody: it
    /// is tried again at the next change or start.
    fn tidy(&self, secrets: &mut SecretsFile) {
        let ids: Vec<String> = self.kept().map(|kept| identity_name(kept.answer.pairing)).collect();
        let taken = |key: &[u8]| ids.iter().any(|id| secrets.named(id) == Some(key));
        let stale: Vec<String> = secrets
            .names(IDENTITIES)
            .filter(|name| match *name {
                NEXT_IDENTITY => secrets.named(name).is_some_and(taken),
                name => !ids.iter().any(|id| id == name),
            })
            .map(str::to_owned)
            .collect();
        if let Err(error) = secrets.remove(&stale) {
            tracing::warn!(code = error.code(), "identities that are over are still kept");
        }
    }

    /// What is kept in memory is what is kept on storage: it changes only once it is written.
    fn save(&mut self, file: File) -> Result<(), StateError> {
        let io = |source| StateError::Io { path: self.path.clone(), source };
        let bytes = serde_json::to_vec_pretty(&file).map_err(|error| io(io::Error::other(error)))?;
        fs::replace(&self.path, &bytes, 0o600).map_err(io)?;
        self.file = file;
        Ok(())
    }
}

impl File {
    fn find(&mut self, pairing: PairingId) -> Result<&mut Pairing, StateError> {
        [&mut self.current, &mut self.pending]
            .into_iter()
            .flatten()
            .find(|kept| kept.answer.pairing == pairing)
            .ok_or(StateError::OtherPairing)
    }
}

impl Pairing {
    /// What a session with this cloud is pinned to.
    #[must_use]
    pub fn pins(&self) -> Pins {
        Pins {
            issuers: self.answer.issuers.iter().map(|key| Spki(key.0.clone())).collect(),
            version: self.answer.pins_version,
            generation: self.generation,
        }
    }

    /// `host:port` of sessions (UDP).
    #[must_use]
    pub fn relay_address(&self) -> String {
        match &self.answer.relay {
            Some(address) => address.clone(),
            None if self.host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
                self.host.clone()
            }
            None => format!("{}:{}", self.host, crate::trust::pairing::code::DEFAULT_PORT),
        }
    }
}

fn identity_name(pairing: PairingId) -> String {
    format!("{IDENTITIES}{pairing}")
}
