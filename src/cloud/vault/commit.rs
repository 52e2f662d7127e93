//! The durable yes: verification, commit, receipts, opening after the fact, permission to erase.
//!
//! Belongs here: steps 1-6 of "Commit" in [`super`]. Does not belong here: receiving.

use super::db::Db;
use super::{
    Answer, FileState, Object, Peer, RECIPIENT_FOREIGN, ReceiptFields, SEGMENT_REJECTED, SegmentRow, Slot, Vault,
    VaultError, folder, lock, stem,
};
use crate::base::ids::{BoxId, Digest, SegmentId};
use crate::cloud::vault::keyring::Keyring;
use crate::seal::{Header, Scan};
use std::path::PathBuf;
use std::sync::PoisonError;

/// Verifications of one object before it is refused: the first may have met bytes that were received live and differ.
const ATTEMPTS: u32 = 2;

/// The answer to ERASE? for one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayErase {
    /// Whole, proven, opened, long enough here.
    Yes,
    /// Held, and it must stay on the card all the same: too early, not opened yet, or an alarm is open.
    No,
    /// Not held with that digest: never was, or this cloud has lost it. The box offers it again.
    Unknown,
}

impl Vault {
    /// The object's bytes are all there: verify and commit, or ask once more, or refuse.
    pub(super) fn finish(&self, peer: Peer, slot: &mut Slot) -> Result<Answer, VaultError> {
        let inner = &*self.0;
        let Some(part) = &mut slot.part else { return Ok(Answer::Have(super::Ranges::default())) };
        let Some((size, sha256)) = part.row.object else { return Ok(Answer::Have(part.row.have.clone())) };
        let object = Object { segment: part.row.segment, size, sha256, cut: part.row.cut };
        self.flush_part(part)?;
        let path = part.path.clone();
        let reading = |source| VaultError::Io { doing: "reading", path: path.clone(), source };
        let Some(scan) = part.verdict(size).map_err(reading)? else {
            return Ok(Answer::Have(part.row.have.clone()));
        };
        let header = match self.verify(peer, &object, &scan) {
            Ok(header) => header,
            Err(reason) => {
                inner.counters.add(reason, 1);
                // What a checkpoint proves stays; the rest is asked for again. Where all of it is proven, asking again
                // would bring other bytes than the signed ones.
                part.keep_proven(size).map_err(reading)?;
                part.row.attempts += if part.row.have.covers(&(0..size)) { ATTEMPTS } else { 1 };
                let segment = object.segment;
                tracing::warn!(%segment, reason, attempts = part.row.attempts, "object does not verify");
                if part.row.attempts >= ATTEMPTS {
                    part.row.state = FileState::Rejected;
                    part.row.reason = Some(reason.into());
                    self.store(part)?;
                    lock(&inner.refused).insert(part.row.id);
                    slot.part = None;
                    let text = format!("the file that the box sent does not verify: {reason}");
                    self.alarm(SEGMENT_REJECTED, Some(peer.box_id), Some(segment), &text);
                    return Ok(Answer::Rejected(reason.into()));
                }
                self.store(part)?;
                return Ok(Answer::Have(part.row.have.clone()));
            }
        };
        // Live bytes beyond the end that a crash left there.
        part.drop_beyond(&inner.disk, size).map_err(reading)?;
        let folder = self.folder(peer.box_id);
        let name = folder.join(format!("{}.mvs", stem(object.segment, part.row.variant)));
        if part.path != name {
            let renaming = |source| VaultError::Io { doing: "renaming", path: name.clone(), source };
            inner.disk.rename(&part.path, &name).map_err(renaming)?;
            part.path.clone_from(&name);
        }
        let syncing = |source| VaultError::Io { doing: "syncing", path: folder.clone(), source };
        inner.disk.sync_folder(&folder).map_err(syncing)?;
        let (opened, foreign) = {
            let keyring = inner.keyring.read().unwrap_or_else(PoisonError::into_inner);
            (self.opens(&keyring, &header, object.segment), keyring.foreign(&header))
        };
        part.row.state = FileState::Committed;
        part.row.opened = opened;
        part.row.units = part.count_units(size).map_err(reading)?;
        part.row.committed_at = Some(self.now());
        self.commit_step()?;
        let statement = self.db().transaction::<_, VaultError>(|db| {
            db.update_segment(&part.row)?;
            self.sign_receipt(db, peer, &part.row)
        });
        // Whatever happened, the row in memory is no longer the truth.
        slot.part = None;
        let statement = statement?;
        for key in foreign {
            let text = format!("sealed to key {key}, which is neither the organisation's nor a recovery key");
            self.alarm(RECIPIENT_FOREIGN, Some(peer.box_id), Some(object.segment), &text);
        }
        inner.counters.add("committed", 1);
        Ok(Answer::Committed(statement))
    }

    /// OBJECT of a committed file: the same receipt again, or a new one if the file was opened since.
    pub(super) fn committed_again(&self, peer: Peer, row: &SegmentRow) -> Result<Answer, VaultError> {
        if let Some(statement) = self.db().receipt(row.id)? {
            return Ok(Answer::Committed(statement));
        }
        self.commit_step()?;
        let statement = self.db().transaction::<_, VaultError>(|db| self.sign_receipt(db, peer, row))?;
        Ok(Answer::Committed(statement))
    }

