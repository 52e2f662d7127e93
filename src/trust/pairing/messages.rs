//! What box and cloud say to each other while pairing, and the proofs. Spec: `docs/spec/pairing.md`, "Exchange".
//!
//! A message is `u32 big-endian length ‖ u8 type ‖ canonical CBOR`, at most [`MAX_MESSAGE`] bytes after the length.

use crate::base::chain::Head;
use crate::base::ids::{BoxId, OrganisationId, PairingId};
use crate::base::reason::Coded;
use crate::base::units::WallTime;
use crate::base::{cbor, framing};
use crate::trust::pairing::Code;
use hmac::{Hmac, KeyInit, Mac};
use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// Largest message after its length field.
pub const MAX_MESSAGE: usize = 16 * 1024;
/// Version of the exchange.
pub const VERSION: u16 = 1;
/// Exporter label (RFC 8446 §7.5); no context, 32 bytes.
pub const EXPORTER: &[u8] = b"EXPORTER-mvb-pair/1";

/// Keying material of the TLS session: ties a proof to this session and no other.
pub type Exporter = [u8; 32];

/// BoxRequest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BoxRequest {
    /// Host as typed, lower case.
    #[n(0)]
    pub host: String,
    /// Which code.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub code_id: [u8; 4],
    /// SPKI of the identity key.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub identity: Vec<u8>,
    /// SPKI of the evidence key.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub evidence: Vec<u8>,
    /// Its signature, see [`evidence_digest`].
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub evidence_signature: [u8; 64],
    /// SHA-256 of the evidence SPKI.
    #[n(5)]
    pub box_id: BoxId,
    /// Serial number on the label, at most 64 bytes.
    #[n(6)]
    pub serial: String,
    /// Where the box's journal ends.
    #[n(7)]
    pub journal: Option<Head>,
    /// Lowest and highest version of this exchange that the box speaks.
    #[n(8)]
    pub versions: (u16, u16),
    /// Firmware, at most 64 bytes.
    #[n(9)]
    pub firmware: String,
    /// The identity key's signature, see [`identity_digest`].
    #[n(10)]
    #[cbor(with = "minicbor::bytes")]
    pub identity_signature: [u8; 64],
}

/// CloudAnswer: everything that the box will keep.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(map)]
pub struct CloudAnswer {
    /// Version spoken.
    #[n(0)]
    pub version: u16,
    /// Owner.
    #[n(1)]
    pub organisation: OrganisationId,
    /// Its name, at most 256 bytes.
    #[n(2)]
    pub name: String,
    /// X25519 key that footage is sealed to.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub sealing_key: [u8; 32],
    /// Offline recovery keys, X25519, at most 8.
    #[n(4)]
    pub recovery_keys: Vec<RawKey>,
    /// SPKI of the key that signs receipts.
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    pub receipt_key: Vec<u8>,
    /// SPKI of the issuer keys, active first.
    #[n(6)]
    pub issuers: Vec<RawSpki>,
    /// Version of the set of issuers.
    #[n(7)]
    pub pins_version: u64,
    /// Generation of the serving certificate.
    #[n(8)]
    pub generation: u64,
    /// This agreement.
    #[n(9)]
    pub pairing: PairingId,
    /// Wall time of the cloud.
    #[n(10)]
    pub time: WallTime,
    /// Where sessions go, `host:port` (UDP); absent: the host of the code, its port.
    #[n(11)]
    pub relay: Option<String>,
}

