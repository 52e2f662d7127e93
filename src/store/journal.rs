//! The journal's files on the card. What its entries mean is [`crate::seal::journal`]'s; how they are chained is
//! [`crate::base::chain`]'s. Spec: `docs/spec/sealed-segment.md`, "Journal".
//!
//! A file is named after the sequence number of its first entry and holds entries without a hole. Between two files
//! there is a hole only where another card was in use or where a card was rolled back, and then the later file says so.

use crate::base::chain::{self, Head, PublicKey, Signed, Signer};
use crate::base::units::{BootTime, Run};
use crate::seal::JournalEntry;
use crate::seal::journal::LOG;
use crate::store::append::Appender;
use crate::store::volume::read_all;
use crate::store::{FileInfo, Volume};
use bytes::Bytes;
use minicbor::{Decode, Encode};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Folder on the card.
pub(crate) const FOLDER: &str = "journal";
/// A file is followed by another after this size: so that a reader of the tail reads little.
const ROLL_AT: u64 = 1 << 20;
/// A file larger than this is none of ours.
const MAX_FILE: u64 = 16 << 20;

/// How far the journal has been read.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Position {
    /// Last entry.
    #[n(0)]
    pub(crate) head: Head,
    /// Its file.
    #[n(1)]
    pub(crate) file: String,
    /// First byte after it.
    #[n(2)]
    pub(crate) end: u64,
}

/// What a walk over the files found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The last valid entry.
    pub(crate) position: Option<Position>,
    /// Bytes after the last valid entry of the last file.
    pub(crate) torn: u64,
    /// Files whose entries another key signed.
    pub(crate) foreign: Vec<String>,
    /// Files behind the last valid entry that hold nothing valid: a file that was just begun when power went.
    pub(crate) blank: Vec<String>,
    /// Entries are missing or damaged elsewhere than at the end.
    pub(crate) holes: u64,
    /// The file and offset at which the walk was to start is not what it was.
    pub(crate) lost_start: bool,
}

/// The files, in order of their first entries.
pub(crate) fn files(volume: &dyn Volume) -> io::Result<Vec<(u64, FileInfo)>> {
    let mut files: Vec<_> =
        volume.list(FOLDER)?.into_iter().filter_map(|file| Some((first_seq(&file.name)?, file))).collect();
    files.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    Ok(files)
}

fn first_seq(name: &str) -> Option<u64> {
    let stem = name.strip_suffix(".mvj")?;
    stem.split_once('-').map_or(stem, |(seq, _)| seq).parse().ok()
}

/// The valid entries of a file's bytes from `from` on, each with the offset after it. `before` = the entry before, if
/// it is known. Only the last signature is checked: it covers all entries before it through the chain. Without a key
/// nothing is proven, only read.
fn entries(bytes: &[u8], from: usize, before: Option<Head>, key: Option<&PublicKey>) -> (Vec<(Signed, usize)>, bool) {
    let mut found: Vec<(Signed, usize)> = Vec::new();
    let mut at = from;
    let mut head = before;
    let mut foreign = false;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let Ok((signed, used)) = Signed::from_frame(rest) else { break };
        if key.is_some_and(|key| signed.entry.author != key.box_id()) {
            foreign = found.is_empty();
            break;
        }
        // The first entry of a file may follow a hole; the caller judges that.
        if !(found.is_empty() && from == 0)
            && head.is_some_and(|head| (signed.entry.seq, signed.entry.prev) != (head.seq + 1, head.hash))
        {
            break;
        }
        at += used;
        head = Some(signed.head(LOG));
        found.push((signed, at));
    }
    while let (Some((last, _)), Some(key)) = (found.last(), key) {
        let before = match found.len() {
            1 if from > 0 => before,
            // Checked for its signature alone; the caller judges what it follows.
            1 => last.entry.seq.checked_sub(1).map(|seq| Head { seq, hash: last.entry.prev }),
            n => found.get(n - 2).map(|(entry, _)| entry.head(LOG)),
        };
        if last.check(LOG, before, key).is_ok() {
            break;
        }
        found.pop();
    }
    (found, foreign)
}

