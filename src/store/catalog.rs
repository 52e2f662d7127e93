//! The catalog: what the journal says, in a form that answers questions. Its schema is `schema.sql`.
//!
//! Nothing lives here alone: journal entries, headers and `receipts.log` rebuild it. It is written by the store's writer
//! and read by the store's handle through connections of their own (WAL).

mod recordings;

use crate::base::cbor;
use crate::base::chain::Signed;
use crate::base::ids::{BootId, CameraId, Digest, OrganisationId, RecordingId, SegmentId};
use crate::base::units::{BootTime, ByteCount, Run, TimeStatement};
use crate::media::GapCause;
use crate::seal::{EndReason, Header, JournalEntry, Prev, Receipt, SegmentOffer, UploadClass};
use crate::store::journal::Position;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Raised with every change of `schema.sql`; a catalog of another version is rebuilt.
const VERSION: i64 = 1;
const SCHEMA: &str = include_str!("schema.sql");
const MAX_VALUE: usize = 64 * 1024;

type Result<T> = std::result::Result<T, rusqlite::Error>;

/// One connection to the catalog.
pub(crate) struct Catalog(Connection);

/// A segment that the journal opened and did not close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unclosed {
    pub(crate) segment: SegmentId,
    pub(crate) camera: CameraId,
    pub(crate) recording: RecordingId,
    pub(crate) opened_at: BootTime,
    pub(crate) prev: Prev,
}

/// What the journal and the receipts say of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<Digest>,
    pub(crate) destroyed: bool,
    pub(crate) background: bool,
}

/// Why a segment may be erased; the number is that of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cause {
    /// The cloud holds it and said so freshly.
    Uploaded = 1,
    /// The cloud held it by its receipt; full and offline.
    Receipt = 2,
    /// Background that no event promoted.
    Background = 3,
    /// Never uploaded; the card was full.
    Full = 4,
    /// Torn by a power cut before its first checkpoint was durable.
    Torn = 5,
}

/// Totals for status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) backlog_segments: u64,
    pub(crate) backlog: ByteCount,
    pub(crate) other_organisation: u64,
    pub(crate) damaged: u64,
    pub(crate) absent: u64,
}

/// A committed segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uploaded {
    pub(crate) segment: SegmentId,
    /// As committed.
    pub(crate) sha256: Digest,
    /// Its receipt says that the cloud could open it.
    pub(crate) opened: bool,
    /// The journal entry that closed it.
    pub(crate) seq: u64,
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn id<const N: usize>(row: &Row<'_>, at: usize) -> Result<[u8; N]> {
    let bytes: Vec<u8> = row.get(at)?;
    bytes.try_into().map_err(|bytes: Vec<u8>| {
        rusqlite::Error::FromSqlConversionFailure(
            at,
            rusqlite::types::Type::Blob,
            format!("{} bytes, {N} expected", bytes.len()).into(),
        )
    })
}

