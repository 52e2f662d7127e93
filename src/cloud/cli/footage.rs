//! `mvb-cloud recordings`, `export` and `verify`: they read the vault itself and work without the daemon.

use super::{Failure, Global, Outcome, passphrase, utc};
use crate::cloud::recordings::group;
use crate::cloud::vault::Reader;
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
        println!("{}  camera {}  {} segments, {} units, {}, committed {last}", r.recording, r.camera, r.committed, r.units, r.bytes);
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

fn open(global: &Global) -> Result<Reader, Failure> {
    let data = global.load()?.data;
    Reader::open(&data).map_err(|error| Failure::of(&error))
}
