//! The vault's SQLite file: what is known about boxes, segments, receipts, journals and alarms.
//!
//! Belongs here: the schema, its migrations (`PRAGMA user_version`) and one method per statement. Does not belong here:
//! files, decisions. All times are milliseconds since 1970 UTC of the cloud's clock; ids are raw bytes.
//!
//! | table | one row is |
//! |---|---|
//! | `boxes` | a box and its evidence key, kept for ever; `erase_blocked` = the alarm for which nothing may be erased; `branch` = number of times that an administrator accepted a forked journal |
//! | `pairings` | one agreement with a box: identity SPKI, `pending`/`active`/`revoking`/`revoked`, from, to |
//! | `journal` | one signed entry of a box's journal, as received; only the newest `branch` goes on |
//! | `announced` | a segment of our organisation that a box's journal opened, closed or destroyed |
//! | `segments` | one file: partial, committed or rejected; `variant` > 0 is a conflicting object with the same id |
//! | `receipts` | one signed COMMITTED, number never used twice |
//! | `alarms` | something that a person must look at; `cleared_at` when somebody did |
//!
//! WAL with `synchronous = FULL`: a transaction that was committed survives a power cut. `have` and `tail_have` name
//! only bytes that were synced before the row was written.

mod boxes;
mod segments;

pub use boxes::{PairingRow, PairingState};
pub use segments::{FileState, Origin, SegmentRow, Tail, Totals};

use crate::base::ids::{BoxId, SegmentId};
use crate::base::units::WallTime;
use rusqlite::{Connection, Row, params};
use std::path::Path;
use std::time::Duration;

