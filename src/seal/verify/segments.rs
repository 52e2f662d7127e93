//! Segment files against what the journal says of them.

use super::journal::{Closed, Facts, Known};
use super::{Finding, HeadFile, Report, Seen, about, named};
use crate::base::cbor;
use crate::base::ids::SegmentId;
use crate::base::units::BootTime;
use crate::seal::Prev;
use crate::seal::frame::FRAME_HEAD;
use crate::seal::scan::Scan;
use crate::seal::signed::{EndBody, SIGNATURE};
use std::collections::{BTreeMap, HashSet};

/// A `destroyed` entry so near the journal's end may not have been followed by its unlink.
const ERASING: u64 = 64;

struct Judge<'a> {
    seen: &'a BTreeMap<String, Seen>,
    facts: &'a Facts,
    report: &'a mut Report,
    /// Segments whose file is here, under whatever name.
    here: HashSet<SegmentId>,
    /// Something here is newer than the journal's last entry.
    newer: bool,
}

pub(super) fn judge(seen: &BTreeMap<String, Seen>, facts: &Facts, head: Option<&HeadFile>, report: &mut Report) {
    let mut judge = Judge { seen, facts, report, here: HashSet::new(), newer: facts.torn };
    for (name, file) in seen {
        match named(name) {
            Some(id) => judge.file(name, id, file),
            None => judge.report.notes.push(about("stray-file", name, None)),
        }
    }
    judge.missing();
    judge.links();
    judge.journal(head);
}

