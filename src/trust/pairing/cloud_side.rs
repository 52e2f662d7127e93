//! The cloud's end of pairing: codes in memory, attempts counted, one box per code.
//!
//! [`Desk`] is the pure core (`now` is passed in); [`serve`] is the thin shell on TCP. A restart of the cloud voids all
//! codes, because they live in memory only. Spec: `docs/spec/pairing.md`, "Cloud".

use crate::base::cbor;
use crate::base::chain::{Head, PublicKey};
use crate::base::ids::BoxId;
use crate::base::reason::{Coded, Counters};
use crate::base::tasks::Tasks;
use crate::trust::identity::Spki;
use crate::trust::pairing::Code;
use crate::trust::pairing::messages::{
    BoxRequest, CloudAnswer, EXPORTER, Exporter, MAX_MESSAGE, Message, Proved, Refused, VERSION, box_proof,
    cloud_proof, evidence_digest, identity_digest,
};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A code lives this long, on the runtime's monotonic clock.
pub const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Wrong proofs that void a code.
pub const WRONG_PER_CODE: u32 = 5;
/// Wrong proofs per address within [`WINDOW`].
pub const WRONG_PER_ADDRESS: u32 = 10;
/// One exchange, handshake included.
pub const ATTEMPT: Duration = Duration::from_secs(30);
/// Codes at a time; the oldest gives way.
const MAX_CODES: usize = 256;
/// Addresses whose wrong proofs are remembered; the oldest gives way.
const MAX_ADDRESSES: usize = 4096;
/// Exchanges at a time.
const MAX_EXCHANGES: usize = 64;

/// A box that proved that it has the code.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Who it says it is.
    pub box_id: BoxId,
    /// Its TLS key.
    pub identity: Spki,
    /// Its evidence key.
    pub evidence: PublicKey,
    /// Serial number on its label.
    pub serial: String,
    /// Where its journal ends.
    pub journal: Option<Head>,
    /// Its firmware.
    pub firmware: String,
    /// The code's label, for the audit log.
    pub code_id: [u8; 4],
}

/// Who stores pairings. Called off the runtime; may block.
pub trait Registry: Send + Sync {
    /// Stores the box as `pending`, durably, and says what the box is to keep. Storing the same identity again replaces
    /// its earlier pending pairing.
    ///
    /// # Errors
    /// `Unavailable`, or `ConfirmFirst` while an administrator has not confirmed it.
    fn admit(&self, candidate: &Candidate) -> Result<CloudAnswer, Refused>;

    /// Something that a person must look at: a used code was tried again by another key, or a code was voided.
    fn alarm(&self, refused: Refused, code_id: [u8; 4], from: IpAddr);
}

struct Offer {
    code: Code,
    serial: Option<String>,
    ends: Instant,
    wrong: u32,
    bound: Option<(Spki, Vec<u8>)>,
}

/// Codes and attempts.
#[derive(Default)]
pub struct Desk {
    offers: Vec<Offer>,
    wrong: HashMap<IpAddr, (u32, Instant)>,
}

/// What the desk decided about a request.
pub enum Verdict {
    /// Answer these bytes: the same box asked again with this code.
    Again {
        /// The code's label.
        code_id: [u8; 4],
        /// The encoded answer.
        answer: Vec<u8>,
    },
    /// Ask the registry, then [`Desk::bind`].
    Admit(Box<Candidate>),
}

impl Desk {
    /// Makes a code for `host`, optionally for one serial number only.
    pub fn create(&mut self, code: Code, serial: Option<String>, now: Instant) {
        self.offers.retain(|offer| offer.ends > now && offer.code.id() != code.id());
        if self.offers.len() >= MAX_CODES {
            self.offers.remove(0);
        }
        self.offers.push(Offer { code, serial, ends: now + WINDOW, wrong: 0, bound: None });
    }

    /// Codes that have not ended: label, serial number, time left, whether a box has used it.
    #[must_use]
    pub fn open(&self, now: Instant) -> Vec<([u8; 4], Option<String>, Duration, bool)> {
        self.offers
            .iter()
            .filter(|offer| offer.ends > now)
            .map(|offer| (offer.code.id(), offer.serial.clone(), offer.ends - now, offer.bound.is_some()))
            .collect()
    }

