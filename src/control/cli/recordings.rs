//! `mvbctl recordings`: what is on the card, one logical run of a camera a line.

use super::{Context, Error, Exit};
use crate::base::reason::Coded;
use crate::base::units::{BootTime, ByteCount, WallTime};
use crate::control::Command;
use crate::store::{self, Directory, RecordingInfo, SegmentState};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Arguments of `mvbctl recordings`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvbctl recordings\n  mvbctl recordings --json\n  mvbctl recordings --path /mnt/card/mvb"
)]
pub struct Args {
    /// A store's folder, read without the daemon (a card from another box, or while mvbd is stopped).
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// Only this camera (id).
    #[arg(long, value_name = "ID")]
    pub camera: Option<crate::base::ids::CameraId>,
    /// Each segment too.
    #[arg(long)]
    pub segments: bool,
}

/// Lists recordings.
///
/// # Errors
/// The daemon does not answer, or the folder holds no readable store.
pub fn run(args: &Args, context: &Context) -> Result<Exit, Error> {
    let mut recordings = match &args.path {
        Some(path) => read(path)?,
        None => context.ask(Command::Recordings { camera: args.camera })?,
    };
    recordings.retain(|recording| args.camera.is_none_or(|camera| camera == recording.camera));
    if context.json {
        context.print_json(&recordings)?;
    } else if recordings.is_empty() {
        println!("No recordings.");
    } else {
        print!("{}", text(&recordings, args.segments, args.path.is_some()));
    }
    let damaged = recordings.iter().flat_map(|recording| &recording.segments);
    let damaged = damaged.filter(|segment| segment.state == SegmentState::Damaged).count();
    Ok(if damaged > 0 { Exit::Findings } else { Exit::Ok })
}

fn read(path: &Path) -> Result<Vec<RecordingInfo>, Error> {
    let file = |what| move |source| Error::File { path: path.to_owned(), what, source };
    let volume = Directory::open(path).map_err(file("cannot be opened; give the folder that holds segments/"))?;
    store::list(&volume).map_err(|source| Error::failed(format!("reading the store at {}", path.display()), source))
}

/// The list in words. `alone`: read from a card, so nothing is known of what the cloud holds.
fn text(recordings: &[RecordingInfo], segments: bool, alone: bool) -> String {
    let mut out = String::new();
    for recording in recordings {
        // Writing to a String cannot fail.
        let _ = write(&mut out, recording, segments, alone);
    }
    out
}

fn write(out: &mut String, recording: &RecordingInfo, segments: bool, alone: bool) -> std::fmt::Result {
    let length = recording.to.since(recording.from).as_secs();
    writeln!(
        out,
        "{}  camera {}  {}, {}:{:02} min, {}, {}",
        recording.recording,
        recording.camera,
        when(recording),
        length / 60,
        length % 60,
        recording.size,
        states(recording, alone)
    )?;
    for gap in &recording.gaps {
        let at = offset(recording.from, gap.from);
        writeln!(
            out,
            "    missing at {at}: at most {:.1} s [{}]",
            gap.to.since(gap.from).as_secs_f64(),
            gap.cause.code()
        )?;
    }
    for segment in recording.segments.iter().filter(|_| segments) {
        let cut = segment.cut.map(|cut| format!(", recovered after {}", ByteCount(cut))).unwrap_or_default();
        let held = if segment.held { ", held" } else { "" };
        let background = if segment.background { ", background" } else { "" };
        let state = state_word(segment.state);
        writeln!(out, "    {}  {}, {state}{held}{background}{cut}", segment.segment, segment.size)?;
    }
    Ok(())
}

/// Seconds into a recording; a gap of a run that was cut may lie on its far side only.
fn offset(from: BootTime, at: BootTime) -> String {
    let seconds = at.since(from).as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn when(recording: &RecordingInfo) -> String {
    let Some(time) = &recording.wall else { return "time unknown".to_owned() };
    let shift = i128::from(recording.from.0) - i128::from(time.at.0);
    let millis = i128::from(time.wall.0) + shift / 1000;
    let text = utc(WallTime(i64::try_from(millis).unwrap_or(i64::MAX)));
    match time.error_ms {
        u64::MAX => format!("{text} UTC (clock not vouched for)"),
        error if error >= 1000 => format!("{text} UTC ± {} s", error.div_ceil(1000)),
        _ => format!("{text} UTC"),
    }
}

/// Civil date and time of the proleptic Gregorian calendar, from days since 1970-01-01 (Howard Hinnant's algorithm as
/// published: eras of 400 years that start on 1 March).
fn utc(wall: WallTime) -> String {
    let seconds = wall.0.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

fn state_word(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Open => "still open",
        SegmentState::Sealed => "on the card only",
        SegmentState::Uploaded => "uploaded",
        SegmentState::Damaged => "DAMAGED",
        SegmentState::Absent => "not on this card",
        SegmentState::Destroyed => "erased",
    }
}

fn states(recording: &RecordingInfo, alone: bool) -> String {
    let of = |state| recording.segments.iter().filter(|segment| segment.state == state).count();
    let all = recording.segments.len();
    let mut parts = vec![if all == 1 { "1 segment".to_owned() } else { format!("{all} segments") }];
    for state in [
        SegmentState::Open,
        SegmentState::Sealed,
        SegmentState::Uploaded,
        SegmentState::Damaged,
        SegmentState::Absent,
        SegmentState::Destroyed,
    ] {
        let n = of(state);
        if n > 0 && !(alone && state == SegmentState::Sealed) {
            parts.push(format!("{n} {}", state_word(state)));
        }
    }
    let held = recording.segments.iter().filter(|segment| segment.held).count();
    if held > 0 {
        parts.push(format!("{held} held"));
    }
    if recording.other_organisation {
        parts.push("belongs to another organisation: waits for its cloud".to_owned());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times_are_shown_as_civil_dates() {
        for (millis, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_795_781_106_000, "2026-11-27 12:05:06"),
            (-1000, "1969-12-31 23:59:59"),
        ] {
            assert_eq!(utc(WallTime(millis)), text);
        }
    }
}
