//! Small durable state on internal storage that no card can take back: the journal's head, and the receipts.

use crate::base::cbor;
use crate::base::chain::Head;
use crate::base::ids::{Digest, SegmentId};
use crate::seal::Receipt;
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAX_HEADS: u64 = 64 * 1024;
/// Cards that are remembered; the one that was used longest ago is forgotten first.
const MAX_CARDS: usize = 64;
/// A receipt's frame: far above any COMMITTED message.
const MAX_RECEIPT: usize = 16 * 1024;

/// Which card: 16 random bytes in its `card.id`.
pub(crate) type CardId = [u8; 16];

/// What internal storage knows of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Heads {
    /// The last entry that is known to be durable, on whichever card.
    #[n(0)]
    pub(crate) head: Option<Head>,
    /// The cards, the last used one last.
    #[n(1)]
    pub(crate) cards: Vec<CardHead>,
}

/// What internal storage knows of one card.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct CardHead {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub(crate) card: CardId,
    /// The last entry that is known to be durable on it.
    #[n(1)]
    pub(crate) head: Head,
    /// It was rolled back and nobody has accepted it: nothing on it is erased.
    #[n(2)]
    pub(crate) frozen: bool,
}

impl Heads {
    /// What is known of a card.
    pub(crate) fn card(&self, card: CardId) -> Option<&CardHead> {
        self.cards.iter().find(|known| known.card == card)
    }

    /// The journal reached `head` on `card`.
    pub(crate) fn reached(&mut self, card: CardId, head: Head, frozen: bool) {
        self.head = Some(head);
        self.cards.retain(|known| known.card != card);
        self.cards.push(CardHead { card, head, frozen });
        if self.cards.len() > MAX_CARDS {
            self.cards.remove(0);
        }
    }

    /// # Errors
    /// The file is there and cannot be read. One that makes no sense counts as missing: a new box knows nothing.
    pub(crate) fn load(folder: &Path) -> io::Result<Option<Self>> {
        let bytes = crate::base::fs::read_if_exists(&path(folder), MAX_HEADS)?;
        Ok(bytes.and_then(|bytes| cbor::decode(&bytes, bytes.len()).ok()))
    }

    /// # Errors
    /// The file cannot be replaced; the old one stands.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        crate::base::fs::replace(&path(folder), &cbor::encode(self), 0o600)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("journal.head")
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Kept {
    #[n(0)]
    segment: SegmentId,
    #[n(1)]
    size: u64,
    #[n(2)]
    sha256: Digest,
    #[n(3)]
    opened: bool,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    statement: Vec<u8>,
}

/// `receipts.log`: `u32 big-endian length ‖ canonical CBOR`, appended and synced one by one. An entry without a statement
/// withdraws the segment's receipt: the cloud has said that it does not hold it.
pub(crate) struct Receipts {
    path: PathBuf,
    file: File,
}

impl Receipts {
    /// Opens the log, hands out what it holds and cuts a torn tail.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn open(folder: &Path) -> io::Result<(Self, Vec<Receipt>)> {
        let path = folder.join("receipts.log");
        let bytes = crate::base::fs::read_if_exists(&path, u64::MAX)?.unwrap_or_default();
        let mut found: BTreeMap<SegmentId, Receipt> = BTreeMap::new();
        let mut at = 0;
        while let Some((receipt, used)) = bytes.get(at..).and_then(read_receipt) {
            if receipt.statement.is_empty() {
                found.remove(&receipt.segment);
            } else {
                found.insert(receipt.segment, receipt);
            }
            at += used;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        if at < bytes.len() {
            file.set_len(at as u64)?;
        }
        file.sync_all()?;
        Ok((Self { path, file }, found.into_values().collect()))
    }

    /// Withdraws a segment's receipt durably.
    ///
    /// # Errors
    /// Internal storage failed; the receipt still counts.
    pub(crate) fn withdraw(&mut self, segment: SegmentId) -> io::Result<()> {
        let (sha256, statement) = (Digest([0; 32]), Vec::new());
        self.keep(&Receipt { segment, size: 0, sha256, opened: false, statement })
    }

    /// Keeps a receipt durably.
    ///
    /// # Errors
    /// Internal storage failed; the receipt is not kept.
    pub(crate) fn keep(&mut self, receipt: &Receipt) -> io::Result<()> {
        let body = cbor::encode(&Kept {
            segment: receipt.segment,
            size: receipt.size,
            sha256: receipt.sha256,
            opened: receipt.opened,
            statement: receipt.statement.clone(),
        });
        if body.len() > MAX_RECEIPT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a receipt of absurd size"));
        }
        let before = self.file.metadata()?.len();
        let len = u32::try_from(body.len()).expect("bounded above");
        let written =
            self.file.write_all(&[&len.to_be_bytes()[..], &body].concat()).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Half a frame in the middle would hide every later one.
            self.file.set_len(before)?;
            self.file = OpenOptions::new().append(true).open(&self.path)?;
        }
        written
    }
}

fn read_receipt(bytes: &[u8]) -> Option<(Receipt, usize)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok().filter(|len| *len <= MAX_RECEIPT)?;
    let kept: Kept = cbor::decode(rest.get(..len)?, MAX_RECEIPT).ok()?;
    let Kept { segment, size, sha256, opened, statement } = kept;
    Some((Receipt { segment, size, sha256, opened, statement }, 4 + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(n: u8) -> Receipt {
        let segment = SegmentId([n; 16]);
        Receipt { segment, size: 7, sha256: Digest([n; 32]), opened: true, statement: vec![n; 100] }
    }

    #[test]
    fn receipts_survive_a_torn_tail() {
        let dir = tempfile::tempdir().expect("folder");
        let (mut log, found) = Receipts::open(dir.path()).expect("opens");
        assert!(found.is_empty());
        log.keep(&receipt(1)).expect("keeps");
        log.keep(&receipt(2)).expect("keeps");
        let path = dir.path().join("receipts.log");
        let whole = std::fs::read(&path).expect("reads");
        std::fs::write(&path, &whole[..whole.len() - 1]).expect("tears");
        let (mut log, found) = Receipts::open(dir.path()).expect("opens");
        assert_eq!(found, [receipt(1)]);
        log.keep(&receipt(3)).expect("keeps");
        log.withdraw(receipt(1).segment).expect("keeps");
        assert_eq!(Receipts::open(dir.path()).expect("opens").1, [receipt(3)]);
        log.keep(&receipt(1)).expect("keeps");
        assert_eq!(Receipts::open(dir.path()).expect("opens").1, [receipt(1), receipt(3)], "given again");
    }

    #[test]
    fn heads_remember_each_card() {
        let dir = tempfile::tempdir().expect("folder");
        assert_eq!(Heads::load(dir.path()).expect("nothing"), None);
        let mut heads = Heads::default();
        let head = |seq| Head { seq, hash: Digest([1; 32]) };
        heads.reached([1; 16], head(5), false);
        heads.reached([2; 16], head(9), false);
        heads.save(dir.path()).expect("saves");
        let back = Heads::load(dir.path()).expect("loads").expect("is there");
        assert_eq!(back, heads);
        assert_eq!((back.head, back.card([1; 16]).map(|card| card.head.seq)), (Some(head(9)), Some(5)));
    }
}
