//! The tamper matrix: {header, stanza, record, CKPT, END, journal} × {flip, drop, duplicate, swap, truncate, replay,
//! foreign} on a store with its journal and the cloud's head. Each cell has the code that the spec's table gives.

use crate::world::{self, Book, JOURNAL, RUN1, RUN2, Store, World, box_b, id, name, range, world};
use mvb::base::chain::Signed;
use mvb::seal::header::Header;
use mvb::seal::verify::{self, Report};
use mvb::seal::{FrameKind, JournalEntry, Prev, SealedFrame};

/// A store that somebody altered, and what must be said about it.
pub struct Case {
    pub name: &'static str,
    pub store: Store,
    pub codes: &'static [&'static str],
}

fn frames(world: &World, n: u8, kind: FrameKind) -> Vec<&SealedFrame> {
    world.frames[&n].iter().filter(|frame| frame.kind == kind).collect()
}

/// Segment `n` with its frames rearranged.
fn rebuilt(world: &World, n: u8, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut frames = world.frames[&n].iter().map(|frame| frame.bytes.to_vec()).collect();
    change(&mut frames);
    frames.concat()
}

/// Position in the file's list of frames: HEADER 0, CKPT 0 1, META 2, PARAMS 3 4, then three units and a CKPT each.
const UNIT: usize = 5;
const CKPT1: usize = 8;
const CKPT2: usize = 12;
const END: usize = 19;

fn with_header(world: &World, n: u8, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    rebuilt(world, n, |frames| {
        let (mut header, _) = Header::decode(&frames[0]).expect("a header");
        change(&mut header);
        frames[0] = header.encode();
    })
}

fn other_box(n: u8) -> Vec<SealedFrame> {
    world::segment(n, RUN1, Prev::First, &box_b()).0
}

fn journal(entries: &[Signed]) -> Vec<u8> {
    entries.iter().flat_map(Signed::to_frame).collect()
}

