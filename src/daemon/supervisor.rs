//! Keeps services running: starts one again when it stops by itself, after a pause, and says why it stopped.
//!
//! The one layer that starts services again. A panic is a stop like any other: the rest of the box goes on. Does not
//! belong here: what a service does, or which one may not be started again (the recorder: its stop ends the daemon, see
//! [`super::app`]).

use crate::base::ids::random_bytes;
use crate::base::reason::{Coded, Counters, chain};
use crate::base::tasks::Tasks;
use crate::control::status::Service;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// First pause before a service is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause: a camera or a cloud that is back is served within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After running so long a service is healthy, and its next pause is the first again.
const HEALTHY: Duration = Duration::from_secs(60);

/// What is known of each service; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Board(watch::Sender<BTreeMap<&'static str, Service>>);

impl Board {
    /// All services, by name.
    #[must_use]
    pub fn services(&self) -> Vec<Service> {
        self.0.borrow().values().cloned().collect()
    }

    /// Notes a service's state.
    pub fn set(&self, name: &'static str, state: &str, reason: Option<String>) {
        self.0.send_modify(|services| {
            let service = services.entry(name).or_insert_with(|| Service {
                name: name.to_owned(),
                state: String::new(),
                restarts: 0,
                reason: None,
            });
            state.clone_into(&mut service.state);
            service.reason = reason.or(service.reason.take());
        });
    }

    fn restarted(&self, name: &'static str) {
        self.0.send_modify(|services| {
            if let Some(service) = services.get_mut(name) {
                service.restarts += 1;
                service.state = "running".to_owned();
            }
        });
    }
}

/// Runs a service until `tasks` is told to stop. `start` makes one run of it; the run gets its own part of the tasks,
/// which is stopped when the run ends, so that nothing of an old run lives beside the new one.
pub async fn keep<F, Fut, E>(tasks: Tasks, name: &'static str, board: Board, counters: Counters, mut start: F)
where
    F: FnMut(Tasks) -> Fut + Send,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: std::error::Error + Coded + Send + 'static,
{
    let stop = tasks.stopping();
    let mut pause = FIRST_PAUSE;
    board.set(name, "running", None);
    while !stop.is_cancelled() {
        let part = tasks.part();
        let began = Instant::now();
        let ended = tasks.spawn(name, start(part.clone())).await;
        part.stopping().cancel();
        let reason = match ended {
            _ if stop.is_cancelled() => break,
            Ok(Ok(())) => "stopped by itself".to_owned(),
            Ok(Err(error)) => {
                counters.count(&error);
                format!("{} [{}]", chain(&error), error.code())
            }
            Err(_) => {
                counters.add("service-panicked", 1);
                "panicked; see the log".to_owned()
            }
        };
        if began.elapsed() >= HEALTHY {
            pause = FIRST_PAUSE;
        }
        tracing::warn!(service = name, reason, pause_ms = pause.as_millis(), "service stopped, will be started again");
        board.set(name, "waiting", Some(reason));
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(jittered(pause)) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        board.restarted(name);
    }
    board.set(name, "stopped", None);
}

/// 75 to 125 %: many boxes that lost the same cloud must not return in one instant.
fn jittered(pause: Duration) -> Duration {
    let [random] = random_bytes::<1>();
    pause.mul_f64(0.75 + f64::from(random) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug, thiserror::Error)]
    #[error("it broke")]
    struct Broke;

    impl Coded for Broke {
        fn code(&self) -> &'static str {
            "broke"
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_fails_or_panics_is_started_again_with_growing_pauses() {
        let (tasks, board, counters) = (Tasks::default(), Board::default(), Counters::default());
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let began = Instant::now();
        let kept = tasks.spawn(
            "keeper",
            keep(tasks.part(), "test", board.clone(), counters.clone(), move |part| {
                let run = counted.fetch_add(1, Ordering::SeqCst);
                async move {
                    match run {
                        0 => panic!("on purpose"),
                        1..4 => Err(Broke),
                        _ => {
                            part.stopping().cancelled().await;
                            Ok(())
                        }
                    }
                }
            }),
        );
        while runs.load(Ordering::SeqCst) < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // 0.5 + 1 + 2 + 4 s, each ± 25 %.
        let waited = began.elapsed();
        assert!((Duration::from_millis(5600)..Duration::from_millis(9500)).contains(&waited), "{waited:?}");
        assert_eq!((counters.total("broke"), counters.total("service-panicked")), (3, 1));
        let service = board.services().remove(0);
        assert_eq!((service.state.as_str(), service.restarts), ("running", 4));
        assert_eq!(service.reason.as_deref(), Some("it broke [broke]"));
        assert!(tasks.stop(Duration::from_secs(1)).await);
        kept.await.expect("no panic reaches the keeper");
        assert_eq!(board.services()[0].state, "stopped");
    }
}
