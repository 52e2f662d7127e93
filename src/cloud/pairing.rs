//! Pairing as this cloud does it: codes for its host, boxes stored as `pending`, what a box is given to keep.
//!
//! Belongs here: the registry behind `trust::pairing::cloud_side`, and its listener. Does not belong here: proofs,
//! windows and attempts (see there). A pairing becomes `active` at the first pinned session (see [`super::sessions`]).

use crate::base::chain::Signer;
use crate::base::clock::Clock;
use crate::base::ids::PairingId;
use crate::base::reason::{self, Coded, Counters};
use crate::base::tasks::Tasks;
use crate::cloud::audit::{Audit, box_name};
use crate::cloud::config::{Config, DEFAULT_PORT};
use crate::cloud::keys::Keys;
use crate::cloud::vault::{Database, PairingRow, PairingState, Peer, Vault};
use crate::trust::identity::IdentityError;
use crate::trust::pairing::Code;
use crate::trust::pairing::cloud_side::{self, Candidate, Registry, WINDOW};
use crate::trust::pairing::code::CodeError;
use crate::trust::pairing::messages::{CloudAnswer, RawKey, RawSpki, Refused, VERSION};
use crate::trust::tls;
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// The set of issuer keys is numbered; this is the set that the first start makes.
pub const PINS_VERSION: u64 = 1;

/// Why there is no code or no pairing service.
#[derive(Debug, thiserror::Error)]
pub enum PairingServiceError {
    /// A code needs a host that boxes can reach.
    #[error("no host for the code: give --host or set boxes.host to the name under which boxes reach this cloud")]
    NoHost,
    /// The host cannot be in a code.
    #[error("host {host:?} cannot be in a pairing code: give a host name, or host:port")]
    BadHost { host: String, source: CodeError },
    /// The address cannot be taken.
    #[error("pairing cannot listen on TCP {address}: free the port or choose another with --pairing-listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    /// The serving certificate cannot be made.
    #[error("the serving certificate cannot be made: see keys/cloud.json")]
    Certificate(#[source] IdentityError),
}

impl Coded for PairingServiceError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoHost => "pairing-no-host",
            Self::BadHost { .. } => "pairing-bad-host",
            Self::Listen { .. } => "pairing-listen",
            Self::Certificate(_) => "pairing-certificate",
        }
    }
}

/// Codes and who stores what they lead to.
pub struct Pairing {
    host: Option<String>,
    service: cloud_side::Pairing,
}

/// What [`cloud_side`] asks of this cloud.
struct Boxes {
    relay_address: Option<String>,
    keys: Arc<Mutex<Keys>>,
    vault: Vault,
    audit: Audit,
    clock: Clock,
}

impl Pairing {
    /// No codes yet.
    #[must_use]
    pub fn new(
        config: &Config,
        keys: Arc<Mutex<Keys>>,
        vault: Vault,
        audit: Audit,
        clock: Clock,
        counters: Counters,
    ) -> Self {
        let boxes = Boxes { relay_address: config.relay_address.clone(), keys, vault, audit, clock };
        Self { host: config.host.clone(), service: cloud_side::Pairing::new(Arc::new(boxes), counters) }
    }

    /// Makes a code: the text that people type, and how long it is valid.
    ///
    /// # Errors
    /// `NoHost`, `BadHost`.
    pub fn create(
        &self,
        serial: Option<String>,
        host: Option<String>,
    ) -> Result<(String, Duration), PairingServiceError> {
        let host = host.or_else(|| self.host.clone()).ok_or(PairingServiceError::NoHost)?;
        let host = host.strip_suffix(&format!(":{DEFAULT_PORT}")).map_or(host.clone(), str::to_owned);
        let code = Code::generate(&host).map_err(|source| PairingServiceError::BadHost { host, source })?;
        let text = code.reveal();
        self.service.desk(|desk| desk.create(code, serial, Instant::now()));
        Ok((text, WINDOW))
    }

