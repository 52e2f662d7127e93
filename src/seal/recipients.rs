//! Who can open a segment: HPKE recipients (RFC 9180). Spec: `docs/spec/sealed-segment.md`, "Recipients".

use crate::base::ids::{KeyId, OrganisationId};
use zeroize::Zeroizing;

/// What a recipient key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientRole {
    /// The organisation's working key, held by its cloud.
    Organisation,
    /// An offline recovery key.
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
        todo!()
    }
}

/// The secret half: opens segments. Zeroized on drop, never printed.
pub struct RecipientSecret(Zeroizing<[u8; 32]>);

impl RecipientSecret {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        todo!()
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
    pub fn public(&self, _role: RecipientRole) -> RecipientKey {
        todo!()
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
