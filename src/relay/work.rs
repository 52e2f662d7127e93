//! The workers of a session of the cloud: storage off the runtime, live beside backlog. Spec: `docs/spec/relay.md`.

use super::vault::{Answer, Erasable, JournalAnswer, Party, Trouble, Vault};
use super::wire::control::{Blob, Held, Message, Object};
use super::wire::{ChunkHead, LiveHead, Violation};
use crate::base::chain::Signed;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// A box that takes no answer for this long is left: it does not read its control stream.
const ANSWERING: Duration = Duration::from_secs(10);

/// The queues of a session's two workers: live, journal and questions never wait for the backlog.
#[derive(Clone)]
pub(super) struct Jobs {
    pub(super) prompt: mpsc::Sender<Job>,
    pub(super) backlog: mpsc::Sender<Job>,
}

impl Jobs {
    fn queue(&self, job: &Job) -> &mpsc::Sender<Job> {
        match job {
            Job::Object(_) | Job::Chunk(..) => &self.backlog,
            Job::Live(..) | Job::Journal(_) | Job::Erase(_) => &self.prompt,
        }
    }

    /// Waits for room in the job's queue; without a job for ever.
    pub(super) async fn room(&self, job: Option<&Job>) -> Result<mpsc::Permit<'_, Job>, mpsc::error::SendError<()>> {
        match job {
            Some(job) => self.queue(job).reserve().await,
            None => std::future::pending().await,
        }
    }

    /// Waits for room; false if the worker is gone.
    pub(super) async fn send(&self, job: Job) -> bool {
        self.queue(&job).send(job).await.is_ok()
    }
}

pub(super) enum Job {
    Live(LiveHead, Bytes),
    Chunk(ChunkHead, Bytes),
    Object(Object),
    Journal(Vec<Signed>),
    Erase(Vec<Held>),
}

/// Chunk bytes of a session, in all.
#[derive(Default)]
pub(super) struct Account {
    pub(super) received: AtomicU64,
    pub(super) allowed: AtomicU64,
}

/// Puts an answer on its way; waits for a box that reads slowly, but not for one that does not read. Not on the runtime.
pub(super) fn answer(
    runtime: &tokio::runtime::Handle,
    control: &mpsc::Sender<Message>,
    message: Message,
) -> Result<(), Trouble> {
    match control.try_send(message) {
        Ok(()) => Ok(()),
        // The session is over.
        Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        Err(mpsc::error::TrySendError::Full(message)) => runtime
            .block_on(async { tokio::time::timeout(ANSWERING, control.send(message)).await })
            .map(|_| ())
            .map_err(|_| Trouble::Failed("relay-control-stuck")),
    }
}

/// One of the session's workers: one job after another, off the runtime.
pub(super) fn work(
    vault: &dyn Vault,
    party: &Party,
    mut todo: mpsc::Receiver<Job>,
    say: &dyn Fn(Message) -> Result<(), Trouble>,
    account: &Account,
) -> Result<(), Trouble> {
    let answer = |segment, answer| {
        say(match answer {
            Answer::Have(ranges) => Message::Have { segment, ranges },
            Answer::Committed(statement) => Message::Committed { statement: Blob(statement) },
            Answer::Rejected(reason) => Message::Rejected { segment, reason },
        })
    };
    while let Some(job) = todo.blocking_recv() {
        match job {
            Job::Live(head, bytes) => vault.live(party, &head, &bytes)?,
            Job::Chunk(head, bytes) => {
                let len = bytes.len() as u64;
                if account.received.fetch_add(len, Ordering::Relaxed) + len > account.allowed.load(Ordering::Relaxed) {
                    return Err(Trouble::Violation(Violation::Unasked));
                }
                if let Some(said) = vault.chunk(party, head.segment, head.offset, &bytes)? {
                    answer(head.segment, said)?;
                }
            }
            Job::Object(object) => answer(object.segment, vault.object(party, &object)?)?,
            Job::Journal(entries) => match vault.journal(party, &entries)? {
                JournalAnswer::Kept(statement) => {
                    say(Message::JournalAck { statement: Blob(statement) })?;
                }
                JournalAnswer::After(head) => {
                    say(Message::JournalAfter { head })?;
                }
                JournalAnswer::Forked => {}
            },
            Job::Erase(asked) => {
                let Erasable { yes, no, unknown } = vault.erase(party, &asked)?;
                say(Message::Erase { yes, no, unknown })?;
            }
        }
    }
    Ok(())
}
