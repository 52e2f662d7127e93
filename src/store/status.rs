//! What the store says about itself: live state per camera, and recordings as they stand on the card.

use crate::base::chain::Head;
use crate::base::ids::{CameraId, OrganisationId, RecordingId, SegmentId};
use crate::base::units::{BootTime, ByteCount, Run, TimeStatement};
use crate::media::Gap;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The recorder's state, republished every second and at each change.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// Every camera that delivered since the start.
    pub cameras: Vec<CameraStatus>,
    /// Bytes waiting for the card (written ones too, until they are synced).
    pub lane_used: ByteCount,
    /// What the lane may hold now.
    pub lane_capacity: ByteCount,
    /// At most this much footage would be lost if power were cut now.
    pub loss_bound: Duration,
    /// Free and total space of the card.
    pub card_free: ByteCount,
    /// See `card_free`.
    pub card_total: ByteCount,
    /// Finished segments that no cloud has committed.
    pub backlog_segments: u64,
    /// Their bytes.
    pub backlog: ByteCount,
    /// Of these, footage of another organisation than the paired one: it waits.
    pub other_organisation_segments: u64,
    /// Segments whose file differs from the journal.
    pub damaged_segments: u64,
    /// The journal's durable head.
    pub journal: Option<Head>,
    /// Stable codes of what an operator must know now, for example `seal-no-key`, `card-rolled-back`, `lane-overflow`.
    pub alarms: Vec<&'static str>,
}

/// One camera.
#[derive(Debug, Clone, Serialize)]
pub struct CameraStatus {
    /// Which.
    pub camera: CameraId,
    /// What happens to its footage.
    pub state: State,
    /// The recording that goes on.
    pub recording: Option<RecordingId>,
    /// Since when it goes on.
    pub since: Option<BootTime>,
    /// Bytes sealed for the card in this run.
    pub bytes: ByteCount,
    /// Access units accepted in this run.
    pub units: u64,
    /// Segments started in this run.
    pub segments: u64,
    /// At most this much of its footage would be lost if power were cut now.
    pub loss_bound: Duration,
}

/// What happens to a camera's footage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Recorded.
    Recording,
    /// Recorded as background until an event.
    Background,
    /// The card does not keep up: live only.
    LiveOnly,
    /// The camera went away; the recording goes on if it returns in time.
    Waiting,
    /// There is no recipient key: not recorded.
    NoKey,
    /// It does not stream.
    Idle,
}

/// How a segment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SegmentState {
    /// Still written.
    Open,
    /// Complete on the card, not yet in the cloud.
    Sealed,
    /// The cloud holds it (receipt).
    Uploaded,
    /// The file differs from the journal.
    Damaged,
    /// The file is on another card, or gone without a trace in the journal.
    Absent,
    /// Erased, by the journal.
    Destroyed,
}

/// One recording as the catalog knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordingInfo {
    /// Which.
    pub recording: RecordingId,
    /// Camera.
    pub camera: CameraId,
    /// Owner.
    pub organisation: OrganisationId,
    /// Whether the box is paired with its owner.
    pub other_organisation: bool,
    /// The run in which it started; `from` and `to` are on that run's boot time.
    pub run: Run,
    /// First segment opened.
    pub from: BootTime,
    /// Last segment closed, or the last thing known of it.
    pub to: BootTime,
    /// What was known about wall time closest to `from`.
    pub wall: Option<TimeStatement>,
    /// Its segments in order.
    pub segments: Vec<SegmentInfo>,
    /// What is missing.
    pub gaps: Vec<Gap>,
    /// Bytes of all finished segments.
    pub size: ByteCount,
}

/// One segment of a recording.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// Which.
    pub segment: SegmentId,
    /// How it stands.
    pub state: SegmentState,
    /// Bytes.
    pub size: ByteCount,
    /// Never erased by itself.
    pub held: bool,
    /// Pre-roll without an event.
    pub background: bool,
    /// Recovered: where recovery's END begins.
    pub cut: Option<u64>,
}
