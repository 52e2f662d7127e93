//! `mvbctl status`: the one glance first, then what it rests on.

use super::{Context, Error, Exit};
use crate::base::units::TimeSource;
use crate::control::Command;
use crate::control::status::{Status, Verdict, words};
use std::fmt::Write;

/// Arguments of `mvbctl status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvbctl status\n  mvbctl status --json | jq .verdict\n  mvbctl status --check  # \
    exit code 4 unless all is well")]
pub struct Args {
    /// Exit code 4 if the box does not record or an alarm stands.
    #[arg(long)]
    pub check: bool,
    /// Reason counters too.
    #[arg(long)]
    pub reasons: bool,
}

/// Shows the state.
///
/// # Errors
/// The daemon does not answer.
pub fn run(args: &Args, context: &Context) -> Result<Exit, Error> {
    let status: Status = context.ask(Command::Status)?;
    if context.json {
        context.print_json(&status)?;
    } else {
        print!("{}", text(&status, args.reasons));
    }
    let well = !matches!(status.verdict, Verdict::NotRecording { .. }) && status.alarms.is_empty();
    Ok(if args.check && !well { Exit::Findings } else { Exit::Ok })
}

/// The state in words.
fn text(status: &Status, reasons: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, status, reasons);
    out
}

fn write(out: &mut String, status: &Status, reasons: bool) -> std::fmt::Result {
    match &status.verdict {
        Verdict::Recording { cameras, loss_bound_ms } => {
            let plural = if *cameras == 1 { "camera" } else { "cameras" };
            writeln!(
                out,
                "RECORDING {cameras} {plural}; a power cut now would lose at most {}",
                seconds(*loss_bound_ms)
            )?;
        }
        Verdict::Ready => writeln!(out, "READY; no camera streams")?,
        Verdict::NotRecording { reason } => writeln!(out, "NOT RECORDING: {} [{reason}]", words(reason))?,
    }
    let said = |code: &str| matches!(&status.verdict, Verdict::NotRecording { reason } if reason == code);
    for alarm in status.alarms.iter().filter(|code| !said(code)) {
        writeln!(out, "ALARM: {} [{alarm}]", words(alarm))?;
    }
    writeln!(out)?;

    if status.cameras.is_empty() {
        writeln!(out, "Cameras   none enrolled: `mvbctl camera add NAME`")?;
    }
    let width = status.cameras.iter().map(|camera| camera.name.chars().count()).max().unwrap_or(0);
    for (index, camera) in status.cameras.iter().enumerate() {
        let title = if index == 0 { "Cameras" } else { "" };
        let name = format!("{:width$}", camera.name);
        let peer = match (&camera.transport, &camera.peer) {
            (Some(transport), Some(peer)) => format!(", {transport} from {peer}"),
            _ => String::new(),
        };
        let ended = match (&camera.last_end, camera.connected) {
            (Some(reason), false) => format!(", last session ended: {reason}"),
            _ => String::new(),
        };
        let lost = if camera.lost > 0 { format!(", {} packets lost on the way", camera.lost) } else { String::new() };
        let dark = if camera.no_video { ", NO PICTURE" } else { "" };
        writeln!(
            out,
            "{title:9} {name}  {}{dark}{peer}, {} frames, {}{}{lost}{ended}",
            camera.state,
            camera.accepted,
            camera.bytes,
            camera.officer.as_ref().map(|officer| format!(", worn by {officer}")).unwrap_or_default(),
        )?;
    }
    let card = &status.card;
    writeln!(
        out,
        "Card      {} free of {} at {}, {} waiting in memory (of {})",
        card.free, card.total, card.path, card.waiting, card.waiting_max
    )?;
    let uplink = &status.uplink;
    let host = uplink.host.as_ref().map(|host| format!(" to {host}")).unwrap_or_default();
    let reason = uplink.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let backlog = match uplink.backlog_segments {
        0 => "nothing waits for the cloud".to_owned(),
        count => format!("{count} segments ({}) wait for the cloud", uplink.backlog),
    };
    let watched = match uplink.subscriptions {
        0 => String::new(),
        count => format!(", {count} watched live"),
    };
    writeln!(out, "Uplink    {}{host}{reason}{watched}, {backlog}", uplink.state)?;
    if uplink.other_organisation_segments > 0 {
        writeln!(out, "          {} segments of another organisation wait", uplink.other_organisation_segments)?;
    }
    let pairing = &status.pairing;
    let with = pairing.organisation_name.as_ref().map(|name| format!(" with {name}")).unwrap_or_default();
    let at = pairing.host.as_ref().map(|host| format!(" at {host}")).unwrap_or_default();
    writeln!(out, "Pairing   {}{with}{at}", pairing.state)?;
    for (index, key) in status.recipients.iter().enumerate() {
        let title = if index == 0 { "Keys" } else { "" };
        writeln!(out, "{title:9} {} {} ({})", key.key, key.role, key.origin)?;
    }
    for service in status.services.iter().filter(|service| service.state != "running" || service.restarts > 0) {
        let reason = service.reason.as_deref().unwrap_or("no reason known");
        writeln!(
            out,
            "Service   {} {}, started again {} times: {reason}",
            service.name, service.state, service.restarts
        )?;
    }
    if reasons {
        for (index, (code, count)) in status.reasons.iter().enumerate() {
            writeln!(out, "{:9} {code} {count}", if index == 0 { "Reasons" } else { "" })?;
        }
    }
    let clock = match status.time.source {
        TimeSource::Cloud => "the cloud's time",
        TimeSource::Gnss => "satellite time",
        TimeSource::Ntp => "network time",
        TimeSource::Floor => "no clock: the last known time",
        TimeSource::Unknown => "a clock that nobody vouches for",
    };
    let serial = if status.serial.is_empty() { String::new() } else { format!(", serial {}", status.serial) };
    writeln!(
        out,
        "Box       {}{serial}, id {}, mvb {}, start {}, up {}, {} of memory, {clock}",
        status.name,
        status.box_id.to_string().get(..16).unwrap_or_default(),
        status.version,
        status.run.start,
        span(status.uptime_seconds),
        status.memory,
    )
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::samples;

    #[test]
    fn the_first_line_is_the_verdict_and_says_what_to_do() {
        let mut status = samples::unpaired();
        let shown = text(&status, true);
        let first = shown.lines().next().expect("a line");
        assert!(first.starts_with("NOT RECORDING") && first.contains("mvbctl pair CODE"), "{first}");
        status.verdict = Verdict::Recording { cameras: 1, loss_bound_ms: 940 };
        assert!(text(&status, false).starts_with("RECORDING 1 camera; a power cut now would lose at most 0.9 s"));
    }
}
