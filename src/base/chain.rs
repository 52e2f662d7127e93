//! Append-only, signed, hash-chained logs: the box's journal, its access log and the cloud's audit are this mechanism.
//!
//! One entry on disk and on the wire is `u32 big-endian length ‖ entry (canonical CBOR) ‖ 64-byte signature`; the format
//! is specified in `docs/spec/sealed-segment.md`, "Chain". What an entry means belongs to the room that owns the log.

use crate::base::ids::{BoxId, Digest};
use crate::base::units::{BootTime, Run};
use crate::base::{cbor, ids};
use minicbor::{Decode, Encode};
use p256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePublicKey, EncodePublicKey};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Largest entry that a reader accepts, bytes of CBOR.
pub const MAX_ENTRY: usize = 64 * 1024;

/// An ECDSA P-256 signature: r ‖ s, 32 bytes each, s in the lower half.
pub type SignatureBytes = [u8; 64];

/// Signs digests with the box's evidence key (or another log's key), wherever that key lives.
pub trait Signer: Send + Sync {
    /// ECDSA P-256 over a 32-byte digest, low s.
    fn sign(&self, digest: &Digest) -> SignatureBytes;
    /// The public half.
    fn public_key(&self) -> PublicKey;
}

/// The public half of a signing key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo; `None` unless it is a valid P-256 key in the one form that the formats know: 91
    /// bytes, named curve, uncompressed point. Ids are hashes of these bytes.
    #[must_use]
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        VerifyingKey::from_public_key_der(der).ok().map(Self).filter(|key| key.spki() == der)
    }

    /// DER SubjectPublicKeyInfo.
    ///
    /// # Panics
    /// Never: a valid point always encodes.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        self.0.to_public_key_der().expect("a valid point encodes").into_vec()
    }

    /// The identity of whoever holds the key: SHA-256 of its SPKI.
    #[must_use]
    pub fn box_id(&self) -> BoxId {
        BoxId(Sha256::digest(self.spki()).into())
    }

    /// Checks a signature over a digest. A signature with a high s is refused: it would be a second valid form.
    #[must_use]
    pub fn verifies(&self, digest: &Digest, signature: &SignatureBytes) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|s| s.normalize_s() == s && self.0.verify_prehash(&digest.0, &s).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.box_id())
    }
}

/// A signing key held in memory.
pub struct SoftwareSigner(SigningKey);

impl SoftwareSigner {
    /// A new random key.
    ///
    /// # Panics
    /// If the operating system has no randomness.
    #[must_use]
    pub fn generate() -> Self {
        loop {
            // A random scalar is invalid with probability 2^-32 at most.
            if let Some(signer) = Self::from_bytes(&ids::random_bytes::<32>()) {
                return signer;
            }
        }
    }

    /// From the 32-byte big-endian scalar; `None` if it is zero or not below the group order.
    #[must_use]
    pub fn from_bytes(scalar: &[u8; 32]) -> Option<Self> {
        SigningKey::from_slice(scalar).ok().map(Self)
    }

    /// The 32-byte scalar, for the sealed secrets file.
    #[must_use]
    pub fn to_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes().into())
    }
}

impl Signer for SoftwareSigner {
    fn sign(&self, digest: &Digest) -> SignatureBytes {
        let signature: Signature = self.0.sign_prehash(&digest.0).expect("a 32-byte digest can be signed");
        signature.normalize_s().to_bytes().into()
    }

    fn public_key(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }
}

impl fmt::Debug for SoftwareSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareSigner({})", self.public_key().box_id())
    }
}

/// The end of a log as somebody knows it: sequence number and hash of its last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, serde::Serialize, serde::Deserialize)]
#[cbor(array)]
pub struct Head {
    /// Sequence number of the last entry.
    #[n(0)]
    pub seq: u64,
    /// Its link hash.
    #[n(1)]
    pub hash: Digest,
}

impl<'b, C> Decode<'b, C> for Head {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        let (seq, hash) = d.decode_with(ctx)?;
        Ok(Self { seq, hash })
    }
}

/// One entry. `kind` and `body` belong to the log's owner; the rest is the chain's.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// 0, 1, 2 … without holes.
    #[n(0)]
    pub seq: u64,
    /// Link hash of the entry before; zeroes for the first.
    #[n(1)]
    pub prev: Digest,
    /// Who wrote it.
    #[n(2)]
    pub author: BoxId,
    /// In which run.
    #[n(3)]
    pub run: Run,
    /// When, on that run's boot time.
    #[n(4)]
    pub at: BootTime,
    /// What it says, by the log's own numbering.
    #[n(5)]
    pub kind: u16,
    /// The kind's fields, canonical CBOR.
    #[n(6)]
    #[cbor(with = "minicbor::bytes")]
    pub body: Vec<u8>,
}

