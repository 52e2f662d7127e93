//! Joins the roster with the kept password hashes into what ingest needs to let a camera in.
//!
//! Belongs here: credentials, from a new password to validated data. Does not belong here: Digest itself (see
//! `ingest::digest`), the list of cameras (see `control::roster`).

use crate::base::cbor;
use crate::base::reason::{Coded, chain};
use crate::base::tasks::Tasks;
use crate::control::roster::{self, Digests, Roster};
use crate::daemon::agreement::Agreement;
use crate::daemon::gather::Session;
use crate::ingest::digest::{Algorithm, ha1};
use crate::ingest::{self, Ha1};
use crate::trust::secrets::SecretsError;
use minicbor::{Decode, Encode};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// What the secrets file keeps of a camera's password.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Kept {
    #[n(0)]
    md5: Option<String>,
    #[n(1)]
    sha256: Option<String>,
}

/// Keeps the hashes of a camera's new password, and nothing else of it.
///
/// # Errors
/// The secrets file cannot be written.
pub fn keep_password(agreement: &Agreement, camera: &roster::Camera, password: &str) -> Result<(), SecretsError> {
    let hash = |algorithm| Some(ha1(algorithm, &camera.user, password).0);
    let kept = Kept {
        md5: matches!(camera.digest, Digests::Md5 | Digests::Both).then(|| hash(Algorithm::Md5)).flatten(),
        sha256: matches!(camera.digest, Digests::Sha256 | Digests::Both).then(|| hash(Algorithm::Sha256)).flatten(),
    };
    agreement.set_credential(camera.id, Some(cbor::encode(&kept)))
}

/// Who may publish, renewed with the roster.
pub fn follow(tasks: &Tasks, roster: &Roster, agreement: Arc<Agreement>) -> watch::Receiver<Arc<ingest::Cameras>> {
    let mut enrolled = roster.watch();
    let (sender, receiver) = watch::channel(Arc::new(joined(&enrolled.borrow_and_update(), &agreement)));
    let stop = tasks.stopping();
    tasks.spawn("credentials", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = enrolled.changed() => if changed.is_err() { return },
            }
            let (cameras, agreement) = (enrolled.borrow_and_update().clone(), agreement.clone());
            // The agreement may be writing a file.
            let joined = tokio::task::spawn_blocking(move || joined(&cameras, &agreement)).await;
            match joined {
                Ok(cameras) => drop(sender.send_replace(Arc::new(cameras))),
                Err(_) => return,
            }
        }
    });
    receiver
}

/// A camera without a readable credential stays out: it gets a new password by `mvbctl camera passwd`.
fn joined(enrolled: &[roster::Camera], agreement: &Agreement) -> ingest::Cameras {
    let camera = |camera: &roster::Camera| {
        let bytes = agreement.credential(camera.id).unwrap_or_default();
        let kept: Kept = match cbor::decode(&bytes, 1024) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(camera = camera.name, error = chain(&error), "no usable credential");
                Kept { md5: None, sha256: None }
            }
        };
        ingest::Camera {
            id: camera.id,
            path: camera.path.clone(),
            user: camera.user.clone(),
            md5: kept.md5.map(Ha1),
            sha256: kept.sha256.map(Ha1),
        }
    };
    ingest::Cameras(enrolled.iter().map(camera).collect())
}

/// Sessions as ingest publishes them.
#[must_use]
pub fn sessions(status: &ingest::Status) -> HashMap<crate::base::ids::CameraId, Session> {
    let session = |camera: &ingest::CameraStatus| Session {
        connected: camera.connected,
        transport: camera.connected.then(|| camera.transport.to_owned()),
        peer: camera.remote.filter(|_| camera.connected).map(|remote| remote.to_string()),
        accepted: camera.accepted,
        lost: camera.lost,
        no_video: camera.no_video,
        last_end: camera.last_end.map(str::to_owned),
    };
    status.cameras.iter().map(|(id, camera)| (*id, session(camera))).collect()
}

/// Why cameras cannot be accepted.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for cameras on {address}: set ingest.rtsp.listen to an address of this box that is free")]
pub struct ListenError {
    /// Where.
    pub address: std::net::SocketAddr,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

impl Coded for ListenError {
    fn code(&self) -> &'static str {
        "rtsp-bind"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::roster::Priority;

    #[test]
    fn only_the_hashes_that_a_camera_may_use_are_kept_and_they_are_the_right_ones() {
        let dir = tempfile::tempdir().expect("folder");
        let roster = Roster::load(dir.path()).expect("empty");
        let agreement = Agreement::open(dir.path()).expect("made");
        for (name, digest) in [("a", Digests::Md5), ("b", Digests::Both)] {
            let camera = roster.draft(name, None, digest, Priority::Normal).expect("fine");
            keep_password(&agreement, &camera, "secret-password").expect("kept");
            roster.add(camera).expect("written");
        }
        roster.add(roster.draft("c", None, Digests::Md5, Priority::Normal).expect("fine")).expect("written");
        let again = Agreement::open(dir.path()).expect("opens");
        let ingest::Cameras(cameras) = joined(&roster.cameras(), &again);
        assert_eq!(cameras[0].md5, Some(ha1(Algorithm::Md5, "a", "secret-password")));
        assert_eq!(cameras[0].sha256, None);
        assert_eq!(cameras[1].sha256, Some(ha1(Algorithm::Sha256, "b", "secret-password")));
        assert_eq!((&cameras[2].md5, &cameras[2].sha256), (&None, &None));
        for file in std::fs::read_dir(dir.path()).expect("lists").map(|entry| entry.expect("readable").path()) {
            let bytes = std::fs::read(&file).expect("reads");
            assert!(!bytes.windows(15).any(|window| window == b"secret-password"), "{}", file.display());
        }
    }
}
