//! Who can open a segment: HPKE recipients (RFC 9180). Spec: `docs/spec/sealed-segment.md`, "Recipients".

use crate::base::ids::{KeyId, OrganisationId, SegmentId};
use crate::seal::header::Stanza;
use crate::seal::keys::{Dek, OsRandomness, Randomness};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use minicbor::{Decode, Encode, Encoder};
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::fmt;
use zeroize::Zeroizing;

/// Stanza type 1: HPKE base mode, DHKEM(X25519, HKDF-SHA-256), HKDF-SHA-256, AES-256-GCM.
pub const STANZA_X25519: u16 = 1;
/// The only suite of version 1: AES-256-GCM records, HKDF-SHA-256, ECDSA P-256 with SHA-256.
pub const SUITE: u16 = 1;
/// At most this many recipients of a segment.
pub const MAX_RECIPIENTS: usize = 16;

/// What a recipient key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum RecipientRole {
    /// The organisation's working key, held by its cloud.
    #[n(1)]
    Organisation,
    /// An offline recovery key.
    #[n(2)]
    Recovery,
}

/// A public key to which segments are sealed (X25519).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientKey {
    /// What it is for.
    pub role: RecipientRole,
    /// Raw X25519 public key.
    pub public: [u8; 32],
}

impl RecipientKey {
    /// Its id: the first 16 bytes of SHA-256("mvs1 key" ‖ u16 stanza type ‖ public key).
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash = Sha256::new()
            .chain_update(b"mvs1 key")
            .chain_update(STANZA_X25519.to_be_bytes())
            .chain_update(self.public)
            .finalize();
        KeyId(*hash.first_chunk::<16>().expect("SHA-256 has 32 bytes"))
    }

    /// Whether anything can be sealed to it: a point of low order gives no secret and is refused.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let dek = Dek(Zeroizing::new([0; 32]));
        seal_dek(&dek, self, OrganisationId([0; 16]), SegmentId([0; 16]), &mut OsRandomness).is_some()
    }
}

/// The secret half: opens segments. Zeroized on drop, never printed.
pub struct RecipientSecret(Zeroizing<[u8; 32]>);

impl RecipientSecret {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self::generate_with(&mut OsRandomness)
    }

    /// A new key from the given source.
    #[must_use]
    pub fn generate_with(randomness: &mut dyn Randomness) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        randomness.fill(bytes.as_mut_slice());
        Self(bytes)
    }

    /// From its raw bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Raw bytes, to be sealed under a passphrase.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.clone()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self, role: RecipientRole) -> RecipientKey {
        RecipientKey { role, public: X25519HkdfSha256::sk_to_pk(&self.private()).to_bytes().into() }
    }

    fn private(&self) -> <X25519HkdfSha256 as Kem>::PrivateKey {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(self.0.as_slice()).expect("32 bytes are an X25519 key")
    }

    /// Opens this key's stanza of a segment; `None` if the stanza was not made for this key, organisation and segment.
    pub(crate) fn open(&self, stanza: &Stanza, organisation: OrganisationId, segment: SegmentId) -> Option<Dek> {
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&stanza.enc).ok()?;
        let dek = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private(),
            &enc,
            &info(stanza.key, organisation, segment),
            &stanza.ct,
            &[],
        )
        .map(Zeroizing::new)
        .ok()?;
        Some(Dek(Zeroizing::new(<[u8; 32]>::try_from(dek.as_slice()).ok()?)))
    }
}

impl fmt::Debug for RecipientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientSecret({})", self.public(RecipientRole::Organisation).id())
    }
}

/// The keys a box seals to. Not empty: without a recipient there is no recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipients {
    /// Owner of the footage.
    pub organisation: OrganisationId,
    /// At least one, at most 16.
    pub keys: Vec<RecipientKey>,
}

impl Recipients {
    /// A set that segments can be sealed to: 1 to 16 distinct usable keys; `None` otherwise.
    #[must_use]
    pub fn new(organisation: OrganisationId, keys: Vec<RecipientKey>) -> Option<Self> {
        let usable = (1..=MAX_RECIPIENTS).contains(&keys.len()) && keys.iter().all(RecipientKey::is_usable);
        let distinct = keys.iter().enumerate().all(|(n, key)| keys.iter().skip(n + 1).all(|k| k.public != key.public));
        (usable && distinct).then_some(Self { organisation, keys })
    }

    /// Ids of all keys, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(RecipientKey::id).collect()
    }
}

/// Seals a DEK to one recipient; `None` for an unusable (low-order) public key.
pub(crate) fn seal_dek(
    dek: &Dek,
    to: &RecipientKey,
    organisation: OrganisationId,
    segment: SegmentId,
    randomness: &mut dyn Randomness,
) -> Option<Stanza> {
    let key = to.id();
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&to.public).ok()?;
    let (enc, ct) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        &info(key, organisation, segment),
        dek.0.as_slice(),
        &[],
        &mut Rng(randomness),
    )
    .ok()?;
    Some(Stanza { kind: STANZA_X25519, key, enc: enc.to_bytes().to_vec(), ct })
}

/// Binds the wrapped key to its purpose, so that a stanza moved to another segment or organisation does not open.
fn info(key: KeyId, organisation: OrganisationId, segment: SegmentId) -> Vec<u8> {
    let mut e = Encoder::new(Vec::with_capacity(80));
    e.array(6)
        .and_then(|e| e.str("mvs1 hpke"))
        .and_then(|e| e.u16(SUITE))
        .and_then(|e| e.u16(STANZA_X25519))
        .and_then(|e| e.bytes(key.as_bytes()))
        .and_then(|e| e.bytes(organisation.as_bytes()))
        .and_then(|e| e.bytes(segment.as_bytes()))
        .expect("writing to a Vec does not fail");
    e.into_writer()
}

/// Our source of randomness in the shape that the HPKE crate asks for.
struct Rng<'a>(&'a mut dyn Randomness);

impl TryRng for Rng<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(dst);
        Ok(())
    }
}

impl TryCryptoRng for Rng<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_opens_only_for_its_key_organisation_and_segment() {
        let secret = RecipientSecret::generate();
        let to = secret.public(RecipientRole::Organisation);
        let (organisation, segment) = (OrganisationId::random(), SegmentId::random());
        let dek = Dek::random(&mut OsRandomness);
        let stanza = seal_dek(&dek, &to, organisation, segment, &mut OsRandomness).expect("usable");
        assert_eq!((stanza.enc.len(), stanza.ct.len()), (32, 48));
        assert_eq!(secret.open(&stanza, organisation, segment).expect("opens").0, dek.0);
        assert!(secret.open(&stanza, OrganisationId::random(), segment).is_none());
        assert!(secret.open(&stanza, organisation, SegmentId::random()).is_none());
        assert!(RecipientSecret::generate().open(&stanza, organisation, segment).is_none());
    }

    #[test]
    fn a_set_of_recipients_is_neither_empty_nor_double_nor_of_low_order() {
        let org = OrganisationId::random();
        let key = RecipientSecret::generate().public(RecipientRole::Recovery);
        assert!(Recipients::new(org, vec![]).is_none());
        assert!(Recipients::new(org, vec![key.clone(), key.clone()]).is_none());
        assert!(Recipients::new(org, vec![RecipientKey { role: RecipientRole::Recovery, public: [0; 32] }]).is_none());
        assert!(Recipients::new(org, vec![key]).is_some());
    }
}
