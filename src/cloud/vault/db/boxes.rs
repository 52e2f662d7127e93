//! Rows about boxes: evidence keys, pairings, journals.
//!
//! Belongs here: the statements of the tables `boxes`, `pairings` and `journal`. Does not belong here: decisions.

use super::{Db, DbError, int, sql, uint};
use crate::base::chain::{Head, PublicKey};
use crate::base::ids::{BoxId, Digest, PairingId, SegmentId};
use crate::base::units::WallTime;
use rusqlite::{OptionalExtension, params};

/// State of an agreement with a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairingState {
    /// Proofs were right; no pinned session yet.
    Pending,
    /// In use.
    Active,
    /// Revoked here; the box has not confirmed.
    Revoking,
    /// Over.
    Revoked,
}

impl PairingState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoking => "revoking",
            Self::Revoked => "revoked",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Active, Self::Revoking, Self::Revoked].into_iter().find(|s| s.as_str() == text)
    }
}

/// A row of `pairings` with its box.
#[derive(Debug, Clone)]
pub struct PairingRow {
    /// Which agreement.
    pub pairing: PairingId,
    /// With whom.
    pub box_id: BoxId,
    /// The box's evidence key.
    pub evidence: PublicKey,
    /// DER SPKI of the box's TLS identity.
    pub identity: Vec<u8>,
    /// What the box says is printed on it.
    pub serial: String,
    /// Where it stands.
    pub state: PairingState,
    /// Made at.
    pub from: WallTime,
    /// Ended at.
    pub to: Option<WallTime>,
    /// Last time that the box was heard.
    pub last_contact: Option<WallTime>,
    /// Alarm for which nothing may be erased.
    pub erase_blocked: Option<String>,
}

impl Db {
    /// Stores a box and a new pairing with it.
    ///
    /// # Errors
    /// `Sql`.
    pub fn insert_pairing(&self, row: &PairingRow) -> Result<(), DbError> {
        self.c
            .prepare_cached(
                "INSERT INTO boxes(box, evidence, serial, first_seen) VALUES(?1, ?2, ?3, ?4)
                 ON CONFLICT(box) DO UPDATE SET serial = excluded.serial",
            )
            .and_then(|mut s| s.execute(params![row.box_id.0, row.evidence.spki(), row.serial, row.from.0]))
            .map_err(sql("storing a box"))?;
        self.c
            .prepare_cached(
                "INSERT INTO pairings(pairing, box, identity, state, from_ms) VALUES(?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT(pairing) DO NOTHING",
            )
            .and_then(|mut s| {
                s.execute(params![row.pairing.0, row.box_id.0, row.identity, row.state.as_str(), row.from.0])
            })
            .map_err(sql("storing a pairing"))?;
        Ok(())
    }

    /// Changes the state of a pairing; `to` is set when it ends.
    ///
    /// # Errors
    /// `Sql`.
    pub fn set_pairing_state(&self, pairing: PairingId, state: PairingState, now: WallTime) -> Result<(), DbError> {
        let ended = matches!(state, PairingState::Revoking | PairingState::Revoked).then_some(now.0);
        self.c
            .prepare_cached("UPDATE pairings SET state = ?2, to_ms = coalesce(to_ms, ?3) WHERE pairing = ?1")
            .and_then(|mut s| s.execute(params![pairing.0, state.as_str(), ended]))
            .map_err(sql("changing a pairing"))?;
        Ok(())
    }

    /// All pairings, oldest first.
    ///
    /// # Errors
    /// `Sql`, `Malformed`.
    pub fn pairings(&self) -> Result<Vec<PairingRow>, DbError> {
        self.query_pairings("ORDER BY p.from_ms", [])
    }

    /// The newest pairing with this TLS identity, whatever its state.
    ///
    /// # Errors
    /// `Sql`, `Malformed`.
    pub fn pairing_of_identity(&self, identity: &[u8]) -> Result<Option<PairingRow>, DbError> {
        Ok(self.query_pairings("WHERE p.identity = ?1 ORDER BY p.from_ms DESC LIMIT 1", params![identity])?.pop())
    }

    /// One pairing.
    ///
    /// # Errors
    /// `Sql`, `Malformed`.
    pub fn pairing(&self, pairing: PairingId) -> Result<Option<PairingRow>, DbError> {
        Ok(self.query_pairings("WHERE p.pairing = ?1", params![pairing.0])?.pop())
    }

