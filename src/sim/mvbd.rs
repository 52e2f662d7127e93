//! `mvbd` on a machine that tests control: the same daemon, with a card that loses what was not synced and clocks that
//! start where a test wants. Never in a release (feature `sim`).
//!
//! | variable | meaning |
//! |---|---|
//! | `MVB_SIM_CARD` | `power`: `kill -9` is a power cut; else a plain folder |
//! | `MVB_SIM_BOOT` | boot id, 32 hex digits |
//! | `MVB_SIM_BOOTED` | this machine's `CLOCK_BOOTTIME` at that boot, microseconds |
//! | `MVB_SIM_WALL` | wall clock at start, milliseconds since 1970; empty: the real one |

use mvb::base::clock::Clock;
use mvb::base::units::{BootTime, WallTime};
use mvb::daemon::machine::{Machine, Real};
use mvb::sim::power::PowerVolume;
use mvb::store::Volume;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

struct Controlled;

fn variable<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

impl Machine for Controlled {
    fn clock(&self, floor: WallTime) -> Clock {
        let real = Real.clock(floor);
        let Some(boot) = variable("MVB_SIM_BOOT") else { return real };
        let at = BootTime(real.boottime().0.saturating_sub(variable("MVB_SIM_BOOTED").unwrap_or(0)));
        let wall = variable("MVB_SIM_WALL").map_or_else(|| real.statement().wall, WallTime);
        Clock::runtime(boot, at, wall).not_before(floor)
    }

    fn card(&self, folder: &Path) -> io::Result<Arc<dyn Volume>> {
        if std::env::var("MVB_SIM_CARD").is_ok_and(|kind| kind == "power") {
            return Ok(Arc::new(PowerVolume::open(folder)?));
        }
        Real.card(folder)
    }
}

fn main() -> ExitCode {
    mvb::daemon::cli::main_on(Arc::new(Controlled))
}