/// A raw X25519 key in CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(transparent)]
pub struct RawKey(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

/// An SPKI in CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(transparent)]
pub struct RawSpki(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// A body as it was proved, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Proved {
    /// BoxRequest or CloudAnswer.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub body: Vec<u8>,
    /// HMAC.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub proof: [u8; 32],
}

/// Why the cloud refuses, as it crosses the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, thiserror::Error)]
#[cbor(index_only)]
pub enum Refused {
    /// No such code: never made, ended, or made before the cloud restarted.
    #[n(1)]
    #[error("the cloud does not know this code: it is wrong, too old, or the cloud was restarted; make a new one")]
    UnknownCode,
    /// The code's 15 minutes are over.
    #[n(2)]
    #[error("the code has expired: make a new one")]
    Expired,
    /// Another box used it.
    #[n(3)]
    #[error("another box has used this code: make a new one, and find out which box it was")]
    Used,
    /// Five wrong proofs.
    #[n(4)]
    #[error("the code was tried too often with a wrong proof and is void: make a new one")]
    Void,
    /// Too many wrong proofs from this address.
    #[n(5)]
    #[error("too many wrong attempts from this address: wait 15 minutes")]
    TooManyAttempts,
    /// The proof is wrong: another nonce, or somebody sits in between.
    #[n(6)]
    #[error("the proof is wrong: the code has a typing error, or somebody sits between box and cloud")]
    WrongProof,
    /// The code was made for another serial number.
    #[n(7)]
    #[error("the code was made for another box")]
    WrongSerial,
    /// The message is not what the specification says.
    #[n(8)]
    #[error("the message is malformed")]
    Malformed,
    /// No version in common.
    #[n(9)]
    #[error("box and cloud have no version in common: update one of them")]
    Version,
    /// An administrator must confirm first.
    #[n(10)]
    #[error("an administrator must confirm this box in the cloud first: then try again with the same code")]
    ConfirmFirst,
    /// The cloud cannot store the pairing now.
    #[n(11)]
    #[error("the cloud cannot store the pairing now: try again")]
    Unavailable,
    /// A signature of the evidence or identity key does not hold.
    #[n(12)]
    #[error("the box does not prove its keys")]
    BadEvidence,
}

impl Coded for Refused {
    fn code(&self) -> &'static str {
        match self {
            Self::UnknownCode => "pair-unknown-code",
            Self::Expired => "pair-expired",
            Self::Used => "pair-code-used",
            Self::Void => "pair-code-void",
            Self::TooManyAttempts => "pair-too-many-attempts",
            Self::WrongProof => "pair-wrong-proof",
            Self::WrongSerial => "pair-wrong-serial",
            Self::Malformed => "pair-malformed",
            Self::Version => "pair-version",
            Self::ConfirmFirst => "pair-confirm-first",
            Self::Unavailable => "pair-unavailable",
            Self::BadEvidence => "pair-bad-evidence",
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Box to cloud, first.
    Request(Proved),
    /// Cloud to box, last.
    Answer(Proved),
    /// Cloud to box, last.
    Refused(Refused),
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct RefusedBody {
    #[n(0)]
    reason: Refused,
}

impl Message {
    /// Type and CBOR.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Request(proved) => (1, cbor::encode(proved)),
            Self::Answer(proved) => (2, cbor::encode(proved)),
            Self::Refused(reason) => (3, cbor::encode(&RefusedBody { reason: *reason })),
        };
        [&[kind][..], &body].concat()
    }

    /// Reads type and CBOR; `None` for anything but one message.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, body) = bytes.split_first()?;
        Some(match kind {
            1 => Self::Request(cbor::decode(body, MAX_MESSAGE).ok()?),
            2 => Self::Answer(cbor::decode(body, MAX_MESSAGE).ok()?),
            3 => Self::Refused(cbor::decode::<RefusedBody>(body, MAX_MESSAGE).ok()?.reason),
            _ => return None,
        })
    }

    /// Reads one message from a stream.
    ///
    /// # Errors
    /// The stream's; `InvalidData` for a length out of bounds or bytes that are no message.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let bytes = framing::read(from, MAX_MESSAGE).await.map_err(|error| match error {
            framing::Error::Io(error) => error,
            framing::Error::Length(_) => io::Error::new(io::ErrorKind::InvalidData, error),
        })?;
        Self::decode(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a message of this version"))
    }

    /// Writes one message to a stream.
    ///
    /// # Errors
    /// The stream's.
    pub async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        framing::write(to, &self.encode()).await
    }
}

/// HMAC-SHA-256(K_box, exporter ‖ SHA-256(BoxRequest)).
#[must_use]
pub fn box_proof(code: &Code, exporter: &Exporter, request: &[u8]) -> [u8; 32] {
    proof(&code.box_key(), &[exporter, &Sha256::digest(request)])
}

/// HMAC-SHA-256(K_cloud, exporter ‖ SHA-256(BoxRequest) ‖ SHA-256(CloudAnswer)).
#[must_use]
pub fn cloud_proof(code: &Code, exporter: &Exporter, request: &[u8], answer: &[u8]) -> [u8; 32] {
    proof(&code.cloud_key(), &[exporter, &Sha256::digest(request), &Sha256::digest(answer)])
}

/// What the evidence key signs: SHA-256("mvb-pair/1 evidence" ‖ exporter ‖ identity SPKI).
#[must_use]
pub fn evidence_digest(exporter: &Exporter, identity: &[u8]) -> crate::base::ids::Digest {
    let hash =
        Sha256::new().chain_update(b"mvb-pair/1 evidence").chain_update(exporter).chain_update(identity).finalize();
    crate::base::ids::Digest(hash.into())
}

/// What the identity key signs: SHA-256("mvb-pair/1 identity" ‖ exporter ‖ evidence SPKI).
#[must_use]
pub fn identity_digest(exporter: &Exporter, evidence: &[u8]) -> crate::base::ids::Digest {
    let hash =
        Sha256::new().chain_update(b"mvb-pair/1 identity").chain_update(exporter).chain_update(evidence).finalize();
    crate::base::ids::Digest(hash.into())
}

fn proof(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
