//! Recordings as the vault knows them without any key: ids, sizes, completeness. Pure.
//!
//! Belongs here: grouping files into recordings. Does not belong here: names (sealed in META), opening.

use crate::base::ids::{BoxId, CameraId, RecordingId};
use crate::base::units::{ByteCount, WallTime};
use crate::cloud::vault::{FileState, StoredFile};
use serde::Serialize;

/// One logical run of a camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recording {
    /// Which.
    pub recording: RecordingId,
    /// Whose.
    pub camera: CameraId,
    /// Sealed by.
    pub box_id: BoxId,
    /// Files that are complete, proven and durable.
    pub committed: u64,
    /// Of these, how many open with the organisation's key.
    pub opened: u64,
    /// Files of which bytes are missing.
    pub partial: u64,
    /// Files that did not verify.
    pub rejected: u64,
    /// Files with bytes beyond the card's cut, received live.
    pub tails: u64,
    /// Files kept beside another with the same id.
    pub conflicts: u64,
    /// Access units in the committed files.
    pub units: u64,
    /// Bytes held.
    pub bytes: ByteCount,
    /// Bytes of these that came live.
    pub live_bytes: ByteCount,
    /// Boot time at which the first file starts, microseconds (comparable within one boot only).
    pub first_boottime_us: u64,
    /// When the last file was committed.
    pub last_committed: Option<WallTime>,
}

/// Groups files, which come in the order of recordings. Files whose header has not arrived belong to none.
#[must_use]
pub fn group(files: &[StoredFile]) -> Vec<Recording> {
    let mut list: Vec<Recording> = Vec::new();
    for file in files {
        let row = &file.row;
        let Some(origin) = row.origin else { continue };
        let same = |r: &Recording| r.recording == origin.recording && r.box_id == row.box_id;
        let at = list.iter().position(same).unwrap_or_else(|| {
            list.push(Recording {
                recording: origin.recording,
                camera: origin.camera,
                box_id: row.box_id,
                committed: 0,
                opened: 0,
                partial: 0,
                rejected: 0,
                tails: 0,
                conflicts: 0,
                units: 0,
                bytes: ByteCount(0),
                live_bytes: ByteCount(0),
                first_boottime_us: origin.at.0,
                last_committed: None,
            });
            list.len() - 1
        });
        let Some(recording) = list.get_mut(at) else { continue };
        match row.state {
            FileState::Committed => recording.committed += 1,
            FileState::Partial => recording.partial += 1,
            FileState::Rejected => recording.rejected += 1,
        }
        recording.units += row.units;
        recording.opened += u64::from(row.opened);
        recording.tails += u64::from(row.tail.is_some());
        recording.conflicts += u64::from(row.variant > 0);
        let held = match (row.state, row.object) {
            (FileState::Committed, Some((size, _))) => size,
            _ => row.have.len(),
        };
        recording.bytes.0 += held;
        recording.live_bytes.0 += row.live_bytes;
        recording.last_committed = recording.last_committed.max(row.committed_at);
    }
    list
}
