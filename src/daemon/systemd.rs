//! The one voice to systemd: READY, STATUS, STOPPING, and the watchdog.
//!
//! The watchdog is fed only while the recorder lives: a box whose daemon runs but records nothing must be started again.

use crate::base::tasks::Tasks;
use crate::store;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The recorder republishes its state every second; silent for so long it hangs.
const SILENT: Duration = Duration::from_secs(10);
/// How often the text of `systemctl status` is renewed at most.
const STATUS_EVERY: Duration = Duration::from_secs(2);

fn send(state: &[NotifyState<'_>]) {
    // Not run by systemd: nobody listens, and that is fine.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Cameras are accepted.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Shutdown has begun and takes at most `deadline`.
pub fn stopping(deadline: Duration) {
    let micros = u32::try_from(deadline.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Tells systemd how it is, and feeds its watchdog while `recorder` speaks. Ends when told to stop.
pub async fn run(tasks: Tasks, mut recorder: watch::Receiver<store::Status>, line: impl Fn() -> String + Send) {
    let stop = tasks.stopping();
    // A third of the period, so that one late tick is no restart.
    let watchdog = sd_notify::watchdog_enabled().map(|period| period / 3);
    let mut tick =
        tokio::time::interval(watchdog.unwrap_or(STATUS_EVERY).clamp(Duration::from_millis(100), STATUS_EVERY));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut told = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        // A recorder that is gone says nothing more either.
        if recorder.has_changed().unwrap_or(false) {
            recorder.mark_unchanged();
            heard = Instant::now();
        }
        if watchdog.is_some() && heard.elapsed() < SILENT {
            send(&[NotifyState::Watchdog]);
        }
        let line = line();
        if line != told {
            send(&[NotifyState::Status(&line)]);
            told = line;
        }
    }
}
