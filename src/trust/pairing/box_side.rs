//! The box's end of pairing: one code, tried for at most 15 minutes of the box's own clock.
//!
//! The box keeps nothing before it has checked the cloud's proof. Spec: `docs/spec/pairing.md`, "Box".

use crate::base::cbor;
use crate::base::chain::{Head, PublicKey, Signer};
use crate::base::reason::Coded;
use crate::trust::identity::TlsKey;
use crate::trust::pairing::Code;
use crate::trust::pairing::messages::{
    BoxRequest, CloudAnswer, EXPORTER, MAX_MESSAGE, Message, Proved, Refused, VERSION, box_proof, cloud_proof,
    evidence_digest, identity_digest,
};
use crate::trust::tls;
use rustls::pki_types::ServerName;
use std::io;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// One exchange, connecting included.
pub const ATTEMPT: Duration = Duration::from_secs(30);
/// Exchanges with one code, when replies are lost.
const ATTEMPTS: u32 = 3;

/// Why the box is not paired.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The cloud cannot be reached, or the connection broke.
    #[error("{host} cannot be reached: check the address and the box's uplink")]
    Unreachable { host: String, source: io::Error },
    /// Nothing came within 30 seconds.
    #[error("{host} did not answer within 30 seconds: check the address and the box's uplink")]
    Timeout { host: String },
    /// The cloud says no.
    #[error(transparent)]
    Refused(Refused),
    /// The answer's proof is wrong: not the cloud that made the code.
    #[error("{host} does not know the code's secret: it is not the cloud that made the code, nothing was stored")]
    NotTheCloud { host: String },
    /// The answer is proved, but not what the specification says.
    #[error("the cloud's answer cannot be used ({what}): update box or cloud")]
    BadAnswer { what: &'static str },
}

impl Coded for PairError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "pair-unreachable",
            Self::Timeout { .. } => "pair-timeout",
            Self::Refused(refused) => refused.code(),
            Self::NotTheCloud { .. } => "pair-not-the-cloud",
            Self::BadAnswer { .. } => "pair-bad-answer",
        }
    }
}

/// What the box says about itself.
pub struct Facts<'a> {
    /// The key that it will present from now on; keep it durably before calling.
    pub identity: &'a TlsKey,
    /// The evidence key.
    pub evidence: &'a dyn Signer,
    /// Serial number on the label.
    pub serial: String,
    /// Where its journal ends.
    pub journal: Option<Head>,
    /// Firmware.
    pub firmware: String,
}

/// Pairs over TCP with the code's host. A broken connection is tried again with the same code and the same identity:
/// the cloud then gives the same answer.
///
/// # Errors
/// See [`PairError`].
pub async fn pair(code: &Code, facts: &Facts<'_>) -> Result<CloudAnswer, PairError> {
    let (host, port) = code.address();
    let mut attempt = 1;
    loop {
        let connect = async { exchange(code, facts, TcpStream::connect((host.as_str(), port)).await?).await };
        let error = match tokio::time::timeout(ATTEMPT, connect).await {
            Ok(Ok(done)) => return done,
            Ok(Err(source)) => PairError::Unreachable { host: host.clone(), source },
            Err(_) => PairError::Timeout { host: host.clone() },
        };
        if attempt == ATTEMPTS {
            return Err(error);
        }
        attempt += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One exchange on a connected stream. The outer error is the connection's and may be tried again; the inner is final.
///
/// # Errors
/// See above.
pub async fn exchange<S>(code: &Code, facts: &Facts<'_>, stream: S) -> io::Result<Result<CloudAnswer, PairError>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(tls::SERVER_NAME).map_err(io::Error::other)?;
    let mut stream = tokio_rustls::TlsConnector::from(tls::pairing_client()).connect(name, stream).await?;
    let exporter = stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None).map_err(io::Error::other)?;
    let identity = facts.identity.spki();
    let evidence = facts.evidence.public_key();
    let request = cbor::encode(&BoxRequest {
        host: code.host().to_owned(),
        code_id: code.id(),
        identity: identity.0.clone(),
        evidence: evidence.spki(),
        evidence_signature: facts.evidence.sign(&evidence_digest(&exporter, &identity.0)),
        box_id: evidence.box_id(),
        serial: facts.serial.clone(),
        journal: facts.journal,
        versions: (VERSION, VERSION),
        firmware: facts.firmware.clone(),
        identity_signature: facts.identity.sign(&identity_digest(&exporter, &evidence.spki())),
    });
    let proof = box_proof(code, &exporter, &request);
    Message::Request(Proved { body: request.clone(), proof }).write(&mut stream).await?;
    Ok(match Message::read(&mut stream).await? {
        Message::Refused(refused) => Err(PairError::Refused(refused)),
        Message::Request(_) => Err(PairError::BadAnswer { what: "a request" }),
        Message::Answer(answer) => {
            let right = cloud_proof(code, &exporter, &request, &answer.body);
            if bool::from(right.ct_eq(&answer.proof)) {
                check(&answer.body)
            } else {
                Err(PairError::NotTheCloud { host: code.host().to_owned() })
            }
        }
    })
}

/// A proved answer must still be one that the box can live with.
fn check(body: &[u8]) -> Result<CloudAnswer, PairError> {
    let bad = |what| PairError::BadAnswer { what };
    let answer: CloudAnswer = cbor::decode(body, MAX_MESSAGE).map_err(|_| bad("malformed"))?;
    if answer.version != VERSION {
        return Err(bad("version"));
    }
    if !(1..=tls::MAX_ISSUERS).contains(&answer.issuers.len()) {
        return Err(bad("number of issuer keys"));
    }
    if answer.issuers.iter().any(|issuer| PublicKey::from_spki(&issuer.0).is_none()) {
        return Err(bad("issuer key"));
    }
    if PublicKey::from_spki(&answer.receipt_key).is_none() {
        return Err(bad("receipt key"));
    }
    if answer.recovery_keys.len() > 8 || answer.name.len() > 256 {
        return Err(bad("too long"));
    }
    Ok(answer)
}
