//! The box's side of its agreement with a cloud: secrets, pairings and the keys that follow from them, in one hand.
//!
//! Owns the secrets file, the pairing state and the keyring, because one change touches them together: a confirmed pairing
//! changes identity, address and recipients. Publishes which session is wanted. Methods write files: call them off the
//! runtime. Does not belong here: the exchange (see `trust::pairing`), sessions (see `relay`).

use crate::base::chain::{Head, Signer, SoftwareSigner};
use crate::base::ids::{CameraId, OrganisationId, PairingId};
use crate::base::reason::{Coded, chain};
use crate::control::recipients::{Keyring, Listed, RecipientsError, Stated};
use crate::control::{Refusal, status};
use crate::trust::identity::{Generation, TlsKey};
use crate::trust::pairing::box_side::{self, Facts};
use crate::trust::pairing::code::Code;
use crate::trust::pairing::state::{Pairing, Pairings, StateError};
use crate::trust::secrets::{FileRoot, SecretsError, SecretsFile};
use crate::trust::tls::Pins;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Why the state of trust cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// The secrets file or the device root.
    #[error("the box's secrets")]
    Secrets(#[from] SecretsError),
    /// The pairing state.
    #[error("the box's pairing")]
    State(#[from] StateError),
    /// Added recipient keys.
    #[error(transparent)]
    Recipients(#[from] RecipientsError),
}

impl Coded for AgreementError {
    fn code(&self) -> &'static str {
        match self {
            Self::Secrets(error) => error.code(),
            Self::State(error) => error.code(),
            Self::Recipients(error) => error.code(),
        }
    }
}

/// A session that is wanted: with whom, and as whom.
#[derive(Clone)]
pub struct Wanted {
    /// What was agreed.
    pub pairing: Pairing,
    /// The box's key in it.
    pub identity: Arc<TlsKey>,
    /// Whether its first session is still to come.
    pub pending: bool,
}

impl Wanted {
    /// What a session cannot go on without.
    fn essence(&self) -> (PairingId, &str) {
        (self.pairing.answer.pairing, &self.pairing.host)
    }
}

/// What others may know of it without touching a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// For status.
    pub pairing: status::Pairing,
    /// All recipient keys.
    pub recipients: Vec<Listed>,
    /// Name of the organisation whose keys new footage is sealed to; empty before the first pairing.
    pub owner: String,
    /// The organisation that the box is paired with.
    pub paired: Option<OrganisationId>,
}

/// All of it; one per daemon.
pub struct Agreement {
    inner: Mutex<Inner>,
    wanted: watch::Sender<Option<Wanted>>,
    view: watch::Sender<View>,
    /// One exchange at a time: two would race for the next identity.
    pairing: tokio::sync::Mutex<()>,
}

struct Inner {
    secrets: SecretsFile,
    pairings: Pairings,
    keyring: Keyring,
}

impl Agreement {
    /// Opens what the state folder holds, or makes it at first start.
    ///
    /// # Errors
    /// A file cannot be used. Nothing is replaced: the evidence key cannot be made again.
    pub fn open(state: &Path) -> Result<Self, AgreementError> {
        let root = FileRoot::open(&state.join("device-root"))?;
        let mut secrets = SecretsFile::open(&state.join("secrets"), &root)?;
        let pairings = Pairings::open(&state.join("pairing.json"), &mut secrets)?;
        let keyring = Keyring::load(state, stated(&pairings))?;
        let inner = Inner { secrets, pairings, keyring };
        let agreement = Self {
            view: watch::Sender::new(view(&inner)),
            inner: Mutex::new(inner),
            wanted: watch::Sender::new(None),
            pairing: tokio::sync::Mutex::default(),
        };
        agreement.publish(&agreement.inner());
        Ok(agreement)
    }

    /// The evidence key.
    #[must_use]
    pub fn evidence(&self) -> Arc<SoftwareSigner> {
        Arc::new(self.inner().secrets.evidence())
    }