impl Judge<'_> {
    fn find(&mut self, code: &'static str, name: &str, id: SegmentId, scan: &Scan) {
        let finding = self.finding(code, name, id, scan);
        self.report.findings.push(finding);
    }

    fn note(&mut self, code: &'static str, name: &str, id: SegmentId, scan: &Scan) {
        let finding = self.finding(code, name, id, scan);
        self.report.notes.push(finding);
    }

    fn finding(&self, code: &'static str, name: &str, id: SegmentId, scan: &Scan) -> Finding {
        let from = scan.fault.map_or(scan.last.map_or(0, |point| point.offset), |fault| fault.at);
        let to = scan.fault.map_or(scan.size, |fault| fault.until);
        let text = scan.last.map_or_else(String::new, |point| format!("proven up to CKPT {}", point.number));
        Finding { from: Some(from), to: Some(to), text, ..about(code, name, Some(id)) }
    }

    fn file(&mut self, name: &str, id: SegmentId, file: &Seen) {
        let scan = &file.scan;
        let genuine = scan.last.is_some() && file.known_box;
        let Some(header) = &scan.header else {
            self.here.insert(id);
            return self.own(name, id, scan);
        };
        if header.segment != id {
            let code =
                if genuine { self.renamed(id, header.segment, file) } else { self.beheaded(id, header.segment, file) };
            if code != "segment-duplicated" {
                self.here.extend([id, header.segment]);
            }
            return self.find(code, name, id, scan);
        }
        self.here.insert(id);
        let by_journal = self.report.boxes.contains(&header.box_id);
        if !by_journal && self.facts.segments.contains_key(&id) {
            // The journal knows it as its own box's: the header's box was altered.
            return self.find("header-flipped", name, id, scan);
        }
        if !file.known_box || (!by_journal && self.facts.present) {
            return self.find("segment-foreign", name, id, scan);
        }
        if let Some(keys) = self.facts.recipients.get(&header.organisation).filter(|_| !self.facts.incomplete)
            && genuine
            && header.stanzas.iter().any(|stanza| !keys.contains(&stanza.key))
        {
            self.find("stanza-foreign", name, id, scan);
        }
        self.own(name, id, scan);
    }

    /// A genuine segment under another one's name.
    fn renamed(&self, id: SegmentId, inside: SegmentId, file: &Seen) -> &'static str {
        let by_journal = file.scan.header.as_ref().is_some_and(|header| self.report.boxes.contains(&header.box_id));
        if !by_journal && self.facts.present {
            return "segment-foreign";
        }
        match self.inside_of(inside) {
            Some(other) if other == id => "segment-swapped",
            Some(other) if other == inside => "segment-duplicated",
            _ => "segment-renamed",
        }
    }

    /// A header that does not belong to the file.
    fn beheaded(&self, id: SegmentId, inside: SegmentId, file: &Seen) -> &'static str {
        let differing: u32 = id.0.iter().zip(inside.0).map(|(a, b)| (a ^ b).count_ones()).sum();
        let known_box = file.known_box
            && file.scan.header.as_ref().is_some_and(|h| self.report.boxes.contains(&h.box_id) || !self.facts.present);
        match self.inside_of(inside) {
            // Two random ids differ in 64 bits, give or take 20.
            _ if differing <= 8 => "header-flipped",
            Some(other) if other == id => "header-swapped",
            _ if !known_box => "header-foreign",
            Some(_) => "header-replayed",
            None if self.facts.segments.contains_key(&inside) => "header-replayed",
            None => "header-foreign",
        }
    }

    fn inside_of(&self, id: SegmentId) -> Option<SegmentId> {
        Some(self.seen.get(&format!("{id}.mvs"))?.scan.header.as_ref()?.segment)
    }

    /// A file under its own name.
    fn own(&mut self, name: &str, id: SegmentId, scan: &Scan) {
        let known = self.facts.segments.get(&id).cloned().unwrap_or_default();
        match known {
            Known { destroyed: Some(seq), .. } if seq + ERASING >= self.facts.last => {
                self.note("segment-erasing", name, id, scan);
            }
            Known { destroyed: Some(_), .. } => self.find("segment-replayed", name, id, scan),
            Known { closed: Some(closed), opened, .. } => {
                let prev = opened.map(|opened| opened.prev);
                self.closed(name, id, scan, &closed, prev);
            }
            Known { opened: Some(opened), .. } => {
                let last = scan.header.as_ref().and_then(|header| self.facts.last_run(header.box_id));
                self.newer |= scan.end.is_some_and(|end| !end.reason.is_recovery());
                self.open(name, id, scan, last.is_none_or(|last| last == opened.run));
            }
            Known { .. } => self.unknown(name, id, scan),
        }
    }

    fn closed(&mut self, name: &str, id: SegmentId, scan: &Scan, closed: &Closed, prev: Option<Prev>) {
        if (scan.size, scan.sha256) == (closed.size, closed.sha256) {
            return match scan.fault {
                None if scan.end.is_some() => {
                    self.report.complete += 1;
                    if closed.cut.is_some() {
                        self.note("segment-recovered", name, id, scan);
                    }
                }
                None => self.find("end-inconsistent", name, id, scan),
                // Exactly what the box closed, and yet against the format: its key is in other hands, or it erred.
                Some(fault) => self.find(fault.code, name, id, scan),
            };
        }
        let shorter = scan.size < closed.size;
        let code = match scan.fault {
            // The journal knows the END that belongs here, so another one is recognised.
            Some(fault) if fault.signed == 1 && scan.end_frame.is_some_and(|end| end != closed.end) => {
                self.another_end(fault.code, id, scan)
            }
            Some(fault) if shorter => match fault.code {
                "header-flipped" => "header-truncated",
                "record-flipped" => "record-truncated",
                "ckpt-flipped" => "ckpt-truncated",
                "end-flipped" => "end-truncated",
                code => code,
            },
            Some(fault) => fault.code,
            None if scan.end.is_some() => "segment-forked",
            None => match scan.inside {
                Some(0) => "header-truncated",
                Some(64) => "ckpt-truncated",
                Some(65) if shorter => "end-truncated",
                Some(65) => "end-flipped",
                Some(_) => "record-truncated",
                None if !shorter => "record-flipped",
                None if end_alone_is_missing(scan, closed, prev) => "end-dropped",
                None => "segment-truncated",
            },
        };
        self.find(code, name, id, scan);
    }

    /// An END that is not the one the journal names.
    fn another_end(&self, code: &'static str, id: SegmentId, scan: &Scan) -> &'static str {
        let mut others = self.facts.segments.iter().filter(|(other, _)| **other != id);
        let source = others.find(|(_, known)| known.closed.as_ref().map(|closed| closed.end) == scan.end_frame);
        let Some((source, _)) = source else { return if code.starts_with("end-") { code } else { "end-flipped" } };
        let mine = self.facts.segments.get(&id).and_then(|known| known.closed.as_ref()).map(|closed| closed.end);
        let theirs = self.seen.get(&format!("{source}.mvs")).and_then(|file| file.scan.end_frame);
        if theirs.is_some() && theirs == mine { "end-swapped" } else { "end-replayed" }
    }

    fn open(&mut self, name: &str, id: SegmentId, scan: &Scan, last_run: bool) {
        match scan.fault {
            Some(fault) if fault.proven && (!last_run && !self.facts.incomplete || fault.exceeds_power_cut()) => {
                self.find(fault.code, name, id, scan);
            }
            Some(_) => self.note("segment-torn", name, id, scan),
            None if scan.end.is_some() => self.note("segment-unclosed", name, id, scan),
            None => self.note("segment-open", name, id, scan),
        }
    }

    /// The journal does not know it.
    fn unknown(&mut self, name: &str, id: SegmentId, scan: &Scan) {
        let Some(header) = scan.header.as_ref().filter(|_| scan.last.is_some()) else {
            let code = scan.fault.map_or("header-truncated", |fault| fault.code);
            return self.find(code, name, id, scan);
        };
        let last = self.facts.last_run(header.box_id);
        let later = last.is_some_and(|last| header.run.start > last.start);
        if !self.facts.present {
            match scan.fault {
                Some(fault) if fault.proven => self.find(fault.code, name, id, scan),
                _ => self.note("segment-unjournaled", name, id, scan),
            }
        } else if later || (last == Some(header.run) && self.facts.behind.is_some()) {
            self.newer = true;
            self.note("segment-unjournaled", name, id, scan);
        } else if last == Some(header.run) && (scan.end.is_none() || self.facts.torn) || self.facts.incomplete {
            // Created in the last moment before a cut, or journaled on another card.
            self.note("segment-unjournaled", name, id, scan);
        } else {
            self.newer |= last == Some(header.run);
            self.find("segment-replayed", name, id, scan);
        }
    }

    fn missing(&mut self) {
        let mut absent: Vec<_> = self
            .facts
            .segments
            .iter()
            .filter(|(id, known)| known.destroyed.is_none() && !self.here.contains(id))
            .collect();
        absent.sort_by_key(|(id, _)| **id);
        for (id, known) in absent {
            let recent = known.opened.as_ref().is_some_and(|opened| {
                self.facts.runs.iter().rev().take(2).any(|(_, run)| *run == opened.run) || self.facts.incomplete
            });
            let name = format!("{id}.mvs");
            if known.closed.is_none() && recent {
                self.report.notes.push(about("segment-never-written", &name, Some(*id)));
            } else {
                let size = known.closed.as_ref().map_or_else(String::new, |closed| format!("{} bytes", closed.size));
                let text = match &known.opened {
                    Some(o) => format!(
                        "{size}, organisation {}, camera {}, recording {}",
                        o.organisation, o.camera, o.recording
                    ),
                    None => size,
                };
                self.report.findings.push(Finding { text, ..about("segment-dropped", &name, Some(*id)) });
            }
        }
    }

    /// Each END names the END before it in its recording.
    fn links(&mut self) {
        let mut forked = Vec::new();
        for (name, file) in self.seen {
            let Some(end) = file.scan.end.filter(|_| file.known_box) else { continue };
            let Prev::Segment(before, digest) = end.prev else { continue };
            let stated =
                self.facts.segments.get(&before).and_then(|known| known.closed.as_ref()).map(|closed| closed.end);
            let found =
                self.seen.get(&format!("{before}.mvs")).and_then(|file| file.scan.end).map(|end| end.finished.end);
            if stated.or(found).is_some_and(|stated| stated != digest) {
                forked.push((name.clone(), end.finished.segment, before));
            }
        }
        for (name, id, before) in forked {
            let text = format!("its END names another end of segment {before} than the one that is known");
            self.report.findings.push(Finding { text, ..about("segment-forked", &name, Some(id)) });
        }
    }

    fn journal(&mut self, head: Option<&HeadFile>) {
        let lost = |code, from, to, text: &str| Finding {
            from: Some(from),
            to: Some(to),
            text: text.to_owned(),
            ..about(code, "journal", None)
        };
        if !self.facts.present && head.is_none() && !self.seen.is_empty() && self.report.findings.is_empty() {
            self.report.findings.push(about("journal-dropped", "journal", None));
        }
        match self.facts.behind {
            Some((from, to)) if self.newer => {
                let text = "segments that are here know more than the journal";
                self.report.findings.push(lost("journal-truncated", from, to, text));
            }
            Some((from, to)) => {
                let text = "segments and journal agree on an earlier state";
                self.report.findings.push(lost("card-rolled-back", from, to, text));
            }
            None => {}
        }
    }
}

