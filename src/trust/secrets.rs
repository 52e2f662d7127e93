//! Secrets at rest: the box's file sealed under its device root, and boxes of bytes sealed under a passphrase.
//!
//! Belongs here: the two containers and what is in the box's file. Does not belong here: what the keys are used for.
//! Spec: `docs/spec/pairing.md`, "Secrets at rest".

use crate::base::chain::SoftwareSigner;
use crate::base::ids::random_bytes;
use crate::base::reason::Coded;
use crate::base::{cbor, fs};
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use minicbor::{Decode, Encode};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const FILE_MAGIC: &[u8; 8] = b"MVBSEC1\0";
const PASS_MAGIC: &[u8; 8] = b"MVBPAS1\0";
const MAX_FILE: u64 = 1024 * 1024;
const TAG: usize = 16;

/// Argon2id, 64 MiB, 3 passes, 1 lane: RFC 9106's second recommendation, about 0.2 s on a small server.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;

/// Why secrets cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The file cannot be read or written.
    #[error("{}: cannot be read or written", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is damaged, or belongs to another device root.
    #[error("{}: does not open with this box's device root", path.display())]
    Sealed { path: PathBuf },
    /// The passphrase is wrong, or the bytes are damaged.
    #[error("the passphrase does not open this")]
    Passphrase,
}

impl Coded for SecretsError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "secrets-io",
            Self::Sealed { .. } => "secrets-sealed",
            Self::Passphrase => "passphrase-wrong",
        }
    }
}

/// The key that seals the box's secrets file, wherever the device keeps it.
pub trait DeviceRoot: Send + Sync {
    /// A key for one purpose, derived from the root.
    fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]>;
}

/// A device root in a file of 32 bytes, mode 0600: for boxes without a better place.
pub struct FileRoot(Zeroizing<[u8; 32]>);

impl FileRoot {
    /// Reads the file, or makes it at first start.
    ///
    /// # Errors
    /// It cannot be read or made, or is not 32 bytes.
    pub fn open(path: &Path) -> Result<Self, SecretsError> {
        let io = |source| SecretsError::Io { path: path.to_owned(), source };
        if let Some(bytes) = fs::read_if_exists(path, 32).map_err(io)? {
            let bytes = Zeroizing::new(bytes);
            let root =
                <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| SecretsError::Sealed { path: path.into() })?;
            return Ok(Self(Zeroizing::new(root)));
        }
        let root = Zeroizing::new(random_bytes::<32>());
        fs::replace(path, &*root, 0o600).map_err(io)?;
        Ok(Self(root))
    }
}

impl DeviceRoot for FileRoot {
    fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"mvb device root 1"), &*self.0)
            .expand(purpose.as_bytes(), &mut *key)
            .expect("32 bytes are a valid length");
        key
    }
}

/// What the file holds.
#[derive(Default, Encode, Decode)]
#[cbor(map)]
struct Contents {
    #[cbor(n(0), with = "minicbor::bytes")]
    evidence: Vec<u8>,
    /// Named values, `room/name`, as pairs in order.
    #[n(1)]
    named: Vec<Named>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Named {
    #[n(0)]
    name: String,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    value: Vec<u8>,
}

impl Drop for Contents {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.evidence.zeroize();
        self.named.iter_mut().for_each(|named| named.value.zeroize());
    }
}

/// The box's secrets: the evidence key and named values (identities, credentials of cameras).
pub struct SecretsFile {
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
    evidence: Zeroizing<[u8; 32]>,
    named: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl SecretsFile {
    /// Opens the file, or makes it with a new evidence key at first start.
    ///
    /// # Errors
    /// It cannot be read, written or opened. A file that does not open is never replaced: the evidence key in it cannot
    /// be made again.
    pub fn open(path: &Path, root: &dyn DeviceRoot) -> Result<Self, SecretsError> {
        let io = |source| SecretsError::Io { path: path.to_owned(), source };
        let key = root.derive("secrets file");
        let Some(bytes) = fs::read_if_exists(path, MAX_FILE).map_err(io)? else {
            let evidence = SoftwareSigner::generate().to_bytes();
            let file = Self { path: path.into(), key, evidence, named: BTreeMap::new() };
            file.save()?;
            return Ok(file);
        };
        let sealed = || SecretsError::Sealed { path: path.to_owned() };
        let body = bytes.strip_prefix(FILE_MAGIC).ok_or_else(sealed)?;
        let plain = open(&key, FILE_MAGIC, body).ok_or_else(sealed)?;
        let mut contents: Contents = cbor::decode(&plain, plain.len()).map_err(|_| sealed())?;
        let evidence = <[u8; 32]>::try_from(contents.evidence.as_slice()).map_err(|_| sealed())?;
        if SoftwareSigner::from_bytes(&evidence).is_none() {
            return Err(sealed());
        }
        Ok(Self {
            path: path.into(),
            key,
            evidence: Zeroizing::new(evidence),
            named: std::mem::take(&mut contents.named)
                .into_iter()
                .map(|named| (named.name, Zeroizing::new(named.value)))
                .collect(),
        })
    }

    /// The evidence key.
    ///
    /// # Panics
    /// Never: only valid keys are stored.
    #[must_use]
    pub fn evidence(&self) -> SoftwareSigner {
        SoftwareSigner::from_bytes(&self.evidence).expect("the stored scalar was valid")
    }

    /// A named value.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&[u8]> {
        self.named.get(name).map(|value| value.as_slice())
    }

