//! The cloud's assembly: reads top to bottom as the order of start and stop.
//!
//! Belongs here: who gets what, in which order. Does not belong here: anything that decides. Order of start: data folder,
//! keys (made at first start), audit, vault, unlock, control socket, pairing, sessions of boxes, page, "ready". Order of
//! stop: everything is told at once and has ten seconds; the vault flushes last. A second signal ends at once.

use crate::base::chain::Signer;
use crate::base::clock::Clock;
use crate::base::reason::{Coded, Counters};
use crate::base::tasks::Tasks;
use crate::base::units::WallTime;
use crate::cloud::audit::{Audit, AuditError};
use crate::cloud::boxes::{Boxes, BoxesError};
use crate::cloud::command::{Reply, Secret};
use crate::cloud::config::Config;
use crate::cloud::keys::{Keys, KeysError};
use crate::cloud::live::Hub;
use crate::cloud::page::{Page, PageError};
use crate::cloud::pairing::{self, Pairing};
use crate::cloud::service::{Addresses, Service};
use crate::cloud::sessions::Sessions;
use crate::cloud::socket::{Server, SocketError};
use crate::cloud::vault::disk::Disk;
use crate::cloud::vault::{Settings, Vault, VaultError};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Tasks that have not stopped after this are abandoned.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder cannot be made.
    #[error("data folder {}: cannot be created; choose another with --data", path.display())]
    Data { path: std::path::PathBuf, source: std::io::Error },
    /// Keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Pairing service.
    #[error(transparent)]
    Pairing(#[from] pairing::PairingServiceError),
    /// Listener of boxes.
    #[error(transparent)]
    Boxes(#[from] BoxesError),
    /// Page.
    #[error(transparent)]
    Page(#[from] PageError),
    /// Signals.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
}

impl Coded for AppError {
    fn code(&self) -> &'static str {
        match self {
            Self::Data { .. } => "data-folder",
            Self::Keys(error) => error.code(),
            Self::Audit(error) => error.code(),
            Self::Vault(error) => error.code(),
            Self::Socket(error) => error.code(),
            Self::Pairing(error) => error.code(),
            Self::Boxes(error) => error.code(),
            Self::Page(error) => error.code(),
            Self::Signals(_) => "signals",
        }
    }
}

/// Everything that runs.
pub struct App {
    tasks: Tasks,
    service: Arc<Service>,
    socket: Server,
    pairing: pairing::Listener,
    boxes: Boxes,
    page: Option<Page>,
}

impl App {
    /// Opens everything and takes every address, so that what cannot work is said before anything is served.
    ///
    /// # Errors
    /// The first part that cannot start.
    pub async fn load(config: Config, passphrase: Option<Secret>) -> Result<Self, AppError> {
        // SQLite makes its files by itself; nothing in the data folder is for others.
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let tasks = Tasks::default();
        let counters = Counters::default();
        let clock = Clock::system(WallTime(0));
        Disk::default()
            .make_folder(&config.data)
            .map_err(|source| AppError::Data { path: config.data.clone(), source })?;
        // Taken first: it is also the lock against a second daemon on the same folder.
        let socket = Server::bind(&config.data).await?;
        if !Keys::exist(&config.data) {
            let now = clock.statement().wall;
            Keys::create(&config.data, config.organisation.as_deref(), passphrase.as_ref(), now)?;
        }
        let keys = Keys::load(&config.data)?;
        let audit = Audit::open(&config.data.join("audit.log"), keys.audit.clone(), clock.clone())?;
        let keyring = match &passphrase {
            Some(passphrase) => keys.unlock(passphrase)?,
            None => keys.locked(),
        };
        let locked = keyring.is_locked();
        audit.note("start", "cloud", env!("CARGO_PKG_VERSION"), if locked { "locked" } else { "ok" })?;
        let settings = Settings {
            data: config.data.clone(),
            organisation: keys.id(),
            keep_free: config.keep_free,
            erase_after: config.erase_after,
        };
        let receipt: Arc<dyn Signer> = keys.receipt.clone();
        let vault = Vault::open(settings, Disk::default(), clock.clone(), receipt, keyring, counters.clone())?;
        tracing::info!(organisation = %keys.id(), name = keys.name(), locked, "organisation");
        let keys = Arc::new(Mutex::new(keys));
        let hub = Hub::new(vault.clone(), counters.clone());
        let sessions = Arc::new(Sessions::new(vault.clone()));
        let pairing = Arc::new(Pairing::new(
            &config,
            keys.clone(),
            vault.clone(),
            audit.clone(),
            clock.clone(),
            counters.clone(),
        ));
        let pairing_listener = pairing::Listener::bind(config.pairing_listen, &pairing, &keys, tasks.part()).await?;
        let boxes = Boxes::bind(
            config.listen,
            &keys,
            vault.clone(),
            hub.clone(),
            sessions.clone(),
            clock.clone(),
            counters.clone(),
        )?;
        let page = match config.page {
            Some(address) => Some(Page::bind(address).await?),
            None => None,
        };
        let addresses = Addresses {
            boxes: boxes.address(),
            pairing: pairing_listener.address(),
            page: page.as_ref().map(Page::address),
        };
        let (started, unlocked) = (Instant::now(), Notify::new());
        let service =
            Service { keys, vault, audit, hub, sessions, pairing, counters, clock, started, addresses, unlocked };
        let service = Arc::new(service);
        Ok(Self { tasks, service, socket, pairing: pairing_listener, boxes, page })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.service.addresses
    }

    /// Serves until a signal says stop.
    ///
    /// # Errors
    /// `Signals`.
    pub async fn run(self) -> Result<(), AppError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
        let Self { tasks, service, socket, pairing, boxes, page } = self;
        tasks.spawn("vault", service.clone().background(tasks.part()));
        let commands = service.clone();
        tasks.spawn(
            "socket",
            socket.run(tasks.part(), move |command, uid| {
                let service = commands.clone();
                async move {
                    let work = tokio::task::spawn_blocking(move || service.apply(command, uid));
                    work.await.unwrap_or_else(|_| Reply::Refused {
                        code: "internal".into(),
                        message: "the command failed inside mvb-cloud: see its log".into(),
                    })
                }
            }),
        );
        tasks.spawn("pairing", pairing.run());
        tasks.spawn("boxes", boxes.run(tasks.part()));
        tasks.spawn("live", service.hub.clone().run(tasks.part()));
        if let Some(page) = page {
            tracing::info!(address = %page.address(), "live page");
            tasks.spawn("page", page.run(service.hub.clone(), service.clone(), tasks.part()));
        }
        let at = service.addresses;
        tracing::info!(boxes = %at.boxes, pairing = %at.pairing, "ready");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; a second signal ends at once");
        tokio::select! {
            done = tasks.stop(PATIENCE) => if !done {
                tracing::warn!("some tasks did not stop in time");
            },
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if let Err(error) = service.audit.note("stop", "cloud", "", "ok") {
            tracing::error!(%error, "audit");
        }
        Ok(())
    }
}
