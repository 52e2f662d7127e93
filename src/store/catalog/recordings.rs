//! Recordings as a list for people: segments, gaps and wall time put together.

use super::{Catalog, MAX_VALUE, Result, cause_of, count, id};
use crate::base::cbor;
use crate::base::ids::{BootId, CameraId, OrganisationId, RecordingId, SegmentId};
use crate::base::units::{BootTime, ByteCount, Run, TimeStatement};
use crate::media::Gap;
use crate::store::status::{RecordingInfo, SegmentInfo, SegmentState};
use std::collections::BTreeMap;

impl Catalog {
    /// Recordings, newest first.
    pub(crate) fn recordings(&self, paired: Option<OrganisationId>) -> Result<Vec<RecordingInfo>> {
        let mut all: BTreeMap<RecordingId, (i64, RecordingInfo)> = BTreeMap::new();
        let mut query = self.0.prepare(
            "SELECT s.recording, s.camera, s.organisation, s.boot, s.start, s.opened_at, s.closed_at, s.seq, s.id,
                    s.size, s.held, s.background, s.cut, s.closed_seq, s.destroyed, s.damaged, s.present, r.id
             FROM segments s LEFT JOIN receipts r ON r.id = s.id ORDER BY s.seq",
        )?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (recording, organisation) = (RecordingId(id(row, 0)?), OrganisationId(id(row, 2)?));
            let run = Run { boot: BootId(id(row, 3)?), start: row.get(4)? };
            let opened = BootTime(count(row.get(5)?));
            let closed = row.get::<_, Option<i64>>(6)?.map(|at| BootTime(count(at)));
            let seq: i64 = row.get(7)?;
            let size = ByteCount(row.get::<_, Option<i64>>(9)?.map_or(0, count));
            let state = if row.get::<_, Option<i64>>(14)?.is_some() {
                SegmentState::Destroyed
            } else if row.get(15)? {
                SegmentState::Damaged
            } else if !row.get::<_, bool>(16)? {
                SegmentState::Absent
            } else if row.get::<_, Option<i64>>(13)?.is_none() {
                SegmentState::Open
            } else if row.get::<_, Option<Vec<u8>>>(17)?.is_some() {
                SegmentState::Uploaded
            } else {
                SegmentState::Sealed
            };
            let cut = row.get::<_, Option<i64>>(12)?.map(count);
            let info = SegmentInfo {
                segment: SegmentId(id(row, 8)?),
                state,
                size,
                held: row.get(10)?,
                background: row.get(11)?,
                cut,
            };
            let (_, entry) = all.entry(recording).or_insert_with(|| {
                let other_organisation = paired.is_some_and(|paired| paired != organisation);
                (
                    seq,
                    RecordingInfo {
                        recording,
                        camera: CameraId([0; 16]),
                        organisation,
                        other_organisation,
                        run,
                        from: opened,
                        to: opened,
                        wall: None,
                        segments: Vec::new(),
                        gaps: Vec::new(),
                        size: ByteCount(0),
                    },
                )
            });
            entry.camera = CameraId(id(row, 1)?);
            // A recovered segment was closed in another boot: its time says nothing about this one.
            if let Some(closed) = closed.filter(|_| cut.is_none()) {
                entry.to = entry.to.max(closed);
            }
            entry.to = entry.to.max(opened);
            entry.size.0 += size.0;
            entry.segments.push(info);
        }
        let mut query = self.0.prepare("SELECT recording, starts, ends, cause FROM gaps ORDER BY seq")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let gap = Gap {
                from: BootTime(count(row.get(1)?)),
                to: BootTime(count(row.get(2)?)),
                cause: cause_of(row.get(3)?),
            };
            if let Some((_, info)) = all.get_mut(&RecordingId(id(row, 0)?)) {
                info.gaps.push(gap);
            }
        }
        let mut query = self.0.prepare("SELECT boot, statement FROM times ORDER BY seq")?;
        let mut rows = query.query([])?;
        let mut times: BTreeMap<[u8; 16], Vec<TimeStatement>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            if let Ok(time) = cbor::decode(&row.get::<_, Vec<u8>>(1)?, MAX_VALUE) {
                times.entry(id(row, 0)?).or_default().push(time);
            }
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
        Ok(all
            .into_iter()
            .map(|(_, mut info)| {
                // The best vouched statement of that boot; among equals the closest.
                let known = times.get(&info.run.boot.0).map(Vec::as_slice).unwrap_or_default();
                let distance = |time: &TimeStatement| time.at.0.abs_diff(info.from.0);
                info.wall = known.iter().copied().max_by_key(|t| (t.source, std::cmp::Reverse(distance(t))));
                info
            })
            .collect())
    }
}
