//! Carries out the commands of the socket: each goes to the part that owns it.
//!
//! Belongs here: routing, and joining two owners where a command needs both (a camera and its credential). Does not
//! belong here: what a command means.

use crate::base::reason::Coded;
use crate::control::command::{Command, Refusal, Reply};
use crate::control::config::Config;
use crate::control::pairing;
use crate::control::recipients;
use crate::control::roster::{self, Enrolled, Roster};
use crate::daemon::agreement::Agreement;
use crate::daemon::cameras;
use crate::daemon::metrics::Snapshot;
use crate::seal::SegmentSource;
use crate::store::Store;
use std::sync::Arc;

/// Handles to all owners.
pub struct Services {
    url_host: String,
    roster: Arc<Roster>,
    serial: String,
    agreement: Arc<Agreement>,
    store: Store,
    snapshot: Snapshot,
}

impl Services {
    /// Joins the owners.
    #[must_use]
    pub fn new(
        config: &Config,
        roster: Arc<Roster>,
        agreement: Arc<Agreement>,
        store: Store,
        snapshot: Snapshot,
    ) -> Self {
        let (url_host, serial) = (url_host(config), config.serial.clone());
        Self { url_host, serial, roster, agreement, store, snapshot }
    }

    /// Carries out one command. Files are written off the runtime.
    pub async fn apply(self: Arc<Self>, command: Command) -> Reply {
        match command {
            Command::Status => return Reply::of(Ok((self.snapshot)())),
            Command::Pairing(pairing::Command::Pair { code }) => return Reply::of(self.pair(&code).await),
            _ => {}
        }
        let blocking = tokio::task::spawn_blocking(move || self.blocking(command));
        blocking
            .await
            .unwrap_or_else(|_| Reply::Refused(Refusal::new("control-panicked", "the command failed; see the log")))
    }

    async fn pair(&self, code: &str) -> Result<crate::control::status::Pairing, Refusal> {
        let head = self.store.journal_head();
        self.agreement.clone().pair(code, self.serial.clone(), head).await
    }

    fn blocking(&self, command: Command) -> Reply {
        match command {
            Command::Status => Reply::of(Ok((self.snapshot)())),
            Command::Camera(command) => self.camera(command),
            Command::Recipients(command) => self.recipients(command),
            Command::Pairing(pairing::Command::Unpair) => {
                Reply::of(self.agreement.unpair().map_err(|error| refused(&error)))
            }
            Command::Pairing(_) => Reply::of(Ok(self.agreement.view().borrow().pairing.clone())),
            Command::Recordings { camera } => {
                let paired = self.agreement.view().borrow().paired;
                Reply::of(self.store.recordings(paired).map_err(|error| refused(&error)).map(|mut recordings| {
                    recordings.retain(|recording| camera.is_none_or(|camera| recording.camera == camera));
                    recordings
                }))
            }
            Command::AcceptCard => Reply::of(self.store.accept_card().map_err(|error| refused(&error))),
        }
    }

    fn camera(&self, command: roster::Command) -> Reply {
        let roster = &self.roster;
        match command {
            roster::Command::List => Reply::of(Ok(&*roster.cameras())),
            roster::Command::Add { name, officer, digest, priority } => Reply::of(
                roster.draft(&name, officer, digest, priority).map_err(|error| refused(&error)).and_then(|camera| {
                    let enrolled = self.with_password(camera.clone())?;
                    roster.add(camera).map_err(|error| refused(&error))?;
                    Ok(enrolled)
                }),
            ),
            roster::Command::Password { camera } => {
                Reply::of(roster.find(&camera).map_err(|error| refused(&error)).and_then(|camera| {
                    let enrolled = self.with_password(camera)?;
                    roster.republish();
                    Ok(enrolled)
                }))
            }
            roster::Command::Remove { camera } => {
                Reply::of(roster.find(&camera).map_err(|error| refused(&error)).and_then(|camera| {
                    roster.remove(camera.id).map_err(|error| refused(&error))?;
                    self.agreement.set_credential(camera.id, None).map_err(|error| refused(&error))
                }))
            }
        }
    }

    /// A new password for a camera; only its hashes are kept.
    fn with_password(&self, camera: roster::Camera) -> Result<Enrolled, Refusal> {
        let password = roster::new_password();
        cameras::keep_password(&self.agreement, &camera, &password).map_err(|error| refused(&error))?;
        let url = format!("rtsp://{}/{}", self.url_host, camera.path);
        Ok(Enrolled { camera, url, password })
    }

    fn recipients(&self, command: recipients::Command) -> Reply {
        match command {
            recipients::Command::List => Reply::of(Ok(self.agreement.view().borrow().recipients.clone())),
            recipients::Command::Add { public, name } => {
                Reply::of(self.agreement.add_recipient(&public, &name).map_err(|error| refused(&error)))
            }
            recipients::Command::Remove { key } => {
                Reply::of(self.agreement.remove_recipient(key).map_err(|error| refused(&error)))
            }
        }
    }
}

fn refused(error: &(impl Coded + std::error::Error)) -> Refusal {
    Refusal::from_error(error)
}

/// Host and port in printed URLs.
fn url_host(config: &Config) -> String {
    match &config.public_host {
        Some(host) => format!("{host}:{}", config.rtsp.port()),
        None if config.rtsp.ip().is_unspecified() => format!("BOX-ADDRESS:{}", config.rtsp.port()),
        None => config.rtsp.to_string(),
    }
}