const MIGRATIONS: &[&str] = &["
CREATE TABLE boxes(
    box BLOB PRIMARY KEY,
    evidence BLOB NOT NULL,
    serial TEXT NOT NULL,
    first_seen INTEGER NOT NULL,
    last_contact INTEGER,
    erase_blocked TEXT,
    branch INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE pairings(
    pairing BLOB PRIMARY KEY,
    box BLOB NOT NULL REFERENCES boxes(box),
    identity BLOB NOT NULL,
    state TEXT NOT NULL CHECK(state IN ('pending', 'active', 'revoking', 'revoked')),
    from_ms INTEGER NOT NULL,
    to_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX pairings_identity ON pairings(identity);
CREATE INDEX pairings_box ON pairings(box);
CREATE TABLE journal(
    box BLOB NOT NULL REFERENCES boxes(box),
    branch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    frame BLOB NOT NULL,
    received INTEGER NOT NULL,
    PRIMARY KEY(box, branch, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE announced(
    box BLOB NOT NULL REFERENCES boxes(box),
    segment BLOB NOT NULL,
    state TEXT NOT NULL CHECK(state IN ('opened', 'closed', 'destroyed')),
    size INTEGER,
    sha256 BLOB,
    PRIMARY KEY(box, segment)
) STRICT, WITHOUT ROWID;
CREATE TABLE segments(
    id INTEGER PRIMARY KEY,
    box BLOB NOT NULL REFERENCES boxes(box),
    segment BLOB NOT NULL,
    variant INTEGER NOT NULL,
    state TEXT NOT NULL CHECK(state IN ('partial', 'committed', 'rejected')),
    size INTEGER,
    sha256 BLOB,
    cut INTEGER,
    have BLOB NOT NULL,
    tail_from INTEGER,
    tail_have BLOB,
    tail_ckpt INTEGER,
    ckpt INTEGER,
    ckpt_offset INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    opened INTEGER NOT NULL DEFAULT 0,
    camera BLOB,
    recording BLOB,
    boot BLOB,
    boot_start INTEGER,
    boottime INTEGER,
    live_bytes INTEGER NOT NULL DEFAULT 0,
    units INTEGER NOT NULL DEFAULT 0,
    first_byte INTEGER NOT NULL,
    committed_at INTEGER,
    UNIQUE(box, segment, variant)
) STRICT;
CREATE INDEX segments_recording ON segments(recording, boottime);
CREATE INDEX segments_camera ON segments(camera, id);
CREATE INDEX segments_state ON segments(state, opened);
CREATE TABLE receipts(
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    segment_row INTEGER NOT NULL REFERENCES segments(id),
    at INTEGER NOT NULL,
    opened INTEGER NOT NULL,
    statement BLOB NOT NULL
) STRICT;
CREATE INDEX receipts_segment ON receipts(segment_row);
CREATE TABLE alarms(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    code TEXT NOT NULL,
    box BLOB,
    segment BLOB,
    text TEXT NOT NULL,
    times INTEGER NOT NULL DEFAULT 1,
    cleared_at INTEGER,
    cleared_by TEXT
) STRICT;
"];

/// The database cannot be used or holds what it should not.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// SQLite failed.
    #[error("vault database: {doing}")]
    Sql { doing: &'static str, source: rusqlite::Error },
    /// Written by a newer version.
    #[error("vault database has schema {found}, this version knows {known}: use the newer mvb-cloud")]
    Newer { found: u32, known: u32 },
    /// A row holds what no version writes.
    #[error("vault database: malformed {what}")]
    Malformed { what: &'static str },
}

/// A row of `alarms`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Alarm {
    /// Number.
    pub id: i64,
    /// First time.
    pub at: WallTime,
    /// Stable code.
    pub code: String,
    /// Which box.
    pub box_id: Option<BoxId>,
    /// Which file.
    pub segment: Option<SegmentId>,
    /// In words.
    pub text: String,
    /// How often.
    pub times: u64,
}

/// The open database.
pub struct Db {
    c: Connection,
}

fn sql(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> DbError {
    move |source| DbError::Sql { doing, source }
}

fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn uint(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn small(n: i64) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

impl Db {
    /// Opens or creates the file and brings its schema up to date.
    ///
    /// # Errors
    /// `Sql`, `Newer`.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let mut c = Connection::open(path).map_err(sql("opening"))?;
        c.busy_timeout(Duration::from_secs(10)).map_err(sql("opening"))?;
        c.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
            .map_err(sql("opening"))?;
        c.set_prepared_statement_cache_capacity(64);
        let found: u32 =
            c.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(sql("reading its version"))?;
        let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
        if found > known {
            return Err(DbError::Newer { found, known });
        }
        for (version, text) in (1_u32..).zip(MIGRATIONS).skip(usize::try_from(found).unwrap_or(usize::MAX)) {
            let t = c.transaction().map_err(sql("migrating"))?;
            t.execute_batch(text).map_err(sql("migrating"))?;
            t.pragma_update(None, "user_version", version).map_err(sql("migrating"))?;
            t.commit().map_err(sql("migrating"))?;
        }
        Ok(Self { c })
    }

    /// Runs `f` in one transaction: all of it survives, or nothing.
    ///
    /// # Errors
    /// `f`'s, or that of the commit.
    pub fn transaction<T, E: From<DbError>>(&self, f: impl FnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        self.c.execute_batch("BEGIN IMMEDIATE").map_err(sql("beginning")).map_err(E::from)?;
        match f(self) {
            Ok(value) => {
                if let Err(source) = self.c.execute_batch("COMMIT") {
                    let _ = self.c.execute_batch("ROLLBACK");
                    return Err(DbError::Sql { doing: "committing", source }.into());
                }
                Ok(value)
            }
            Err(error) => {
                // The transaction's own error is the one to report; a failed rollback happens again at the next BEGIN.
                let _ = self.c.execute_batch("ROLLBACK");
                Err(error)
            }
        }
    }

    /// Raises an alarm; the same one that is still open is only counted. True if it is new.
    ///
    /// # Errors
    /// `Sql`.
    pub fn alarm(
        &self,
        code: &str,
        box_id: Option<BoxId>,
        segment: Option<SegmentId>,
        text: &str,
        now: WallTime,
    ) -> Result<bool, DbError> {
        let again = self
            .c
            .prepare_cached(
                "UPDATE alarms SET times = times + 1
                 WHERE code = ?1 AND box IS ?2 AND segment IS ?3 AND cleared_at IS NULL",
            )
            .and_then(|mut s| s.execute(params![code, box_id.map(|b| b.0), segment.map(|s| s.0)]))
            .map_err(sql("counting an alarm"))?;
        if again > 0 {
            return Ok(false);
        }
        self.c
            .prepare_cached("INSERT INTO alarms(at, code, box, segment, text) VALUES(?1, ?2, ?3, ?4, ?5)")
            .and_then(|mut s| s.execute(params![now.0, code, box_id.map(|b| b.0), segment.map(|s| s.0), text]))
            .map_err(sql("raising an alarm"))?;
        Ok(true)
    }

    /// Alarms that nobody cleared.
    ///
    /// # Errors
    /// `Sql`.
    pub fn alarms(&self) -> Result<Vec<Alarm>, DbError> {
        self.rows(
            "SELECT id, at, code, box, segment, text, times FROM alarms WHERE cleared_at IS NULL ORDER BY id LIMIT 1000",
            [],
            "alarm",
            |r| {
                Ok(Some(Alarm {
                    id: r.get(0)?,
                    at: WallTime(r.get(1)?),
                    code: r.get(2)?,
                    box_id: r.get::<_, Option<[u8; 32]>>(3)?.map(BoxId),
                    segment: r.get::<_, Option<[u8; 16]>>(4)?.map(SegmentId),
                    text: r.get(5)?,
                    times: uint(r.get(6)?),
                }))
            },
        )
    }

    /// Clears an alarm and, if it was the one that blocks erasure of its box, that block; a forked journal is then taken
    /// from its beginning as a new branch. `None` if the alarm is not open.
    ///
    /// # Errors
    /// `Sql`.
    pub fn clear_alarm(&self, id: i64, who: &str, now: WallTime) -> Result<Option<Alarm>, DbError> {
        let Some(alarm) = self.alarms()?.into_iter().find(|alarm| alarm.id == id) else { return Ok(None) };
        self.c
            .execute("UPDATE alarms SET cleared_at = ?2, cleared_by = ?3 WHERE id = ?1", params![id, now.0, who])
            .map_err(sql("clearing an alarm"))?;
        if let Some(box_id) = alarm.box_id {
            self.c
                .execute(
                    "UPDATE boxes SET erase_blocked = NULL WHERE box = ?1 AND erase_blocked = ?2",
                    params![box_id.0, alarm.code],
                )
                .map_err(sql("clearing an alarm"))?;
            if alarm.code == crate::cloud::vault::JOURNAL_FORK {
                self.c
                    .execute("UPDATE boxes SET branch = branch + 1 WHERE box = ?1", [box_id.0])
                    .map_err(sql("clearing an alarm"))?;
            }
        }
        Ok(Some(alarm))
    }

    fn rows<T>(
        &self,
        text: &str,
        args: impl rusqlite::Params,
        what: &'static str,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<Option<T>>,
    ) -> Result<Vec<T>, DbError> {
        let mut statement = self.c.prepare_cached(text).map_err(sql("reading"))?;
        let rows: Vec<Option<T>> =
            statement.query_map(args, read).and_then(Iterator::collect).map_err(sql("reading"))?;
        rows.into_iter().map(|row| row.ok_or(DbError::Malformed { what })).collect()
    }
}