/// Reads all entries after `after` in order.
///
/// # Errors
/// The card cannot be read, or `each` failed.
pub(crate) fn walk<E: From<io::Error>>(
    volume: &dyn Volume,
    key: Option<&PublicKey>,
    after: Option<&Position>,
    mut each: impl FnMut(&Signed, &Position) -> Result<(), E>,
) -> Result<Walk, E> {
    let mut walk = Walk { position: after.cloned(), ..Walk::default() };
    let files = files(volume)?;
    if let Some(after) = after {
        walk.lost_start = !files.iter().any(|(_, f)| f.name == after.file && f.size >= after.end);
        if walk.lost_start {
            return Ok(walk);
        }
    }
    for (first, file) in &files {
        let mut from = 0;
        if let Some(after) = after {
            if *first > after.head.seq {
                // A later file.
            } else if file.name == after.file {
                from = usize::try_from(after.end).unwrap_or(usize::MAX);
            } else {
                continue;
            }
        }
        let bytes = match read_all(volume, &format!("{FOLDER}/{}", file.name), MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                walk.holes += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if walk.torn > 0 {
            // What followed in an earlier file was no torn tail but damage.
            walk.holes += 1;
        }
        let before = walk.position.as_ref().map(|position| position.head);
        let (found, foreign) = entries(&bytes, from, before, key);
        if foreign {
            walk.foreign.push(file.name.clone());
            continue;
        }
        if found.is_empty() && from == 0 {
            walk.blank.push(file.name.clone());
            continue;
        }
        walk.blank.clear();
        let mut end = from;
        for (signed, after) in found {
            let follows = before.is_none_or(|b| (signed.entry.seq, signed.entry.prev) == (b.seq + 1, b.hash));
            if end == 0 && !follows && !says_so(&signed, before) {
                walk.holes += 1;
                if before.is_some_and(|b| signed.entry.seq <= b.seq) {
                    // An older or forked continuation: not the journal that we have read so far.
                    break;
                }
            }
            let position = Position { head: signed.head(LOG), file: file.name.clone(), end: after as u64 };
            each(&signed, &position)?;
            walk.position = Some(position);
            end = after;
        }
        walk.torn = (bytes.len() - end) as u64;
    }
    Ok(walk)
}

/// Whether a file's first entry accounts for the hole before it: another card was in use in between.
fn says_so(signed: &Signed, before: Option<Head>) -> bool {
    let entry = JournalEntry::decode(signed.entry.kind, &signed.entry.body);
    matches!(entry, Ok(Some(JournalEntry::Card { reached, .. })) if reached == before)
}

/// Up to `limit` entries after `after` and up to `until`, for the relay. If what follows is on another card, those from
/// the `card` entry on with which this card continues the journal.
///
/// # Errors
/// The card cannot be read; `NotFound` if what follows is missing; `InvalidData` if it continues another history than
/// `after`.
pub(crate) fn read(
    volume: &dyn Volume,
    key: &PublicKey,
    after: Option<Head>,
    until: Head,
    limit: usize,
) -> io::Result<Vec<Signed>> {
    let wanted = after.map_or(0, |head| head.seq + 1);
    let files = files(volume)?;
    let start = files.iter().rposition(|(first, _)| *first <= wanted).unwrap_or(0);
    let mut out: Vec<Signed> = Vec::new();
    for (_, file) in files.get(start..).unwrap_or_default() {
        let bytes = read_all(volume, &format!("{FOLDER}/{}", file.name), MAX_FILE)?;
        let (found, _) = entries(&bytes, 0, None, Some(key));
        for (signed, _) in found {
            if signed.entry.seq < wanted {
                continue;
            }
            if signed.entry.seq > until.seq || out.len() >= limit {
                return Ok(out);
            }
            let hole = out.is_empty() && signed.entry.seq > wanted;
            if hole && !JournalEntry::is_card(&signed) {
                return Err(io::Error::new(io::ErrorKind::NotFound, "these journal entries are missing"));
            }
            if out.is_empty()
                && !hole
                && after.is_some_and(|head| (signed.entry.seq, signed.entry.prev) != (wanted, head.hash))
            {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the journal does not continue that head"));
            }
            out.push(signed);
        }
    }
    Ok(out)
}

/// The entry with that sequence number, as a head.
///
/// # Errors
/// The card cannot be read.
pub(crate) fn at(volume: &dyn Volume, key: &PublicKey, seq: u64) -> io::Result<Option<Head>> {
    // From the back: after a roll-back two files may hold the same number, and the later one is the journal.
    for (_, file) in files(volume)?.iter().rev().filter(|(first, _)| *first <= seq) {
        let bytes = read_all(volume, &format!("{FOLDER}/{}", file.name), MAX_FILE)?;
        let (found, _) = entries(&bytes, 0, None, Some(key));
        if let Some((signed, _)) = found.iter().find(|(signed, _)| signed.entry.seq == seq) {
            return Ok(Some(signed.head(LOG)));
        }
    }
    Ok(None)
}

/// The growing end of the journal.
pub(crate) struct Journal {
    signer: Arc<dyn Signer>,
    run: Run,
    head: Option<Head>,
    file: Appender,
    /// Appended and not yet durable, with where each ends.
    waiting: VecDeque<(Signed, Position)>,
}

impl Journal {
    /// Goes on after `position` in the same file.
    pub(crate) fn resume(signer: Arc<dyn Signer>, run: Run, position: &Position) -> Self {
        let file = Appender::existing(format!("{FOLDER}/{}", position.file), position.end);
        Self { signer, run, head: Some(position.head), file, waiting: VecDeque::new() }
    }

    /// Goes on after `head` (the very beginning if `None`) in a new file whose name is not among `taken`.
    pub(crate) fn begin(signer: Arc<dyn Signer>, run: Run, head: Option<Head>, taken: &[FileInfo]) -> Self {
        let file = Appender::create(format!("{FOLDER}/{}", free_name(head, taken)));
        Self { signer, run, head, file, waiting: VecDeque::new() }
    }

    /// Signs and appends an entry; it is durable after the next good sync.
    pub(crate) fn append(&mut self, entry: &JournalEntry, at: BootTime) {
        if self.file.end() >= ROLL_AT && self.file.pending() == 0 {
            self.file = Appender::create(format!("{FOLDER}/{}", free_name(self.head, &[])));
        }
        let (kind, body) = entry.encode();
        let signed = Signed::append(LOG, self.head, self.signer.as_ref(), self.run, at, kind, body);
        let head = signed.head(LOG);
        self.file.push(Bytes::from(signed.to_frame()));
        let name = self.file.path().rsplit('/').next().unwrap_or_default().to_owned();
        self.waiting.push_back((signed, Position { head, file: name, end: self.file.end() }));
        self.head = Some(head);
    }

    /// Hands everything to the file system.
    ///
    /// # Errors
    /// The volume's; nothing is lost by it.
    pub(crate) fn write(&mut self, volume: &dyn Volume) -> io::Result<()> {
        self.file.write(volume)
    }

    /// A sync was good: the entries that became durable.
    pub(crate) fn synced(&mut self) -> Vec<(Signed, Position)> {
        self.file.synced();
        // Everything is written before a sync, so everything that waits is durable.
        self.waiting.drain(..).collect()
    }

    /// A sync failed.
    pub(crate) fn rewind(&mut self) {
        self.file.rewind();
    }

    /// Whether entries wait for a sync.
    pub(crate) fn waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

fn free_name(head: Option<Head>, taken: &[FileInfo]) -> String {
    let seq = head.map_or(0, |head| head.seq + 1);
    let name = format!("{seq:012}.mvj");
    let free = |name: &str| !taken.iter().any(|file| file.name == name);
    if free(&name) {
        return name;
    }
    // Another box's or an older journal holds the name; it is left alone.
    (1..u32::MAX).map(|n| format!("{seq:012}-{n}.mvj")).find(|name| free(name)).unwrap_or(name)
}

impl From<chain::Error> for crate::store::Error {
    fn from(error: chain::Error) -> Self {
        Self::Card {
            action: "read",
            path: FOLDER.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

#[cfg(feature = "sim")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::chain::SoftwareSigner;
    use crate::base::ids::{BootId, SegmentId};
    use crate::sim::volume::FaultVolume;

    fn run() -> Run {
        Run { boot: BootId([1; 16]), start: 1 }
    }

    fn entry(n: u8) -> JournalEntry {
        JournalEntry::Promoted { segment: SegmentId([n; 16]) }
    }

    /// A journal of `n` entries, synced.
    fn journal(volume: &FaultVolume, signer: &Arc<dyn Signer>, n: u8) -> Vec<Position> {
        let mut journal = Journal::begin(signer.clone(), run(), None, &[]);
        (0..n).for_each(|n| journal.append(&entry(n), BootTime(1)));
        journal.write(volume).expect("writes");
        volume.sync_all().expect("syncs");
        journal.synced().into_iter().map(|(_, position)| position).collect()
    }

    fn walked(volume: &FaultVolume, key: &PublicKey, after: Option<&Position>) -> (Walk, Vec<u64>) {
        let mut seen = Vec::new();
        let walk = walk::<io::Error>(volume, Some(key), after, |signed, _| {
            seen.push(signed.entry.seq);
            Ok(())
        });
        (walk.expect("reads"), seen)
    }

    #[test]
    fn a_torn_tail_is_cut_to_the_last_whole_valid_entry_at_every_byte() {
        let signer: Arc<dyn Signer> = Arc::new(SoftwareSigner::generate());
        let key = signer.public_key();
        let volume = FaultVolume::new();
        let positions = journal(&volume, &signer, 3);
        let path = "journal/000000000000.mvj";
        let whole = volume.files()[path].clone();
        let (walk, seen) = walked(&volume, &key, Some(&positions[0]));
        assert_eq!((walk.position.as_ref(), seen), (Some(&positions[2]), vec![1, 2]));
        let second = usize::try_from(positions[1].end).expect("small");
        for size in second..whole.len() {
            volume.plant(path, &whole[..size]);
            let (walk, seen) = walked(&volume, &key, None);
            assert_eq!((walk.position.as_ref(), seen.len()), (Some(&positions[1]), 2), "{size} bytes");
            assert_eq!(walk.torn, (size - second) as u64);
            // A hole of zeroes instead, as a file system leaves it.
            let mut zeroes = whole.clone();
            zeroes[size..].fill(0);
            volume.plant(path, &zeroes);
            assert_eq!(walked(&volume, &key, None).0.position.as_ref(), Some(&positions[1]), "zeroes from {size}");
        }
        // What is shorter than the position that was reached is a start that was lost, not a torn tail.
        volume.plant(path, &whole[..second - 1]);
        assert!(walked(&volume, &key, Some(&positions[1])).0.lost_start);
    }

    #[test]
    fn another_boxes_journal_is_passed_by_and_its_name_is_left_alone() {
        let volume = FaultVolume::new();
        let other: Arc<dyn Signer> = Arc::new(SoftwareSigner::generate());
        journal(&volume, &other, 2);
        let signer: Arc<dyn Signer> = Arc::new(SoftwareSigner::generate());
        let (walk, seen) = walked(&volume, &signer.public_key(), None);
        assert_eq!((walk.foreign.len(), seen.len(), walk.position), (1, 0, None));
        let taken: Vec<FileInfo> = files(&volume).expect("lists").into_iter().map(|(_, file)| file).collect();
        let mut ours = Journal::begin(signer.clone(), run(), None, &taken);
        ours.append(&entry(9), BootTime(1));
        ours.write(&volume).expect("writes");
        assert_eq!(walked(&volume, &signer.public_key(), None).1, [0]);
        assert_eq!(walked(&volume, &other.public_key(), None).1, [0, 1]);
    }

    #[test]
    fn the_relay_reads_on_from_a_head_and_is_refused_on_another_history() {
        let signer: Arc<dyn Signer> = Arc::new(SoftwareSigner::generate());
        let key = signer.public_key();
        let volume = FaultVolume::new();
        let positions = journal(&volume, &signer, 4);
        let heads: Vec<Head> = positions.iter().map(|position| position.head).collect();
        let seqs = |after, until, limit| {
            let entries = read(&volume, &key, after, until, limit)?;
            Ok::<_, io::Error>(entries.iter().map(|signed| signed.entry.seq).collect::<Vec<_>>())
        };
        assert_eq!(seqs(None, heads[3], 100).expect("reads"), [0, 1, 2, 3]);
        assert_eq!(seqs(Some(heads[0]), heads[2], 100).expect("not what is not durable"), [1, 2]);
        assert_eq!(seqs(Some(heads[1]), heads[3], 1).expect("reads"), [2]);
        let forged = Head { seq: 1, hash: heads[0].hash };
        assert_eq!(seqs(Some(forged), heads[3], 1).expect_err("refused").kind(), io::ErrorKind::InvalidData);
        assert_eq!(at(&volume, &key, 2).expect("reads"), Some(heads[2]));
        assert_eq!(at(&volume, &key, 9).expect("reads"), None);
    }
}
