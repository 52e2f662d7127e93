//! Rows about segment files and their receipts.
//!
//! Belongs here: the statements of the tables `segments` and `receipts`. Does not belong here: decisions.

use super::{Db, DbError, int, small, sql, uint};
use crate::base::ids::{BootId, BoxId, CameraId, Digest, RecordingId, SegmentId};
use crate::base::units::{BootTime, Run, WallTime};
use crate::cloud::vault::Ranges;
use rusqlite::{OptionalExtension, Row, params};

/// State of a segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileState {
    /// Bytes are missing or unproven.
    Partial,
    /// Whole, proven, durable.
    Committed,
    /// Refused twice; what arrived is kept.
    Rejected,
}

/// A row of `segments`.
#[derive(Debug, Clone)]
pub struct SegmentRow {
    /// Row number.
    pub id: i64,
    /// Who sealed it.
    pub box_id: BoxId,
    /// Which file.
    pub segment: SegmentId,
    /// 0, or the number of a conflicting object.
    pub variant: u32,
    /// Where it stands.
    pub state: FileState,
    /// Size and digest that the box's journal states, once offered.
    pub object: Option<(u64, Digest)>,
    /// Where recovery's END begins.
    pub cut: Option<u64>,
    /// Durable bytes.
    pub have: Ranges,
    /// Bytes received live at or beyond the cut: `tail_from`, their file offsets, last checkpoint that signs them.
    pub tail: Option<Tail>,
    /// Last checkpoint that covers everything before it.
    pub ckpt: Option<u32>,
    /// First byte after it.
    pub ckpt_offset: u64,
    /// Verifications that failed.
    pub attempts: u32,
    /// Why it was refused.
    pub reason: Option<String>,
    /// The key unwrapped and the commitment matched.
    pub opened: bool,
    /// From the header, once it was read.
    pub origin: Option<Origin>,
    /// Bytes that came live.
    pub live_bytes: u64,
    /// Access units in a committed file.
    pub units: u64,
    /// When it was committed.
    pub committed_at: Option<WallTime>,
}

/// Bytes beyond a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The cut.
    pub from: u64,
    /// Offsets in the original file.
    pub have: Ranges,
    /// Last checkpoint that signs them; `None` = unsigned.
    pub ckpt: Option<u32>,
}

/// What the clear header says about a file's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Which camera.
    pub camera: CameraId,
    /// Which recording.
    pub recording: RecordingId,
    /// Boot and start counter of the sealing run, start on its boot time.
    pub run: Run,
    /// See `run`.
    pub at: BootTime,
}

/// Counts for status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Totals {
    /// Files not complete.
    pub partial: u64,
    /// Complete, proven, durable.
    pub committed: u64,
    /// Of these: key unwrapped and commitment matched.
    pub opened: u64,
    /// Refused.
    pub rejected: u64,
    /// Bytes of the committed.
    pub committed_bytes: u64,
}

impl Db {
    /// All variants of one file, first one first.
    ///
    /// # Errors
    /// `Sql`, `Malformed`.
    pub fn variants(&self, box_id: BoxId, segment: SegmentId) -> Result<Vec<SegmentRow>, DbError> {
        self.query_segments("WHERE box = ?1 AND segment = ?2 ORDER BY variant", params![box_id.0, segment.0])
    }

    /// One row.
    ///
    /// # Errors
    /// `Sql`, `Malformed`.
    pub fn segment(&self, id: i64) -> Result<Option<SegmentRow>, DbError> {
        Ok(self.query_segments("WHERE id = ?1", [id])?.pop())
    }

    /// All rows in the order of recordings and their segments.
    ///
    /// # Errors
    /// `Sql`, `Malformed`.
    pub fn segments(&self) -> Result<Vec<SegmentRow>, DbError> {
        self.query_segments("ORDER BY recording, boot_start, boottime, id", [])
    }

    /// Every camera of which something arrived, with the box that sent it.
    ///
    /// # Errors
    /// `Sql`.
    pub fn cameras(&self) -> Result<Vec<(CameraId, BoxId)>, DbError> {
        self.rows("SELECT DISTINCT camera, box FROM segments WHERE camera IS NOT NULL LIMIT 1000", [], "segment", |r| {
            Ok(Some((CameraId(r.get(0)?), BoxId(r.get(1)?))))
        })
    }