impl Catalog {
    /// Opens the catalog; `None` if it is missing, corrupt or of another version: then [`Self::create`] it.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).ok()?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).ok()?;
        let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).ok()?;
        set_up(&connection).ok()?;
        (version == VERSION && sound == "ok").then_some(Self(connection))
    }

    /// Makes an empty catalog in the place of whatever was there.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            // What cannot be removed makes the next line fail, which says more.
            let _ = std::fs::remove_file(name);
        }
        let connection = Connection::open(path)?;
        set_up(&connection)?;
        connection.execute_batch(SCHEMA)?;
        connection.pragma_update(None, "user_version", VERSION)?;
        Ok(Self(connection))
    }

    /// A catalog that lives only as long as this value.
    pub(crate) fn in_memory() -> Result<Self> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(connection))
    }

    /// A second connection, for reading.
    pub(crate) fn reader(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        set_up(&connection)?;
        Ok(Self(connection))
    }

    /// Everything inside `work` at once or not at all.
    pub(crate) fn transaction<T>(&mut self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.0.execute_batch("BEGIN IMMEDIATE")?;
        match work(self) {
            Ok(value) => self.0.execute_batch("COMMIT").map(|()| value),
            Err(error) => {
                // The first error is the one to tell.
                let _ = self.0.execute_batch("ROLLBACK");
                Err(error)
            }
        }
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.0.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0)).optional()
    }

    fn set_meta(&self, key: &str, value: &[u8]) -> Result<()> {
        self.0.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", params![key, value]).map(|_| ())
    }

    /// How far the journal is projected, and on which card that file is.
    pub(crate) fn position(&self) -> Result<Option<(Position, [u8; 16])>> {
        let (Some(position), Some(card)) = (self.meta("position")?, self.meta("card")?) else { return Ok(None) };
        Ok(cbor::decode(&position, MAX_VALUE).ok().zip(card.try_into().ok()))
    }

    /// Remembers how far the journal is projected.
    pub(crate) fn set_position(&self, position: &Position, card: [u8; 16]) -> Result<()> {
        self.set_meta("position", &cbor::encode(position))?;
        self.set_meta("card", &card)
    }

    /// Projects an entry; doing it twice changes nothing. `header` gives the header of an adopted segment's file.
    pub(crate) fn apply(&self, signed: &Signed, header: &dyn Fn(SegmentId) -> Option<Header>) -> Result<()> {
        let entry = &signed.entry;
        // An entry of a later version is kept in the journal and skipped here.
        let Ok(Some(what)) = JournalEntry::decode(entry.kind, &entry.body) else { return Ok(()) };
        let (seq, at) = (number(entry.seq), number(entry.at.0));
        let (boot, start) = (entry.run.boot.0, entry.run.start);
        match what {
            JournalEntry::RunStarted { clean, time } => {
                self.0.execute(
                    "INSERT OR IGNORE INTO runs (seq, boot, start, at, clean) VALUES (?, ?, ?, ?, ?)",
                    params![seq, boot, start, at, clean],
                )?;
                self.time(seq, boot, &time)
            }
            JournalEntry::Opened { segment, organisation, camera, recording, prev, background } => {
                let run = entry.run;
                self.open_segment(seq, segment, organisation, camera, recording, run, entry.at, prev, background)
            }
            JournalEntry::Adopted { segment } => match header(segment) {
                Some(h) => {
                    let (o, c, r) = (h.organisation, h.camera, h.recording);
                    self.open_segment(seq, segment, o, c, r, h.run, h.at, Prev::Unknown, h.flags.background)
                }
                None => Ok(()),
            },
            JournalEntry::Closed { segment, size, sha256, end, reason, cut } => self
                .0
                .execute(
                    "UPDATE segments SET closed_seq = ?, closed_at = ?, size = ?, sha256 = ?, end_sha256 = ?, reason = ?,
                     cut = ? WHERE id = ? AND closed_seq IS NULL",
                    params![
                        seq,
                        at,
                        number(size),
                        sha256.0,
                        end.0,
                        reason_number(reason),
                        cut.map(number),
                        segment.0
                    ],
                )
                .map(|_| ()),
            JournalEntry::Gap { camera, recording, gap, bytes } => self
                .0
                .execute(
                    "INSERT OR IGNORE INTO gaps (seq, camera, recording, starts, ends, cause, bytes)
                     VALUES (?, ?, ?, ?, ?, ?, ?)",
                    params![
                        seq,
                        camera.0,
                        recording.0,
                        number(gap.from.0),
                        number(gap.to.0),
                        cause_number(gap.cause),
                        number(bytes)
                    ],
                )
                .map(|_| ()),
            JournalEntry::Held { segment, held } => self.set(segment, "held", held.into()),
            JournalEntry::Promoted { segment } => self.set(segment, "background", false.into()),
            JournalEntry::Class { segment, class } => self.set(segment, "class", i64::from(class).into()),
            JournalEntry::Destroyed { segment, cause } => self.set(segment, "destroyed", i64::from(cause).into()),
            JournalEntry::Time { time } => self.time(seq, boot, &time),
            _ => Ok(()),
        }
    }

    #[allow(clippy::too_many_arguments)] // the fields of one journal entry
    fn open_segment(
        &self,
        seq: i64,
        segment: SegmentId,
        organisation: OrganisationId,
        camera: CameraId,
        recording: RecordingId,
        run: Run,
        at: BootTime,
        prev: Prev,
        background: bool,
    ) -> Result<()> {
        let prev = match prev {
            Prev::Segment(segment, digest) => Some([&segment.0[..], &digest.0].concat()),
            Prev::First => Some(Vec::new()),
            Prev::Unknown => None,
        };
        self.0
            .execute(
                "INSERT OR IGNORE INTO segments
                 (id, seq, organisation, camera, recording, boot, start, opened_at, prev, background)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    segment.0,
                    seq,
                    organisation.0,
                    camera.0,
                    recording.0,
                    run.boot.0,
                    run.start,
                    number(at.0),
                    prev,
                    background
                ],
            )
            .map(|_| ())
    }

    fn time(&self, seq: i64, boot: [u8; 16], time: &TimeStatement) -> Result<()> {
        self.0
            .execute(
                "INSERT OR IGNORE INTO times (seq, boot, statement) VALUES (?, ?, ?)",
                params![seq, boot, cbor::encode(time)],
            )
            .map(|_| ())
    }

    fn set(&self, segment: SegmentId, column: &'static str, value: Value) -> Result<()> {
        self.0.execute(&format!("UPDATE segments SET {column} = ? WHERE id = ?"), params![value, segment.0]).map(|_| ())
    }

    /// The file differs from the journal.
    pub(crate) fn set_damaged(&self, segment: SegmentId) -> Result<()> {
        self.set(segment, "damaged", true.into())
    }

    /// Keeps a receipt.
    pub(crate) fn receipt(&self, receipt: &Receipt) -> Result<()> {
        self.0
            .execute(
                "INSERT OR REPLACE INTO receipts (id, size, sha256, opened, statement) VALUES (?, ?, ?, ?, ?)",
                params![receipt.segment.0, number(receipt.size), receipt.sha256.0, receipt.opened, receipt.statement],
            )
            .map(|_| ())
    }

    /// All receipts, as internal storage has them.
    pub(crate) fn set_receipts(&self, receipts: &[Receipt]) -> Result<()> {
        self.0.execute("DELETE FROM receipts", [])?;
        receipts.iter().try_for_each(|receipt| self.receipt(receipt))
    }

    /// The cloud does not hold it: the segment is offered again.
    pub(crate) fn withdraw_receipt(&self, segment: SegmentId) -> Result<()> {
        self.0.execute("DELETE FROM receipts WHERE id = ?", [segment.0]).map(|_| ())
    }

    /// The journal's last run, and whether anything of it is known.
    pub(crate) fn last_run(&self) -> Result<Option<Run>> {
        self.0
            .query_row("SELECT boot, start FROM runs ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok(Run { boot: BootId(id(row, 0)?), start: row.get(1)? })
            })
            .optional()
    }

    /// Segments of a run without `closed`.
    pub(crate) fn unclosed(&self, run: Run) -> Result<Vec<Unclosed>> {
        let mut query = self.0.prepare(
            "SELECT id, camera, recording, opened_at, prev FROM segments
             WHERE closed_seq IS NULL AND destroyed IS NULL AND boot = ? AND start = ? ORDER BY seq",
        )?;
        let rows = query.query_map(params![run.boot.0, run.start], |row| {
            Ok(Unclosed {
                segment: SegmentId(id(row, 0)?),
                camera: CameraId(id(row, 1)?),
                recording: RecordingId(id(row, 2)?),
                opened_at: BootTime(count(row.get(3)?)),
                prev: prev_of(row.get(4)?),
            })
        })?;
        rows.collect()
    }

    /// Recordings of a run whose last segment is closed and says that another follows (END `next` or `overflow`), with
    /// the time of `closed`.
    pub(crate) fn expecting(&self, run: Run) -> Result<Vec<(CameraId, RecordingId, BootTime)>> {
        let mut query = self.0.prepare(
            "SELECT s.camera, s.recording, s.closed_at FROM segments s
             WHERE s.boot = ? AND s.start = ? AND s.closed_seq IS NOT NULL AND s.reason IN (1, 3)
             AND NOT EXISTS (SELECT 1 FROM segments t WHERE t.recording = s.recording AND t.seq > s.seq)
             AND NOT EXISTS (SELECT 1 FROM gaps g WHERE g.recording = s.recording AND g.seq > s.closed_seq)",
        )?;
        let rows = query.query_map(params![run.boot.0, run.start], |row| {
            Ok((CameraId(id(row, 0)?), RecordingId(id(row, 1)?), BootTime(count(row.get(2)?))))
        })?;
        rows.collect()
    }

    /// The latest boot time that the journal knows of a run.
    pub(crate) fn last_heard(&self, run: Run) -> Result<BootTime> {
        self.0
            .query_row(
                "SELECT MAX(t) FROM (
                     SELECT MAX(at) AS t FROM runs WHERE boot = ?1 AND start = ?2
                     UNION ALL SELECT MAX(opened_at) FROM segments WHERE boot = ?1 AND start = ?2
                     UNION ALL SELECT MAX(closed_at) FROM segments WHERE boot = ?1 AND start = ?2)",
                params![run.boot.0, run.start],
                |row| row.get::<_, Option<i64>>(0),
            )
            .map(|at| BootTime(count(at.unwrap_or(0))))
    }

    /// Every segment that the journal ever named, and whether it was erased, in which run's entry it was opened.
    pub(crate) fn known(&self) -> Result<BTreeMap<SegmentId, bool>> {
        let mut query = self.0.prepare("SELECT id, destroyed IS NOT NULL FROM segments")?;
        let rows = query.query_map([], |row| Ok((SegmentId(id(row, 0)?), row.get(1)?)))?;
        rows.collect()
    }

    /// Notes which files are on the card that is in the box; returns how many that should be there are not.
    pub(crate) fn set_present(&mut self, there: &HashSet<SegmentId>) -> Result<u64> {
        self.transaction(|catalog| {
            let mut change = Vec::new();
            let mut absent = 0;
            {
                let mut query = catalog.0.prepare("SELECT id, present FROM segments WHERE destroyed IS NULL")?;
                let mut rows = query.query([])?;
                while let Some(row) = rows.next()? {
                    let segment = SegmentId(id(row, 0)?);
                    let present = there.contains(&segment);
                    absent += u64::from(!present);
                    if present != row.get::<_, bool>(1)? {
                        change.push((segment, present));
                    }
                }
            }
            for (segment, present) in change {
                catalog.set(segment, "present", present.into())?;
            }
            Ok(absent)
        })
    }

    /// One segment.
    pub(crate) fn segment(&self, segment: SegmentId) -> Result<Option<Known>> {
        self.0
            .query_row(
                "SELECT size, sha256, destroyed IS NOT NULL, background FROM segments WHERE id = ?",
                [segment.0],
                |row| {
                    Ok(Known {
                        size: row.get::<_, Option<i64>>(0)?.map(count),
                        sha256: match row.get::<_, Option<Vec<u8>>>(1)? {
                            Some(_) => Some(Digest(id(row, 1)?)),
                            None => None,
                        },
                        destroyed: row.get(2)?,
                        background: row.get(3)?,
                    })
                },
            )
            .optional()
    }

    /// Finished, present, undamaged segments of an organisation without a receipt, most urgent first.
    pub(crate) fn offers(&self, organisation: OrganisationId, limit: usize) -> Result<Vec<SegmentOffer>> {
        let mut query = self.0.prepare_cached(
            "SELECT id, camera, recording, size, sha256, cut, CASE WHEN background THEN 4 ELSE class END, closed_seq
             FROM segments WHERE organisation = ? AND closed_seq IS NOT NULL AND destroyed IS NULL AND damaged = 0
             AND present = 1 AND id NOT IN (SELECT id FROM receipts)
             ORDER BY CASE WHEN background THEN 4 ELSE class END, closed_seq LIMIT ?",
        )?;
        let rows = query.query_map(params![organisation.0, number(limit as u64)], |row| {
            Ok(SegmentOffer {
                segment: SegmentId(id(row, 0)?),
                organisation,
                camera: CameraId(id(row, 1)?),
                recording: RecordingId(id(row, 2)?),
                size: count(row.get(3)?),
                sha256: Digest(id(row, 4)?),
                cut: row.get::<_, Option<i64>>(5)?.map(count),
                class: class_of(row.get(6)?),
                seq: count(row.get(7)?),
            })
        })?;
        rows.collect()
    }

    /// Committed segments of an organisation (of all if `None`) that are not held and were closed after the journal entry
    /// `after`, oldest first.
    pub(crate) fn uploaded(
        &self,
        organisation: Option<OrganisationId>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Uploaded>> {
        let mut query = self.0.prepare_cached(
            "SELECT s.id, s.sha256, r.opened, s.closed_seq FROM segments s
             JOIN receipts r ON r.id = s.id AND r.sha256 = s.sha256
             WHERE s.destroyed IS NULL AND s.held = 0 AND s.damaged = 0 AND s.present = 1
             AND (?1 IS NULL OR s.organisation = ?1) AND s.closed_seq > ?2 ORDER BY s.closed_seq LIMIT ?3",
        )?;
        let rows = query.query_map(params![organisation.map(|o| o.0), number(after), number(limit as u64)], |row| {
            Ok(Uploaded {
                segment: SegmentId(id(row, 0)?),
                sha256: Digest(id(row, 1)?),
                opened: row.get(2)?,
                seq: count(row.get(3)?),
            })
        })?;
        rows.collect()
    }

    /// Finished segments without a receipt that may go when nothing else is left: background (or not), unmarked, not
    /// held, oldest first.
    pub(crate) fn dispensable(&self, background: bool, limit: usize) -> Result<Vec<SegmentId>> {
        let mut query = self.0.prepare_cached(
            "SELECT id FROM segments WHERE closed_seq IS NOT NULL AND destroyed IS NULL AND held = 0 AND damaged = 0
             AND present = 1 AND background = ? AND class >= 2 AND id NOT IN (SELECT id FROM receipts)
             ORDER BY closed_seq LIMIT ?",
        )?;
        let rows = query.query_map(params![background, number(limit as u64)], |row| Ok(SegmentId(id(row, 0)?)))?;
        rows.collect()
    }

    /// Totals for status.
    pub(crate) fn totals(&self, paired: Option<OrganisationId>) -> Result<Totals> {
        self.0.query_row(
            "SELECT COALESCE(SUM(backlog AND ours), 0), COALESCE(SUM(CASE WHEN backlog AND ours THEN size ELSE 0 END), 0),
                    COALESCE(SUM(backlog AND NOT ours), 0), COALESCE(SUM(damaged), 0), COALESCE(SUM(NOT present), 0)
             FROM (SELECT size, damaged, present, (?1 IS NULL OR organisation = ?1) AS ours,
                   (closed_seq IS NOT NULL AND damaged = 0 AND id NOT IN (SELECT id FROM receipts)) AS backlog
                   FROM segments WHERE destroyed IS NULL)",
            [paired.map(|o| o.0)],
            |row| {
                Ok(Totals {
                    backlog_segments: count(row.get(0)?),
                    backlog: ByteCount(count(row.get(1)?)),
                    other_organisation: count(row.get(2)?),
                    damaged: count(row.get(3)?),
                    absent: count(row.get(4)?),
                })
            },
        )
    }
}

