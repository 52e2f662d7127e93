//! Reading of segment files, and the second look: where a signature failed, are the strange bytes known from elsewhere?
//!
//! A sealed body is unique (random key per segment), so an equal one in another file is where it was taken from.

use super::{Evidence, Finding, Keys, Report, Seen};
use crate::base::ids::{BoxId, Digest};
use crate::seal::Scanner;
use crate::seal::frame::FrameKind;
use crate::seal::header::{HEADER_PREFIX, Header, HeaderError, MAX_HEADER, Stanza};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

const PIECE: usize = 256 * 1024;

/// Scans a file with the key of the box that its header names; also says whether that key is known.
pub(super) fn walk(bytes: &mut dyn Read, keys: &Keys, prints: bool) -> io::Result<(Scanner, bool)> {
    let mut start = Vec::new();
    // Grown by need: most headers are a few hundred bytes.
    let decoded = loop {
        let want = match Header::decode(&start) {
            Err(HeaderError::Truncated) if start.len() < HEADER_PREFIX => HEADER_PREFIX,
            Err(HeaderError::Truncated) => HEADER_PREFIX + MAX_HEADER,
            other => break other.ok(),
        };
        let before = start.len();
        bytes.take((want - before) as u64).read_to_end(&mut start)?;
        if start.len() == before || (start.len() < want && want == HEADER_PREFIX + MAX_HEADER) {
            break Header::decode(&start).ok();
        }
    };
    let key = decoded.as_ref().and_then(|(header, _)| keys.of(header.box_id));
    let known = key.is_some() || decoded.is_none();
    let Some(key) = key.or_else(|| keys.any()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no key to verify with"));
    };
    let mut scanner = Scanner::new(key.clone());
    if prints {
        scanner = scanner.with_prints();
    }
    scanner.push(&start);
    let mut piece = vec![0; PIECE];
    loop {
        match bytes.read(&mut piece) {
            Ok(0) => return Ok((scanner, known)),
            Ok(n) => scanner.push(piece.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Bodies in doubt, by type and hash, with the number of the finding.
type Doubts = HashMap<(u8, Digest), usize>;

pub(super) fn look(
    evidence: &dyn Evidence,
    keys: &Keys,
    seen: &BTreeMap<String, Seen>,
    report: &mut Report,
) -> io::Result<()> {
    stanzas(seen, report);
    let doubtful = |finding: &Finding| {
        ["record-", "ckpt-", "end-"].iter().any(|object| finding.code.starts_with(object))
            && ["-flipped", "-dropped", "-replayed", "-truncated"].iter().any(|attack| finding.code.ends_with(attack))
    };
    let mut doubts = Doubts::new();
    for (n, finding) in report.findings.iter().enumerate().filter(|(_, finding)| doubtful(finding)) {
        let (Some(file), Some(from), Some(to)) = (&finding.file, finding.from, finding.to) else { continue };
        let (scanner, _) = walk(&mut *evidence.segment(file)?, keys, true)?;
        for print in scanner.prints().iter().filter(|print| (from..to).contains(&print.offset)) {
            doubts.insert((print.kind, print.body), n);
        }
    }
    if doubts.is_empty() {
        return Ok(());
    }
    // Collected first: whether two bodies were exchanged depends on codes that a rename would change.
    let mut renames = Vec::new();
    for (name, other) in seen {
        let (scanner, _) = walk(&mut *evidence.segment(name)?, keys, true)?;
        for print in scanner.prints() {
            let Some(&n) = doubts.get(&(print.kind, print.body)) else { continue };
            let Some(file) = report.findings.get(n).and_then(|finding| finding.file.as_ref()) else { continue };
            if file == name {
                continue;
            }
            let exchanged = report.findings.iter().any(|finding| {
                doubtful(finding)
                    && finding.file.as_ref() == Some(name)
                    && (finding.from.unwrap_or(0)..finding.to.unwrap_or(0)).contains(&print.offset)
            });
            let same_box = seen.get(file).and_then(box_of) == box_of(other);
            renames.push((n, renamed(print.kind, exchanged, same_box), name.clone()));
        }
    }
    for (n, code, name) in renames {
        if let Some(finding) = report.findings.get_mut(n) {
            finding.code = code;
            finding.text = format!("these bytes come from {name}");
        }
    }
    Ok(())
}

fn renamed(kind: u8, exchanged: bool, same_box: bool) -> &'static str {
    const CKPT: u8 = FrameKind::Checkpoint as u8;
    const END: u8 = FrameKind::End as u8;
    match (kind, exchanged, same_box) {
        (CKPT, true, _) => "ckpt-swapped",
        (END, true, _) => "end-swapped",
        (_, true, _) => "record-swapped",
        (CKPT, _, true) => "ckpt-replayed",
        (END, _, true) => "end-replayed",
        (_, _, true) => "record-replayed",
        (CKPT, ..) => "ckpt-foreign",
        (END, ..) => "end-foreign",
        _ => "record-foreign",
    }
}

fn box_of(seen: &Seen) -> Option<BoxId> {
    seen.scan.header.as_ref().map(|header| header.box_id)
}

/// A stanza that differs from what CKPT 0 lists: is it another segment's?
fn stanzas(seen: &BTreeMap<String, Seen>, report: &mut Report) {
    for finding in report.findings.iter_mut().filter(|finding| finding.code == "stanza-flipped") {
        let Some(mine) = finding.file.as_ref().and_then(|file| seen.get(file)) else { continue };
        let Some(header) = &mine.scan.header else { continue };
        for (name, other) in seen {
            let Some(theirs) = &other.scan.header else { continue };
            let taken = |stanza: &Stanza| header.stanzas.contains(stanza);
            if theirs.segment == header.segment || !theirs.stanzas.iter().any(taken) {
                continue;
            }
            finding.code = if theirs.box_id == header.box_id { "stanza-replayed" } else { "stanza-foreign" };
            finding.text = format!("a stanza comes from {name}");
        }
    }
}
