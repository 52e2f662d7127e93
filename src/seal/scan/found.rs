//! What a walk over a segment finds: plain data, for whoever recovers, receives or verifies.

use crate::base::ids::Digest;
use crate::base::units::{BootTime, Run};
use crate::seal::{EndReason, Finished, Header, Prev};

/// A checkpoint whose signature covers everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// 0, 1, 2 …
    pub number: u32,
    /// Sealed records before it.
    pub records: u32,
    /// First byte after it.
    pub offset: u64,
    /// When.
    pub at: BootTime,
    /// Written by which run.
    pub run: Run,
}

/// The END frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// What came before.
    pub prev: Prev,
    /// Which run wrote it.
    pub run: Run,
    /// When, on that run's boot time.
    pub at: BootTime,
    /// Digests and counts.
    pub finished: Finished,
}

/// What is wrong, and from where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// First byte that cannot be vouched for because of it.
    pub at: u64,
    /// First byte after the signature that failed (or after what was seen, if none followed).
    pub until: u64,
    /// Stable code: `record-flipped`, `ckpt-dropped`, … (spec, "Codes").
    pub code: &'static str,
    /// Whether a signature or a rule of the format failed. If not, the bytes after the last checkpoint are only
    /// unreadable, as power cuts leave them.
    pub proven: bool,
    /// Signed frames from the first that failed on; see [`Self::exceeds_power_cut`].
    pub signed: u32,
    /// An END is among them.
    pub ended: bool,
}

impl Fault {
    /// Whether more signed frames fail than a power cut can spoil: after the last sync it leaves at most three (one a
    /// second, group sync within two, and an END).
    #[must_use]
    pub fn exceeds_power_cut(&self) -> bool {
        self.signed > 3
    }
}

/// What a walk found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The header, if it is whole and well formed.
    pub header: Option<Header>,
    /// The last valid checkpoint.
    pub last: Option<Point>,
    /// The end, if it is there and valid.
    pub end: Option<Ended>,
    /// SHA-256 of the END frame, valid or not.
    pub end_frame: Option<Digest>,
    /// What is wrong. An open segment that simply stops has none.
    pub fault: Option<Fault>,
    /// Bytes seen.
    pub size: u64,
    /// SHA-256 of all bytes seen.
    pub sha256: Digest,
    /// The bytes stop inside a frame (or inside the header).
    pub partial: bool,
    /// Type number of that frame, 0 for the header.
    pub inside: Option<u8>,
    /// Sealed records seen.
    pub records: u32,
    /// Whether the structure could be followed to the last byte.
    pub structured: bool,
}
