//! The state of the box as people and programs see it: one value, the same for `mvbctl`, metrics and pages.
//!
//! Belongs here: the shape, and the verdict drawn from it. Does not belong here: gathering it (see `daemon`), words of a
//! page. Reason codes are stable; nothing parses the texts.

use crate::base::ids::{BoxId, CameraId, OrganisationId, PairingId};
use crate::base::units::{ByteCount, Run, TimeStatement};
use crate::control::recipients::Listed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// State of everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// `mvb` version.
    pub version: String,
    /// Name of the box.
    pub name: String,
    /// Its serial number; may be empty.
    pub serial: String,
    /// Its evidence key's hash.
    pub box_id: BoxId,
    /// Which run this is.
    pub run: Run,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// What is known about wall time.
    pub time: TimeStatement,
    /// The one glance.
    pub verdict: Verdict,
    /// Enrolled cameras.
    pub cameras: Vec<Camera>,
    /// Where recordings are written.
    pub card: Card,
    /// To the cloud.
    pub uplink: Uplink,
    /// The agreement with a cloud.
    pub pairing: Pairing,
    /// Keys that footage is sealed to.
    pub recipients: Vec<Listed>,
    /// Stable codes of what an operator must know now.
    pub alarms: Vec<String>,
    /// Parts of the daemon.
    pub services: Vec<Service>,
    /// How often each reason occurred in this run.
    pub reasons: BTreeMap<String, u64>,
    /// Resident memory of the daemon.
    pub memory: ByteCount,
}

/// Is it working?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Verdict {
    /// Footage is being written.
    Recording {
        /// Cameras that are recorded.
        cameras: usize,
        /// At most so much would be lost if power were cut now, milliseconds.
        loss_bound_ms: u64,
    },
    /// All is well, and no camera streams.
    Ready,
    /// Footage is lost, or would be if a camera streamed.
    NotRecording {
        /// Why.
        reason: String,
    },
}

/// One enrolled camera.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Camera {
    /// Random id.
    pub id: CameraId,
    /// Name.
    pub name: String,
    /// Who wears it.
    pub officer: Option<String>,
    /// Whether it has a session.
    pub connected: bool,
    /// What happens to its footage: `recording`, `live-only`, `waiting`, `no-key`, `idle` …
    pub state: String,
    /// How it is connected: `tcp` or `udp`.
    pub transport: Option<String>,
    /// Where it connects from.
    pub peer: Option<String>,
    /// Access units accepted from it in this run.
    pub accepted: u64,
    /// Access units given to the recorder in this run.
    pub units: u64,
    /// Bytes sealed in this run.
    pub bytes: ByteCount,
    /// At most so much of its footage would be lost if power were cut now, milliseconds.
    pub loss_bound_ms: u64,
    /// RTP packets lost between camera and box in this run.
    pub lost: u64,
    /// A picture was announced and none comes, though sound may.
    pub no_video: bool,
    /// Why its last session ended.
    pub last_end: Option<String>,
}

/// Where recordings are written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Card {
    /// Folder.
    pub path: String,
    /// Free bytes.
    pub free: ByteCount,
    /// All bytes.
    pub total: ByteCount,
    /// Waiting in memory for the card.
    pub waiting: ByteCount,
    /// What may wait.
    pub waiting_max: ByteCount,
}

/// To the cloud.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Uplink {
    /// `off`, `connecting`, `connected`, `rejected`, `quarantined` …
    pub state: String,
    /// Why it is not connected.
    pub reason: Option<String>,
    /// The cloud's host.
    pub host: Option<String>,
    /// Finished segments that the cloud has not committed.
    pub backlog_segments: u64,
    /// Their bytes.
    pub backlog: ByteCount,
    /// Segments of another organisation: they wait.
    pub other_organisation_segments: u64,
    /// Live subscriptions of the cloud.
    pub subscriptions: u64,
}

/// The agreement with a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairing {
    /// `unpaired`, `pending`, `paired`, `rejected`, `revoked`.
    pub state: String,
    /// Whose cloud.
    pub organisation: Option<OrganisationId>,
    /// Its name.
    pub organisation_name: Option<String>,
    /// Address.
    pub host: Option<String>,
    /// Which agreement.
    pub pairing: Option<PairingId>,
}

/// A part of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// `running`, `waiting` (before it is started again), `stopped`.
    pub state: String,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it stopped last.
    pub reason: Option<String>,
}

