//! What the running daemon can be told, and what it answers: one enum each, the same for the command line and, later,
//! for pages and API.
//!
//! Belongs here: the types that cross the socket. Does not belong here: carrying them out (see [`super::service`]).

use crate::base::ids::{BoxId, KeyId, OrganisationId, PairingId};
use crate::base::units::WallTime;
use crate::cloud::vault::{Alarm, PairingState, Totals};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// One request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub command: Command,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// How is it? → [`Reply::Status`]
    Status,
    /// Make a pairing code, optionally for one serial number only. → [`Reply::Code`]
    PairCreate { serial: Option<String>, host: Option<String> },
    /// End the pairing with a box; the box is told REVOKE when it connects. → [`Reply::Done`]
    PairRevoke { box_id: BoxId },
    /// Open the organisation key. → [`Reply::Done`]
    Unlock { passphrase: Secret },
    /// Lend the organisation's secret keys to the caller, who must run as the daemon's user. → [`Reply::Keys`]
    LendKeys { purpose: String },
    /// Boxes that pair from now on also seal to this key. → [`Reply::Recovery`]
    RecoveryAdd { public: String, name: String },
    /// A person has looked at an alarm; if it stopped erasure, that is allowed again. → [`Reply::Done`]
    AlarmClear { id: i64 },
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done; nothing to tell.
    Done,
    /// State of everything.
    Status(Box<Status>),
    /// A pairing code.
    Code { code: String, valid_seconds: u64 },
    /// The organisation's secret keys, newest first, hex.
    Keys { secrets: Vec<Secret> },
    /// A recovery key was added.
    Recovery { id: KeyId },
    /// Not done, and why.
    Refused { code: String, message: String },
}

/// State of everything, for people (`mvb-cloud status`) and machines (`--json`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Owner.
    pub organisation: OrganisationId,
    /// Its name.
    pub name: String,
    /// Whether the organisation key is locked: received footage is kept but not opened.
    pub locked: bool,
    /// `mvb` version.
    pub version: String,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Where boxes connect (UDP).
    pub boxes_listen: String,
    /// Where boxes pair (TCP).
    pub pairing_listen: String,
    /// Where the local page is.
    pub page: Option<String>,
    /// Pairing codes that can still be used.
    pub open_codes: usize,
    /// Boxes.
    pub boxes: Vec<BoxStatus>,
    /// All files.
    pub totals: Totals,
    /// Bytes free on the vault's disk.
    pub free_bytes: u64,
    /// False when no more backlog is asked for, because the disk is nearly full.
    pub credit: bool,
    /// What nobody has looked at.
    pub alarms: Vec<Alarm>,
    /// Stops, drops, skips and refusals by code since start.
    pub reasons: BTreeMap<String, u64>,
    /// Pictures being watched on the local page.
    pub viewers: usize,
}

/// One box.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BoxStatus {
    /// Which.
    pub box_id: BoxId,
    /// The agreement.
    pub pairing: PairingId,
    /// Where it stands.
    pub state: PairingState,
    /// What is printed on it.
    pub serial: String,
    /// Whether a session is open.
    pub connected: bool,
    /// Last time that it was heard.
    pub last_contact: Option<WallTime>,
    /// Sequence number of the last journal entry received.
    pub journal_seq: Option<u64>,
    /// Files.
    pub totals: Totals,
    /// Files that the box's journal closed and that are not committed here.
    pub backlog: u64,
    /// Alarm for which it may erase nothing.
    pub erase_blocked: Option<String>,
}

/// A text that is never printed and is wiped when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
