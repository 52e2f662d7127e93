//! A recording as one MP4: a first pass looks at sizes and times, a second writes the bytes. RAM holds the index only.

use super::footage::{Footage, FootageError, LeftOut, Place};
use crate::base::reason::Coded;
use crate::base::units::{Run, TimeSource, TimeStatement};
use crate::media::mp4;
use crate::media::mp4::progressive::{self, Sample};
use crate::media::{AccessUnit, Gap, TrackId, TrackParams};
use crate::seal::{RecipientSecret, Record};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// What an export contains and what it does not.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Segments read.
    pub segments: usize,
    /// Samples written, by track.
    pub packets: BTreeMap<u8, u64>,
    /// Samples whose parts were lost between camera and box.
    pub damaged: u64,
    /// Samples that came live and are not in the file that the box closed after a cut: no signature of a whole file
    /// covers them.
    pub provisional: u64,
    /// What the recording says is missing.
    pub gaps: Vec<Gap>,
    /// What could not be opened.
    pub left_out: Vec<LeftOut>,
    /// Tracks that MP4 cannot describe, or that had no parameters; with the samples left out.
    pub tracks_left_out: BTreeMap<u8, u64>,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Report {
    /// For people, a line each: how much was written to `output`, and what is missing in it.
    #[must_use]
    pub fn lines(&self, output: &Path) -> Vec<String> {
        let units: u64 = self.packets.values().sum();
        let mut lines =
            vec![format!("{}: {units} units of {} segments, {} bytes", output.display(), self.segments, self.bytes)];
        lines.extend(
            self.gaps.iter().map(|gap| {
                format!("    missing: {:.1} s ({})", gap.to.since(gap.from).as_secs_f64(), gap.cause.code())
            }),
        );
        lines.extend(self.left_out.iter().map(|left| {
            format!("    left out: segment {} at byte {}, {} × {}", left.segment, left.from, left.count, left.code)
        }));
        lines.extend(
            self.tracks_left_out
                .iter()
                .map(|(track, n)| format!("    left out: {n} units of track {track}, which MP4 cannot hold")),
        );
        lines
    }

    /// Whether something that was there is not in the export.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.left_out.is_empty()
    }
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

/// Longest pause between two samples of the movie: durations have 32 bits, which are 13 hours at 90 kHz.
const LONGEST_PAUSE: i128 = 12 * 3600 * 1_000_000;
/// A sample before the latest one by more than this is an error of the clock: reordering steps back by pictures.
const LONGEST_STEP_BACK: i128 = 60 * 1_000_000;
/// Ticks per second above this are no track of ours; sound has 192,000 at most.
const MAX_TIMESCALE: u32 = 1_000_000;
/// Pause between boots whose distance nobody knows.
const UNKNOWN_PAUSE: i128 = 1_000_000;

#[derive(Default)]
struct Index {
    /// Tracks of the movie: what they come from, and their parameters over time.
    tracks: Vec<(TrackId, Vec<TrackParams>)>,
    /// Which track and which of its parameters the next unit of a camera's track has; `None`: MP4 cannot hold it.
    current: BTreeMap<TrackId, Option<(usize, u32)>>,
    samples: Vec<Sample>,
    report: Report,
    line: Line,
}

/// Puts the boot times of several runs on one line, in microseconds. Media time is boot time, so within one boot pauses
/// are as long as they were.
#[derive(Default)]
struct Line {
    run: Option<Run>,
    /// What is known of wall time: of the boot before, and of this one.
    before: Option<TimeStatement>,
    now: Option<TimeStatement>,
    offset: i128,
    /// The first sample of this boot has been placed.
    joined: bool,
    /// The latest sample, on the line.
    last: Option<i128>,
}

impl Line {
    fn statement(&mut self, run: Run, said: TimeStatement) {
        self.enter(run);
        if said.source >= TimeSource::Ntp {
            self.now = Some(said);
        }
    }

