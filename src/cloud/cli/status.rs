//! `mvb-cloud status` and `mvb-cloud alarm …`.

use super::{Global, Outcome, unexpected, utc};
use crate::base::units::ByteCount;
use crate::cloud::command::{Command as Order, Reply, Status};
use std::process::ExitCode;

/// Alarms.
#[derive(Debug, clap::Subcommand)]
pub enum AlarmCommand {
    /// Say that somebody has looked at an alarm. If it stopped a box from erasing, the box may erase again; a forked
    /// journal is then taken from its beginning as a new branch.
    Clear {
        /// Its number in `mvb-cloud status`.
        id: i64,
    },
}

pub(super) fn alarm(global: &Global, command: &AlarmCommand) -> Outcome {
    let AlarmCommand::Clear { id } = command;
    match global.ask(Order::AlarmClear { id: *id })? {
        Reply::Done => Ok(ExitCode::SUCCESS),
        _ => Err(unexpected()),
    }
}

pub(super) fn run(global: &Global) -> Outcome {
    let Reply::Status(status) = global.ask(Order::Status)? else { return Err(unexpected()) };
    if global.json {
        return Global::print_json(&status);
    }
    print(&status);
    Ok(ExitCode::SUCCESS)
}

fn print(s: &Status) {
    println!(
        "{} ({}), {}",
        s.name,
        s.organisation,
        if s.locked { "key LOCKED: run `mvb-cloud unlock`" } else { "key open" }
    );
    let page = s.page.as_deref().unwrap_or("off");
    println!(
        "boxes on UDP {}, pairing on TCP {}, page {page}, {} open codes",
        s.boxes_listen, s.pairing_listen, s.open_codes
    );
    println!(
        "vault: {} committed ({}), {} opened, {} being received, {} refused; {} free{}",
        s.totals.committed,
        ByteCount(s.totals.committed_bytes),
        s.totals.opened,
        s.totals.partial,
        s.totals.rejected,
        ByteCount(s.free_bytes),
        if s.credit { "" } else { ": TOO FULL, no backlog is taken" },
    );
    for b in &s.boxes {
        let heard = b.last_contact.map_or_else(|| "never".into(), utc);
        println!(
            "box {} serial {}: {}, {}; heard {heard}; {} committed, backlog {}{}",
            b.box_id,
            b.serial,
            b.state.as_str(),
            if b.connected { "connected" } else { "not connected" },
            b.totals.committed,
            b.backlog,
            b.erase_blocked.as_ref().map_or_else(String::new, |code| format!("; may erase nothing ({code})")),
        );
    }
    for a in &s.alarms {
        println!("ALARM {} {} {} ({}x): {}", a.id, utc(a.at), a.code, a.times, a.text);
    }
    for (code, n) in &s.reasons {
        println!("reason {code}: {n}");
    }
}