    fn query_pairings(&self, rest: &str, args: impl rusqlite::Params) -> Result<Vec<PairingRow>, DbError> {
        let text = format!(
            "SELECT p.pairing, p.box, b.evidence, p.identity, b.serial, p.state, p.from_ms, p.to_ms, b.last_contact,
             b.erase_blocked FROM pairings p JOIN boxes b ON b.box = p.box {rest}"
        );
        self.rows(&text, args, "pairing", |r| {
            let (Some(evidence), Some(state)) =
                (PublicKey::from_spki(&r.get::<_, Vec<u8>>(2)?), PairingState::parse(&r.get::<_, String>(5)?))
            else {
                return Ok(None);
            };
            Ok(Some(PairingRow {
                pairing: PairingId(r.get(0)?),
                box_id: BoxId(r.get(1)?),
                evidence,
                identity: r.get(3)?,
                serial: r.get(4)?,
                state,
                from: WallTime(r.get(6)?),
                to: r.get::<_, Option<i64>>(7)?.map(WallTime),
                last_contact: r.get::<_, Option<i64>>(8)?.map(WallTime),
                erase_blocked: r.get(9)?,
            }))
        })
    }

    /// The evidence key of a box.
    ///
    /// # Errors
    /// `Sql`, `Malformed`.
    pub fn evidence(&self, box_id: BoxId) -> Result<Option<PublicKey>, DbError> {
        let spki: Option<Vec<u8>> = self
            .c
            .prepare_cached("SELECT evidence FROM boxes WHERE box = ?1")
            .and_then(|mut s| s.query_row([box_id.0], |r| r.get(0)).optional())
            .map_err(sql("reading a box"))?;
        spki.map(|spki| PublicKey::from_spki(&spki).ok_or(DbError::Malformed { what: "evidence key" })).transpose()
    }

    /// Notes that a box was heard.
    ///
    /// # Errors
    /// `Sql`.
    pub fn contact(&self, box_id: BoxId, now: WallTime) -> Result<(), DbError> {
        self.c
            .prepare_cached("UPDATE boxes SET last_contact = ?2 WHERE box = ?1")
            .and_then(|mut s| s.execute(params![box_id.0, now.0]))
            .map_err(sql("noting a contact"))?;
        Ok(())
    }

    /// Forbids (`Some(code)`) or allows again that the box erases anything.
    ///
    /// # Errors
    /// `Sql`.
    pub fn block_erase(&self, box_id: BoxId, code: Option<&str>) -> Result<(), DbError> {
        self.c
            .prepare_cached("UPDATE boxes SET erase_blocked = ?2 WHERE box = ?1")
            .and_then(|mut s| s.execute(params![box_id.0, code]))
            .map_err(sql("blocking erasure"))?;
        Ok(())
    }

    /// The alarm for which a box may erase nothing.
    ///
    /// # Errors
    /// `Sql`.
    pub fn erase_blocked(&self, box_id: BoxId) -> Result<Option<String>, DbError> {
        self.c
            .prepare_cached("SELECT erase_blocked FROM boxes WHERE box = ?1")
            .and_then(|mut s| s.query_row([box_id.0], |r| r.get(0)).optional())
            .map(Option::flatten)
            .map_err(sql("reading a box"))
    }

    /// The last journal entry of a box.
    ///
    /// # Errors
    /// `Sql`.
    pub fn journal_head(&self, box_id: BoxId) -> Result<Option<Head>, DbError> {
        self.c
            .prepare_cached(
                "SELECT j.seq, j.hash FROM journal j JOIN boxes b ON b.box = j.box AND b.branch = j.branch
                 WHERE j.box = ?1 ORDER BY j.seq DESC LIMIT 1",
            )
            .and_then(|mut s| {
                s.query_row([box_id.0], |r| Ok(Head { seq: uint(r.get(0)?), hash: Digest(r.get(1)?) })).optional()
            })
            .map_err(sql("reading a journal"))
    }

