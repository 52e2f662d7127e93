//! The only TLS configurations of box and cloud: TLS 1.3, ring, pinned keys, no resumption, no early data.
//!
//! Belongs here: rustls and nothing above it. TLS alerts are opaque, so every refusal is also told to [`Refusals`].
//! Spec: `docs/spec/pairing.md`, "After pairing".

use super::identity::{Generation, IdentityError, Spki, TlsKey};
use crate::base::reason::{Coded, Counters};
use p256::ecdsa::signature::Verifier;
use p256::pkcs8::DecodePublicKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use x509_parser::prelude::{FromDer, X509Certificate};

/// ALPN of the pairing exchange.
pub const ALPN_PAIR: &[u8] = b"mvb-pair/1";
/// ALPN of sessions after it.
pub const ALPN_SESSION: &[u8] = b"mvb/1";
/// The name that every handshake asks for; it says nothing.
pub const SERVER_NAME: &str = "mvb.invalid";

/// The cloud's side of a session, as the relay passes it on.
pub type ServerSide = Arc<ServerConfig>;

/// Why a peer was refused during the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The certificate is not signed by a pinned issuer.
    WrongIssuer,
    /// It is, but of an older generation than one seen before.
    LowerGeneration,
    /// The client's key belongs to no paired box.
    UnknownBox,
    /// The certificate cannot be read, or is not P-256.
    Malformed,
}

impl Coded for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::WrongIssuer => "tls-wrong-issuer",
            Self::LowerGeneration => "tls-lower-generation",
            Self::UnknownBox => "tls-unknown-box",
            Self::Malformed => "tls-malformed-certificate",
        }
    }
}

/// What verifiers refused: counted, and the last one kept for whoever sees the handshake fail.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    counters: Counters,
    last: Arc<Mutex<Option<Refusal>>>,
}

impl Refusals {
    /// Counts into the given counters.
    #[must_use]
    pub fn new(counters: Counters) -> Self {
        Self { counters, last: Arc::default() }
    }

    /// The last refusal since the last call.
    #[must_use]
    pub fn take(&self) -> Option<Refusal> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn refuse(&self, refusal: Refusal) -> Error {
        self.counters.count(&refusal);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
    }
}

/// Issuer keys that a set of pins holds at most.
pub const MAX_ISSUERS: usize = 4;

/// The keys that a box accepts a cloud by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    /// Public keys of the two issuers, active and spare.
    pub issuers: Vec<Spki>,
    /// Version of the set, rising.
    pub version: u64,
    /// Highest generation seen; a lower one is refused.
    pub generation: Generation,
}

/// How a client key stands with the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Paired, or waiting for its first session.
    Known,
    /// Completes TLS and gets nothing but REVOKE.
    Revoked,
    /// Refused.
    Unknown,
}

/// Who knows the boxes of a cloud.
pub trait KnownBoxes: Send + Sync {
    /// How the key stands. Called during a handshake: must not block for long.
    fn standing(&self, identity: &Spki) -> Standing;
}

/// The box's side of a session.
///
/// # Errors
/// The identity's certificate cannot be made.
pub fn box_client(identity: &TlsKey, pins: Pins, refusals: Refusals) -> Result<Arc<ClientConfig>, IdentityError> {
    let verifier = Pinned { pins, refusals };
    let config = client(Arc::new(verifier))
        .with_client_auth_cert(vec![identity.self_signed()?], identity.private())
        .expect("a key of ours fits its own certificate");
    Ok(Arc::new(finished_client(config, ALPN_SESSION)))
}

/// The cloud's side of a session.
#[must_use]
pub fn cloud_server(
    serving: &TlsKey,
    certificate: CertificateDer<'static>,
    boxes: Arc<dyn KnownBoxes>,
    refusals: Refusals,
) -> Arc<ServerConfig> {
    let verifier = Boxes { boxes, refusals };
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![certificate], serving.private())
        .expect("a key of ours fits its own certificate");
    Arc::new(finished_server(config, ALPN_SESSION))
}

