//! The seam between whoever receives a camera and whoever records it.

use crate::base::ids::CameraId;
use crate::media::Item;

/// Takes over what cameras send. Calls never block: a full recorder is the recorder's problem, not the camera's.
pub trait Intake: Send + Sync {
    /// A session of an enrolled camera starts to deliver. A feed that is still open for the same camera is superseded:
    /// whatever it delivers afterwards is dropped and counted.
    fn open(&self, camera: CameraId) -> Box<dyn Feed>;
}

/// One session's deliveries, in order.
pub trait Feed: Send {
    /// The next item.
    fn push(&mut self, item: Item);

    /// The session is over; `reason` is a stable code (`teardown`, `bye`, `closed`, `media-timeout`, `superseded` …).
    fn end(self: Box<Self>, reason: &'static str);
}
