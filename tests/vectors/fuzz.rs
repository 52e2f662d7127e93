//! Hostile bytes: seeded mutations of real files. Nothing panics, nothing altered passes for whole.

use crate::world::{self, JOURNAL, Seeded, World, keys, organisation_key, world};
use mvb::base::chain::Signed;
use mvb::seal::frame::next_frame;
use mvb::seal::header::Header;
use mvb::seal::{JournalEntry, Reader, Scanner, SegmentKey, verify};
use std::time::{Duration, Instant};

/// Scans bytes as a file of box A. Also the body of a coverage-guided target.
pub fn scan(bytes: &[u8]) -> bool {
    let mut scanner = Scanner::new(world::box_a().public_key());
    bytes.chunks(61).for_each(|piece| scanner.push(piece));
    let scan = scanner.finish();
    assert_eq!(scan.size, bytes.len() as u64);
    scan.end.is_some() && scan.fault.is_none()
}

/// Opens whatever can be opened.
pub fn open(bytes: &[u8]) {
    let Ok((header, len)) = Header::decode(bytes) else { return };
    let Ok(key) = SegmentKey::unwrap(&header, &organisation_key()) else { return };
    let mut reader = Reader::new(&bytes[..len], key);
    let mut rest = &bytes[len..];
    while let Ok(Some((_, frame))) = next_frame(rest) {
        let _ = reader.frame(frame);
        rest = &rest[frame.len()..];
    }
}

/// Reads journal bytes.
pub fn journal(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok((signed, used)) = Signed::from_frame(rest) {
        let _ = JournalEntry::decode(signed.entry.kind, &signed.entry.body);
        rest = &rest[used..];
    }
}

fn mutate(bytes: &[u8], random: &mut Seeded) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        let len = random.below(80).min(bytes.len() - at);
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => drop(bytes.drain(at..at + len)),
            3 => {
                let piece = bytes[at..at + len].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            4 => bytes.truncate(at + 1),
            _ => bytes[at..at + len].reverse(),
        }
    }
    bytes
}

#[test]
fn mutated_files_never_panic_and_never_pass() {
    let seed = std::env::var("MVB_SEED").unwrap_or_else(|_| "fuzz 1".into());
    println!("MVB_SEED={seed:?}");
    let mut random = Seeded::new(&seed);
    let World { store, .. } = world();
    let files: Vec<_> = store.segments.iter().collect();
    let until = Instant::now() + Duration::from_secs(12);
    let mut rounds = 0;
    while Instant::now() < until {
        let (name, bytes) = files[random.below(files.len())];
        let mutated = mutate(bytes, &mut random);
        assert!(mutated == *bytes || !scan(&mutated), "an altered {name} passes, round {rounds}");
        open(&mutated);
        let log = mutate(&store.journals[JOURNAL], &mut random);
        journal(&log);
        if rounds % 8 == 0 {
            let mut altered = store.clone();
            altered.segments.insert(name.clone(), mutated);
            altered.journals.insert(JOURNAL.into(), log);
            verify::store(&altered, &keys(), store.head.as_ref()).expect("memory can be read");
        }
        rounds += 1;
    }
    println!("{rounds} rounds");
}
