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
use crate::trust::tls::Pins;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

const MAX_FILE: u64 = 256 * 1024;
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
    /// Reads the file; a missing one is an unpaired box.
    ///
    /// # Errors
    /// `Io`, `Damaged`.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let bytes =
            fs::read_if_exists(path, MAX_FILE).map_err(|source| StateError::Io { path: path.to_owned(), source })?;
        let file = match bytes {
            None => File::default(),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| StateError::Damaged { path: path.to_owned(), source })?,
        };
        Ok(Self { path: path.to_owned(), file })
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
    /// `Io`, `Secrets`.
    pub fn begin(&mut self, host: &str, answer: CloudAnswer, secrets: &mut SecretsFile) -> Result<(), StateError> {
        let identity = self.next_identity(secrets)?;
        secrets.set_named(&identity_name(answer.pairing), Some(identity.pkcs8().to_vec()))?;
        let replaced = self.file.pending.take();
        let generation = Generation(answer.generation);
        self.file.pending = Some(Pairing { host: host.to_owned(), answer, generation });
        self.save()?;
        secrets.set_named(NEXT_IDENTITY, None)?;
        if let Some(replaced) = replaced.filter(|old| Some(old.answer.pairing) != self.pending_id()) {
            secrets.set_named(&identity_name(replaced.answer.pairing), None)?;
        }
        Ok(())
    }

    /// The pending pairing had its first pinned session: it is the box's pairing now, an older one is dropped.
    ///
    /// # Errors
    /// `Io`, `Secrets`; `OtherPairing` if it is not the pending one.
    pub fn confirm(&mut self, pairing: PairingId, secrets: &mut SecretsFile) -> Result<(), StateError> {
        let pending = self.file.pending.take_if(|p| p.answer.pairing == pairing).ok_or(StateError::OtherPairing)?;
        let keys = OrganisationKeys {
            organisation: pending.answer.organisation,
            name: pending.answer.name.clone(),
            sealing_key: pending.answer.sealing_key,
            recovery_keys: pending.answer.recovery_keys.iter().map(|key| key.0).collect(),
        };
        let old = self.file.current.replace(pending);
        self.file.keys = Some(keys);
        self.save()?;
        if let Some(old) = old {
            secrets.set_named(&identity_name(old.answer.pairing), None)?;
        }
        Ok(())
    }

    /// REVOKE from the cloud, or unpairing on the box: wipes identity and cloud address, nothing else.
    ///
    /// # Errors
    /// `Io`, `Secrets`; `OtherPairing` if neither pairing has the id.
    pub fn wipe(&mut self, pairing: PairingId, secrets: &mut SecretsFile) -> Result<(), StateError> {
        let slot = [&mut self.file.current, &mut self.file.pending]
            .into_iter()
            .find(|slot| slot.as_ref().is_some_and(|kept| kept.answer.pairing == pairing))
            .ok_or(StateError::OtherPairing)?;
        *slot = None;
        // The key first: a crash in between leaves a pairing without identity, which is wiped again at start.
        secrets.set_named(&identity_name(pairing), None)?;
        self.save()
    }

    /// Replaces the pins of a pairing; durable when it returns, so that the caller can acknowledge.
    ///
    /// # Errors
    /// `Pins` for an older version or unusable keys, `OtherPairing`, `Io`.
    pub fn set_pins(&mut self, pairing: PairingId, pins: &Pins) -> Result<(), StateError> {
        if pins.issuers.is_empty() || pins.issuers.iter().any(|key| PublicKey::from_spki(&key.0).is_none()) {
            return Err(StateError::Pins { what: "no usable key" });
        }
        let kept = self.find(pairing)?;
        if pins.version < kept.answer.pins_version {
            return Err(StateError::Pins { what: "older than the stored set" });
        }
        kept.answer.pins_version = pins.version;
        kept.answer.issuers =
            pins.issuers.iter().map(|key| crate::trust::pairing::messages::RawSpki(key.0.clone())).collect();
        kept.generation = kept.generation.max(pins.generation);
        self.save()
    }

    /// A serving certificate of this generation was accepted: a lower one is refused from now on.
    ///
    /// # Errors
    /// `OtherPairing`, `Io`.
    pub fn saw_generation(&mut self, pairing: PairingId, generation: Generation) -> Result<(), StateError> {
        let kept = self.find(pairing)?;
        if generation <= kept.generation {
            return Ok(());
        }
        kept.generation = generation;
        self.save()
    }

    fn find(&mut self, pairing: PairingId) -> Result<&mut Pairing, StateError> {
        [&mut self.file.current, &mut self.file.pending]
            .into_iter()
            .flatten()
            .find(|kept| kept.answer.pairing == pairing)
            .ok_or(StateError::OtherPairing)
    }

    fn pending_id(&self) -> Option<PairingId> {
        self.file.pending.as_ref().map(|pending| pending.answer.pairing)
    }

    fn save(&self) -> Result<(), StateError> {
        let io = |source| StateError::Io { path: self.path.clone(), source };
        let bytes = serde_json::to_vec_pretty(&self.file).map_err(|error| io(io::Error::other(error)))?;
        fs::replace(&self.path, &bytes, 0o600).map_err(io)
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
    format!("identity/{pairing}")
}
