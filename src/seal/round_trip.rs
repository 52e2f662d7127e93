//! Unit tests over sealer, scanner and reader together.

use crate::base::chain::{Signer, SoftwareSigner};
use crate::base::ids::{BootId, CameraId, Digest, OrganisationId, RecordingId, SegmentId};
use crate::base::units::{BootTime, MediaTime, Run, TimeSource, TimeStatement, WallTime};
use crate::media::{AccessUnit, Codec, Gap, GapCause, TrackId, TrackParams, UnitFlags};
use crate::seal::frame::{MAX_PART, next_frame};
use crate::seal::record::{MAX_UNIT, event};
use crate::seal::{
    EndReason, Event, FrameKind, Header, Meta, Position, Prev, Reader, RecipientRole, RecipientSecret, Recipients,
    Record, Scan, Scanner, SealedFrame, Sealer, SegmentFlags, SegmentKey, SegmentStart,
};
use bytes::Bytes;
use sha2::Digest as _;
use std::sync::Arc;

const RUN: Run = Run { boot: BootId([1; 16]), start: 7 };
const LATER: Run = Run { boot: BootId([2; 16]), start: 8 };

struct World {
    signer: Arc<dyn Signer>,
    secret: RecipientSecret,
    recipients: Recipients,
}

fn world() -> World {
    let secret = RecipientSecret::generate();
    let keys =
        vec![secret.public(RecipientRole::Organisation), RecipientSecret::generate().public(RecipientRole::Recovery)];
    let recipients = Recipients::new(OrganisationId([3; 16]), keys).expect("usable");
    World { signer: Arc::new(SoftwareSigner::generate()), secret, recipients }
}

fn start() -> SegmentStart {
    let time = TimeStatement { at: BootTime(5), wall: WallTime(6), source: TimeSource::Cloud, error_ms: 7 };
    SegmentStart {
        segment: SegmentId::random(),
        run: RUN,
        at: BootTime(1_000_000),
        camera: CameraId([4; 16]),
        recording: RecordingId([5; 16]),
        flags: SegmentFlags::default(),
        meta: Meta {
            organisation: "Gemeente".into(),
            box_name: "Bus 12".into(),
            camera: "Bodycam 3".into(),
            officer: None,
            purpose: "handhaving".into(),
            legal_basis: "Gemeentewet 151c".into(),
            retention: "28d".into(),
            incident: None,
            firmware: "0.1.0".into(),
            time,
        },
        params: vec![Arc::new(TrackParams {
            track: TrackId(0),
            codec: Codec::H264,
            timescale: 90_000,
            config: vec![1, 2, 3],
            width: 640,
            height: 360,
            channels: 0,
            sample_rate: 0,
        })],
        prev: Prev::First,
    }
}

fn unit(n: u64, len: usize) -> AccessUnit {
    AccessUnit {
        track: TrackId(0),
        pts: MediaTime(i64::try_from(n).expect("small") * 3000 - 1),
        captured: BootTime(2_000_000 + n),
        flags: UnitFlags { key: n == 0, time_jump: n == 2, ..UnitFlags::default() },
        data: Bytes::from((0..len).map(|i| (i * 7 + usize::try_from(n).expect("small")) as u8).collect::<Vec<_>>()),
    }
}

fn segment(world: &World) -> (Vec<SealedFrame>, Vec<Record>, crate::seal::Finished, SegmentKey) {
    let start = start();
    let mut records = vec![Record::Meta(start.meta.clone()), Record::Params((*start.params[0]).clone())];
    let (mut sealer, mut frames) = Sealer::start(start, &world.recipients, world.signer.clone());
    for (n, len) in [(0, 200_000), (1, 0), (2, MAX_PART - 20), (3, MAX_PART - 19), (4, 900)] {
        let unit = unit(n, len);
        let size = sealer.size();
        frames.extend(sealer.unit(&unit));
        assert_eq!(sealer.size() - size, Sealer::size_of(&unit));
        records.push(Record::Unit(unit));
        frames.push(sealer.checkpoint(BootTime(3_000_000 + n)));
    }
    let gap = Gap { from: BootTime(8), to: BootTime(9), cause: GapCause::CameraGone };
    frames.push(sealer.gap(&gap));
    records.push(Record::Gap(gap));
    let position =
        Position { latitude: -1, longitude: 2, height: None, accuracy: Some(3), speed: None, course: Some(35_999) };
    let event = Event {
        at: BootTime(9),
        kind: event::MARK,
        text: Some("knop".into()),
        data: Some(vec![1]),
        position: Some(position),
    };
    frames.push(sealer.event(&event));
    records.push(Record::Event(event));
    let key = sealer.local_key();
    let (end, finished) = sealer.end(EndReason::Finished, BootTime(10));
    frames.push(end);
    (frames, records, finished, key)
}

fn file(frames: &[SealedFrame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.bytes.to_vec()).collect()
}

fn scan(world: &World, bytes: &[u8], step: usize) -> Scan {
    let mut scanner = Scanner::new(world.signer.public_key());
    bytes.chunks(step).for_each(|piece| scanner.push(piece));
    scanner.finish()
}

