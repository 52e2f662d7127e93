//! Boot time and wall time, for time statements and checkpoints only.
//!
//! Logic (time-outs, ticks, deadlines) runs on tokio's monotonic clock, so that tests can pause it.

use crate::base::ids::BootId;
use crate::base::units::{BootTime, TimeSource, TimeStatement, WallTime};
use nix::time::{ClockId, clock_gettime};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Source of boot time and of wall-time statements; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    boot: BootId,
    base: Base,
    floor: Mutex<Floor>,
}

#[derive(Debug)]
enum Base {
    System,
    /// Follows tokio's clock, which tests pause.
    Runtime {
        zero: tokio::time::Instant,
        boottime: BootTime,
        wall: WallTime,
    },
}

#[derive(Debug, Clone, Copy)]
struct Floor {
    floor: WallTime,
    heard: Option<TimeStatement>,
}

impl Clock {
    /// The machine's clocks. `floor` is the later of the build time and the last time heard from the pinned cloud.
    #[must_use]
    pub fn system(floor: WallTime) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .and_then(|text| text.trim().replace('-', "").parse().ok())
            .unwrap_or_else(BootId::random);
        Self::new(boot, Base::System, floor)
    }

    /// A clock that follows tokio's (pausable) time, starting at the given readings.
    #[must_use]
    pub fn runtime(boot: BootId, boottime: BootTime, wall: WallTime) -> Self {
        let zero = tokio::time::Instant::now();
        Self::new(boot, Base::Runtime { zero, boottime, wall }, WallTime(0))
    }

    /// The same clock with a floor under its statements.
    #[must_use]
    pub fn not_before(self, floor: WallTime) -> Self {
        {
            let mut kept = self.0.floor.lock().unwrap_or_else(PoisonError::into_inner);
            kept.floor = kept.floor.max(floor);
        }
        self
    }

    fn new(boot: BootId, base: Base, floor: WallTime) -> Self {
        Self(Arc::new(Inner { boot, base, floor: Mutex::new(Floor { floor, heard: None }) }))
    }

    /// The kernel's boot.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.0.boot
    }

    /// Now, since boot.
    #[must_use]
    pub fn boottime(&self) -> BootTime {
        match &self.0.base {
            Base::System => BootTime(micros(read(ClockId::CLOCK_BOOTTIME))),
            Base::Runtime { zero, boottime, .. } => boottime.plus(zero.elapsed()),
        }
    }

    /// Records a time heard from the pinned cloud, which never moves the floor back. Error bound in milliseconds.
    pub fn heard_from_cloud(&self, wall: WallTime, error_ms: u64) {
        let at = self.boottime();
        let mut floor = self.0.floor.lock().unwrap_or_else(PoisonError::into_inner);
        floor.floor = floor.floor.max(wall);
        floor.heard = Some(TimeStatement { at, wall, source: TimeSource::Cloud, error_ms });
    }

    /// The time that no statement of ours may lie before.
    #[must_use]
    pub fn floor(&self) -> WallTime {
        self.0.floor.lock().unwrap_or_else(PoisonError::into_inner).floor
    }

    /// What is known about wall time now: the cloud's word if any was heard in this run, else the system clock if a
    /// time daemon vouches for it, else the system clock unvouched, raised to the floor.
    #[must_use]
    pub fn statement(&self) -> TimeStatement {
        let at = self.boottime();
        let Floor { floor, heard } = *self.0.floor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(heard) = heard {
            let elapsed = at.since(heard.at);
            // 100 ppm: the worst drift of an uncorrected crystal that we assume.
            let drift = u64::try_from(elapsed.as_millis() / 10_000).unwrap_or(u64::MAX);
            let wall = WallTime(heard.wall.0.saturating_add(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)));
            return TimeStatement { at, wall, source: TimeSource::Cloud, error_ms: heard.error_ms + drift };
        }
        let (wall, kept) = match &self.0.base {
            Base::System => {
                let now = read(ClockId::CLOCK_REALTIME);
                (WallTime(i64::try_from(now.as_millis()).unwrap_or(i64::MAX)), kernel_error_bound())
            }
            Base::Runtime { zero, wall, .. } => {
                (WallTime(wall.0 + i64::try_from(zero.elapsed().as_millis()).unwrap_or(i64::MAX)), None)
            }
        };
        match kept {
            Some(error_ms) if wall >= floor => TimeStatement { at, wall, source: TimeSource::Ntp, error_ms },
            _ if wall >= floor => TimeStatement { at, wall, source: TimeSource::Unknown, error_ms: u64::MAX },
            _ => TimeStatement { at, wall: floor, source: TimeSource::Floor, error_ms: u64::MAX },
        }
    }
}

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// The kernel's own error bound in milliseconds when a time daemon keeps the clock (`adjtimex(2)`, `STA_UNSYNC` clear).
fn kernel_error_bound() -> Option<u64> {
    // SAFETY: an all-zero `timex` asks for a read (`modes` = 0); the kernel fills it in.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    (state >= 0 && timex.status & libc::STA_UNSYNC == 0)
        .then(|| u64::try_from(timex.maxerror / 1000).unwrap_or(u64::MAX))
}
