//! Proves the whole vault with public keys only: every committed file and every journal, box by box.
//!
//! Belongs here: showing the vault to `seal::verify` as a box's store, and reading its verdict as a cloud must: what the
//! box has not sent yet is no loss, and what the box erased afterwards is here by right. Does not belong here: judging.

use crate::base::ids::{BoxId, SegmentId};
use crate::base::reason::Coded;
use crate::cloud::vault::{DbError, FileState, Reader, StoredFile};
use crate::seal::verify::{self, BoxKey, Evidence, Finding, Keys};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};

/// The verdict over the vault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What is not as it was committed. Empty: all is well.
    pub findings: Vec<Named>,
    /// What a reader should know: gaps, tails, alarms of boxes.
    pub notes: Vec<Named>,
    /// Files that were read.
    pub files: u64,
    /// Journal entries whose signatures hold.
    pub entries: u64,
    /// Segments that journals name and that have not been committed here (backlog, other organisations).
    pub elsewhere: u64,
}

/// A finding of one box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Whose.
    #[serde(rename = "box")]
    pub box_id: BoxId,
    /// What.
    #[serde(flatten)]
    pub finding: Finding,
}

/// Why the vault cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A file.
    #[error("the vault cannot be read: check disk and permissions")]
    Io(#[from] io::Error),
}

impl Coded for VerifyError {
    fn code(&self) -> &'static str {
        match self {
            Self::Db(_) => "vault-database",
            Self::Io(_) => "vault-io",
        }
    }
}

/// Evidence keys of all boxes, from the first pairing to the end of the last.
///
/// # Errors
/// `Db`.
pub fn keys(vault: &Reader) -> Result<Keys, DbError> {
    let mut keys: BTreeMap<BoxId, BoxKey> = BTreeMap::new();
    for row in vault.pairings()? {
        keys.entry(row.box_id)
            .and_modify(|key| {
                key.from = key.from.min(row.from);
                key.to = key.to.and_then(|to| row.to.map(|other| to.max(other)));
            })
            .or_insert(BoxKey { box_id: row.box_id, key: row.evidence, from: row.from, to: row.to });
    }
    Ok(Keys::new(keys.into_values()))
}

/// Judges everything. `progress` is told after each box: done, of how many.
///
/// # Errors
/// `Db`, `Io`.
pub fn vault(vault: &Reader, progress: &mut dyn FnMut(usize, usize)) -> Result<Verdict, VerifyError> {
    let keys = keys(vault)?;
    let boxes: BTreeSet<BoxId> = vault.pairings()?.into_iter().map(|row| row.box_id).collect();
    let mut by_box: BTreeMap<BoxId, Vec<StoredFile>> = BTreeMap::new();
    for file in vault.files()?.into_iter().filter(|file| file.row.state == FileState::Committed) {
        by_box.entry(file.row.box_id).or_default().push(file);
    }
    let mut verdict = Verdict::default();
    for (done, box_id) in boxes.iter().enumerate() {
        progress(done, boxes.len());
        let files = by_box.remove(box_id).unwrap_or_default();
        one_box(vault, *box_id, files, &keys, &mut verdict)?;
    }
    progress(boxes.len(), boxes.len());
    Ok(verdict)
}

fn one_box(
    vault: &Reader,
    box_id: BoxId,
    files: Vec<StoredFile>,
    keys: &Keys,
    verdict: &mut Verdict,
) -> Result<(), VerifyError> {
    let named = |finding| Named { box_id, finding };
    let mut committed = BTreeSet::new();
    let mut store = Store { files: BTreeMap::new(), journal: vault.journal_frames(box_id)?.concat() };
    let lost = |code, segment, text: &str| Finding {
        code,
        file: None,
        segment: Some(segment),
        from: None,
        to: None,
        text: text.to_owned(),
    };
    for file in files {
        let segment = file.row.segment;
        verdict.files += 1;
        if !file.path.exists() {
            let text = "a committed file is missing from the vault";
            verdict.findings.push(named(lost("vault-file-missing", segment, text)));
            continue;
        }
        if file.row.variant > 0 {
            // A conflicting object has no place of its own in the journal: it is judged alone.
            let name = file.path.display().to_string();
            let report = verify::file(&name, &mut File::open(&file.path)?, keys)?;
            verdict.findings.extend(report.findings.into_iter().map(named));
            verdict.notes.push(named(lost("segment-conflict", segment, "kept beside another file with the same id")));
            continue;
        }
        if let Some(tail) = &file.row.tail {
            let text = match tail.ckpt {
                Some(n) => format!("more was received live than the card kept: signed to checkpoint {n}"),
                None => "more was received live than the card kept: unsigned".into(),
            };
            verdict.notes.push(named(lost("segment-tail", segment, &text)));
        }
        committed.insert(segment);
        store.files.insert(format!("{segment}.mvs"), file);
    }
    let report = verify::store(&store, keys, None)?;
    verdict.entries += report.entries;
    for finding in report.findings {
        let here = finding.segment.is_some_and(|segment| committed.contains(&segment));
        match finding.code {
            // Backlog, or footage of another organisation.
            "segment-dropped" if !here => verdict.elsewhere += 1,
            // Erased on the card after it was committed here, or committed before its journal entries arrived.
            "segment-replayed" if here && store.is_as_committed(finding.segment)? => {}
            _ => verdict.findings.push(named(finding)),
        }
    }
    verdict.notes.extend(report.notes.into_iter().filter(|note| note.code != "segment-erasing").map(named));
    Ok(())
}

/// A box's part of the vault, as `seal::verify` sees a store.
struct Store {
    files: BTreeMap<String, StoredFile>,
    journal: Vec<u8>,
}

impl Store {
    /// Whether the file's bytes are those that were committed.
    fn is_as_committed(&self, segment: Option<SegmentId>) -> io::Result<bool> {
        use sha2::{Digest as _, Sha256};
        let Some(file) = segment.and_then(|segment| self.files.get(&format!("{segment}.mvs"))) else {
            return Ok(false);
        };
        let mut hash = Sha256::new();
        let mut reader = File::open(&file.path)?;
        let mut piece = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut piece)? {
                0 => break,
                n => hash.update(piece.get(..n).unwrap_or_default()),
            }
        }
        let sum: [u8; 32] = hash.finalize().into();
        Ok(file.row.object.is_some_and(|(_, sha256)| sha256.0 == sum))
    }
}

impl Evidence for Store {
    fn segments(&self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn segment(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        let file = self.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::BufReader::new(File::open(&file.path)?)))
    }

    fn journals(&self) -> io::Result<Vec<String>> {
        Ok(if self.journal.is_empty() { Vec::new() } else { vec!["cloud".into()] })
    }

    fn journal(&self, _: &str) -> io::Result<Vec<u8>> {
        Ok(self.journal.clone())
    }
}
