//! The organisation's identity and keys as kept in the data folder.
//!
//! Belongs here: creating them at first start, reading them, unlocking. Does not belong here: what they open or sign.
//!
//! ```text
//! DATA/keys/organisation.json   0600  id, name, sealing keys newest first: public half, secret half under the passphrase
//! DATA/keys/recovery.json       0600  public halves of offline recovery keys, with the names that people gave them
//! DATA/keys/cloud.json          0600  receipt key, audit key, two issuer keys, serving key and its generation
//! ```
//!
//! The passphrase protects the organisation's secret keys only: those open footage. The keys in `cloud.json` are needed
//! to serve without a person, so they are protected by the file's mode; who reads them can imitate this cloud to boxes,
//! but opens nothing. The issuer keys may be moved away after start: they are only read to make a serving certificate.

use crate::base::chain::SoftwareSigner;
use crate::base::fs::{read_if_exists, replace};
use crate::base::ids::{KeyId, OrganisationId, random_bytes};
use crate::base::reason::Coded;
use crate::base::units::WallTime;
use crate::cloud::command::Secret;
use crate::cloud::vault::Keyring;
use crate::seal::recipients::RecipientRole;
use crate::seal::{RecipientKey, RecipientSecret, keyfile};
use crate::trust::identity::{Generation, IdentityError, TlsKey};
use crate::trust::secrets;
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// Key files are a few kilobytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Recovery keys beside the organisation's own: a segment's header has room for 16 stanzas.
const MAX_RECOVERY: usize = 8;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key file cannot be read or written.
    #[error("key file {}: {doing} failed", path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    /// A key file is not what this program writes.
    #[error("key file {} is damaged: restore it from a backup", path.display())]
    Damaged { path: PathBuf },
    /// First start needs a name.
    #[error(
        "this is the first start and the organisation has no name: give --organisation NAME or set organisation.name"
    )]
    NoName,
    /// First start needs a passphrase.
    #[error(
        "this is the first start and the organisation key needs a passphrase: run on a terminal or give --passphrase-file"
    )]
    NoPassphrase,
    /// No new TLS key.
    #[error("a TLS key cannot be made")]
    Tls(#[source] IdentityError),
    /// It does not open the key.
    #[error("the passphrase does not open the organisation key: check it and try again")]
    WrongPassphrase,
    /// Not a public key.
    #[error("not a recovery key: expected `mvb-recipient-1 recovery` and 64 hex digits, or the digits alone")]
    NotAKey,
    /// It is there already.
    #[error("recovery key {0} is there already")]
    Known(KeyId),
    /// No room.
    #[error("{MAX_RECOVERY} recovery keys are there already: a segment has no room for more")]
    Full,
}

impl Coded for KeysError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "keys-io",
            Self::Damaged { .. } => "keys-damaged",
            Self::NoName => "organisation-no-name",
            Self::NoPassphrase => "passphrase-missing",
            Self::Tls(_) => "keys-tls",
            Self::WrongPassphrase => "passphrase-wrong",
            Self::NotAKey => "recipient-no-key",
            Self::Known(_) => "recipient-present",
            Self::Full => "recipients-full",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct OrganisationFile {
    version: u32,
    id: OrganisationId,
    name: String,
    keys: Vec<SealedKey>,
}

#[derive(Serialize, Deserialize)]
struct SealedKey {
    public: String,
    sealed: String,
    from: WallTime,
}

/// A recovery key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recovery {
    /// Raw X25519 public key, hex.
    public: String,
    /// What people call it.
    pub name: String,
    /// When it was added.
    pub added: WallTime,
}

#[derive(Serialize, Deserialize)]
struct CloudFile {
    version: u32,
    receipt: String,
    audit: String,
    issuers: [String; 2],
    serving: String,
    generation: u64,
}

impl Drop for CloudFile {
    fn drop(&mut self) {
        for text in [&mut self.receipt, &mut self.audit, &mut self.serving] {
            text.zeroize();
        }
        self.issuers.iter_mut().for_each(Zeroize::zeroize);
    }
}

/// Everything that was read.
pub struct Keys {
    folder: PathBuf,
    organisation: OrganisationFile,
    /// Offline recovery keys.
    pub recovery: Vec<Recovery>,
    /// Signs receipts and journal acknowledgements.
    pub receipt: Arc<SoftwareSigner>,
    /// Signs the audit log.
    pub audit: Arc<SoftwareSigner>,
    /// Active and spare issuer.
    pub issuers: [TlsKey; 2],
    /// Key of the serving certificate.
    pub serving: TlsKey,
    /// Generation of the serving certificate.
    pub generation: Generation,
}

impl Keys {
    /// Whether the data folder has been set up.
    #[must_use]
    pub fn exist(data: &Path) -> bool {
        organisation_path(data).exists()
    }

