//! The journal's chain: what is signed, in which order, what is missing, and what it says about segments.

use super::{Finding, HeadFile, Keys, Report};
use crate::base::chain::{self, Head, PublicKey, Signed};
use crate::base::ids::{BoxId, CameraId, Digest, KeyId, OrganisationId, RecordingId, SegmentId};
use crate::base::units::Run;
use crate::seal::journal::LOG;
use crate::seal::{EndReason, JournalEntry, Prev};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What the journal says about one segment.
#[derive(Debug, Default, Clone)]
pub(super) struct Known {
    pub(super) opened: Option<Opened>,
    pub(super) closed: Option<Closed>,
    /// Number of the entry that says so.
    pub(super) destroyed: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) run: Run,
    pub(super) organisation: OrganisationId,
    pub(super) camera: CameraId,
    pub(super) recording: RecordingId,
    pub(super) prev: Prev,
}

#[derive(Debug, Clone)]
pub(super) struct Closed {
    pub(super) run: Run,
    pub(super) size: u64,
    pub(super) sha256: Digest,
    pub(super) end: Digest,
    pub(super) reason: EndReason,
    pub(super) cut: Option<u64>,
}

/// What one or more journals say.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) segments: HashMap<SegmentId, Known>,
    /// All runs, in order, of each box.
    pub(super) runs: Vec<(BoxId, Run)>,
    /// Recipient keys that ever were in force, by organisation.
    pub(super) recipients: HashMap<OrganisationId, HashSet<KeyId>>,
    /// Entries are missing, lawfully or not: absence in the journal proves nothing.
    pub(super) incomplete: bool,
    /// There is a journal with at least one valid entry.
    pub(super) present: bool,
    /// Number of the journal's last entry.
    pub(super) last: u64,
    /// The journal's last file ends in the middle of an entry.
    pub(super) torn: bool,
    /// The cloud knows a later head than the journal reaches.
    pub(super) behind: Option<(u64, u64)>,
}

impl Facts {
    pub(super) fn last_run(&self, of: BoxId) -> Option<Run> {
        self.runs.iter().rev().find(|(box_id, _)| *box_id == of).map(|(_, run)| *run)
    }
}

struct Chain {
    name: BoxId,
    key: PublicKey,
    /// Hash and bytes of each accepted entry, by sequence number.
    hashes: BTreeMap<u64, Digest>,
    head: Option<Head>,
    /// An entry before could not be used, so the next hole is explained.
    excused: bool,
    /// Findings of missing entries: index, first and last number.
    missing: Vec<(usize, u64, u64)>,
    acknowledged: Vec<Head>,
}

pub(super) fn judge(files: Vec<(String, Vec<u8>)>, keys: &Keys, head: Option<&HeadFile>, report: &mut Report) -> Facts {
    let mut facts = Facts::default();
    let mut groups: BTreeMap<BoxId, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    let mut ordered: Vec<_> =
        files.into_iter().map(|(name, bytes)| (Signed::from_frame(&bytes).ok(), name, bytes)).collect();
    ordered.sort_by_key(|(first, name, _)| (first.as_ref().map(|(signed, _)| signed.entry.seq), name.clone()));
    // A file whose first entry cannot be read goes with the box of the others.
    let main = ordered.iter().find_map(|(first, ..)| {
        first.as_ref().map(|(signed, _)| signed.entry.author).filter(|author| keys.of(*author).is_some())
    });
    for (first, name, bytes) in ordered {
        if bytes.is_empty() {
            continue;
        }
        let author = first.as_ref().map(|(signed, _)| signed.entry.author);
        match author.filter(|author| keys.of(*author).is_some()).or(main) {
            Some(group) if author.is_none() || author == Some(group) => {
                groups.entry(group).or_default().push((name, bytes))
            }
            // One flipped bit in the first entry's author must not make a stranger of the whole file.
            Some(group) if second_author(&bytes) == Some(group) => groups.entry(group).or_default().push((name, bytes)),
            _ => report.findings.push(at("journal-foreign", &name, None)),
        }
    }
    for (box_id, files) in groups {
        let Some(key) = keys.of(box_id) else { continue };
        let mut chain = Chain {
            name: box_id,
            key: key.clone(),
            hashes: BTreeMap::new(),
            head: None,
            excused: false,
            missing: Vec::new(),
            acknowledged: Vec::new(),
        };
        let count = files.len();
        for (n, (name, bytes)) in files.into_iter().enumerate() {
            chain.file(&name, &bytes, n + 1 == count, &mut facts, report);
        }
        chain.finish(head.filter(|head| head.box_id == box_id), &mut facts, report);
    }
    if let Some(head) = head
        && !report.boxes.contains(&head.box_id)
    {
        report.findings.push(Finding {
            text: format!("the cloud knows a journal of box {} up to entry {}; none is here", head.box_id, head.seq),
            to: Some(head.seq.saturating_add(1)),
            ..at("journal-dropped", "journal", Some(0))
        });
        facts.incomplete = true;
    }
    facts
}

