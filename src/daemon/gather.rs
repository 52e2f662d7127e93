//! Joins what the services publish into the one [`Status`] that everything is shown from.
//!
//! Pure: the parts are passed in. Belongs here: which part says what, and which alarms follow. Does not belong here:
//! words (see `control::status`).

use crate::base::ids::CameraId;
use crate::base::units::ByteCount;
use crate::control::roster;
use crate::control::status::{Camera, Card, Status, Uplink};
use crate::store;
use std::collections::HashMap;

/// A camera's session as ingest sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Whether it delivers now.
    pub connected: bool,
    /// `tcp` or `udp`.
    pub transport: Option<String>,
    /// Where it connects from.
    pub peer: Option<String>,
    /// Access units accepted in this run, over all sessions.
    pub accepted: u64,
    /// RTP packets lost on the way in this run.
    pub lost: u64,
    /// A picture was announced and none comes.
    pub no_video: bool,
    /// Why its last session ended.
    pub last_end: Option<String>,
}

/// The link to the cloud as the relay sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `off`, `connecting`, `connected` …
    pub state: String,
    /// Why it is not connected.
    pub reason: Option<String>,
    /// The cloud's host.
    pub host: Option<String>,
    /// Live subscriptions of the cloud.
    pub subscriptions: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self { state: "off".to_owned(), reason: None, host: None, subscriptions: 0 }
    }
}

/// One line per enrolled camera, in order of enrolment.
#[must_use]
pub fn cameras(
    roster: &[roster::Camera],
    sessions: &HashMap<CameraId, Session>,
    recorder: &store::Status,
) -> Vec<Camera> {
    roster
        .iter()
        .map(|enrolled| {
            let session = sessions.get(&enrolled.id).cloned().unwrap_or_default();
            let recorded = recorder.cameras.iter().find(|camera| camera.camera == enrolled.id);
            Camera {
                id: enrolled.id,
                name: enrolled.name.clone(),
                officer: enrolled.officer.clone(),
                connected: session.connected,
                state: code(recorded.map_or(store::State::Idle, |camera| camera.state)),
                transport: session.transport,
                peer: session.peer,
                accepted: session.accepted,
                units: recorded.map_or(0, |camera| camera.units),
                bytes: recorded.map_or(ByteCount(0), |camera| camera.bytes),
                loss_bound_ms: recorded.map_or(0, |camera| millis(camera.loss_bound)),
                lost: session.lost,
                no_video: session.no_video,
                last_end: session.last_end,
            }
        })
        .collect()
}

/// Where recordings are written.
#[must_use]
pub fn card(path: &std::path::Path, recorder: &store::Status) -> Card {
    Card {
        path: path.display().to_string(),
        free: recorder.card_free,
        total: recorder.card_total,
        waiting: recorder.lane_used,
        waiting_max: recorder.lane_capacity,
    }
}

/// To the cloud.
#[must_use]
pub fn uplink(link: Link, recorder: &store::Status) -> Uplink {
    Uplink {
        state: link.state,
        reason: link.reason,
        host: link.host,
        backlog_segments: recorder.backlog_segments,
        backlog: recorder.backlog,
        other_organisation_segments: recorder.other_organisation_segments,
        subscriptions: link.subscriptions,
    }
}

/// Alarms of all parts, each once, in the order given.
#[must_use]
pub fn alarms<'a>(parts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for code in parts {
        if !all.iter().any(|present| present == code) {
            all.push(code.to_owned());
        }
    }
    all
}

/// One line for `systemctl status`.
#[must_use]
pub fn line(status: &Status) -> String {
    use crate::control::status::Verdict;
    let verdict = match &status.verdict {
        Verdict::Recording { cameras, .. } => format!("recording {cameras}"),
        Verdict::Ready => "ready, no camera streams".to_owned(),
        Verdict::NotRecording { reason } => format!("NOT RECORDING: {reason}"),
    };
    format!("{verdict}; uplink {}, {} to send", status.uplink.state, status.uplink.backlog)
}

/// Resident memory of this process.
#[must_use]
pub fn memory() -> ByteCount {
    // proc_pid_statm(5): the second number is resident pages.
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    ByteCount(pages.saturating_mul(page_size()))
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// The state's stable code: as it is serialised.
fn code(state: store::State) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(code)) => code,
        _ => "unknown".to_owned(),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::roster::{Digests, Policy, Priority};
    use std::time::Duration;

    #[test]
    fn an_enrolled_camera_is_shown_even_if_it_never_came_and_a_stranger_is_not() {
        let enrolled = |id| roster::Camera {
            id,
            name: "a".into(),
            officer: None,
            user: "a".into(),
            path: "a".into(),
            digest: Digests::Md5,
            policy: Policy::WhileStreaming,
            priority: Priority::Normal,
        };
        let (here, away, stranger) = (CameraId([1; 16]), CameraId([2; 16]), CameraId([3; 16]));
        let recorded = |camera| store::CameraStatus {
            camera,
            state: store::State::LiveOnly,
            recording: None,
            since: None,
            bytes: ByteCount(5),
            units: 7,
            segments: 1,
            loss_bound: Duration::from_millis(1500),
        };
        let recorder = store::Status { cameras: vec![recorded(here), recorded(stranger)], ..store::Status::default() };
        let sessions = HashMap::from([(here, Session { connected: true, accepted: 9, ..Session::default() })]);
        let shown = cameras(&[enrolled(here), enrolled(away)], &sessions, &recorder);
        let brief: Vec<_> = shown.iter().map(|c| (c.id, c.state.as_str(), c.accepted, c.loss_bound_ms)).collect();
        assert_eq!(brief, [(here, "live-only", 9, 1500), (away, "idle", 0, 0)]);
    }

    #[test]
    fn an_alarm_that_two_parts_raise_is_shown_once() {
        assert_eq!(alarms(["card-full", "no", "card-full"]), ["card-full", "no"]);
        assert!(memory().0 > 1 << 20);
    }
}