    /// Judges a request.
    ///
    /// # Errors
    /// See [`Refused`]; wrong proofs are counted here.
    pub fn judge(
        &mut self,
        request: &Proved,
        exporter: &Exporter,
        from: IpAddr,
        now: Instant,
    ) -> Result<Verdict, Refused> {
        if self.wrong.get(&from).is_some_and(|(wrong, ends)| *wrong >= WRONG_PER_ADDRESS && *ends > now) {
            return Err(Refused::TooManyAttempts);
        }
        let body: BoxRequest = cbor::decode(&request.body, MAX_MESSAGE).map_err(|_| Refused::Malformed)?;
        if body.serial.len() > 64 || body.firmware.len() > 64 {
            return Err(Refused::Malformed);
        }
        if !(body.versions.0..=body.versions.1).contains(&VERSION) {
            return Err(Refused::Version);
        }
        let Some(offer) = self.offers.iter_mut().find(|offer| offer.code.id() == body.code_id) else {
            self.count_wrong(from, now);
            return Err(Refused::UnknownCode);
        };
        if offer.wrong >= WRONG_PER_CODE {
            return Err(Refused::Void);
        }
        if offer.ends <= now {
            return Err(Refused::Expired);
        }
        let right = box_proof(&offer.code, exporter, &request.body);
        if !bool::from(right.ct_eq(&request.proof)) || body.host != offer.code.host() {
            offer.wrong += 1;
            let void = offer.wrong >= WRONG_PER_CODE;
            self.count_wrong(from, now);
            return Err(if void { Refused::Void } else { Refused::WrongProof });
        }
        if offer.serial.as_ref().is_some_and(|serial| *serial != body.serial) {
            return Err(Refused::WrongSerial);
        }
        let evidence = PublicKey::from_spki(&body.evidence).ok_or(Refused::BadEvidence)?;
        let own = PublicKey::from_spki(&body.identity).ok_or(Refused::BadEvidence)?;
        let proved = evidence.verifies(&evidence_digest(exporter, &body.identity), &body.evidence_signature)
            && own.verifies(&identity_digest(exporter, &body.evidence), &body.identity_signature);
        if !proved || evidence.box_id() != body.box_id {
            return Err(Refused::BadEvidence);
        }
        let identity = Spki(body.identity);
        match &offer.bound {
            Some((bound, answer)) if *bound == identity => {
                Ok(Verdict::Again { code_id: body.code_id, answer: answer.clone() })
            }
            Some(_) => Err(Refused::Used),
            None => Ok(Verdict::Admit(Box::new(Candidate {
                box_id: body.box_id,
                identity,
                evidence,
                serial: body.serial,
                journal: body.journal,
                firmware: body.firmware,
                code_id: body.code_id,
            }))),
        }
    }

    /// Binds a code to the box that the registry has stored. If another was faster, that one keeps the code.
    ///
    /// # Errors
    /// `Used`, or `UnknownCode` if the code ended meanwhile.
    pub fn bind(&mut self, code_id: [u8; 4], identity: &Spki, answer: &[u8]) -> Result<(), Refused> {
        let offer = self.offers.iter_mut().find(|offer| offer.code.id() == code_id).ok_or(Refused::UnknownCode)?;
        match &offer.bound {
            Some((bound, _)) if bound != identity => Err(Refused::Used),
            Some(_) => Ok(()),
            None => {
                offer.bound = Some((identity.clone(), answer.to_vec()));
                Ok(())
            }
        }
    }

    /// The proof of an answer.
    fn prove(&self, code_id: [u8; 4], exporter: &Exporter, request: &[u8], answer: &[u8]) -> Option<[u8; 32]> {
        let offer = self.offers.iter().find(|offer| offer.code.id() == code_id)?;
        Some(cloud_proof(&offer.code, exporter, request, answer))
    }

    fn count_wrong(&mut self, from: IpAddr, now: Instant) {
        self.wrong.retain(|_, (_, ends)| *ends > now);
        if self.wrong.len() >= MAX_ADDRESSES
            && let Some(oldest) = self.wrong.iter().min_by_key(|(_, (_, ends))| *ends).map(|(ip, _)| *ip)
        {
            self.wrong.remove(&oldest);
        }
        self.wrong.entry(from).or_insert((0, now + WINDOW)).0 += 1;
    }
}

/// The desk with its registry: one per cloud process; cheap to clone.
#[derive(Clone)]
pub struct Pairing {
    desk: Arc<Mutex<Desk>>,
    registry: Arc<dyn Registry>,
    counters: Counters,
    /// One admission at a time: two boxes with one code must not both be stored.
    admitting: Arc<tokio::sync::Mutex<()>>,
}