    /// The session that is wanted, and every change of it.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<Option<Wanted>> {
        self.wanted.subscribe()
    }

    /// What others may know, and every change of it.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// The keys that footage is sealed to, and every change of them.
    #[must_use]
    pub fn recipients(&self) -> watch::Receiver<Option<crate::seal::Recipients>> {
        self.inner().keyring.watch()
    }

    /// Pairs with the cloud that made the code.
    ///
    /// # Errors
    /// What the person who typed the code is told.
    pub async fn pair(
        self: Arc<Self>,
        code: &str,
        serial: String,
        journal: Option<Head>,
    ) -> Result<status::Pairing, Refusal> {
        let code: Code = code.parse().map_err(|error| Refusal::from_error(&error))?;
        let Ok(_one) = self.pairing.try_lock() else {
            return Err(Refusal::new("pair-busy", "another pairing is under way: wait for its end"));
        };
        let (identity, evidence) = {
            let mut inner = self.inner();
            let Inner { secrets, pairings, .. } = &mut *inner;
            (pairings.next_identity(secrets).map_err(|error| Refusal::from_error(&error))?, secrets.evidence())
        };
        let firmware = env!("CARGO_PKG_VERSION").to_owned();
        let facts = Facts { identity: &identity, evidence: &evidence as &dyn Signer, serial, journal, firmware };
        let answer = box_side::pair(&code, &facts).await.map_err(|error| Refusal::from_error(&error))?;
        let stated = Stated {
            organisation: answer.organisation,
            sealing: answer.sealing_key,
            recovery: answer.recovery_keys.iter().map(|key| key.0).collect(),
        };
        if !stated.keys().all(|key| key.is_usable()) {
            let error = box_side::PairError::BadAnswer { what: "a key that nothing can be sealed to" };
            return Err(Refusal::from_error(&error));
        }
        let mut inner = self.inner();
        let Inner { secrets, pairings, .. } = &mut *inner;
        pairings.begin(code.host(), answer, secrets).map_err(|error| Refusal::from_error(&error))?;
        self.publish(&inner);
        tracing::info!(host = code.host(), "pairing agreed; it holds from the first session");
        Ok(view(&inner).pairing)
    }

    /// Ends all pairings on this side. Footage, evidence key and recipients stay.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn unpair(&self) -> Result<(), StateError> {
        let mut inner = self.inner();
        let Inner { secrets, pairings, .. } = &mut *inner;
        let kept = [pairings.current(), pairings.pending()];
        let ids: Vec<PairingId> = kept.into_iter().flatten().map(|pairing| pairing.answer.pairing).collect();
        let wiped = ids.into_iter().try_for_each(|id| pairings.wipe(id, secrets));
        self.publish(&inner);
        wiped
    }

    /// The first pinned session of a pending pairing stands: it is the box's pairing now, and its keys are used.
    ///
    /// # Errors
    /// `OtherPairing`, or a file cannot be written.
    pub fn confirm(&self, pairing: PairingId) -> Result<(), StateError> {
        let mut inner = self.inner();
        if inner.pairings.current().is_some_and(|current| current.answer.pairing == pairing) {
            return Ok(());
        }
        let Inner { secrets, pairings, keyring } = &mut *inner;
        pairings.confirm(pairing, secrets)?;
        if let Some(stated) = stated(pairings) {
            keyring.state(stated);
        }
        self.publish(&inner);
        tracing::info!(%pairing, "paired");
        Ok(())
    }

    /// REVOKE came on a pinned session.
    ///
    /// # Errors
    /// `OtherPairing`, or a file cannot be written.
    pub fn revoked(&self, pairing: PairingId) -> Result<(), StateError> {
        let mut inner = self.inner();
        let Inner { secrets, pairings, .. } = &mut *inner;
        let wiped = pairings.wipe(pairing, secrets);
        self.publish(&inner);
        tracing::warn!(%pairing, "the cloud ended the pairing");
        wiped
    }

    /// PINS came on a pinned session; durable when it returns.
    ///
    /// # Errors
    /// See [`Pairings::set_pins`].
    pub fn set_pins(&self, pairing: PairingId, pins: &Pins) -> Result<(), StateError> {
        let mut inner = self.inner();
        inner.pairings.set_pins(pairing, pins)?;
        self.publish(&inner);
        Ok(())
    }

    /// A serving certificate of this generation was accepted.
    ///
    /// # Errors
    /// See [`Pairings::saw_generation`].
    pub fn saw_generation(&self, pairing: PairingId, generation: Generation) -> Result<(), StateError> {
        // The session that saw it goes on with it: nothing is published.
        self.inner().pairings.saw_generation(pairing, generation)
    }

    /// Adds a recovery key.
    ///
    /// # Errors
    /// See [`Keyring::add`].
    pub fn add_recipient(&self, public: &str, name: &str) -> Result<Listed, RecipientsError> {
        let mut inner = self.inner();
        let added = inner.keyring.add(public, name)?;
        self.publish(&inner);
        Ok(added)
    }

    /// Removes an added key.
    ///
    /// # Errors
    /// See [`Keyring::remove`].
    pub fn remove_recipient(&self, key: crate::base::ids::KeyId) -> Result<(), RecipientsError> {
        let mut inner = self.inner();
        inner.keyring.remove(key)?;
        self.publish(&inner);
        Ok(())
    }

    /// What is kept of a camera's password.
    #[must_use]
    pub fn credential(&self, camera: CameraId) -> Option<Vec<u8>> {
        self.inner().secrets.named(&credential_name(camera)).map(<[u8]>::to_vec)
    }

    /// Keeps or removes it; durable when it returns.
    ///
    /// # Errors
    /// The secrets file cannot be written.
    pub fn set_credential(&self, camera: CameraId, value: Option<Vec<u8>>) -> Result<(), SecretsError> {
        self.inner().secrets.set_named(&credential_name(camera), value)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pending pairing first: only its session can confirm it, and the older one serves until then.
    fn publish(&self, inner: &Inner) {
        let of = |pairing: &Pairing, pending| match inner.pairings.identity(pairing.answer.pairing, &inner.secrets) {
            Ok(identity) => Some(Wanted { pairing: pairing.clone(), identity: Arc::new(identity), pending }),
            Err(error) => {
                tracing::error!(code = error.code(), "{}", chain(&error));
                None
            }
        };
        let pending = inner.pairings.pending().and_then(|pairing| of(pairing, true));
        let wanted = pending.or_else(|| inner.pairings.current().and_then(|pairing| of(pairing, false)));
        // A session that stands is not disturbed by what does not concern it.
        self.wanted.send_if_modified(|present| {
            let same = present.as_ref().map(Wanted::essence) == wanted.as_ref().map(Wanted::essence);
            *present = wanted;
            !same
        });
        self.view.send_replace(view(inner));
    }
}

fn credential_name(camera: CameraId) -> String {
    format!("camera/{camera}")
}

fn stated(pairings: &Pairings) -> Option<Stated> {
    pairings.keys().map(|keys| Stated {
        organisation: keys.organisation,
        sealing: keys.sealing_key,
        recovery: keys.recovery_keys.clone(),
    })
}

fn view(inner: &Inner) -> View {
    let (state, pairing) = match (inner.pairings.pending(), inner.pairings.current()) {
        (Some(pending), _) => ("pending", Some(pending)),
        (None, Some(current)) => ("paired", Some(current)),
        (None, None) => ("unpaired", None),
    };
    View {
        pairing: status::Pairing {
            state: state.to_owned(),
            organisation: pairing.map(|pairing| pairing.answer.organisation),
            organisation_name: pairing.map(|pairing| pairing.answer.name.clone()),
            host: pairing.map(|pairing| pairing.host.clone()),
            pairing: pairing.map(|pairing| pairing.answer.pairing),
        },
        recipients: inner.keyring.list(),
        owner: inner.pairings.keys().map(|keys| keys.name.clone()).unwrap_or_default(),
        paired: inner.pairings.current().map(|current| current.answer.organisation),
    }
}