#[test]
fn a_sealed_segment_opens_to_what_went_in() {
    let world = world();
    let (frames, records, finished, own) = segment(&world);
    let bytes = file(&frames);
    assert_eq!((finished.size, finished.sha256.0), (bytes.len() as u64, sha2::Sha256::digest(&bytes).into()));
    let mut offset = 0;
    for frame in &frames {
        assert_eq!(frame.offset, offset);
        offset += frame.bytes.len() as u64;
    }
    let (header, len) = Header::decode(&bytes).expect("a header");
    for key in [SegmentKey::unwrap(&header, &world.secret).expect("unwraps"), own] {
        let mut reader = Reader::new(&bytes[..len], key);
        let mut rest = &bytes[len..];
        let mut got = Vec::new();
        while let Some((_, frame)) = next_frame(rest).expect("frames") {
            got.extend(reader.frame(frame).expect("opens"));
            rest = &rest[frame.len()..];
        }
        assert_eq!(got, records);
    }
    assert!(matches!(SegmentKey::unwrap(&header, &RecipientSecret::generate()), Err(crate::seal::OpenError::NoStanza)));
    let wrong = Header { commit: Digest([0; 32]), ..header };
    assert!(matches!(SegmentKey::unwrap(&wrong, &world.secret), Err(crate::seal::OpenError::BadCommitment)));
}

#[test]
fn a_scan_in_any_steps_finds_all_checkpoints_and_the_end() {
    let world = world();
    let (frames, _, finished, _) = segment(&world);
    let bytes = file(&frames);
    for step in [1, 13, 4096, bytes.len()] {
        let scan = scan(&world, &bytes, step);
        assert_eq!(scan.fault, None);
        assert_eq!(scan.end.map(|end| end.finished), Some(finished));
        assert_eq!(scan.last.map(|point| point.number), Some(5));
        assert_eq!((scan.size, scan.sha256), (finished.size, finished.sha256));
        assert!(!scan.partial);
    }
}

#[test]
fn a_file_that_simply_stops_has_no_fault_and_recovers() {
    let world = world();
    let (frames, _, _, _) = segment(&world);
    let bytes = file(&frames);
    let first = frames[1].offset + frames[1].bytes.len() as u64;
    for cut in (usize::try_from(first).expect("small")..bytes.len()).step_by(997) {
        let mut scanner = Scanner::new(world.signer.public_key());
        scanner.push(&bytes[..cut]);
        let point = scanner.last().expect("CKPT 0 is there");
        let (end, finished) = scanner
            .recovery_end(EndReason::PowerCut, Prev::First, LATER, BootTime(1), &world.signer)
            .expect("recovers");
        assert_eq!(scanner.finish().fault, None, "cut at {cut}");
        let recovered = [&bytes[..usize::try_from(point.offset).expect("small")], &end].concat();
        let scan = scan(&world, &recovered, 4096);
        assert_eq!((scan.fault, scan.end.map(|end| end.finished)), (None, Some(finished)), "cut at {cut}");
    }
}

#[test]
fn a_bit_flipped_anywhere_is_found_between_its_checkpoints() {
    let world = world();
    let (frames, _, _, _) = segment(&world);
    let bytes = file(&frames);
    let mut last = 0;
    for frame in &frames {
        let (start, end) = (frame.offset, frame.offset + frame.bytes.len() as u64);
        let places = if frame.bytes.len() < 400 { (start..end).step_by(67).collect() } else { vec![start, end - 1] };
        for at in places {
            let mut bad = bytes.clone();
            bad[usize::try_from(at).expect("small")] ^= 0x10;
            let found = scan(&world, &bad, 65_536);
            assert!(found.end.is_none(), "{:?} byte {at}", frame.kind);
            // A longer length in the last frame's head looks like a file that stops: the journal knows better.
            let stops = frame.kind == FrameKind::End && found.partial;
            assert!(found.fault.map_or(stops, |fault| fault.at <= at), "{:?} byte {at}: {found:?}", frame.kind);
            assert_eq!(found.last.map_or(0, |point| point.offset), last, "{:?} byte {at}", frame.kind);
        }
        if frame.kind == FrameKind::Checkpoint {
            last = end;
        }
    }
}

#[test]
fn a_unit_beyond_the_cap_is_cut_and_marked() {
    let world = world();
    let (mut sealer, frames) = Sealer::start(start(), &world.recipients, world.signer.clone());
    let mut reader = Reader::new(&frames[0].bytes, sealer.local_key());
    let big = unit(1, MAX_UNIT + 1);
    let opened = sealer.unit(&big).iter().find_map(|frame| reader.frame(&frame.bytes).expect("opens"));
    let Some(Record::Unit(unit)) = opened else { panic!("no unit") };
    assert!(unit.flags.damaged);
    assert_eq!(unit.data, big.data[..MAX_UNIT]);
}

#[test]
fn a_reader_skips_holes_and_refuses_records_out_of_order() {
    let world = world();
    let (frames, _, _, key) = segment(&world);
    let mut reader = Reader::new(&frames[0].bytes, key);
    let units: Vec<_> = frames.iter().filter(|frame| frame.kind == FrameKind::Unit).collect();
    assert!(units[0].hint.first && !units[0].hint.last && units[0].hint.key);
    assert!(!units[1].hint.first && units[2].hint.video);
    // The second part of the first unit is missing; the unit after it comes through.
    assert_eq!(reader.frame(&units[0].bytes).expect("opens"), None);
    assert_eq!(reader.frame(&units[2].bytes).expect("opens"), None);
    assert_eq!(reader.frame(&units[3].bytes).expect("opens"), None);
    assert!(reader.frame(&units[4].bytes).expect("opens").is_some());
    assert_eq!(reader.broken_units(), 1);
    assert!(matches!(reader.frame(&units[1].bytes), Err(crate::seal::OpenError::OutOfOrder { .. })));
}