fn second_author(bytes: &[u8]) -> Option<BoxId> {
    let (_, used) = Signed::from_frame(bytes).ok()?;
    Signed::from_frame(bytes.get(used..)?).ok().map(|(signed, _)| signed.entry.author)
}

fn at(code: &'static str, file: &str, seq: Option<u64>) -> Finding {
    Finding {
        code,
        file: Some(file.to_owned()),
        segment: None,
        from: seq,
        to: seq.map(|seq| seq.saturating_add(1)),
        text: String::new(),
    }
}

impl Chain {
    fn file(&mut self, name: &str, bytes: &[u8], last: bool, facts: &mut Facts, report: &mut Report) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match Signed::from_frame(rest) {
                Ok((signed, used)) => {
                    rest = rest.get(used..).unwrap_or_default();
                    self.entry(name, signed, facts, report);
                }
                Err(chain::Error::Truncated) if last && !self.more_after(rest) => {
                    // A cut of power leaves this; only the cloud's head can tell more.
                    report.notes.push(at("journal-torn", name, self.next()));
                    facts.torn = true;
                    return;
                }
                Err(error) => {
                    let code = match error {
                        chain::Error::Truncated if !self.more_after(rest) => "journal-truncated",
                        _ => "journal-flipped",
                    };
                    report.findings.push(at(code, name, self.next()));
                    self.excused = true;
                    facts.incomplete = true;
                    // An entry whose shape is broken still has a length that may be right.
                    let skip = rest.first_chunk::<4>().map_or(0, |len| u32::from_be_bytes(*len)) as usize;
                    match rest.get(skip.saturating_add(4 + 64)..) {
                        Some(next) if Signed::from_frame(next).is_ok() => rest = next,
                        _ => match self.resync(rest) {
                            Some(next) => rest = rest.get(next..).unwrap_or_default(),
                            None => return,
                        },
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<u64> {
        Some(self.head.map_or(0, |head| head.seq + 1))
    }

    /// Whether an entry of this box can be found further on: then a broken length is damage and no torn tail.
    fn more_after(&self, rest: &[u8]) -> bool {
        self.resync(rest).is_some()
    }

    /// Offset of the next signed entry of this box, found by its author field.
    fn resync(&self, rest: &[u8]) -> Option<usize> {
        let author = &self.name.0;
        let mut from = 1;
        while let Some(found) = rest.get(from..).and_then(|r| r.windows(32).position(|window| window == author)) {
            let author_at = from + found;
            // u32 length, map head, 0 seq, 1 prev (2 + 32 bytes), 2 and its two head bytes: the entry starts 41 to 60
            // bytes before its author.
            let start = (author_at.saturating_sub(60).max(1)..author_at).find(|start| {
                rest.get(*start..).is_some_and(|r| {
                    Signed::from_frame(r)
                        .is_ok_and(|(signed, _)| signed.entry.author == self.name && self.signed(&signed))
                })
            });
            if start.is_some() {
                return start;
            }
            from = author_at + 1;
        }
        None
    }

    fn signed(&self, signed: &Signed) -> bool {
        let before = signed.entry.seq.checked_sub(1).map(|seq| Head { seq, hash: signed.entry.prev });
        signed.check(LOG, before, &self.key).is_ok()
    }

    fn entry(&mut self, name: &str, signed: Signed, facts: &mut Facts, report: &mut Report) {
        let seq = signed.entry.seq;
        if signed.entry.author != self.name {
            self.excused = true;
            facts.incomplete = true;
            // One that only looks foreign because a bit of its author flipped is of the right place in the chain.
            let mine = self.head.is_some_and(|head| head.hash == signed.entry.prev);
            let code = if mine { "journal-flipped" } else { "journal-foreign" };
            return report.findings.push(at(code, name, self.next()));
        }
        if !self.signed(&signed) {
            self.excused = true;
            facts.incomplete = true;
            return report.findings.push(at("journal-flipped", name, self.next()));
        }
        report.entries += 1;
        let head = signed.head(LOG);
        let what = JournalEntry::decode(signed.entry.kind, &signed.entry.body);
        if let Some(hash) = self.hashes.get(&seq) {
            let code = if *hash != head.hash {
                "journal-forked"
            } else if self.head == Some(head) {
                "journal-duplicated"
            } else {
                "journal-replayed"
            };
            return report.findings.push(at(code, name, Some(seq)));
        }
        let follows = match self.head {
            None => seq == 0,
            Some(before) => (before.seq + 1, before.hash) == (seq, signed.entry.prev),
        };
        if !follows && !self.hole(name, &signed, what.as_ref().ok().and_then(Option::as_ref), facts, report) {
            self.hashes.insert(seq, head.hash);
            return;
        }
        self.excused = false;
        self.hashes.insert(seq, head.hash);
        self.head = Some(head);
        match what {
            Ok(Some(what)) => self.learn(name, &signed, what, facts, report),
            Ok(None) => report.notes.push(at("journal-unknown-kind", name, Some(seq))),
            Err(_) => report.findings.push(at("journal-malformed", name, Some(seq))),
        }
        facts.present = true;
        facts.last = facts.last.max(seq);
    }

    /// Judges an entry that does not follow the one before; false if the chain does not go on from it.
    fn hole(
        &mut self,
        name: &str,
        signed: &Signed,
        what: Option<&JournalEntry>,
        facts: &mut Facts,
        report: &mut Report,
    ) -> bool {
        let seq = signed.entry.seq;
        let from = self.next().unwrap_or(0);
        if let Some(JournalEntry::Card { reached, .. }) = what
            && *reached == self.head
            && seq >= from
        {
            facts.incomplete = true;
            report.notes.push(Finding { to: Some(seq), ..at("journal-elsewhere", name, Some(from)) });
            return true;
        }
        if seq < from {
            // Late: the finding of its absence becomes one of order.
            for (n, first, last) in &self.missing {
                if (*first..=*last).contains(&seq)
                    && let Some(finding) = report.findings.get_mut(*n)
                {
                    finding.code = "journal-swapped";
                    self.learn_late(signed, facts);
                    return false;
                }
            }
            report.findings.push(at("journal-forked", name, Some(seq)));
            return false;
        }
        if seq == from {
            if !self.excused {
                report.findings.push(at("journal-forked", name, Some(seq)));
            }
            return true;
        }
        facts.incomplete = true;
        if !self.excused {
            self.missing.push((report.findings.len(), from, seq - 1));
            report.findings.push(Finding { to: Some(seq), ..at("journal-dropped", name, Some(from)) });
        }
        true
    }

    fn learn_late(&mut self, signed: &Signed, facts: &mut Facts) {
        if let Ok(Some(what)) = JournalEntry::decode(signed.entry.kind, &signed.entry.body) {
            self.segment(signed, &what, facts);
        }
    }

    fn learn(&mut self, name: &str, signed: &Signed, what: JournalEntry, facts: &mut Facts, report: &mut Report) {
        let run = (self.name, signed.entry.run);
        if !facts.runs.contains(&run) {
            facts.runs.push(run);
        }
        self.segment(signed, &what, facts);
        match what {
            JournalEntry::Gap { camera, recording, gap, .. } => {
                let ms = gap.to.since(gap.from).as_millis();
                let text = format!("camera {camera}, recording {recording}: {ms} ms are missing ({})", cause(&gap));
                report.notes.push(Finding { text, ..at("gap", name, Some(signed.entry.seq)) });
            }
            JournalEntry::Alarm { code } if code == "card-rolled-back" => {
                facts.incomplete = true;
                report.findings.push(Finding {
                    text: "the box itself found that the card did not reach its journal".into(),
                    ..at("card-rolled-back", name, Some(signed.entry.seq))
                });
            }
            JournalEntry::Alarm { code } => {
                report.notes.push(Finding { text: code, ..at("box-alarm", name, Some(signed.entry.seq)) });
            }
            JournalEntry::Acknowledged { head, .. } => self.acknowledged.push(head),
            JournalEntry::Recipients { organisation, keys } => {
                facts.recipients.entry(organisation).or_default().extend(keys);
            }
            _ => {}
        }
    }

    fn segment(&mut self, signed: &Signed, what: &JournalEntry, facts: &mut Facts) {
        let run = signed.entry.run;
        match what.clone() {
            JournalEntry::Opened { segment, organisation, camera, recording, prev, .. } => {
                let opened = Opened { run, organisation, camera, recording, prev };
                facts.segments.entry(segment).or_default().opened = Some(opened);
            }
            JournalEntry::Closed { segment, size, sha256, end, reason, cut } => {
                let closed = Closed { run, size, sha256, end, reason, cut };
                facts.segments.entry(segment).or_default().closed = Some(closed);
            }
            JournalEntry::Destroyed { segment, .. } => {
                facts.segments.entry(segment).or_default().destroyed = Some(signed.entry.seq);
            }
            _ => {}
        }
    }

    fn finish(self, known: Option<&HeadFile>, facts: &mut Facts, report: &mut Report) {
        if self.hashes.is_empty() {
            return;
        }
        report.boxes.push(self.name);
        report.head = if report.boxes.len() == 1 { self.head } else { None };
        for head in self.acknowledged {
            if self.hashes.get(&head.seq).is_some_and(|hash| *hash != head.hash) {
                report.findings.push(at("journal-forked", "journal", Some(head.seq)));
            }
        }
        let Some(known) = known else { return };
        match self.hashes.get(&known.seq) {
            Some(hash) if *hash == known.hash => {}
            Some(_) => report.findings.push(at("journal-forked", "journal", Some(known.seq))),
            None => match self.head {
                // The name depends on what the segments know: see `segments::judge`.
                Some(head) if head.seq < known.seq => facts.behind = Some((head.seq + 1, known.seq + 1)),
                _ => report.notes.push(at("head-elsewhere", "journal", Some(known.seq))),
            },
        }
    }
}

fn cause(gap: &crate::media::Gap) -> &'static str {
    use crate::base::reason::Coded;
    gap.cause.code()
}