    /// Names of all values that begin with `room`.
    pub fn names<'a>(&'a self, room: &'a str) -> impl Iterator<Item = &'a str> {
        self.named.keys().map(String::as_str).filter(move |name| name.starts_with(room))
    }

    /// Sets or removes a named value; durable when it returns.
    ///
    /// # Errors
    /// The file cannot be written; the value is then as before.
    pub fn set_named(&mut self, name: &str, value: Option<Vec<u8>>) -> Result<(), SecretsError> {
        let before = self.put(name, value.map(Zeroizing::new));
        let saved = self.save();
        if saved.is_err() {
            self.put(name, before);
        }
        saved
    }

    /// Removes named values at once; durable when it returns.
    ///
    /// # Errors
    /// The file cannot be written; the values are then as before.
    pub fn remove(&mut self, names: &[String]) -> Result<(), SecretsError> {
        let before: Vec<_> = names.iter().filter_map(|name| self.named.remove_entry(name)).collect();
        if before.is_empty() {
            return Ok(());
        }
        let saved = self.save();
        if saved.is_err() {
            self.named.extend(before);
        }
        saved
    }

    fn put(&mut self, name: &str, value: Option<Zeroizing<Vec<u8>>>) -> Option<Zeroizing<Vec<u8>>> {
        match value {
            Some(value) => self.named.insert(name.to_owned(), value),
            None => self.named.remove(name),
        }
    }

    fn save(&self) -> Result<(), SecretsError> {
        let contents = Contents {
            evidence: self.evidence.to_vec(),
            named: self.named.iter().map(|(name, value)| Named { name: name.clone(), value: value.to_vec() }).collect(),
        };
        let plain = Zeroizing::new(cbor::encode(&contents));
        let sealed = [&FILE_MAGIC[..], &seal(&self.key, FILE_MAGIC, &plain)].concat();
        fs::replace(&self.path, &sealed, 0o600).map_err(|source| SecretsError::Io { path: self.path.clone(), source })
    }
}

/// Seals bytes under a passphrase: magic ‖ salt (16) ‖ memory KiB u32 ‖ passes u32 ‖ nonce (12) ‖ ciphertext ‖ tag.
///
/// # Panics
/// Never: the parameters are within Argon2's limits.
#[must_use]
pub fn seal_with_passphrase(passphrase: &[u8], plain: &[u8]) -> Vec<u8> {
    let salt = random_bytes::<16>();
    let key = stretch(passphrase, &salt, MEMORY_KIB, PASSES).expect("our own parameters are valid");
    let head = [&salt[..], &MEMORY_KIB.to_be_bytes(), &PASSES.to_be_bytes()].concat();
    [&PASS_MAGIC[..], &head, &seal(&key, &head, plain)].concat()
}

/// Opens what [`seal_with_passphrase`] made.
///
/// # Errors
/// A wrong passphrase and damaged bytes look the same.
pub fn open_with_passphrase(passphrase: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
    let parse = || {
        let rest = sealed.strip_prefix(PASS_MAGIC)?;
        let (head, body) = rest.split_first_chunk::<24>()?;
        let (salt, params) = head.split_first_chunk::<16>()?;
        let (memory, passes) = params.split_first_chunk::<4>()?;
        let (memory, passes) = (u32::from_be_bytes(*memory), u32::from_be_bytes(passes.try_into().ok()?));
        // Bounds: a damaged file must not ask for all memory or for ever.
        if memory > 1024 * 1024 || passes > 100 {
            return None;
        }
        let key = stretch(passphrase, salt, memory, passes)?;
        open(&key, head, body)
    };
    parse().ok_or(SecretsError::Passphrase)
}