/// Whether the file stops exactly where its END began.
fn end_alone_is_missing(scan: &Scan, closed: &Closed, prev: Option<Prev>) -> bool {
    if let Some(cut) = closed.cut {
        return scan.size == cut;
    }
    let Some(last) = scan.last else { return false };
    let missing = closed.size.saturating_sub(scan.size);
    // Only the boot time is unknown, and with it only how many bytes it takes.
    [0, 1 << 5, 1 << 8, 1 << 16, 1 << 32].into_iter().any(|at| {
        let body = EndBody {
            reason: closed.reason,
            records: scan.records,
            checkpoints: last.number.saturating_add(1),
            prev: prev.unwrap_or(Prev::First),
            run: closed.run,
            at: BootTime(at),
        };
        missing == (FRAME_HEAD + cbor::encode(&body).len() + SIGNATURE) as u64
    })
}

/// One file without a store.
pub(super) fn lone(name: &str, file: &Seen, report: &mut Report) {
    let facts = Facts::default();
    let seen = BTreeMap::new();
    let scan = &file.scan;
    let id = scan.header.as_ref().map(|header| header.segment);
    let mut judge = Judge { seen: &seen, facts: &facts, report, here: HashSet::new(), newer: false };
    let shown = id.or(named(name)).unwrap_or(SegmentId([0; 16]));
    if !file.known_box {
        judge.find("segment-foreign", name, shown, scan);
    } else if let Some(fault) = scan.fault {
        let tearable = ["record-flipped", "record-dropped", "ckpt-flipped", "ckpt-dropped"].contains(&fault.code);
        if !tearable || fault.ended || fault.exceeds_power_cut() {
            judge.find(fault.code, name, shown, scan);
        } else {
            judge.note("segment-torn", name, shown, scan);
        }
    } else if let Some(end) = scan.end {
        judge.report.complete = 1;
        if end.reason.is_recovery() {
            judge.note("segment-recovered", name, shown, scan);
        }
    } else {
        judge.note("segment-open", name, shown, scan);
    }
    if let (Some(id), Some(named)) = (id, named(name))
        && id != named
        && file.known_box
        && scan.last.is_some()
    {
        judge.find("segment-renamed", name, id, scan);
    }
    if let Some(header) = &scan.header {
        report.boxes.push(header.box_id);
    }
}