#[allow(clippy::too_many_lines)] // a table
pub fn cases() -> Vec<Case> {
    let world = world();
    let mut cases = Vec::new();
    let mut case = |name: &'static str, codes: &'static [&'static str], change: &dyn Fn(&mut Store)| {
        let mut store = world.store.clone();
        change(&mut store);
        cases.push(Case { name, store, codes });
    };
    let set = |store: &mut Store, n: u8, bytes: Vec<u8>| {
        store.segments.insert(name(n), bytes);
    };
    let frame = |n: u8, at: usize| world.frames[&n][at].bytes.to_vec();

    case("header_bit_flipped", &["header-flipped"], &|s| set(s, 1, with_header(&world, 1, |h| h.at.0 ^= 4)));
    case("header_dropped", &["header-dropped"], &|s| set(s, 1, rebuilt(&world, 1, |f| drop(f.remove(0)))));
    case("header_duplicated", &["header-duplicated"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f.insert(0, f[0].clone())));
    });
    case("header_swapped", &["header-swapped"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[0] = frame(2, 0)));
        set(s, 2, rebuilt(&world, 2, |f| f[0] = frame(1, 0)));
    });
    case("header_truncated", &["header-truncated"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| drop(f[0].drain(100..120))));
    });
    case("header_replayed", &["header-replayed"], &|s| set(s, 1, rebuilt(&world, 1, |f| f[0] = frame(2, 0))));
    case("header_foreign", &["header-foreign"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[0] = other_box(9)[0].bytes.to_vec()));
    });

    case("stanza_bit_flipped", &["stanza-flipped"], &|s| {
        set(s, 1, with_header(&world, 1, |h| h.stanzas[0].ct[3] ^= 1))
    });
    case("stanza_dropped", &["stanza-dropped"], &|s| set(s, 1, with_header(&world, 1, |h| drop(h.stanzas.pop()))));
    case("stanza_duplicated", &["stanza-duplicated"], &|s| {
        set(s, 1, with_header(&world, 1, |h| h.stanzas.push(h.stanzas[0].clone())));
    });
    case("stanza_swapped", &["stanza-swapped"], &|s| set(s, 1, with_header(&world, 1, |h| h.stanzas.swap(0, 1))));
    case("stanza_truncated", &["stanza-truncated"], &|s| {
        set(s, 1, with_header(&world, 1, |h| h.stanzas[0].ct.truncate(40)));
    });
    case("stanza_replayed", &["stanza-replayed"], &|s| {
        let (other, _) = Header::decode(&frame(2, 0)).expect("a header");
        set(s, 1, with_header(&world, 1, |h| h.stanzas[0] = other.stanzas[0].clone()));
    });
    case("stanza_foreign", &["stanza-foreign"], &|s| {
        let (other, _) = Header::decode(&other_box(9)[0].bytes).expect("a header");
        set(s, 1, with_header(&world, 1, |h| h.stanzas.push(other.stanzas[0].clone())));
    });

    case("record_bit_flipped", &["record-flipped"], &|s| set(s, 1, rebuilt(&world, 1, |f| f[UNIT][20] ^= 0x40)));
    case("record_dropped", &["record-dropped"], &|s| set(s, 1, rebuilt(&world, 1, |f| drop(f.remove(UNIT + 1)))));
    case("record_duplicated", &["record-duplicated"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f.insert(UNIT, f[UNIT].clone())));
    });
    case("record_swapped", &["record-swapped"], &|s| set(s, 1, rebuilt(&world, 1, |f| f.swap(UNIT, UNIT + 1))));
    case("record_truncated", &["record-truncated"], &|s| set(s, 1, rebuilt(&world, 1, |f| f[UNIT].truncate(30))));
    case("record_replayed", &["record-replayed"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[UNIT + 1] = f[UNIT].clone()));
    });
    case("record_foreign", &["record-flipped"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[UNIT] = other_box(9)[UNIT].bytes.to_vec()));
    });
    case("record_foreign_with_its_source", &["segment-foreign", "record-foreign"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[UNIT] = other_box(9)[UNIT].bytes.to_vec()));
        set(s, 9, world::file(&other_box(9)));
    });
    case("record_of_another_segment", &["record-replayed"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[UNIT] = frame(2, UNIT)));
    });

    case("ckpt_bit_flipped", &["ckpt-flipped"], &|s| set(s, 1, rebuilt(&world, 1, |f| f[CKPT1][40] ^= 0x20)));
    case("ckpt_dropped", &["ckpt-dropped"], &|s| set(s, 1, rebuilt(&world, 1, |f| drop(f.remove(CKPT1)))));
    case("ckpt_duplicated", &["ckpt-duplicated"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f.insert(CKPT1, f[CKPT1].clone())));
    });
    case("ckpt_swapped", &["ckpt-swapped"], &|s| set(s, 1, rebuilt(&world, 1, |f| f.swap(CKPT1, CKPT2))));
    case("ckpt_truncated", &["ckpt-truncated"], &|s| set(s, 1, rebuilt(&world, 1, |f| drop(f[CKPT1].drain(50..60)))));
    case("ckpt_replayed", &["ckpt-replayed"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[CKPT2] = f[CKPT1].clone()));
    });
    case("ckpt_foreign", &["record-flipped"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[CKPT1] = other_box(9)[CKPT1].bytes.to_vec()));
    });
    case("ckpt_foreign_with_its_source", &["segment-foreign", "ckpt-foreign"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[CKPT1] = other_box(9)[CKPT1].bytes.to_vec()));
        set(s, 9, world::file(&other_box(9)));
    });
    case("ckpt_of_another_segment", &["ckpt-replayed"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[CKPT1] = frame(2, CKPT1)));
    });

    case("end_bit_flipped", &["end-flipped"], &|s| set(s, 1, rebuilt(&world, 1, |f| f[END][20] ^= 1)));
    case("end_cut_off", &["end-dropped"], &|s| set(s, 1, rebuilt(&world, 1, |f| drop(f.pop()))));
    case("end_duplicated", &["end-duplicated"], &|s| set(s, 1, rebuilt(&world, 1, |f| f.push(f[END].clone()))));
    case("end_swapped", &["end-swapped"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[END] = frame(2, END)));
        set(s, 2, rebuilt(&world, 2, |f| f[END] = frame(1, END)));
    });
    case("end_truncated", &["end-truncated"], &|s| set(s, 1, rebuilt(&world, 1, |f| f[END].truncate(50))));
    case("end_replayed", &["end-replayed"], &|s| set(s, 1, rebuilt(&world, 1, |f| f[END] = frame(2, END))));
    case("end_foreign", &["end-flipped"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[END] = other_box(9)[END].bytes.to_vec()));
    });
    case("end_foreign_with_its_source", &["segment-foreign", "end-foreign"], &|s| {
        set(s, 1, rebuilt(&world, 1, |f| f[END] = other_box(9)[END].bytes.to_vec()));
        set(s, 9, world::file(&other_box(9)));
    });

    let entries = &world.book.entries;
    let put = |store: &mut Store, bytes: Vec<u8>| {
        store.journals.insert(JOURNAL.into(), bytes);
    };
    case("journal_bit_flipped", &["journal-flipped"], &|s| {
        put(s, [journal(&entries[..30]), flipped(&entries[30], 150), journal(&entries[31..])].concat());
    });
    case("journal_dropped", &["journal-dropped"], &|s| {
        put(s, [journal(&entries[..30]), journal(&entries[31..])].concat())
    });
    case("journal_duplicated", &["journal-duplicated"], &|s| {
        put(s, [journal(&entries[..31]), journal(&entries[30..])].concat());
    });
    case("journal_swapped", &["journal-swapped"], &|s| {
        let mut swapped = entries.clone();
        swapped.swap(30, 31);
        put(s, journal(&swapped));
    });
    case("journal_truncated", &["journal-truncated"], &|s| put(s, journal(&entries[..entries.len() - 1])));
    case("journal_replayed", &["journal-replayed"], &|s| {
        put(s, [journal(&entries[..31]), journal(&entries[20..21]), journal(&entries[31..])].concat());
    });
    case("journal_foreign", &["journal-foreign"], &|s| {
        let mut book = Book::new(&box_b());
        book.write(RUN1, &JournalEntry::Held { segment: id(1), held: false });
        put(s, [journal(&entries[..30]), journal(&book.entries), journal(&entries[30..])].concat());
    });

    // Beyond the matrix: whole files and the whole card.
    case("segment_dropped", &["segment-dropped"], &|s| drop(s.segments.remove(&name(2))));
    case("segment_duplicated", &["segment-duplicated", "segment-dropped"], &|s| {
        set(s, 2, world.store.segments[&name(1)].clone())
    });
    case("segment_swapped", &["segment-swapped"], &|s| {
        set(s, 1, world.store.segments[&name(2)].clone());
        set(s, 2, world.store.segments[&name(1)].clone());
    });
    case("segment_truncated", &["segment-truncated"], &|s| set(s, 1, rebuilt(&world, 1, |f| f.truncate(UNIT + 1))));
    case("segment_destroyed_and_put_back", &["segment-replayed"], &|s| {
        let made = world::segment(4, RUN1, Prev::First, &world::box_a()).0;
        set(s, 4, world::file(&made));
    });
    case("segment_of_another_box", &["segment-foreign"], &|s| set(s, 9, world::file(&other_box(9))));
    case("segment_never_in_the_journal", &["segment-replayed"], &|s| {
        set(s, 9, world::file(&world::segment(9, RUN1, Prev::First, &world::box_a()).0));
    });
    case("segment_recovered_twice", &["segment-forked"], &|s| {
        let bytes = &world.store.segments[&name(1)];
        let cut = range(frames(&world, 1, FrameKind::Checkpoint)[2]).end;
        let mut scanner = mvb::seal::Scanner::new(world::box_a().public_key());
        scanner.push(&bytes[..cut]);
        let (end, _) = scanner
            .recovery_end(
                mvb::seal::EndReason::PowerCut,
                Prev::First,
                RUN2,
                mvb::base::units::BootTime(1),
                &world::box_a(),
            )
            .expect("has a checkpoint");
        set(s, 1, [&bytes[..cut], &end].concat());
    });
    case("recovered_end_cut_off", &["end-dropped"], &|s| {
        let bytes = &s.segments[&name(6)];
        let end = bytes.len() - 195 + bytes[bytes.len() - 195..].iter().position(|b| *b == 65).unwrap_or(0);
        let cut = find_end(bytes).unwrap_or(end);
        let bytes = bytes[..cut].to_vec();
        set(s, 6, bytes);
    });
    case("card_rolled_back", &["card-rolled-back"], &|s| {
        // As it was before the open segment was begun, with everything that belongs to that moment.
        put(s, journal(&entries[..entries.len() - 1]));
        s.segments.remove(&name(5));
    });
    case("journal_forked", &["journal-forked"], &|s| {
        let mut book = Book { signer: world::box_a(), entries: entries[..entries.len() - 1].to_vec() };
        book.write(RUN2, &JournalEntry::Alarm { code: "made-by-a-clone".into() });
        put(s, book.bytes());
        s.segments.remove(&name(5));
    });
    case("journal_removed", &["journal-dropped"], &|s| s.journals.clear());
    case("recipient_unknown_to_the_journal", &["stanza-foreign"], &|s| {
        let mut book = Book::new(&world::box_a());
        for (n, entry) in entries.iter().enumerate() {
            let what = JournalEntry::decode(entry.entry.kind, &entry.entry.body).expect("known").expect("known");
            let what = match what {
                JournalEntry::Recipients { organisation, keys } if n == 1 => {
                    JournalEntry::Recipients { organisation, keys: keys[..1].to_vec() }
                }
                what => what,
            };
            if !matches!(what, JournalEntry::Acknowledged { .. }) {
                book.write(entry.entry.run, &what);
            }
        }
        s.journals.insert(JOURNAL.into(), book.bytes());
        s.head = None;
    });
    cases
}