    /// The box whose footage of a camera was committed first.
    ///
    /// # Errors
    /// `Sql`.
    pub fn camera_owner(&self, camera: CameraId) -> Result<Option<BoxId>, DbError> {
        let owners = self.rows(
            "SELECT box FROM segments WHERE camera = ?1 AND state = 'committed' ORDER BY id LIMIT 1",
            params![camera.0],
            "segment",
            |r| Ok(Some(BoxId(r.get(0)?))),
        )?;
        Ok(owners.into_iter().next())
    }

    /// Up to `limit` committed rows that were not opened yet, after row `after`.
    ///
    /// # Errors
    /// `Sql`, `Malformed`.
    pub fn unopened(&self, after: i64, limit: u32) -> Result<Vec<SegmentRow>, DbError> {
        self.query_segments(
            "WHERE state = 'committed' AND opened = 0 AND id > ?1 ORDER BY id LIMIT ?2",
            params![after, limit],
        )
    }

    fn query_segments(&self, rest: &str, args: impl rusqlite::Params) -> Result<Vec<SegmentRow>, DbError> {
        let text = format!(
            "SELECT id, box, segment, variant, state, size, sha256, cut, have, tail_from, tail_have, tail_ckpt, ckpt,
             ckpt_offset, attempts, reason, opened, camera, recording, boot, boot_start, boottime, live_bytes,
             committed_at, units FROM segments {rest}"
        );
        self.rows(&text, args, "segment", segment_row)
    }

    /// A new, empty partial file; returns its row.
    ///
    /// # Errors
    /// `Sql`.
    pub fn insert_segment(
        &self,
        box_id: BoxId,
        segment: SegmentId,
        variant: u32,
        now: WallTime,
    ) -> Result<i64, DbError> {
        self.c
            .prepare_cached(
                "INSERT INTO segments(box, segment, variant, state, have, first_byte)
                 VALUES(?1, ?2, ?3, 'partial', ?4, ?5)",
            )
            .and_then(|mut s| s.insert(params![box_id.0, segment.0, variant, Ranges::default().to_bytes(), now.0]))
            .map_err(sql("storing a segment"))
    }

    /// Writes everything that changes in a row, except `id`, `box`, `segment` and `variant`.
    ///
    /// # Errors
    /// `Sql`.
    pub fn update_segment(&self, row: &SegmentRow) -> Result<(), DbError> {
        let state = match row.state {
            FileState::Partial => "partial",
            FileState::Committed => "committed",
            FileState::Rejected => "rejected",
        };
        self.c
            .prepare_cached(
                "UPDATE segments SET state = ?2, size = ?3, sha256 = ?4, cut = ?5, have = ?6, tail_from = ?7,
                 tail_have = ?8, tail_ckpt = ?9, ckpt = ?10, ckpt_offset = ?11, attempts = ?12, reason = ?13,
                 opened = ?14, camera = ?15, recording = ?16, boot = ?17, boot_start = ?18, boottime = ?19,
                 live_bytes = ?20, committed_at = ?21, units = ?22 WHERE id = ?1",
            )
            .and_then(|mut s| {
                s.execute(params![
                    row.id,
                    state,
                    row.object.map(|(size, _)| int(size)),
                    row.object.map(|(_, sha256)| sha256.0),
                    row.cut.map(int),
                    row.have.to_bytes(),
                    row.tail.as_ref().map(|t| int(t.from)),
                    row.tail.as_ref().map(|t| t.have.to_bytes()),
                    row.tail.as_ref().and_then(|t| t.ckpt),
                    row.ckpt,
                    int(row.ckpt_offset),
                    row.attempts,
                    row.reason,
                    row.opened,
                    row.origin.map(|o| o.camera.0),
                    row.origin.map(|o| o.recording.0),
                    row.origin.map(|o| o.run.boot.0),
                    row.origin.map(|o| o.run.start),
                    row.origin.map(|o| int(o.at.0)),
                    int(row.live_bytes),
                    row.committed_at.map(|at| at.0),
                    int(row.units),
                ])
            })
            .map_err(sql("updating a segment"))?;
        Ok(())
    }