fn set_up(connection: &Connection) -> Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // A projection may lose its last transactions with the power: it catches up from the journal.
    connection.pragma_update(None, "synchronous", "NORMAL")
}

fn prev_of(bytes: Option<Vec<u8>>) -> Prev {
    let Some(bytes) = bytes else { return Prev::Unknown };
    if bytes.is_empty() {
        return Prev::First;
    }
    match bytes.split_first_chunk::<16>().map(|(segment, rest)| (segment, rest.first_chunk::<32>())) {
        Some((segment, Some(digest))) => Prev::Segment(SegmentId(*segment), Digest(*digest)),
        _ => Prev::Unknown,
    }
}

fn class_of(number: i64) -> UploadClass {
    match number {
        0 => UploadClass::Alarm,
        1 => UploadClass::Marked,
        2 => UploadClass::Requested,
        4 => UploadClass::Background,
        _ => UploadClass::Normal,
    }
}

/// As in the journal: seal::EndReason.
fn reason_number(reason: EndReason) -> i64 {
    match reason {
        EndReason::Next => 1,
        EndReason::Finished => 2,
        EndReason::Overflow => 3,
        EndReason::PowerCut => 4,
        EndReason::Crash => 5,
        EndReason::CardLost => 6,
        EndReason::Shutdown => 7,
    }
}

fn cause_number(cause: GapCause) -> i64 {
    match cause {
        GapCause::CameraGone => 1,
        GapCause::PacketLoss => 2,
        GapCause::Overflow => 3,
        GapCause::PowerCut => 4,
        GapCause::Crash => 5,
        GapCause::NoCard => 6,
        GapCause::NoKey => 7,
    }
}

fn cause_of(number: i64) -> GapCause {
    match number {
        1 => GapCause::CameraGone,
        2 => GapCause::PacketLoss,
        3 => GapCause::Overflow,
        5 => GapCause::Crash,
        6 => GapCause::NoCard,
        7 => GapCause::NoKey,
        _ => GapCause::PowerCut,
    }
}
