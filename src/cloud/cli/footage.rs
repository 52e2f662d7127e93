//! `mvb-cloud recordings` and `verify`: they read the vault itself and work without the daemon.

use super::{Failure, Global, Outcome, utc};
use crate::cloud::recordings::group;
use crate::cloud::vault::Reader;
use crate::cloud::verify;
use std::process::ExitCode;

pub(super) fn recordings(global: &Global) -> Outcome {
    let vault = open(global)?;
    let list = group(&vault.files().map_err(|error| Failure::of(&error))?);
    if global.json {
        return Global::print_json(&list);
    }
    if list.is_empty() {
        eprintln!("Nothing has been received yet.");
    }
    for r in list {
        let last = r.last_committed.map_or_else(|| "not yet".into(), utc);
        println!(
            "{}  camera {}  {} segments, {} units, {}, committed {last}",
            r.recording, r.camera, r.committed, r.units, r.bytes
        );
        let notes = [
            (r.partial, "being received"),
            (r.rejected, "refused"),
            (r.committed - r.opened.min(r.committed), "not opened (key locked)"),
            (r.tails, "with more received live than on the card"),
            (r.conflicts, "in conflict with another of the same id"),
        ];
        for (n, what) in notes.into_iter().filter(|(n, _)| *n > 0) {
            println!("    {n} {what}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn verify(global: &Global) -> Outcome {
    let vault = open(global)?;
    let bar = progress("boxes");
    let verdict = verify::vault(&vault, &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })
    .map_err(|error| Failure::of(&error))?;
    bar.finish_and_clear();
    let clean = verdict.findings.is_empty();
    if global.json {
        Global::print_json(&verdict)?;
    } else {
        for named in &verdict.notes {
            println!("note     box {}: {} [{}]", short(named), named.finding.text, named.finding.code);
        }
        for named in &verdict.findings {
            println!("FINDING  box {}: {} [{}]", short(named), named.finding.text, named.finding.code);
        }
        let word = if clean { "nothing was altered" } else { "NOT as it was committed" };
        println!(
            "{} files and {} journal entries: {word}; {} segments named by journals are not here (yet)",
            verdict.files, verdict.entries, verdict.elsewhere
        );
    }
    Ok(ExitCode::from(if clean { 0 } else { 4 }))
}

fn short(named: &verify::Named) -> String {
    let segment = named.finding.segment.map_or_else(String::new, |segment| format!(" segment {segment}"));
    format!("{}{segment}", named.box_id)
}

/// A progress bar on the terminal; silent elsewhere.
pub(super) fn progress(what: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(0);
    // The template is a constant that parses.
    if let Ok(style) = indicatif::ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

fn open(global: &Global) -> Result<Reader, Failure> {
    let data = global.load()?.data;
    Reader::open(&data).map_err(|error| Failure::of(&error))
}