    /// Counts, of one box or of all.
    ///
    /// # Errors
    /// `Sql`.
    pub fn totals(&self, box_id: Option<BoxId>) -> Result<Totals, DbError> {
        self.c
            .prepare_cached(
                "SELECT count(*) FILTER (WHERE state = 'partial'), count(*) FILTER (WHERE state = 'committed'),
                 count(*) FILTER (WHERE state = 'committed' AND opened = 1), count(*) FILTER (WHERE state = 'rejected'),
                 coalesce(sum(size) FILTER (WHERE state = 'committed'), 0)
                 FROM segments WHERE ?1 IS NULL OR box = ?1",
            )
            .and_then(|mut s| {
                s.query_row([box_id.map(|b| b.0)], |r| {
                    Ok(Totals {
                        partial: uint(r.get(0)?),
                        committed: uint(r.get(1)?),
                        opened: uint(r.get(2)?),
                        rejected: uint(r.get(3)?),
                        committed_bytes: uint(r.get(4)?),
                    })
                })
            })
            .map_err(sql("counting"))
    }

    /// Takes the next receipt number: the row holds an empty statement until [`Self::set_receipt`].
    ///
    /// # Errors
    /// `Sql`.
    pub fn next_receipt(&self, row: i64, opened: bool, now: WallTime) -> Result<u64, DbError> {
        self.c
            .prepare_cached("INSERT INTO receipts(segment_row, at, opened, statement) VALUES(?1, ?2, ?3, x'')")
            .and_then(|mut s| s.insert(params![row, now.0, opened]))
            .map(uint)
            .map_err(sql("numbering a receipt"))
    }

    /// Stores the signed statement of a receipt number; in the same transaction as [`Self::next_receipt`].
    ///
    /// # Errors
    /// `Sql`.
    pub fn set_receipt(&self, no: u64, statement: &[u8]) -> Result<(), DbError> {
        self.c
            .prepare_cached("UPDATE receipts SET statement = ?2 WHERE no = ?1")
            .and_then(|mut s| s.execute(params![int(no), statement]))
            .map_err(sql("storing a receipt"))?;
        Ok(())
    }

    /// The newest receipt of a file: its statement.
    ///
    /// # Errors
    /// `Sql`.
    pub fn receipt(&self, row: i64) -> Result<Option<Vec<u8>>, DbError> {
        self.c
            .prepare_cached("SELECT statement FROM receipts WHERE segment_row = ?1 ORDER BY no DESC LIMIT 1")
            .and_then(|mut s| s.query_row([row], |r| r.get(0)).optional())
            .map_err(sql("reading a receipt"))
    }
}

fn segment_row(r: &Row<'_>) -> rusqlite::Result<Option<SegmentRow>> {
    let state = match r.get::<_, String>(4)?.as_str() {
        "partial" => FileState::Partial,
        "committed" => FileState::Committed,
        "rejected" => FileState::Rejected,
        _ => return Ok(None),
    };
    let object = r.get::<_, Option<i64>>(5)?.map(uint).zip(r.get::<_, Option<[u8; 32]>>(6)?.map(Digest));
    let Some(have) = Ranges::from_bytes(&r.get::<_, Vec<u8>>(8)?) else { return Ok(None) };
    let tail = match (r.get::<_, Option<i64>>(9)?, r.get::<_, Option<Vec<u8>>>(10)?) {
        (Some(from), Some(have)) => {
            let Some(have) = Ranges::from_bytes(&have) else { return Ok(None) };
            Some(Tail { from: uint(from), have, ckpt: r.get::<_, Option<i64>>(11)?.map(small) })
        }
        _ => None,
    };
    let origin = match (r.get(17)?, r.get(18)?, r.get(19)?, r.get::<_, Option<i64>>(20)?, r.get::<_, Option<i64>>(21)?)
    {
        (Some(camera), Some(recording), Some(boot), Some(start), Some(at)) => Some(Origin {
            camera: CameraId(camera),
            recording: RecordingId(recording),
            run: Run { boot: BootId(boot), start: small(start) },
            at: BootTime(uint(at)),
        }),
        _ => None,
    };
    Ok(Some(SegmentRow {
        id: r.get(0)?,
        box_id: BoxId(r.get(1)?),
        segment: SegmentId(r.get(2)?),
        variant: small(r.get(3)?),
        state,
        object,
        cut: r.get::<_, Option<i64>>(7)?.map(uint),
        have,
        tail,
        ckpt: r.get::<_, Option<i64>>(12)?.map(small),
        ckpt_offset: uint(r.get(13)?),
        attempts: small(r.get(14)?),
        reason: r.get(15)?,
        opened: r.get(16)?,
        origin,
        live_bytes: uint(r.get(22)?),
        committed_at: r.get::<_, Option<i64>>(23)?.map(WallTime),
        units: uint(r.get(24)?),
    }))
}