fn stretch(passphrase: &[u8], salt: &[u8; 16], memory: u32, passes: u32) -> Option<Zeroizing<[u8; 32]>> {
    let params = Params::new(memory, passes, 1, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(passphrase, salt, &mut *key).ok()?;
    Some(key)
}

/// nonce ‖ ciphertext ‖ tag; the nonce is random: a key seals far fewer than 2^32 versions of a file.
fn seal(key: &[u8; 32], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let nonce = random_bytes::<12>();
    let mut buf = [&nonce[..], plain].concat();
    let tag = Aes256Gcm::new(key.into())
        .encrypt_inout_detached(&Nonce::from(nonce), aad, (&mut buf[12..]).into())
        .expect("secrets are far below the cipher's limit");
    buf.extend_from_slice(&tag);
    buf
}

fn open(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_first_chunk::<12>()?;
    let (body, tag) = rest.split_last_chunk::<TAG>()?;
    let mut plain = Zeroizing::new(body.to_vec());
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(&Nonce::from(*nonce), aad, plain.as_mut_slice().into(), &Tag::from(*tag))
        .ok()?;
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_survive_a_restart_and_open_with_their_root_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("secrets");
        let root = FileRoot::open(&dir.path().join("root")).expect("made");
        let mut file = SecretsFile::open(&path, &root).expect("made");
        file.set_named("camera/a", Some(b"canary-canary".to_vec())).expect("saved");
        let id = crate::base::chain::Signer::public_key(&file.evidence()).box_id();
        assert!(!std::fs::read(&path).expect("reads").windows(6).any(|window| window == b"canary"));

        let again = FileRoot::open(&dir.path().join("root")).expect("read");
        let file = SecretsFile::open(&path, &again).expect("opens");
        assert_eq!(file.named("camera/a"), Some(&b"canary-canary"[..]));
        assert_eq!(crate::base::chain::Signer::public_key(&file.evidence()).box_id(), id);

        let other = FileRoot::open(&dir.path().join("other")).expect("made");
        assert!(matches!(SecretsFile::open(&path, &other), Err(SecretsError::Sealed { .. })));
        let mut bytes = std::fs::read(&path).expect("reads");
        bytes[30] ^= 1;
        std::fs::write(&path, bytes).expect("writes");
        assert!(matches!(SecretsFile::open(&path, &again), Err(SecretsError::Sealed { .. })));
    }

    #[test]
    fn a_value_that_was_not_written_is_not_kept_in_memory() {
        use crate::base::fs::faults::{self, Fault};
        let dir = tempfile::tempdir().expect("a folder");
        let root = FileRoot::open(&dir.path().join("root")).expect("made");
        let mut file = SecretsFile::open(&dir.path().join("secrets"), &root).expect("made");
        let named = |file: &SecretsFile| (file.named("a").map(<[u8]>::to_vec), file.named("b").map(<[u8]>::to_vec));
        file.set_named("a", Some(vec![1])).expect("saved");
        let before = (Some(vec![1]), None);
        type Change = fn(&mut SecretsFile) -> Result<(), SecretsError>;
        let failing: [Change; 4] = [
            |file| file.set_named("a", Some(vec![2])),
            |file| file.set_named("b", Some(vec![2])),
            |file| file.set_named("a", None),
            |file| file.remove(&["a".into(), "b".into()]),
        ];
        for change in failing {
            let (done, _) = faults::with(0, Fault::Once, || change(&mut file));
            assert_eq!(done.expect_err("the fault").code(), "secrets-io");
            assert_eq!(named(&file), before);
        }
        file.remove(&["a".into(), "b".into()]).expect("saved");
        assert_eq!(named(&file), (None, None));
    }

    #[test]
    fn a_passphrase_opens_what_it_sealed_and_nothing_else() {
        let sealed = seal_with_passphrase(b"right", b"key");
        assert_eq!(open_with_passphrase(b"right", &sealed).expect("opens").as_slice(), b"key");
        assert!(open_with_passphrase(b"wrong", &sealed).is_err());
        // A damaged file must not ask for terabytes of memory.
        let mut greedy = sealed.clone();
        greedy[24] = 0xff;
        assert!(open_with_passphrase(b"right", &greedy).is_err());
        assert!(open_with_passphrase(b"right", &sealed[..20]).is_err());
    }
}