/// An entry with the exact bytes that were signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub entry: Entry,
    /// Canonical CBOR of `entry`, as signed.
    pub bytes: Vec<u8>,
    /// Signature by the author's key.
    pub signature: SignatureBytes,
}

/// Why an entry is not a link of a log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The frame is cut off: normal at the end of a log after a power cut, damage elsewhere.
    #[error("entry cut off")]
    Truncated,
    /// The length field is outside 1..=MAX_ENTRY.
    #[error("entry of {0} bytes")]
    Length(u32),
    /// The entry is not canonical CBOR of the known shape.
    #[error("malformed entry")]
    Malformed(#[source] cbor::Error),
    /// The signature does not belong to the entry and the key.
    #[error("entry {seq}: bad signature")]
    BadSignature { seq: u64 },
    /// Another key wrote it.
    #[error("entry {seq}: written by another box")]
    Foreign { seq: u64 },
    /// It does not follow the entry before it.
    #[error("entry {seq}: does not follow entry {after:?}")]
    Broken { seq: u64, after: Option<u64> },
}

impl crate::base::reason::Coded for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Truncated => "chain-truncated",
            Self::Length(_) => "chain-length",
            Self::Malformed(_) => "chain-malformed",
            Self::BadSignature { .. } => "chain-bad-signature",
            Self::Foreign { .. } => "chain-foreign",
            Self::Broken { .. } => "chain-broken",
        }
    }
}

impl Signed {
    /// Makes the entry that follows `head` in the log called `log`.
    #[must_use]
    pub fn append(
        log: &str,
        head: Option<Head>,
        signer: &dyn Signer,
        run: Run,
        at: BootTime,
        kind: u16,
        body: Vec<u8>,
    ) -> Self {
        let (seq, prev) = head.map_or((0, Digest([0; 32])), |head| (head.seq + 1, head.hash));
        let entry = Entry { seq, prev, author: signer.public_key().box_id(), run, at, kind, body };
        let bytes = cbor::encode(&entry);
        let signature = signer.sign(&signed_digest(log, &bytes));
        Self { entry, bytes, signature }
    }

    /// The frame for disk and wire.
    ///
    /// # Panics
    /// If the entry is larger than [`MAX_ENTRY`]: owners bound their bodies.
    #[must_use]
    pub fn to_frame(&self) -> Vec<u8> {
        assert!(self.bytes.len() <= MAX_ENTRY, "chain entries are bounded by their owners");
        let len = u32::try_from(self.bytes.len()).expect("bounded above");
        [&len.to_be_bytes()[..], &self.bytes, &self.signature].concat()
    }

    /// Reads one frame from the start of `bytes`; also says how many bytes it took. Checks shape only: see [`Self::check`].
    ///
    /// # Errors
    /// `Truncated`, `Length`, `Malformed`.
    pub fn from_frame(bytes: &[u8]) -> Result<(Self, usize), Error> {
        let len = bytes.first_chunk::<4>().map(|len| u32::from_be_bytes(*len)).ok_or(Error::Truncated)?;
        let size = usize::try_from(len).ok().filter(|size| (1..=MAX_ENTRY).contains(size)).ok_or(Error::Length(len))?;
        let body = bytes.get(4..4 + size).ok_or(Error::Truncated)?;
        let signature = bytes[4 + size..].first_chunk::<64>().ok_or(Error::Truncated)?;
        let entry = cbor::decode(body, MAX_ENTRY).map_err(Error::Malformed)?;
        Ok((Self { entry, bytes: body.to_vec(), signature: *signature }, 4 + size + 64))
    }

    /// Checks author, signature and that it follows `head` (the entry before, `None` for the first).
    ///
    /// # Errors
    /// `Foreign`, `BadSignature`, `Broken`.
    pub fn check(&self, log: &str, head: Option<Head>, key: &PublicKey) -> Result<Head, Error> {
        let seq = self.entry.seq;
        if self.entry.author != key.box_id() {
            return Err(Error::Foreign { seq });
        }
        if !key.verifies(&signed_digest(log, &self.bytes), &self.signature) {
            return Err(Error::BadSignature { seq });
        }
        let expected = head.map_or((0, Digest([0; 32])), |head| (head.seq + 1, head.hash));
        if (seq, self.entry.prev) != expected {
            return Err(Error::Broken { seq, after: head.map(|head| head.seq) });
        }
        Ok(self.head(log))
    }

