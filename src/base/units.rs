//! Units. No bare integer carries a size, a rate or a time between modules.

use crate::base::ids::BootId;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ByteCount(pub u64);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        match STEPS.iter().find(|(step, _)| self.0 >= *step) {
            #[allow(clippy::cast_precision_loss)] // shown with one decimal
            Some((step, name)) => write!(f, "{:.1} {name}", self.0 as f64 / *step as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// Microseconds of `CLOCK_BOOTTIME`: since this boot, suspend included. Comparable only within one [`BootId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
pub struct BootTime(#[n(0)] pub u64);

impl BootTime {
    /// Time from `earlier` to `self`, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// `self` moved forward.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Milliseconds since 1970-01-01 UTC. An estimate: never used for logic, always stored with source and error bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
pub struct WallTime(#[n(0)] pub i64);

/// Ticks of a track's own time scale on the continuous timeline of a recording's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
pub struct MediaTime(#[n(0)] pub i64);

/// Which run of the box wrote something: the kernel's boot and the count of daemon starts (never reset).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Serialize, Deserialize)]
#[cbor(array)]
pub struct Run {
    /// Kernel boot.
    #[n(0)]
    pub boot: BootId,
    /// Number of this daemon start, counted on internal storage.
    #[n(1)]
    pub start: u32,
}

impl<'b, C> Decode<'b, C> for Run {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        let (boot, start) = d.decode_with(ctx)?;
        Ok(Self { boot, start })
    }
}

/// Where an estimate of wall time came from, best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum TimeSource {
    /// Nothing better than the system clock, which no one vouches for.
    #[n(0)]
    Unknown,
    /// The floor: build time or the last time heard from the pinned cloud.
    #[n(1)]
    Floor,
    /// The kernel says that a time daemon keeps the clock.
    #[n(2)]
    Ntp,
    /// A satellite receiver.
    #[n(3)]
    Gnss,
    /// The pinned cloud.
    #[n(4)]
    Cloud,
}

/// What was known about wall time at an instant of boot time. Corrections are appended, never rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct TimeStatement {
    /// The instant that is described.
    #[n(0)]
    pub at: BootTime,
    /// Best estimate of wall time at that instant.
    #[n(1)]
    pub wall: WallTime,
    /// Who vouches for it.
    #[n(2)]
    pub source: TimeSource,
    /// Bound of the error, milliseconds; `u64::MAX` when nothing is known.
    #[n(3)]
    pub error_ms: u64,
}