    /// Codes that can still be used.
    #[must_use]
    pub fn open_codes(&self) -> usize {
        self.service.desk(|desk| desk.open(Instant::now()).into_iter().filter(|(_, _, _, used)| !used).count())
    }
}

impl Registry for Boxes {
    fn admit(&self, candidate: &Candidate) -> Result<CloudAnswer, Refused> {
        let now = self.clock.statement().wall;
        let row = PairingRow {
            pairing: PairingId::random(),
            box_id: candidate.box_id,
            evidence: candidate.evidence.clone(),
            identity: candidate.identity.0.clone(),
            serial: candidate.serial.clone(),
            state: PairingState::Pending,
            from: now,
            to: None,
            last_contact: None,
            erase_blocked: None,
        };
        // Audited before it is stored: a pairing that nobody can read about must not be.
        let who = box_name(candidate.box_id);
        let object = format!("{} code {} serial {}", row.pairing, HEX.encode(&candidate.code_id), candidate.serial);
        let failed = |what: &'static str, error: &dyn std::error::Error| {
            tracing::error!(what, error = reason::chain(error), "pairing");
            Refused::Unavailable
        };
        self.audit.note("pair-admit", &who, &object, "ok").map_err(|error| failed("audit", &error))?;
        let stored = self.vault.with_db(|db| {
            db.transaction(|db: &Database| {
                let known = db.pairings()?;
                if known.iter().any(|p| p.identity == row.identity && p.box_id != row.box_id) {
                    return Ok(false);
                }
                for earlier in known
                    .iter()
                    .filter(|earlier| earlier.identity == row.identity && earlier.state == PairingState::Pending)
                {
                    db.set_pairing_state(earlier.pairing, PairingState::Revoked, now)?;
                }
                db.insert_pairing(&row)?;
                Ok(true)
            })
        });
        if !stored.map_err(|error| failed("database", &error))? {
            // One TLS key, two evidence keys: not one box.
            return Err(Refused::BadEvidence);
        }
        // A box that we know comes back with less journal than it had: alarmed, but paired all the same.
        let peer = Peer { box_id: candidate.box_id, pairing: row.pairing };
        self.vault.check_head(peer, candidate.journal).map_err(|error| failed("journal", &error))?;
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(CloudAnswer {
            version: VERSION,
            organisation: keys.id(),
            name: keys.name().to_owned(),
            sealing_key: keys.sealing().public,
            recovery_keys: keys.recovery_keys().into_iter().map(|key| RawKey(key.public)).collect(),
            receipt_key: keys.receipt.public_key().spki(),
            issuers: keys.issuers.iter().map(|key| RawSpki(key.spki().0)).collect(),
            pins_version: PINS_VERSION,
            generation: keys.generation.0,
            pairing: row.pairing,
            time: now,
            relay: self.relay_address.clone(),
        })
    }

    fn alarm(&self, refused: Refused, code_id: [u8; 4], from: IpAddr) {
        let text = format!("pairing code {} from {from}: {refused}", HEX.encode(&code_id));
        self.vault.alarm(refused.code(), None, None, &text);
    }
}

/// The listening end.
pub struct Listener {
    address: SocketAddr,
    serving: Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>,
}

