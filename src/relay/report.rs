//! The journal half of the box, pure: which entries the cloud is sent, and when. Spec: `docs/spec/relay.md`, "Journal".
//!
//! ```text
//! idle ─due, head is not known there─▶ reading ─news, or long enough─▶ awaiting ─JOURNAL_ACK─▶ idle
//!   ▲                                    │ nothing worth sending           │ JOURNAL AFTER, or no answer
//!   └────────────────────────────────────┴─────────────────────────────────┘
//! ```

use super::wire::MAX_CONTROL;
use super::wire::control::Blob;
use crate::base::chain::{Head, Signed};
use crate::seal::JournalEntry;
use crate::seal::journal::LOG;
use std::time::Duration;
use tokio::time::Instant;

/// Entries are sent at the latest after this, even if they say nothing but that earlier ones were acknowledged.
const AT_LEAST: Duration = Duration::from_secs(50);
/// The journal is looked at this often; what it says about acknowledgements alone would otherwise be read without end.
const EVERY: Duration = Duration::from_secs(1);
/// After it could not be read, or the cloud names a head that it does not have.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Entries that the cloud does not answer, for example while a fork is looked at, are sent again after this.
const ANSWER: Duration = Duration::from_secs(60);

/// What an acknowledgement is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Of the entries that were sent: to be journaled.
    Ours,
    /// Nobody waits for it: it changes nothing.
    Unasked,
}

/// What of the journal the cloud has, and what it is being told.
#[derive(Debug, Default)]
pub struct Report {
    known: Option<Head>,
    busy: bool,
    sent: Option<Instant>,
    awaited: Option<Head>,
    next: Option<Instant>,
}

impl Report {
    /// A session begins: the cloud has the journal up to `known`.
    #[must_use]
    pub fn new(known: Option<Head>) -> Self {
        Self { known, ..Self::default() }
    }

    /// The head after which to read, if it is time to read.
    pub fn poll(&mut self, head: Option<Head>, now: Instant) -> Option<Option<Head>> {
        let unheard = self.sent.is_some_and(|at| now.duration_since(at) >= ANSWER);
        if self.awaited.is_some() && unheard {
            (self.awaited, self.busy, self.sent) = (None, false, None);
        }
        if self.busy || self.next.is_some_and(|at| at > now) || head == self.known {
            return None;
        }
        self.busy = true;
        self.next = Some(now + EVERY);
        Some(self.known)
    }

    /// The entries were read: those to send now, if any.
    pub fn read(&mut self, entries: &[Signed], now: Instant) -> Option<Vec<Blob>> {
        self.busy = false;
        // An acknowledgement is an entry too: alone it waits, or box and cloud would acknowledge each other for ever.
        let news = entries.iter().any(|signed| {
            !matches!(
                JournalEntry::decode(signed.entry.kind, &signed.entry.body),
                Ok(Some(JournalEntry::Acknowledged { .. }))
            )
        });
        let waited = self.sent.is_none_or(|at| now.duration_since(at) >= AT_LEAST);
        if entries.is_empty() || !(news || waited) {
            return None;
        }
        let mut size = 0;
        let fits = |signed: &&Signed| {
            size += signed.bytes.len() + 80;
            size < MAX_CONTROL - 1024
        };
        let entries: Vec<_> = entries.iter().take_while(fits).collect();
        self.awaited = entries.last().map(|signed| signed.head(LOG));
        self.busy = true;
        self.sent = Some(now);
        Some(entries.into_iter().map(|signed| Blob(signed.to_frame())).collect())
    }

    /// They could not be read.
    pub fn unreadable(&mut self, now: Instant) {
        self.busy = false;
        self.next = Some(now + AFTER_FAILURE);
    }

    /// JOURNAL AFTER.
    pub fn after(&mut self, head: Option<Head>, now: Instant) {
        // At most once a second: a cloud that asks without end gets no more than that.
        *self = Self { known: head, next: Some(now + EVERY), ..Self::default() };
    }

    /// JOURNAL_ACK, whose signature held.
    pub fn acknowledged(&mut self, head: Head) -> Heard {
        let Some(awaited) = self.awaited.take() else { return Heard::Unasked };
        self.known = Some(head);
        self.busy = false;
        // Another head than that of the entries sent: true, but it needs no entry of its own.
        if head == awaited { Heard::Ours } else { Heard::Unasked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::chain::{Signer, SoftwareSigner};
    use crate::base::ids::BootId;
    use crate::base::units::{BootTime, Run};

    fn log(signer: &dyn Signer, entries: &[JournalEntry]) -> Vec<Signed> {
        let run = Run { boot: BootId([7; 16]), start: 1 };
        let mut head = None;
        entries
            .iter()
            .map(|entry| {
                let (kind, body) = entry.encode();
                let signed = Signed::append(LOG, head, signer, run, BootTime(1), kind, body);
                head = Some(signed.head(LOG));
                signed
            })
            .collect()
    }

    fn alarm() -> JournalEntry {
        JournalEntry::Alarm { code: "test".into() }
    }

    #[test]
    fn an_acknowledgement_counts_once_and_is_not_acknowledged_at_once() {
        let signer = SoftwareSigner::generate();
        let first = log(&signer, &[alarm()]);
        let head = first[0].head(LOG);
        let now = Instant::now();
        let mut report = Report::default();
        assert_eq!(report.acknowledged(head), Heard::Unasked, "nothing was sent");
        assert_eq!(report.poll(Some(head), now), Some(None));
        assert_eq!(report.read(&first, now).map(|sent| sent.len()), Some(1));
        assert_eq!(report.poll(Some(head), now + EVERY), None, "one answer at a time");
        assert_eq!(report.acknowledged(head), Heard::Ours);
        assert_eq!(report.acknowledged(head), Heard::Unasked, "once");
        let thanks = log(&signer, &[alarm(), JournalEntry::Acknowledged { head, statement: vec![1] }]);
        let later = now + EVERY;
        assert_eq!(report.poll(Some(thanks[1].head(LOG)), later), Some(Some(head)));
        assert_eq!(report.read(&thanks[1..], later), None, "it waits");
        let later = now + AT_LEAST;
        assert_eq!(report.poll(Some(thanks[1].head(LOG)), later), Some(Some(head)));
        assert!(report.read(&thanks[1..], later).is_some(), "but not for ever");
    }

    #[test]
    fn entries_without_an_answer_are_sent_again() {
        let signer = SoftwareSigner::generate();
        let entries = log(&signer, &[alarm()]);
        let head = Some(entries[0].head(LOG));
        let now = Instant::now();
        let mut report = Report::default();
        assert_eq!(report.poll(head, now), Some(None));
        assert!(report.read(&entries, now).is_some());
        assert_eq!(report.poll(head, now + ANSWER - EVERY), None);
        assert_eq!(report.poll(head, now + ANSWER), Some(None));
        assert!(report.read(&entries, now + ANSWER).is_some());
        report.after(None, now + ANSWER);
        assert_eq!(report.poll(head, now + ANSWER), None, "asked for again, but not at once");
        assert_eq!(report.poll(head, now + ANSWER + EVERY), Some(None));
        report.unreadable(now + ANSWER + EVERY);
        assert_eq!(report.poll(head, now + ANSWER + EVERY), None);
    }
}