/// The box's side of pairing: the server's key is not known yet; the code's nonce proves it inside.
#[must_use]
pub fn pairing_client() -> Arc<ClientConfig> {
    let config = client(Arc::new(AnyP256)).with_no_client_auth();
    Arc::new(finished_client(config, ALPN_PAIR))
}

/// The cloud's side of pairing.
#[must_use]
pub fn pairing_server(serving: &TlsKey, certificate: CertificateDer<'static>) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], serving.private())
        .expect("a key of ours fits its own certificate");
    Arc::new(finished_server(config, ALPN_PAIR))
}

/// The peer's public key from quinn's `peer_identity()`.
#[must_use]
pub fn peer_spki(identity: Box<dyn Any>) -> Option<Spki> {
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    spki_of(chain.first()?)
}

/// The generation in the peer's certificate, from quinn's `peer_identity()`.
#[must_use]
pub fn peer_generation(identity: Box<dyn Any>) -> Option<Generation> {
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    generation_of(chain.first()?)
}

/// The public key in a certificate.
#[must_use]
pub fn spki_of(certificate: &CertificateDer<'_>) -> Option<Spki> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Spki(parsed.tbs_certificate.subject_pki.raw.to_vec()))
}

/// The generation in a serving certificate.
#[must_use]
pub fn generation_of(certificate: &CertificateDer<'_>) -> Option<Generation> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    generation(&parsed)
}

fn generation(certificate: &X509Certificate<'_>) -> Option<Generation> {
    let serial = certificate.tbs_certificate.raw_serial();
    let digits = serial.iter().position(|byte| *byte != 0).map_or(&[][..], |at| &serial[at..]);
    if digits.len() > 8 {
        return None;
    }
    Some(Generation(digits.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client(
    verifier: Arc<dyn ServerCertVerifier>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
}

/// A resumed session would skip the certificate verifier, so there is none.
fn finished_client(mut config: ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

fn finished_server(mut config: ServerConfig, alpn: &[u8]) -> ServerConfig {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// How each verifier checks that the peer holds the key of its certificate: TLS 1.3, ECDSA P-256 with SHA-256, no other.
macro_rules! p256_handshake {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    };
}

/// A box looks at the cloud's certificate.
#[derive(Debug)]
struct Pinned {
    pins: Pins,
    refusals: Refusals,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Refusal> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Refusal::Malformed)?;
        let generation = generation(&parsed).ok_or(Refusal::Malformed)?;
        let tbs = parsed.tbs_certificate.as_ref();
        let signature =
            p256::ecdsa::Signature::from_der(&parsed.signature_value.data).map_err(|_| Refusal::Malformed)?;
        let signed_by = |issuer: &Spki| {
            p256::ecdsa::VerifyingKey::from_public_key_der(&issuer.0)
                .is_ok_and(|key| key.verify(tbs, &signature).is_ok())
        };
        if !self.pins.issuers.iter().any(signed_by) {
            return Err(Refusal::WrongIssuer);
        }
        if generation < self.pins.generation { Err(Refusal::LowerGeneration) } else { Ok(()) }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
            .map_err(|refusal| self.refusals.refuse(refusal))
    }

    p256_handshake!();
}

/// A box while pairing: any P-256 key that the server really holds.
#[derive(Debug)]
struct AnyP256;

impl ServerCertVerifier for AnyP256 {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    p256_handshake!();
}

/// The cloud looks at a box's certificate.
struct Boxes {
    boxes: Arc<dyn KnownBoxes>,
    refusals: Refusals,
}

impl std::fmt::Debug for Boxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Boxes")
    }
}

impl ClientCertVerifier for Boxes {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let spki = spki_of(end_entity).ok_or_else(|| self.refusals.refuse(Refusal::Malformed))?;
        match self.boxes.standing(&spki) {
            Standing::Known | Standing::Revoked => Ok(ClientCertVerified::assertion()),
            Standing::Unknown => Err(self.refusals.refuse(Refusal::UnknownBox)),
        }
    }

    p256_handshake!();
}