impl Listener {
    /// Takes the address.
    ///
    /// # Errors
    /// `Listen`, `Certificate`.
    pub async fn bind(
        address: SocketAddr,
        pairing: &Pairing,
        keys: &Mutex<Keys>,
        tasks: Tasks,
    ) -> Result<Self, PairingServiceError> {
        let tls = {
            let keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
            let [active, _] = &keys.issuers;
            let certificate = active.issue(&keys.serving, keys.generation).map_err(PairingServiceError::Certificate)?;
            tls::pairing_server(&keys.serving, certificate)
        };
        let listen = |source| PairingServiceError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let serving = Box::pin(cloud_side::serve(listener, tls, pairing.service.clone(), tasks));
        Ok(Self { address, serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop.
    pub async fn run(self) {
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "pairing stopped");
        }
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::chain::SoftwareSigner;
    use crate::base::units::WallTime;
    use crate::cloud::command::Secret;
    use crate::cloud::config::Overrides;
    use crate::cloud::sessions::Sessions;
    use crate::trust::identity::TlsKey;
    use crate::trust::pairing::box_side::{self, Facts};
    use crate::trust::tls::{KnownBoxes, Standing};

    #[tokio::test]
    async fn a_box_that_pairs_is_pending_then_active_and_a_revoked_one_is_told() {
        let dir = tempfile::tempdir().expect("folder");
        let clock = Clock::system(WallTime(0));
        let now = WallTime(5);
        Keys::create(dir.path(), Some("Town"), Some(&Secret::new("korenblauw huis".into())), now).expect("creates");
        let keys = Keys::load(dir.path()).expect("reads");
        let audit = Audit::open(&dir.path().join("audit.log"), keys.audit.clone(), clock.clone()).expect("opens");
        let vault = crate::cloud::vault::empty(dir.path());
        let (organisation, sealing) = (keys.id(), keys.sealing());
        let keys = Arc::new(Mutex::new(keys));
        let over = Overrides { relay_address: Some("relay.example.nl:443".into()), ..Overrides::default() };
        let config = Config::load(None, over).expect("valid");
        let pairing = Pairing::new(&config, keys.clone(), vault.clone(), audit.clone(), clock, Counters::default());
        assert_eq!(pairing.create(None, None).expect_err("no host").code(), "pairing-no-host");
        let tasks = Tasks::default();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), &pairing, &keys, tasks.part()).await.expect("binds");
        let (code, valid) = pairing.create(None, Some(listener.address().to_string())).expect("a code");
        tasks.spawn("pairing", listener.run());
        assert_eq!((pairing.open_codes(), valid), (1, Duration::from_secs(900)));

        let (identity, evidence) = (TlsKey::generate().expect("a key"), SoftwareSigner::generate());
        let facts = Facts {
            identity: &identity,
            evidence: &evidence,
            serial: "S1".into(),
            journal: None,
            firmware: "test".into(),
        };
        let code: Code = code.parse().expect("a code");
        let answer = box_side::pair(&code, &facts).await.expect("pairs");
        assert_eq!((answer.organisation, answer.sealing_key), (organisation, sealing.public));
        assert_eq!((answer.relay.as_deref(), answer.issuers.len()), (Some("relay.example.nl:443"), 2));
        assert_eq!(pairing.open_codes(), 0);
        // A lost reply: the same box asks again and gets the same answer.
        assert_eq!(box_side::pair(&code, &facts).await.expect("again").pairing, answer.pairing);

        let sessions = Sessions::new(vault.clone());
        let row = sessions.pairing_of(&identity.spki()).expect("stored");
        assert_eq!((row.state, row.pairing), (PairingState::Pending, answer.pairing));
        assert_eq!(sessions.standing(&identity.spki()), Standing::Known);
        assert_eq!(sessions.standing(&TlsKey::generate().expect("a key").spki()), Standing::Unknown);
        sessions.activate(&row, now).expect("activates");
        assert_eq!(sessions.pairing_of(&identity.spki()).expect("stored").state, PairingState::Active);
        let revoke = |state| vault.with_db(|db| db.set_pairing_state(row.pairing, state, now)).expect("stores");
        revoke(PairingState::Revoking);
        assert_eq!(sessions.standing(&identity.spki()), Standing::Revoked);
        revoke(PairingState::Revoked);
        assert_eq!(sessions.standing(&identity.spki()), Standing::Unknown);

        // Another box with the used code is refused and alarmed.
        let other = TlsKey::generate().expect("a key");
        let facts = Facts { identity: &other, ..facts };
        assert!(box_side::pair(&code, &facts).await.is_err());
        assert_eq!(vault.with_db(Database::alarms).expect("reads").len(), 1);
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }
}