impl Pairing {
    /// No codes yet.
    #[must_use]
    pub fn new(registry: Arc<dyn Registry>, counters: Counters) -> Self {
        Self { desk: Arc::default(), registry, counters, admitting: Arc::default() }
    }

    /// The desk, for making and listing codes. Hold it shortly.
    pub fn desk<T>(&self, with: impl FnOnce(&mut Desk) -> T) -> T {
        with(&mut self.desk.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers one request.
    pub async fn answer(&self, request: Proved, exporter: &Exporter, from: IpAddr) -> Message {
        match self.decide(&request, exporter, from).await {
            Ok(proved) => Message::Answer(proved),
            Err(refused) => {
                self.counters.count(&refused);
                tracing::warn!(%from, code = refused.code(), "pairing refused");
                if matches!(refused, Refused::Used | Refused::Void) {
                    let code_id =
                        cbor::decode::<BoxRequest>(&request.body, MAX_MESSAGE).map_or([0; 4], |body| body.code_id);
                    self.registry.alarm(refused, code_id, from);
                }
                Message::Refused(refused)
            }
        }
    }

    async fn decide(&self, request: &Proved, exporter: &Exporter, from: IpAddr) -> Result<Proved, Refused> {
        let one = self.admitting.clone().lock_owned().await;
        let (code_id, body) = match self.desk(|desk| desk.judge(request, exporter, from, Instant::now()))? {
            Verdict::Again { code_id, answer } => (code_id, answer),
            Verdict::Admit(candidate) => {
                // Storing and binding are one step: an exchange that is given up in between must not leave a code that
                // another box can use.
                let pairing = self.clone();
                let admitted = tokio::task::spawn_blocking(move || {
                    let _one = one;
                    let body = cbor::encode(&pairing.registry.admit(&candidate)?);
                    pairing.desk(|desk| desk.bind(candidate.code_id, &candidate.identity, &body))?;
                    Ok((candidate.code_id, body))
                });
                admitted.await.map_err(|_| Refused::Unavailable)??
            }
        };
        let proof =
            self.desk(|desk| desk.prove(code_id, exporter, &request.body, &body)).ok_or(Refused::UnknownCode)?;
        Ok(Proved { body, proof })
    }
}

/// Serves pairing on TCP until told to stop: each exchange within [`ATTEMPT`], at most 64 at a time.
///
/// # Errors
/// Accepting fails for good.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    pairing: Pairing,
    tasks: Tasks,
) -> io::Result<()> {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let room = Arc::new(Semaphore::new(MAX_EXCHANGES));
    let stopping = tasks.stopping();
    loop {
        let (stream, from) = tokio::select! {
            biased;
            () = stopping.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or a connection that was reset before it was accepted.
                    tracing::warn!(%error, "cannot accept a pairing connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            pairing.counters.add("pair-busy", 1);
            continue;
        };
        let (acceptor, pairing) = (acceptor.clone(), pairing.clone());
        tasks.spawn("pairing", async move {
            let _place = place;
            match tokio::time::timeout(ATTEMPT, exchange(stream, from, acceptor, &pairing)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    pairing.counters.add("pair-broken", 1);
                    tracing::debug!(%from, %error, "pairing connection ended");
                }
                Err(_) => pairing.counters.add("pair-timeout", 1),
            }
        });
    }
}

async fn exchange(
    stream: tokio::net::TcpStream,
    from: SocketAddr,
    acceptor: tokio_rustls::TlsAcceptor,
    pairing: &Pairing,
) -> io::Result<()> {
    let mut tls = acceptor.accept(stream).await?;
    if tls.get_ref().1.alpn_protocol() != Some(super::super::tls::ALPN_PAIR) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "another protocol"));
    }
    let exporter = tls.get_ref().1.export_keying_material([0; 32], EXPORTER, None).map_err(io::Error::other)?;
    let answer = match Message::read(&mut tls).await {
        Ok(Message::Request(request)) => pairing.answer(request, &exporter, from.ip()).await,
        Ok(_) => Message::Refused(Refused::Malformed),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            pairing.counters.count(&Refused::Malformed);
            Message::Refused(Refused::Malformed)
        }
        Err(error) => return Err(error),
    };
    answer.write(&mut tls).await?;
    tokio::io::AsyncWriteExt::shutdown(&mut tls).await
}