/// What a code means to an operator, and what to do; the code itself if nobody wrote a text.
#[must_use]
pub fn words(code: &str) -> &str {
    match code {
        "seal-no-key" | "no-key" => {
            "there is no key to seal footage to: pair the box (`mvbctl pair CODE`) or add a recovery key \
             (`mvbctl recipients add FILE`)"
        }
        "card-full" => "the card is full and nothing on it may be erased: connect to the cloud or change the card",
        "card-io-error" => "the card fails: change it",
        "card-read-only" => "the card cannot be written: change it, or check its file system",
        "card-rolled-back" => {
            "the card is older than this box remembers (a copy, or restored): nothing is erased until \
             `mvbctl accept-card`"
        }
        "card-file-missing" => "a file on the card has vanished: somebody removed it, or the card fails",
        "lane-overflow" => "the card does not keep up: footage goes to the cloud live only",
        "journal-fork" => "the cloud knows another journal of this box (rollback or clone): nothing is erased",
        "wrong-certificate" => "a network showed a wrong certificate for the cloud: that link carries nothing",
        "recorder-stopped" => "the recorder has stopped: see the log; the daemon starts again",
        "camera-no-video" => "a camera is connected and sends no picture",
        "storage-failed" => "the store cannot be opened: see the log, check storage.path and the card",
        other => other,
    }
}

impl Status {
    /// Draws the verdict: what stops recording comes first, whatever else is well.
    #[must_use]
    pub fn judge(alarms: &[String], cameras: &[Camera]) -> Verdict {
        const STOPPERS: [&str; 6] =
            ["storage-failed", "recorder-stopped", "seal-no-key", "card-full", "card-io-error", "card-read-only"];
        let reason = |code: &str| Verdict::NotRecording { reason: code.to_owned() };
        if let Some(code) = STOPPERS.iter().find(|code| alarms.iter().any(|alarm| alarm == *code)) {
            return reason(code);
        }
        if let Some(camera) = cameras.iter().find(|camera| camera.connected && camera.state == "no-key") {
            return reason(&camera.state);
        }
        if cameras.iter().any(|camera| camera.state == "live-only") {
            return reason("lane-overflow");
        }
        let recorded = cameras.iter().filter(|camera| matches!(camera.state.as_str(), "recording" | "background"));
        let (count, bound) =
            recorded.fold((0, 0), |(count, bound): (usize, u64), camera| (count + 1, bound.max(camera.loss_bound_ms)));
        if count == 0 { Verdict::Ready } else { Verdict::Recording { cameras: count, loss_bound_ms: bound } }
    }
}

/// Examples for the tests of everything that shows a status.
#[cfg(test)]
pub mod samples {
    use super::*;
    use crate::base::ids::BootId;
    use crate::base::units::{BootTime, TimeSource, WallTime};

    /// A box without key or camera.
    pub fn unpaired() -> Status {
        Status {
            version: "1".into(),
            name: "car 7".into(),
            serial: String::new(),
            box_id: BoxId([7; 32]),
            run: Run { boot: BootId([0; 16]), start: 3 },
            uptime_seconds: 90,
            time: TimeStatement { at: BootTime(0), wall: WallTime(0), source: TimeSource::Unknown, error_ms: 0 },
            verdict: Verdict::NotRecording { reason: "seal-no-key".into() },
            cameras: Vec::new(),
            card: Card {
                path: "/card".into(),
                free: ByteCount(1),
                total: ByteCount(2),
                waiting: ByteCount(0),
                waiting_max: ByteCount(0),
            },
            uplink: Uplink {
                state: "off".into(),
                reason: None,
                host: None,
                backlog_segments: 0,
                backlog: ByteCount(0),
                other_organisation_segments: 0,
                subscriptions: 0,
            },
            pairing: Pairing {
                state: "unpaired".into(),
                organisation: None,
                organisation_name: None,
                host: None,
                pairing: None,
            },
            recipients: Vec::new(),
            alarms: vec!["seal-no-key".into()],
            services: Vec::new(),
            reasons: BTreeMap::new(),
            memory: ByteCount(0),
        }
    }

    /// A camera in a state.
    pub fn camera(state: &str, loss_bound_ms: u64) -> Camera {
        Camera {
            id: CameraId::random(),
            name: "a".into(),
            officer: None,
            connected: true,
            state: state.into(),
            transport: None,
            peer: None,
            accepted: 0,
            units: 0,
            bytes: ByteCount(0),
            loss_bound_ms,
            lost: 0,
            no_video: false,
            last_end: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::camera;
    use super::*;

    #[test]
    fn the_verdict_names_what_stops_recording_before_what_goes_well() {
        let recording = [camera("recording", 700), camera("recording", 900)];
        assert_eq!(Status::judge(&[], &[]), Verdict::Ready);
        assert_eq!(Status::judge(&[], &recording), Verdict::Recording { cameras: 2, loss_bound_ms: 900 });
        let stopped = |reason: &str| Verdict::NotRecording { reason: reason.into() };
        assert_eq!(Status::judge(&["seal-no-key".into()], &[]), stopped("seal-no-key"));
        assert_eq!(Status::judge(&["card-io-error".into()], &recording), stopped("card-io-error"));
        assert_eq!(Status::judge(&[], &[camera("live-only", 0)]), stopped("lane-overflow"));
    }
}
