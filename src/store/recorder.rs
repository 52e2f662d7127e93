//! The recorder: takes what cameras send, has it sealed, hands it to the lane and to the relay.

use crate::base::ids::CameraId;
use crate::base::reason::Counters;
use crate::base::tasks::Tasks;
use crate::media::{Feed, Intake, Item};
use crate::seal::{Recipients, Tap};
use crate::store::{Error, Settings, Status, Store};
use std::sync::Arc;
use tokio::sync::watch;

/// Sees every item in plain, for the picture on the box's own page. Never blocks.
pub trait Preview: Send + Sync {
    /// The next item of a camera.
    fn item(&self, camera: CameraId, item: &Item);
    /// The camera's session is over.
    fn ended(&self, camera: CameraId);
}

/// The service that owns all sealers.
pub struct Recorder {
    _private: (),
}

/// Handle to the recorder; cheap to clone. It is the [`Intake`] that ingest delivers to.
#[derive(Clone)]
pub struct RecorderHandle {
    _private: Arc<()>,
}

impl Recorder {
    /// A recorder on an opened store. `tap` sees each sealed frame after the lane took it. Without recipients nothing is
    /// recorded, and the status says `seal-no-key`.
    #[must_use]
    pub fn new(
        _store: Store,
        _settings: watch::Receiver<Arc<Settings>>,
        _recipients: watch::Receiver<Option<Recipients>>,
        _tap: Arc<dyn Tap>,
        _preview: Option<Arc<dyn Preview>>,
        _counters: Counters,
    ) -> (Self, RecorderHandle) {
        todo!()
    }

    /// Runs until `tasks` is told to stop; then ends every segment, and returns when all is durable. Start it with
    /// `tasks.spawn("recorder", recorder.run(tasks.clone()))` and stop it after ingest and before the relay.
    ///
    /// # Errors
    /// The last sync failed: what was not durable is lost.
    pub async fn run(self, _tasks: Tasks) -> Result<(), Error> {
        todo!()
    }
}

impl RecorderHandle {
    /// The state, republished every second and at each change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        todo!()
    }

    /// An event (button, alarm) promotes the camera's background footage and records on.
    pub fn event(&self, _camera: CameraId) {
        todo!()
    }
}

impl Intake for RecorderHandle {
    fn open(&self, _camera: CameraId) -> Box<dyn Feed> {
        todo!()
    }
}