    /// The link hash of one entry.
    ///
    /// # Errors
    /// `Sql`.
    pub fn journal_hash(&self, box_id: BoxId, seq: u64) -> Result<Option<Digest>, DbError> {
        self.c
            .prepare_cached(
                "SELECT j.hash FROM journal j JOIN boxes b ON b.box = j.box AND b.branch = j.branch
                 WHERE j.box = ?1 AND j.seq = ?2",
            )
            .and_then(|mut s| s.query_row(params![box_id.0, int(seq)], |r| r.get(0).map(Digest)).optional())
            .map_err(sql("reading a journal"))
    }

    /// Appends one entry.
    ///
    /// # Errors
    /// `Sql`, also when the number is taken.
    pub fn append_journal(&self, box_id: BoxId, head: Head, frame: &[u8], now: WallTime) -> Result<(), DbError> {
        self.c
            .prepare_cached(
                "INSERT INTO journal(box, branch, seq, hash, frame, received)
                 SELECT box, branch, ?2, ?3, ?4, ?5 FROM boxes WHERE box = ?1",
            )
            .and_then(|mut s| s.execute(params![box_id.0, int(head.seq), head.hash.0, frame, now.0]))
            .map_err(sql("storing a journal entry"))?;
        Ok(())
    }

    /// Frames of a box's journal (its newest branch), oldest first.
    ///
    /// # Errors
    /// `Sql`.
    pub fn journal_frames(&self, box_id: BoxId) -> Result<Vec<Vec<u8>>, DbError> {
        self.rows(
            "SELECT j.frame FROM journal j JOIN boxes b ON b.box = j.box AND b.branch = j.branch
             WHERE j.box = ?1 ORDER BY j.seq",
            [box_id.0],
            "journal",
            |r| r.get(0).map(Some),
        )
    }

    /// Notes what the journal says of a segment: opened.
    ///
    /// # Errors
    /// `Sql`.
    pub fn announce_opened(&self, box_id: BoxId, segment: SegmentId) -> Result<(), DbError> {
        self.c
            .prepare_cached(
                "INSERT INTO announced(box, segment, state) VALUES(?1, ?2, 'opened') ON CONFLICT DO NOTHING",
            )
            .and_then(|mut s| s.execute(params![box_id.0, segment.0]))
            .map_err(sql("noting a segment"))?;
        Ok(())
    }

    /// Notes what the journal says of a segment: complete.
    ///
    /// # Errors
    /// `Sql`.
    pub fn announce_closed(&self, box_id: BoxId, segment: SegmentId, size: u64, sha: Digest) -> Result<(), DbError> {
        self.c
            .prepare_cached(
                "UPDATE announced SET state = 'closed', size = ?3, sha256 = ?4
                 WHERE box = ?1 AND segment = ?2 AND state = 'opened'",
            )
            .and_then(|mut s| s.execute(params![box_id.0, segment.0, int(size), sha.0]))
            .map_err(sql("noting a segment"))?;
        Ok(())
    }

    /// Notes what the journal says of a segment: erased. True if it was ours and never committed here.
    ///
    /// # Errors
    /// `Sql`.
    pub fn announce_destroyed(&self, box_id: BoxId, segment: SegmentId) -> Result<bool, DbError> {
        let known = self
            .c
            .prepare_cached("UPDATE announced SET state = 'destroyed' WHERE box = ?1 AND segment = ?2")
            .and_then(|mut s| s.execute(params![box_id.0, segment.0]))
            .map_err(sql("noting a segment"))?;
        let committed: bool = self
            .c
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM segments WHERE box = ?1 AND segment = ?2 AND state = 'committed')",
            )
            .and_then(|mut s| s.query_row(params![box_id.0, segment.0], |r| r.get(0)))
            .map_err(sql("noting a segment"))?;
        Ok(known > 0 && !committed)
    }

    /// Segments that the box's journal closed and that are not committed here.
    ///
    /// # Errors
    /// `Sql`.
    pub fn backlog(&self, box_id: BoxId) -> Result<u64, DbError> {
        self.c
            .prepare_cached(
                "SELECT count(*) FROM announced a WHERE a.box = ?1 AND a.state = 'closed' AND NOT EXISTS(
                 SELECT 1 FROM segments s WHERE s.box = a.box AND s.segment = a.segment AND s.state = 'committed')",
            )
            .and_then(|mut s| s.query_row([box_id.0], |r| r.get(0)))
            .map(uint)
            .map_err(sql("counting a backlog"))
    }
}
