//! The box's uplink as a service: dials, runs a session, and dials again with a capped, jittered back-off.
//!
//! This is the only layer that retries. One link in this version; the set of links comes with the bonded uplink.

use super::link::{Dialer, Link};
use super::live::Live;
use super::session::{self, Ended, Keeper, Party, Shared};
use crate::base::clock::Clock;
use crate::base::ids::random_bytes;
use crate::base::reason::{Coded, Counters};
use crate::base::tasks::Tasks;
use crate::seal::{SealedFrame, SegmentSource, Tap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A session that lasted this long makes the next attempt come soon.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// What the uplink does now.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// A session stands.
    pub connected: bool,
    /// The stable code of the last failure or end.
    pub reason: Option<String>,
    /// Sessions so far.
    pub sessions: u64,
    /// Attempts since the last session.
    pub attempts: u32,
}

/// Why the service ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// Asked to stop.
    Stopped,
    /// The cloud ended the pairing; everything is wiped.
    Revoked,
}

/// Frames of the recorder go here; what viewers want is taken from it. Cheap to clone; outlives sessions and pairings.
#[derive(Clone)]
pub struct LiveTap {
    live: Arc<Mutex<Live>>,
    bell: Arc<Notify>,
}

impl LiveTap {
    /// Nothing yet.
    #[must_use]
    pub fn new(counters: Counters) -> Self {
        Self { live: Arc::new(Mutex::new(Live::new(counters))), bell: Arc::default() }
    }

    /// Subscriptions of the present session.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).subscriptions()
    }
}

impl Tap for LiveTap {
    fn frame(&self, frame: &SealedFrame) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.frame(frame, Instant::now());
        if live.is_waiting() {
            self.bell.notify_one();
        }
    }
}

/// The service.
pub struct Uplink<D: Dialer> {
    dialer: D,
    party: Party,
    shared: Shared,
    status: watch::Sender<Status>,
}

impl<D: Dialer> Uplink<D> {
    /// An uplink for one pairing.
    #[must_use]
    pub fn new(
        dialer: D,
        party: Party,
        tap: &LiveTap,
        source: Arc<dyn SegmentSource>,
        clock: Clock,
        keeper: Arc<dyn Keeper>,
        counters: Counters,
    ) -> Self {
        let store_bell = Arc::new(Notify::new());
        let rung = store_bell.clone();
        source.on_change(Box::new(move || rung.notify_one()));
        let shared =
            Shared { live: tap.live.clone(), live_bell: tap.bell.clone(), store_bell, source, clock, keeper, counters };
        Self { dialer, party, shared, status: watch::Sender::default() }
    }

    /// The state, at each change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until told to stop or revoked.
    pub async fn run(self, tasks: Tasks) -> StopReason {
        let stop = tasks.stopping();
        let mut wait = FIRST_WAIT;
        loop {
            let dialled = tokio::select! {
                biased;
                () = stop.cancelled() => return StopReason::Stopped,
                dialled = self.dialer.dial() => dialled,
            };
            let began = Instant::now();
            match dialled {
                Err(error) => {
                    self.shared.counters.count(&error);
                    let known = self.status.borrow().reason.as_deref() == Some(error.code());
                    if !known {
                        tracing::warn!(%error, "no link to the cloud");
                    }
                    self.status.send_modify(|status| {
                        status.connected = false;
                        status.attempts += 1;
                        status.reason = Some(error.code().into());
                    });
                }
                Ok((link, control)) => {
                    tracing::info!("link to the cloud");
                    self.status.send_modify(|status| {
                        status.connected = true;
                        status.sessions += 1;
                        status.attempts = 0;
                        status.reason = None;
                    });
                    let closer = link.clone();
                    let ended =
                        session::run(link, control, self.party.clone(), self.shared.clone(), stop.clone()).await;
                    closer.close("over");
                    let code = match &ended {
                        Ended::Stopped => "shutdown".to_owned(),
                        Ended::Revoked => "revoked".to_owned(),
                        Ended::Link(code) => code.clone(),
                        Ended::Violation(violation) => {
                            self.shared.counters.count(violation);
                            violation.code().to_owned()
                        }
                    };
                    tracing::info!(code, "the session with the cloud ended");
                    self.status.send_modify(|status| {
                        status.connected = false;
                        status.reason = Some(code);
                    });
                    match ended {
                        Ended::Stopped => return StopReason::Stopped,
                        Ended::Revoked => return StopReason::Revoked,
                        Ended::Link(_) | Ended::Violation(_) => {}
                    }
                    if began.elapsed() >= GOOD_SESSION {
                        wait = FIRST_WAIT;
                    }
                }
            }
            let jitter = u64::from(random_bytes::<1>()[0]);
            let pause = wait.mul_f64(0.75 + 0.5 * jitter as f64 / 255.0);
            wait = (wait * 2).min(LONGEST_WAIT);
            tokio::select! {
                biased;
                () = stop.cancelled() => return StopReason::Stopped,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
