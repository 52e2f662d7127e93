//! What the recorder is told: names for META, policy per camera, limits. Validated by whoever builds it (`control`).

use crate::base::ids::CameraId;
use crate::base::units::ByteCount;
use crate::seal::UploadClass;
use std::collections::HashMap;
use std::time::Duration;

/// Settings that may change while recording; they hold from the next segment on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Organisation's name.
    pub organisation: String,
    /// Box's name (vehicle).
    pub box_name: String,
    /// Version of the firmware.
    pub firmware: String,
    /// Enrolled cameras. One that is missing here is recorded with its id for a name.
    pub cameras: HashMap<CameraId, CameraSettings>,
}

/// One camera of the roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraSettings {
    /// Name.
    pub name: String,
    /// Who wears it.
    pub officer: Option<String>,
    /// Purpose of recording.
    pub purpose: String,
    /// Legal basis.
    pub legal_basis: String,
    /// Retention class.
    pub retention: String,
    /// When to record.
    pub policy: Policy,
    /// Order in the backlog.
    pub class: UploadClass,
}

impl CameraSettings {
    /// A camera of which only the name is known.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            officer: None,
            purpose: String::new(),
            legal_basis: String::new(),
            retention: String::new(),
            policy: Policy::default(),
            class: UploadClass::Normal,
        }
    }
}

/// When a camera is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// While it streams.
    #[default]
    WhileStreaming,
    /// As `WhileStreaming`; ingest also keeps a pulled camera streaming.
    Continuous,
    /// `background` segments until an event promotes those of the last `pre`, and records for `post` after it.
    OnEvent {
        /// Kept from before the event.
        pre: Duration,
        /// Recorded after the event.
        post: Duration,
    },
}

/// Bounds of memory and of the card; fixed at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The recorder's lane at most; it takes 15 s of the measured bit rate, at least [`Limits::LANE_LEAST`].
    pub memory_max: ByteCount,
    /// Below this much free space on the card segments are erased, most dispensable first.
    pub keep_free: ByteCount,
}

impl Limits {
    /// A burst of pre-roll (30 s of 8 Mb/s in one second) fits before any rate was measured.
    pub const LANE_LEAST: ByteCount = ByteCount(32 << 20);
}

impl Default for Limits {
    /// 15 s of 8 cameras at 8 Mb/s; 256 MB of the card free.
    fn default() -> Self {
        Self { memory_max: ByteCount(128 << 20), keep_free: ByteCount(256 << 20) }
    }
}
