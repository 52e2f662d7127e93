//! A box's journal as the cloud keeps it: checked link by link, never rewritten; a fork stops all erasure.
//!
//! Belongs here: what entries mean to the cloud. Does not belong here: the chain itself (`base::chain`), the meaning on
//! the box (`seal::journal`).

use super::db::Db;
use super::{DESTROYED_UNCOMMITTED, JOURNAL_ELSEWHERE, JOURNAL_FORK, Peer, RECIPIENT_FOREIGN, Vault, VaultError};
use crate::base::chain::{self, Head, Signed};
use crate::base::ids::SegmentId;
use crate::base::reason::Coded;
use crate::seal::{JournalEntry, journal};

/// What became of entries that a box sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalAnswer {
    /// All of them are durable; this is the head now.
    Kept(Head),
    /// They do not start where the cloud's journal ends: the box sends those after this head.
    SendAfter(Option<Head>),
    /// They contradict what the cloud has: nothing was stored, nothing may be erased.
    Forked,
    /// Not signed by this box, or malformed: the session ends with this code.
    Refused(&'static str),
}

/// What to tell people about entries, once they are stored.
#[derive(Default)]
struct Findings {
    alarms: Vec<(&'static str, Option<SegmentId>, String)>,
}

impl Vault {
    /// Takes consecutive entries of the box's journal. Those that are known already are skipped.
    ///
    /// # Errors
    /// `Db`, `Io`, `UnknownBox`.
    pub fn journal(&self, peer: Peer, entries: &[Signed]) -> Result<JournalAnswer, VaultError> {
        let key = self.db().evidence(peer.box_id)?.ok_or(VaultError::UnknownBox(peer.box_id))?;
        let mut findings = Findings::default();
        self.commit_step()?;
        let answer = self.db().transaction::<_, VaultError>(|db| {
            let mut head = db.journal_head(peer.box_id)?;
            let mut kept = Vec::new();
            for entry in entries {
                let own = entry.head(journal::LOG);
                if let Some(known) = head.filter(|head| entry.entry.seq <= head.seq) {
                    // Known already, or another history: its signature decides whose word that is.
                    if db.journal_hash(peer.box_id, own.seq)? == Some(own.hash) {
                        continue;
                    }
                    tracing::debug!(seq = own.seq, known = known.seq, "journal entry contradicts");
                }
                let before = self.before(entry, head, &mut findings);
                match entry.check(journal::LOG, before, &key) {
                    Ok(next) => {
                        db.append_journal(peer.box_id, next, &entry.to_frame(), self.now())?;
                        head = Some(next);
                        kept.push(entry);
                    }
                    Err(chain::Error::Broken { seq, after }) if seq > after.map_or(0, |after| after + 1) => {
                        return Ok(JournalAnswer::SendAfter(head));
                    }
                    Err(chain::Error::Broken { .. }) => return Ok(JournalAnswer::Forked),
                    Err(error) => return Ok(JournalAnswer::Refused(error.code())),
                }
            }
            for entry in kept {
                self.read_entry(db, peer, entry, &mut findings)?;
            }
            Ok(head.map_or(JournalAnswer::SendAfter(None), JournalAnswer::Kept))
        })?;
        for (code, segment, text) in findings.alarms {
            self.alarm(code, Some(peer.box_id), segment, &text);
        }
        if answer == JournalAnswer::Forked {
            self.forked(peer)?;
        }
        Ok(answer)
    }

    /// What an entry must follow: the head, or for a `card` entry behind a hole whatever its signature says. The entries
    /// between are on a card that was taken out before they could be sent.
    fn before(&self, entry: &Signed, head: Option<Head>, findings: &mut Findings) -> Option<Head> {
        let seq = entry.entry.seq;
        let next = head.map_or(0, |head| head.seq.saturating_add(1));
        if seq <= next || !JournalEntry::is_card(entry) {
            return head;
        }
        let text =
            format!("journal entries {next} to {} are on a card that was taken out before they were sent", seq - 1);
        findings.alarms.push((JOURNAL_ELSEWHERE, None, text));
        Some(Head { seq: seq - 1, hash: entry.entry.prev })
    }

    /// Compares the head that a box states at the start of a session. True if it extends or equals what is known.
    ///
    /// # Errors
    /// `Db`, `Io`.
    pub fn check_head(&self, peer: Peer, stated: Option<Head>) -> Result<bool, VaultError> {
        let Some(known) = self.db().journal_head(peer.box_id)? else { return Ok(true) };
        let extends = match stated {
            None => false,
            Some(stated) if stated.seq > known.seq => true,
            Some(stated) => stated == known,
        };
        if !extends {
            self.forked(peer)?;
        }
        Ok(extends)
    }

    fn forked(&self, peer: Peer) -> Result<(), VaultError> {
        self.commit_step()?;
        self.db().block_erase(peer.box_id, Some(JOURNAL_FORK))?;
        self.alarm(
            JOURNAL_FORK,
            Some(peer.box_id),
            None,
            "the box's journal does not extend what the cloud has: rolled back or cloned. The box may erase nothing until \
             somebody has looked and cleared this alarm",
        );
        Ok(())
    }

    fn read_entry(&self, db: &Db, peer: Peer, entry: &Signed, findings: &mut Findings) -> Result<(), VaultError> {
        let decoded = match JournalEntry::decode(entry.entry.kind, &entry.entry.body) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => return Ok(()),
            Err(_) => {
                // Signed and in the chain, so it is kept; a later version may understand it.
                self.counters().add("journal-entry-malformed", 1);
                return Ok(());
            }
        };
        let ours = self.0.settings.organisation;
        match decoded {
            JournalEntry::Opened { segment, organisation, .. } if organisation == ours => {
                db.announce_opened(peer.box_id, segment)?;
            }
            JournalEntry::Closed { segment, size, sha256, .. } => {
                db.announce_closed(peer.box_id, segment, size, sha256)?;
            }
            JournalEntry::Destroyed { segment, .. } => {
                let lost = db.announce_destroyed(peer.box_id, segment)?;
                let text = "the box erased a segment that was never committed here (journaled by the box)";
                findings.alarms.extend(lost.then(|| (DESTROYED_UNCOMMITTED, Some(segment), text.to_owned())));
            }
            JournalEntry::Recipients { organisation, keys } if organisation == ours => {
                let keyring = self.keyring();
                for key in keys.into_iter().filter(|key| !keyring.knows(*key)) {
                    let text = format!("the box now seals to key {key}, which is not the organisation's");
                    findings.alarms.push((RECIPIENT_FOREIGN, None, text));
                }
            }
            JournalEntry::Alarm { code } => {
                findings.alarms.push(("box-alarm", None, format!("the box's journal reports {code}")));
            }
            _ => {}
        }
        Ok(())
    }
}
