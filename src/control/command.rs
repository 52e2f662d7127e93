//! What the running daemon can be told: each service owns its enum, this one only joins them.
//!
//! The same set serves `mvbctl` and, later, pages and the cloud. Belongs here: the envelope that crosses the socket.
//! Does not belong here: carrying anything out.

use crate::base::ids::CameraId;
use crate::base::reason::{self, Coded};
use crate::control::{pairing, recipients, roster};
use serde::{Deserialize, Serialize};

/// Version of the command set; another one is refused.
pub const VERSION: u32 = 1;

/// One request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] of the caller.
    pub version: u32,
    /// What to do.
    pub command: Command,
}

/// What can be asked, by service.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "service", content = "command", rename_all = "kebab-case")]
pub enum Command {
    /// State of everything → [`super::status::Status`].
    Status,
    /// Enrolled cameras.
    Camera(roster::Command),
    /// The agreement with a cloud.
    Pairing(pairing::Command),
    /// The keys that footage is sealed to.
    Recipients(recipients::Command),
    /// What is on the card → list of [`crate::store::RecordingInfo`], of one camera or of all.
    Recordings {
        /// Only this one.
        camera: Option<CameraId>,
    },
    /// An administrator accepts a card that was rolled back.
    AcceptCard,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done; the value is what the command documents, `null` if nothing.
    Done(serde_json::Value),
    /// Not done.
    Refused(Refusal),
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable code.
    pub code: String,
    /// For people: what is wrong and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }

    /// A service's own error.
    pub fn from_error(error: &(impl Coded + std::error::Error)) -> Self {
        Self::new(error.code(), reason::chain(error))
    }
}

impl Reply {
    /// A typed result as it crosses the socket.
    #[must_use]
    pub fn of<T: Serialize>(result: Result<T, Refusal>) -> Self {
        match result.map(|value| serde_json::to_value(value)) {
            Ok(Ok(value)) => Self::Done(value),
            Ok(Err(error)) => Self::Refused(Refusal::new("control-malformed", error.to_string())),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}