    /// This entry as the head of its log.
    #[must_use]
    pub fn head(&self, log: &str) -> Head {
        let hash = Sha256::new()
            .chain_update(b"mvb chain 1 link\0")
            .chain_update(log)
            .chain_update([0])
            .chain_update(&self.bytes)
            .chain_update(self.signature)
            .finalize();
        Head { seq: self.entry.seq, hash: Digest(hash.into()) }
    }
}

fn signed_digest(log: &str, entry: &[u8]) -> Digest {
    let hash = Sha256::new()
        .chain_update(b"mvb chain 1 entry\0")
        .chain_update(log)
        .chain_update([0])
        .chain_update(Sha256::digest(entry))
        .finalize();
    Digest(hash.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::BootId;

    fn run() -> Run {
        Run { boot: BootId([7; 16]), start: 1 }
    }

    fn log_of(signer: &SoftwareSigner, n: u16) -> Vec<Signed> {
        let mut head = None;
        (0..n)
            .map(|kind| {
                let entry = Signed::append("journal", head, signer, run(), BootTime(1), kind, vec![0xa0]);
                head = Some(entry.head("journal"));
                entry
            })
            .collect()
    }

    #[test]
    fn a_chain_checks_link_by_link() {
        let signer = SoftwareSigner::generate();
        let key = signer.public_key();
        let mut head = None;
        for entry in log_of(&signer, 3) {
            let (read, used) = Signed::from_frame(&entry.to_frame()).expect("reads back");
            assert_eq!((&read, used), (&entry, entry.to_frame().len()));
            head = Some(read.check("journal", head, &key).expect("follows"));
        }
        assert_eq!(head.map(|head| head.seq), Some(2));
    }

    #[test]
    fn dropped_swapped_foreign_and_renamed_entries_are_refused() {
        let signer = SoftwareSigner::generate();
        let key = signer.public_key();
        let log = log_of(&signer, 3);
        let first = log[0].check("journal", None, &key).expect("first");
        assert!(matches!(log[2].check("journal", Some(first), &key), Err(Error::Broken { seq: 2, after: Some(0) })));
        assert!(matches!(log[1].check("journal", None, &key), Err(Error::Broken { .. })));
        assert!(matches!(log[0].check("audit", None, &key), Err(Error::BadSignature { seq: 0 })));
        let other = SoftwareSigner::generate().public_key();
        assert!(matches!(log[0].check("journal", None, &other), Err(Error::Foreign { seq: 0 })));
    }

    #[test]
    fn every_flipped_byte_of_a_frame_is_noticed() {
        let signer = SoftwareSigner::generate();
        let key = signer.public_key();
        let frame = log_of(&signer, 1)[0].to_frame();
        for at in 0..frame.len() {
            let mut bad = frame.clone();
            bad[at] ^= 1;
            let ok = Signed::from_frame(&bad).is_ok_and(|(entry, _)| entry.check("journal", None, &key).is_ok());
            assert!(!ok, "byte {at}");
        }
    }

    #[test]
    fn a_high_s_signature_is_refused() {
        let signer = SoftwareSigner::generate();
        let digest = Digest([3; 32]);
        let low = Signature::from_slice(&signer.sign(&digest)).expect("valid");
        let high = Signature::from_scalars(low.r(), -low.s()).expect("valid");
        assert!(signer.public_key().verifies(&digest, &low.to_bytes().into()));
        assert!(!signer.public_key().verifies(&digest, &high.to_bytes().into()));
    }

    #[test]
    fn a_key_has_one_form() {
        let key = SoftwareSigner::generate().public_key();
        assert_eq!(PublicKey::from_spki(&key.spki()).as_ref(), Some(&key));
        assert_eq!(key.spki().len(), 91);
        // The same key with a compressed point.
        let point = key.0.to_sec1_point(true);
        let mut der = key.spki();
        der.truncate(26);
        der.extend_from_slice(point.as_bytes());
        (der[1], der[24]) = (57, 34);
        assert_eq!(PublicKey::from_spki(&der), None);
    }

    #[test]
    fn an_array_with_one_element_more_is_another_encoding_and_refused() {
        let head = Head { seq: 1, hash: Digest([2; 32]) };
        let mut bytes = cbor::encode(&head);
        assert_eq!(cbor::decode::<Head>(&bytes, 100).ok(), Some(head));
        bytes[0] += 1;
        bytes.push(0);
        assert!(cbor::check(&bytes).is_ok() && cbor::decode::<Head>(&bytes, 100).is_err());
    }
}
