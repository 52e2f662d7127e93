//! A recording as one MP4: a first pass looks at sizes and times, a second writes the bytes. RAM holds the index only.

use super::footage::{Footage, FootageError, LeftOut};
use crate::base::reason::Coded;
use crate::base::units::Run;
use crate::media::mp4::progressive::{self, Sample};
use crate::media::mp4::{self};
use crate::media::{Gap, TrackId, TrackParams};
use crate::seal::{RecipientSecret, Record};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// What an export contains and what it does not.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Segments read.
    pub segments: usize,
    /// Samples written, by track.
    pub packets: BTreeMap<u8, u64>,
    /// Samples whose parts were lost between camera and box.
    pub damaged: u64,
    /// What the recording says is missing.
    pub gaps: Vec<Gap>,
    /// What could not be opened.
    pub left_out: Vec<LeftOut>,
    /// Tracks that MP4 cannot describe, or that had no parameters; with the samples left out.
    pub tracks_left_out: BTreeMap<u8, u64>,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Footage.
    #[error(transparent)]
    Footage(#[from] FootageError),
    /// The output.
    #[error("the export cannot be written")]
    Write(#[source] io::Error),
    /// Nothing to play in it.
    #[error("there is nothing in this footage that MP4 can hold")]
    Empty,
    /// Asked to stop.
    #[error("the export was stopped")]
    Cancelled,
    /// The footage changed between the passes.
    #[error("the footage changed while it was exported: export again")]
    Changed,
}

impl Coded for ExportError {
    fn code(&self) -> &'static str {
        match self {
            Self::Footage(error) => error.code(),
            Self::Write(_) => "export-write",
            Self::Empty => "export-empty",
            Self::Cancelled => "export-cancelled",
            Self::Changed => "export-changed",
        }
    }
}

#[derive(Default)]
struct Index {
    /// Index in the file by track id.
    tracks: Vec<(TrackId, Vec<TrackParams>)>,
    samples: Vec<Sample>,
    report: Report,
    /// Media time is boot time; a later boot goes on after the earlier one's last sample.
    boots: Boots,
}

/// Puts the boot times of several runs on one line.
#[derive(Default)]
struct Boots {
    run: Option<Run>,
    /// Seconds are enough for the join: where the earlier boot ended.
    offset: f64,
    last: f64,
}

impl Boots {
    /// Ticks to add to a sample's time. Within one boot nothing moves; another boot starts right after the last sample.
    fn place(&mut self, run: Run, pts: i64, timescale: u32) -> i64 {
        let scale = f64::from(timescale.max(1));
        let own = pts as f64 / scale;
        match self.run {
            Some(before) if before.boot == run.boot => {}
            Some(_) => self.offset = self.last - own,
            None => {}
        }
        self.run = Some(run);
        self.last = self.last.max(own + self.offset);
        (self.offset * scale).round() as i64
    }
}

impl Index {
    fn record(&mut self, run: Run, record: &Record) -> Option<Sample> {
        match record {
            Record::Params(params) => {
                self.params(params);
                None
            }
            Record::Gap(gap) => {
                self.report.gaps.push(*gap);
                None
            }
            Record::Unit(unit) => {
                let found = self.tracks.iter().position(|(id, sets)| *id == unit.track && !sets.is_empty());
                let Some(track) = found else {
                    *self.report.tracks_left_out.entry(unit.track.0).or_default() += 1;
                    return None;
                };
                let (_, sets) = &self.tracks[track];
                let timescale = sets.first().map_or(1, |params| params.timescale);
                let moved = self.boots.place(run, unit.pts.0, timescale);
                self.report.damaged += u64::from(unit.flags.damaged);
                Some(Sample {
                    track,
                    description: u32::try_from(self.tracks[track].1.len() - 1).unwrap_or(0),
                    pts: unit.pts.0 + moved,
                    size: u32::try_from(unit.data.len()).ok()?,
                    key: unit.flags.key,
                })
            }
            Record::Meta(_) | Record::Event(_) => None,
        }
    }

    /// A new set that differs opens a new description; a track cannot change its clock or its coding in one file.
    fn params(&mut self, params: &TrackParams) {
        if !mp4::is_describable(params) {
            return;
        }
        match self.tracks.iter_mut().find(|(id, _)| *id == params.track) {
            None => self.tracks.push((params.track, vec![params.clone()])),
            Some((_, sets)) => {
                let fits = sets.first().is_none_or(|f| (f.codec, f.timescale) == (params.codec, params.timescale));
                if fits && sets.last() != Some(params) {
                    sets.push(params.clone());
                }
            }
        }
    }
}

/// Writes footage as one MP4. `progress` hears (done, total) bytes of both passes; `cancelled` is asked now and then.
///
/// # Errors
/// See [`ExportError`]. Damage inside is no error: the report says what was left out.
pub fn export(
    footage: &mut Footage,
    secrets: &[&RecipientSecret],
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
    cancelled: &dyn Fn() -> bool,
) -> Result<Report, ExportError> {
    let total = 2 * footage.size();
    let mut index = Index::default();
    let mut stopped = false;
    let left_out = footage.read(secrets, &mut |done| progress(done, total), &mut |run, record| {
        if let Some(sample) = index.record(run, &record) {
            index.samples.push(sample);
        }
        stopped = cancelled();
        !stopped
    })?;
    if stopped {
        return Err(ExportError::Cancelled);
    }
    let samples = std::mem::take(&mut index.samples);
    if samples.is_empty() {
        return Err(ExportError::Empty);
    }
    let tracks: Vec<_> = index.tracks.iter().map(|(_, sets)| sets.clone()).collect();
    let head = progressive::layout(&tracks, &samples).ok_or(ExportError::Empty)?;
    out.write_all(&head).map_err(ExportError::Write)?;

    // The same walk again; each sample must be the one that the index promised.
    let mut again = Index::default();
    let mut next = samples.iter();
    let mut failed = None;
    let half = total / 2;
    footage.read(secrets, &mut |done| progress(half + done, total), &mut |run, record| {
        let sample = again.record(run, &record);
        if let (Some(sample), Record::Unit(unit)) = (sample, &record) {
            failed = match next.next() {
                Some(promised) if *promised == sample => out.write_all(&unit.data).err().map(ExportError::Write),
                _ => Some(ExportError::Changed),
            };
        }
        if cancelled() {
            failed = Some(ExportError::Cancelled);
        }
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if next.next().is_some() {
        return Err(ExportError::Changed);
    }
    out.flush().map_err(ExportError::Write)?;
    let mut report = index.report;
    report.segments = footage.len();
    report.left_out = left_out;
    report.bytes = head.len() as u64 + samples.iter().map(|sample| u64::from(sample.size)).sum::<u64>();
    for sample in &samples {
        let id = index.tracks.get(sample.track).map_or(0, |(id, _)| id.0);
        *report.packets.entry(id).or_default() += 1;
    }
    Ok(report)
}