    /// Creates everything at first start. The organisation file comes last: it is what [`Self::exist`] looks at.
    ///
    /// # Errors
    /// `Io`, `NoName`, `NoPassphrase`.
    pub fn create(
        data: &Path,
        name: Option<&str>,
        passphrase: Option<&Secret>,
        now: WallTime,
    ) -> Result<(), KeysError> {
        let name = name.ok_or(KeysError::NoName)?;
        let passphrase = passphrase.ok_or(KeysError::NoPassphrase)?;
        let folder = folder(data);
        crate::cloud::vault::disk::Disk::default().make_folder(&folder).map_err(|source| KeysError::Io {
            path: folder.clone(),
            doing: "creating the folder",
            source,
        })?;
        let fresh = || hex(&*SoftwareSigner::generate().to_bytes());
        let fresh_tls = || TlsKey::generate().map(|key| hex(key.pkcs8())).map_err(KeysError::Tls);
        let cloud = CloudFile {
            version: 1,
            receipt: fresh(),
            audit: fresh(),
            issuers: [fresh_tls()?, fresh_tls()?],
            serving: fresh_tls()?,
            generation: 1,
        };
        write(&folder.join("cloud.json"), &cloud)?;
        let secret = RecipientSecret::generate();
        let key = SealedKey {
            public: HEX.encode(&secret.public(RecipientRole::Organisation).public),
            sealed: HEX.encode(&secrets::seal_with_passphrase(passphrase.expose().as_bytes(), &*secret.to_bytes())),
            from: now,
        };
        let organisation =
            OrganisationFile { version: 1, id: OrganisationId(random_bytes()), name: name.into(), keys: vec![key] };
        write(&organisation_path(data), &organisation)
    }

    /// Reads everything; the organisation's secrets stay sealed.
    ///
    /// # Errors
    /// `Io`, `Damaged`.
    pub fn load(data: &Path) -> Result<Self, KeysError> {
        let folder = folder(data);
        let damaged = |name: &str| KeysError::Damaged { path: folder.join(name) };
        let organisation: OrganisationFile =
            read(&organisation_path(data))?.ok_or_else(|| damaged("organisation.json"))?;
        if organisation.version != 1 || organisation.keys.is_empty() {
            return Err(damaged("organisation.json"));
        }
        let recovery: Vec<Recovery> = read(&folder.join("recovery.json"))?.unwrap_or_default();
        let cloud: CloudFile = read(&folder.join("cloud.json"))?.ok_or_else(|| damaged("cloud.json"))?;
        let tls = |text: &str| {
            let der = HEX.decode(text.as_bytes()).map(Zeroizing::new).map_err(|_| damaged("cloud.json"))?;
            TlsKey::from_pkcs8(&der).map_err(|_| damaged("cloud.json"))
        };
        let signer = |text: &str| signer(text).map(Arc::new).ok_or_else(|| damaged("cloud.json"));
        let keys = Self {
            receipt: signer(&cloud.receipt)?,
            audit: signer(&cloud.audit)?,
            issuers: [tls(&cloud.issuers[0])?, tls(&cloud.issuers[1])?],
            serving: tls(&cloud.serving)?,
            generation: Generation(cloud.generation),
            organisation,
            recovery,
            folder,
        };
        let sealing = keys.organisation.keys.iter().all(|key| public(&key.public).is_some());
        if !sealing {
            return Err(KeysError::Damaged { path: organisation_path(data) });
        }
        if keys.recovery.iter().any(|key| public(&key.public).is_none()) {
            return Err(KeysError::Damaged { path: keys.folder.join("recovery.json") });
        }
        Ok(keys)
    }

    /// The organisation.
    #[must_use]
    pub fn id(&self) -> OrganisationId {
        self.organisation.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.organisation.name
    }

    /// The key that boxes seal to now.
    #[must_use]
    pub fn sealing(&self) -> RecipientKey {
        let raw = self.organisation.keys.first().and_then(|key| public(&key.public)).unwrap_or_default();
        RecipientKey { role: RecipientRole::Organisation, public: raw }
    }

    /// Recovery keys that boxes seal to as well.
    #[must_use]
    pub fn recovery_keys(&self) -> Vec<RecipientKey> {
        self.recovery
            .iter()
            .filter_map(|key| public(&key.public))
            .map(|public| RecipientKey { role: RecipientRole::Recovery, public })
            .collect()
    }

    /// All key ids that are ours, locked.
    #[must_use]
    pub fn locked(&self) -> Keyring {
        let own = self.organisation.keys.iter().filter_map(|key| public(&key.public));
        let own = own.map(|public| RecipientKey { role: RecipientRole::Organisation, public }.id());
        Keyring::locked(own.chain(self.recovery_keys().iter().map(RecipientKey::id)))
    }

