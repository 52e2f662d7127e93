//! Proves footage with public keys only, and says in words what was done to it.
//!
//! Belongs here: judging a whole store (segments and journal) or one file against keys that the cloud exported. Does not
//! belong here: folders and arguments (see `control::cli::verify`). Pure but for the reads that [`Evidence`] offers.
//! Spec: `docs/spec/sealed-segment.md`, "Verification".

mod again;
mod journal;
mod segments;
mod trust;
mod words;

pub use trust::{BoxKey, HeadFile, Keys, TrustError};

use crate::base::chain::Head;
use crate::base::ids::{BoxId, SegmentId};
use crate::seal::scan::Scan;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Read};

/// What is to be judged: the files of a store, as they lie there.
pub trait Evidence {
    /// Names of the files in `segments/`.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn segments(&self) -> io::Result<Vec<String>>;

    /// One of them, to be read once from its start.
    ///
    /// # Errors
    /// The file cannot be opened.
    fn segment(&self, name: &str) -> io::Result<Box<dyn Read + '_>>;

    /// Names of the files in `journal/`.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn journals(&self) -> io::Result<Vec<String>>;

    /// One of them, whole.
    ///
    /// # Errors
    /// The file cannot be read.
    fn journal(&self, name: &str) -> io::Result<Vec<u8>>;
}

/// Something that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable code (spec, "Codes").
    pub code: &'static str,
    /// Which file of the store, if one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Which segment, if one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentId>,
    /// First byte of the file (or first entry of the journal) that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// First byte (entry) after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// For people.
    pub text: String,
}

/// The verdict over a store or a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is not as the box left it. Empty: nothing of the kind was found.
    pub findings: Vec<Finding>,
    /// What a reader should know and is no sign of tampering: gaps, open segments, recovered cuts.
    pub notes: Vec<Finding>,
    /// Segment files that were read.
    pub segments: u64,
    /// Of these, complete and exactly as the journal states.
    pub complete: u64,
    /// Journal entries whose signatures hold.
    pub entries: u64,
    /// Boxes that wrote them.
    pub boxes: Vec<BoxId>,
    /// Head of the journal, if one box wrote it.
    pub head: Option<Head>,
}

impl Report {
    /// Nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// The codes of all findings, in order, each once.
    #[must_use]
    pub fn codes(&self) -> Vec<&'static str> {
        let mut codes = Vec::new();
        for finding in &self.findings {
            if !codes.contains(&finding.code) {
                codes.push(finding.code);
            }
        }
        codes
    }
}

/// A segment file as it was read.
struct Seen {
    /// Whether a key for the header's box is known.
    known_box: bool,
    scan: Scan,
}

/// Judges a whole store: segments against their signatures and against the journal, the journal against its chain and,
/// if given, against the head that the cloud acknowledged.
///
/// # Errors
/// A folder or file cannot be read.
pub fn store(evidence: &dyn Evidence, keys: &Keys, head: Option<&HeadFile>) -> io::Result<Report> {
    let mut report = Report::default();
    let mut files = Vec::new();
    let mut names = evidence.journals()?;
    names.sort();
    for name in names {
        let bytes = evidence.journal(&name)?;
        files.push((name, bytes));
    }
    let facts = journal::judge(files, keys, head, &mut report);

    let mut seen = BTreeMap::new();
    let mut names = evidence.segments()?;
    names.sort();
    for name in names {
        let scan = scan(&mut *evidence.segment(&name)?, keys)?;
        seen.insert(name, scan);
    }
    report.segments = seen.len() as u64;
    segments::judge(&seen, &facts, head, &mut report);
    again::look(evidence, keys, &seen, &mut report)?;
    report.findings.iter_mut().chain(&mut report.notes).for_each(words::fill);
    Ok(report)
}

/// Judges one file without a journal: flips and cuts between its checkpoints, not whether it belongs to a store.
///
/// # Errors
/// The file cannot be read.
pub fn file(name: &str, bytes: &mut dyn Read, keys: &Keys) -> io::Result<Report> {
    let mut report = Report { segments: 1, ..Report::default() };
    let seen = scan(bytes, keys)?;
    segments::lone(name, &seen, &mut report);
    report.findings.iter_mut().chain(&mut report.notes).for_each(words::fill);
    Ok(report)
}

fn scan(bytes: &mut dyn Read, keys: &Keys) -> io::Result<Seen> {
    again::walk(bytes, keys, false).map(|(scanner, known_box)| Seen { known_box, scan: scanner.finish() })
}

fn named(name: &str) -> Option<SegmentId> {
    name.strip_suffix(".mvs").filter(|stem| !stem.bytes().any(|b| b.is_ascii_uppercase()))?.parse().ok()
}

/// A finding about a whole file.
fn about(code: &'static str, file: &str, segment: Option<SegmentId>) -> Finding {
    Finding { code, file: Some(file.to_owned()), segment, from: None, to: None, text: String::new() }
}