fn find_end(bytes: &[u8]) -> Option<usize> {
    let (_, mut at) = Header::decode(bytes).ok()?;
    while bytes.get(at).is_some_and(|kind| *kind != 65) {
        at += 12 + u32::from_be_bytes(*bytes.get(at + 8..)?.first_chunk()?) as usize;
    }
    Some(at)
}

fn flipped(entry: &Signed, at: usize) -> Vec<u8> {
    let mut frame = entry.to_frame();
    let at = at % frame.len();
    frame[at] ^= 2;
    frame
}

fn report(store: &Store) -> Report {
    verify::store(store, &world::keys(), store.head.as_ref()).expect("memory can be read")
}

#[test]
fn a_clean_store_has_no_findings() {
    let world = world();
    let report = report(&world.store);
    assert_eq!(report.codes(), [""; 0], "{report:#?}");
    let notes: Vec<_> = report.notes.iter().map(|note| note.code).collect();
    assert_eq!(notes, ["gap", "gap", "segment-open", "segment-recovered"], "{report:#?}");
    assert_eq!((report.segments, report.complete), (5, 4));
    let mut without = world.store.clone();
    without.head = None;
    assert!(self::report(&without).is_clean());
}

#[test]
fn every_cell_of_the_matrix_is_named() {
    let mut wrong = Vec::new();
    for case in cases() {
        let report = report(&case.store);
        if report.codes() != case.codes {
            wrong.push(format!("{}: {:?}, not {:?}\n{:#?}", case.name, report.codes(), case.codes, report.findings));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_power_cut_of_the_open_segment_and_of_the_journal_is_clean() {
    let world = world();
    let open = world.store.segments[&name(5)].clone();
    let first = range(frames(&world, 5, FrameKind::Checkpoint)[0]).end;
    for cut in (0..open.len()).step_by(131) {
        let mut store = world.store.clone();
        let mut torn = open[..cut].to_vec();
        store.segments.insert(name(5), torn.clone());
        assert_eq!(report(&store).codes(), [""; 0], "cut at {cut}");
        if cut > first {
            // What was not synced may also come back as zeroes.
            torn.extend(vec![0; open.len() - cut]);
            store.segments.insert(name(5), torn);
            assert_eq!(report(&store).codes(), [""; 0], "zeroes from {cut}");
        }
    }
    let journal = world.store.journals[JOURNAL].clone();
    let entry = world.book.entries.last().expect("not empty").to_frame().len();
    for cut in (journal.len() - entry..journal.len()).step_by(13) {
        let mut store = world.store.clone();
        store.head = None;
        store.journals.insert(JOURNAL.into(), journal[..cut].to_vec());
        store.segments.remove(&name(5));
        assert_eq!(report(&store).codes(), [""; 0], "journal cut at {cut}");
    }
}

#[test]
fn a_journal_over_two_cards_is_clean_only_if_it_says_so() {
    let world = world();
    let mut store = world.store.clone();
    store.head = None;
    let entries = &world.book.entries;
    let reached = entries[40].head(mvb::seal::journal::LOG);
    let mut book = Book { signer: world::box_a(), entries: entries[..50].to_vec() };
    book.write(RUN2, &JournalEntry::Card { card: [7; 16], reached: Some(reached) });
    book.write(RUN2, &JournalEntry::Time { time: world::time(3) });
    store.segments.remove(&name(5));
    store.journals =
        [(JOURNAL.to_owned(), journal(&entries[..41])), ("50.mvj".to_owned(), journal(&book.entries[50..]))].into();
    let clean = report(&store);
    assert_eq!(clean.codes(), [""; 0], "{clean:#?}");
    assert!(clean.notes.iter().any(|note| note.code == "journal-elsewhere"));
    // One entry fewer on the first card: the signed statement no longer fits.
    store.journals.insert(JOURNAL.into(), journal(&entries[..40]));
    assert_eq!(report(&store).codes(), ["journal-dropped"]);
}