    /// The same with the organisation's secrets.
    ///
    /// # Errors
    /// `WrongPassphrase`.
    pub fn unlock(&self, passphrase: &Secret) -> Result<Keyring, KeysError> {
        let mut secrets = Vec::new();
        for key in &self.organisation.keys {
            let sealed = HEX.decode(key.sealed.as_bytes()).map_err(|_| self.damaged())?;
            let raw = secrets::open_with_passphrase(passphrase.expose().as_bytes(), &sealed)
                .map_err(|_| KeysError::WrongPassphrase)?;
            let raw: Zeroizing<[u8; 32]> = Zeroizing::new(raw.as_slice().try_into().map_err(|_| self.damaged())?);
            secrets.push(Arc::new(RecipientSecret::from_bytes(*raw)));
        }
        Ok(self.locked().unlocked(secrets))
    }

    /// Adds a recovery key from the text of its public key file.
    ///
    /// # Errors
    /// `NotAKey`, `Known`, `Full`, `Io`.
    pub fn add_recovery(&mut self, text: &str, name: &str, now: WallTime) -> Result<KeyId, KeysError> {
        let key = keyfile::read_recovery(text).ok_or(KeysError::NotAKey)?;
        let id = key.id();
        if self.locked().knows(id) {
            return Err(KeysError::Known(id));
        }
        if self.recovery.len() >= MAX_RECOVERY {
            return Err(KeysError::Full);
        }
        let mut recovery = self.recovery.clone();
        recovery.push(Recovery { public: HEX.encode(&key.public), name: name.chars().take(64).collect(), added: now });
        write(&self.folder.join("recovery.json"), &recovery)?;
        self.recovery = recovery;
        Ok(id)
    }

    fn damaged(&self) -> KeysError {
        KeysError::Damaged { path: self.folder.join("organisation.json") }
    }
}

fn folder(data: &Path) -> PathBuf {
    data.join("keys")
}

fn organisation_path(data: &Path) -> PathBuf {
    folder(data).join("organisation.json")
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, KeysError> {
    let bytes = read_if_exists(path, MAX_FILE)
        .map_err(|source| KeysError::Io { path: path.into(), doing: "reading", source })?
        .map(Zeroizing::new);
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|_| KeysError::Damaged { path: path.into() })).transpose()
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), KeysError> {
    let io = |source| KeysError::Io { path: path.into(), doing: "writing", source };
    let bytes = serde_json::to_vec_pretty(value).map(Zeroizing::new).map_err(|error| io(error.into()))?;
    replace(path, &bytes, 0o600).map_err(io)
}

fn hex(bytes: &[u8]) -> String {
    HEX.encode(bytes)
}

fn signer(text: &str) -> Option<SoftwareSigner> {
    let raw = Zeroizing::new(HEX.decode(text.as_bytes()).ok()?);
    SoftwareSigner::from_bytes(&Zeroizing::new(raw.as_slice().try_into().ok()?))
}

fn public(text: &str) -> Option<[u8; 32]> {
    HEX.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_start_makes_keys_that_only_the_passphrase_opens() {
        let dir = tempfile::tempdir().expect("folder");
        let pass = Secret::new("korenblauw huis".into());
        assert!(!Keys::exist(dir.path()));
        let now = WallTime(1);
        assert_eq!(
            Keys::create(dir.path(), None, Some(&pass), now).expect_err("no name").code(),
            "organisation-no-name"
        );
        assert_eq!(Keys::create(dir.path(), Some("x"), None, now).expect_err("no pass").code(), "passphrase-missing");
        Keys::create(dir.path(), Some("Politie Zeedijk"), Some(&pass), now).expect("creates");
        let mut keys = Keys::load(dir.path()).expect("reads");
        assert_eq!(keys.name(), "Politie Zeedijk");
        assert!(keys.locked().is_locked());
        let open = keys.unlock(&pass).expect("opens");
        assert_eq!(open.secrets().first().map(|s| s.public(RecipientRole::Organisation)), Some(keys.sealing()));
        let wrong = keys.unlock(&Secret::new("korenblauw hui".into())).err().expect("wrong");
        assert_eq!(wrong.code(), "passphrase-wrong");
        let offline = RecipientSecret::generate().public(RecipientRole::Recovery);
        let text = format!("mvb-recipient-1 recovery {}", HEX.encode(&offline.public));
        let id = keys.add_recovery(&text, "safe", now).expect("adds");
        assert_eq!(keys.add_recovery(&text, "safe", now).expect_err("twice").code(), "recipient-present");
        assert_eq!(keys.add_recovery("hello", "safe", now).expect_err("no key").code(), "recipient-no-key");
        assert!(Keys::load(dir.path()).expect("reads").locked().knows(id));
    }
}