    /// Microseconds to add to a sample's own time.
    fn place(&mut self, run: Run, own: i128) -> i128 {
        self.enter(run);
        if !std::mem::replace(&mut self.joined, true)
            && let Some(last) = self.last
        {
            // Wall time at boot time zero, of both boots, tells how far apart they are.
            let zero = |s: TimeStatement| i128::from(s.wall.0) * 1000 - i128::from(s.at.0);
            let known = self.before.zip(self.now).map(|(before, now)| self.offset + zero(now) - zero(before));
            self.offset = known.unwrap_or(i128::MIN).max(last + UNKNOWN_PAUSE - own);
        }
        // The movie begins at zero.
        let last = self.last.unwrap_or(0);
        let (earliest, latest) = match self.last {
            Some(last) => (last - LONGEST_STEP_BACK - own, last + LONGEST_PAUSE - own),
            None => (-own, -own),
        };
        self.offset = self.offset.clamp(earliest, latest);
        self.last = Some(last.max(own + self.offset));
        self.offset
    }

    fn enter(&mut self, run: Run) {
        if self.run.is_some_and(|before| before.boot != run.boot) {
            self.before = self.now.take();
            self.joined = false;
        }
        self.run = Some(run);
    }
}

impl Index {
    fn record(&mut self, place: Place, record: &Record) -> Option<Sample> {
        match record {
            Record::Params(params) => self.params(params),
            Record::Gap(gap) => self.report.gaps.push(*gap),
            Record::Meta(meta) => self.line.statement(place.run, meta.time),
            Record::Unit(unit) => return self.unit(place, unit),
            Record::Event(_) => {}
        }
        None
    }

    fn unit(&mut self, place: Place, unit: &AccessUnit) -> Option<Sample> {
        let found = self.current.get(&unit.track).copied().flatten();
        let timescale = found.and_then(|(track, _)| self.tracks.get(track)?.1.first()).map(|first| first.timescale);
        let (Some((track, description)), Some(timescale), Ok(size)) =
            (found, timescale, u32::try_from(unit.data.len()))
        else {
            *self.report.tracks_left_out.entry(unit.track.0).or_default() += 1;
            return None;
        };
        let scale = i128::from(timescale.max(1));
        let offset = self.line.place(place.run, i128::from(unit.pts.0) * 1_000_000 / scale);
        self.report.damaged += u64::from(unit.flags.damaged);
        self.report.provisional += u64::from(place.provisional);
        let pts = i64::try_from(i128::from(unit.pts.0) + offset * scale / 1_000_000).unwrap_or(0);
        Some(Sample { track, description, pts, size, key: unit.flags.key })
    }

    /// A set that differs opens a new description; another coding or clock under the same number is a track of its own.
    fn params(&mut self, params: &TrackParams) {
        let place = if (1..=MAX_TIMESCALE).contains(&params.timescale) && mp4::is_describable(params) {
            let same = |sets: &[TrackParams]| {
                sets.first().is_some_and(|first| (first.codec, first.timescale) == (params.codec, params.timescale))
            };
            let track = self.tracks.iter().position(|(id, sets)| *id == params.track && same(sets));
            let track = track.unwrap_or_else(|| {
                self.tracks.push((params.track, Vec::new()));
                self.tracks.len() - 1
            });
            self.tracks.get_mut(track).and_then(|(_, sets)| {
                let set = sets.iter().position(|set| set == params).unwrap_or_else(|| {
                    sets.push(params.clone());
                    sets.len() - 1
                });
                Some((track, u32::try_from(set).ok()?))
            })
        } else {
            None
        };
        self.current.insert(params.track, place);
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
    let left_out = footage.read(secrets, &mut |done| progress(done, total), &mut |place, record| {
        if let Some(sample) = index.record(place, &record) {
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
    footage.read(secrets, &mut |done| progress(half + done, total), &mut |place, record| {
        let sample = again.record(place, &record);
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
