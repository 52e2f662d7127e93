//! Keys that speak TLS: the box's identity, the cloud's issuers and its serving certificate.
//!
//! Belongs here: making keys and certificates. Does not belong here: who accepts them (see [`super::tls`]).
//! Spec: `docs/spec/pairing.md`, "Certificates".

use crate::base::chain::{Signer, SoftwareSigner};
use crate::base::ids::Digest;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::fmt;
use zeroize::Zeroizing;

/// DER SubjectPublicKeyInfo of a P-256 key, at most 128 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spki(pub Vec<u8>);

impl Spki {
    /// SHA-256 of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(&self.0).into())
    }
}

impl fmt::Debug for Spki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spki({})", self.digest())
    }
}

/// How often the serving certificate was renewed. A box never accepts a lower one than it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Generation(pub u64);

/// Why a key or certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are no P-256 key in PKCS#8.
    #[error("not a P-256 key in PKCS#8")]
    Key(#[source] rcgen::Error),
    /// The certificate cannot be made.
    #[error("the certificate cannot be made")]
    Certificate(#[source] rcgen::Error),
}

/// A P-256 key for TLS. The secret half is zeroized on drop and never printed.
pub struct TlsKey {
    pair: KeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl TlsKey {
    /// A new random key.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Key)?;
        let pkcs8 = Zeroizing::new(pair.serialize_der());
        Ok(Self { pair, pkcs8 })
    }

    /// From PKCS#8.
    ///
    /// # Errors
    /// Not a P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, IdentityError> {
        let pkcs8 = Zeroizing::new(der.to_vec());
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ECDSA_P256_SHA256)
            .map_err(IdentityError::Key)?;
        Ok(Self { pair, pkcs8 })
    }

    /// PKCS#8, to be sealed.
    #[must_use]
    pub fn pkcs8(&self) -> &Zeroizing<Vec<u8>> {
        &self.pkcs8
    }

    /// The public half.
    #[must_use]
    pub fn spki(&self) -> Spki {
        Spki(rcgen::PublicKeyData::subject_public_key_info(&self.pair))
    }

    /// Signs a SHA-256 digest: 64 bytes `r ‖ s`, low s, as all signatures outside TLS.
    ///
    /// # Panics
    /// Never: the key was read as P-256 when it was made or loaded.
    #[must_use]
    pub fn sign(&self, digest: &Digest) -> [u8; 64] {
        use p256::pkcs8::DecodePrivateKey;
        let secret = p256::SecretKey::from_pkcs8_der(&self.pkcs8).expect("a P-256 key");
        let signer = SoftwareSigner::from_bytes(&secret.to_bytes().into()).expect("a scalar");
        signer.sign(digest)
    }

    pub(super) fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    /// A certificate signed by the key itself: what a box presents, and a cloud while pairing.
    ///
    /// # Errors
    /// The certificate cannot be made.
    pub fn self_signed(&self) -> Result<CertificateDer<'static>, IdentityError> {
        let params = params("mvb", Generation(1));
        Ok(params.self_signed(&self.pair).map_err(IdentityError::Certificate)?.der().clone())
    }

    /// A serving certificate for `serving`, signed by this issuer key. The generation is its serial number.
    ///
    /// # Errors
    /// The certificate cannot be made.
    pub fn issue(&self, serving: &Self, generation: Generation) -> Result<CertificateDer<'static>, IdentityError> {
        let mut own = params("mvb issuer", Generation(1));
        own.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let issuer = Issuer::new(own, &self.pair);
        let made = params("mvb cloud", generation).signed_by(&serving.pair, &issuer);
        Ok(made.map_err(IdentityError::Certificate)?.der().clone())
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsKey({})", self.spki().digest())
    }
}

/// Names and dates say nothing: only keys and the generation are looked at. No clock is trusted.
fn params(name: &str, generation: Generation) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(generation.0.max(1)));
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params
}