    /// Whether the box may erase each of these now.
    ///
    /// # Errors
    /// `Db`.
    pub fn may_erase(&self, box_id: BoxId, asked: &[(SegmentId, Digest)]) -> Result<Vec<MayErase>, VaultError> {
        let db = self.db();
        let blocked = db.erase_blocked(box_id)?;
        if let Some(code) = &blocked {
            tracing::warn!(%box_id, code, "erasure refused until the alarm is cleared");
        }
        let now = self.now();
        let wait = i64::try_from(self.0.settings.erase_after.as_millis()).unwrap_or(i64::MAX);
        let mut answers = Vec::with_capacity(asked.len());
        for (segment, sha256) in asked {
            let rows = db.variants(box_id, *segment)?;
            let held = rows.iter().find(|row| {
                row.state == FileState::Committed
                    && row.object.is_some_and(|(size, committed)| {
                        committed == *sha256 && std::fs::metadata(self.whole(row)).is_ok_and(|meta| meta.len() == size)
                    })
            });
            let Some(row) = held else {
                self.0.counters.add("erase-unknown", 1);
                answers.push(MayErase::Unknown);
                continue;
            };
            let waited = row.committed_at.is_some_and(|at| now.0.saturating_sub(at.0) >= wait);
            answers.push(if blocked.is_none() && row.opened && waited { MayErase::Yes } else { MayErase::No });
        }
        Ok(answers)
    }

    /// New keys; those of a locked keyring stop opening anything new.
    pub fn set_keyring(&self, keyring: Keyring) {
        *self.0.keyring.write().unwrap_or_else(PoisonError::into_inner) = keyring;
    }

    /// The keys in use.
    #[must_use]
    pub fn keyring(&self) -> Keyring {
        self.0.keyring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tries to open up to `limit` committed files that were committed while locked, after row `after`; each that opens
    /// gets a new receipt. Returns the last row looked at, `None` when there are no more.
    ///
    /// # Errors
    /// `Db`.
    pub fn open_earlier(&self, after: i64, limit: u32) -> Result<Option<i64>, VaultError> {
        let keyring = self.keyring();
        if keyring.is_locked() {
            return Ok(None);
        }
        let rows = self.db().unopened(after, limit)?;
        let last = rows.last().map(|row| row.id);
        for mut row in rows {
            let Some(header) = super::read::header_of(&self.whole(&row)) else {
                self.0.counters.add("header-unreadable", 1);
                continue;
            };
            if !self.opens(&keyring, &header, row.segment) {
                continue;
            }
            row.opened = true;
            self.commit_step()?;
            self.db().transaction::<_, VaultError>(|db| {
                let pairing = db.pairings()?.into_iter().rfind(|p| p.box_id == row.box_id);
                db.update_segment(&row)?;
                if let Some(pairing) = pairing {
                    self.sign_receipt(db, Peer { box_id: row.box_id, pairing: pairing.pairing }, &row)?;
                }
                Ok(())
            })?;
        }
        Ok(last)
    }

    fn whole(&self, row: &SegmentRow) -> PathBuf {
        folder(&self.0.settings.data, row.box_id).join(format!("{}.mvs", stem(row.segment, row.variant)))
    }

    fn opens(&self, keyring: &Keyring, header: &Header, segment: SegmentId) -> bool {
        match keyring.open(header) {
            None => false,
            Some(Ok(_)) => true,
            Some(Err(error)) => {
                self.0.counters.add("segment-does-not-open", 1);
                tracing::warn!(%segment, %error, "committed, but it does not open with the organisation's key");
                false
            }
        }
    }

    /// What must hold before a yes; the code of the first thing that does not.
    fn verify(&self, peer: Peer, object: &Object, scan: &Scan) -> Result<Header, &'static str> {
        if scan.size != object.size {
            return Err("object-size");
        }
        if scan.sha256 != object.sha256 {
            return Err("object-digest");
        }
        if let Some(fault) = scan.fault {
            return Err(fault.code);
        }
        let header = scan.header.as_ref().ok_or("object-no-header")?;
        if scan.end.is_none() {
            return Err("object-no-end");
        }
        if header.segment != object.segment {
            return Err("object-other-segment");
        }
        if header.box_id != peer.box_id {
            return Err("object-other-box");
        }
        if header.organisation != self.0.settings.organisation {
            return Err("object-other-organisation");
        }
        Ok(header.clone())
    }

    /// Numbers and signs a receipt, inside the caller's transaction.
    fn sign_receipt(&self, db: &Db, peer: Peer, row: &SegmentRow) -> Result<Vec<u8>, VaultError> {
        let (size, sha256) = row.object.ok_or(super::DbError::Malformed { what: "committed segment" })?;
        let at = self.now();
        let number = db.next_receipt(row.id, row.opened, at)?;
        let statement = super::statement(
            &ReceiptFields {
                organisation: self.0.settings.organisation,
                peer,
                segment: row.segment,
                size,
                sha256,
                opened: row.opened,
                number,
                at,
            },
            &*self.0.receipt_key,
        );
        db.set_receipt(number, &statement)?;
        Ok(statement)
    }

    /// Segments being received, for status.
    #[must_use]
    pub fn receiving(&self) -> usize {
        lock(&self.0.slots).len()
    }
}
