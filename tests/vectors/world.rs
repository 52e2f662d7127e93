//! A small store of one box, made of fixed keys and seeded randomness, so that every byte of it is repeatable.

use bytes::Bytes;
use mvb::base::chain::{Head, PublicKey, Signed, Signer, SoftwareSigner};
use mvb::base::ids::{BootId, CameraId, Digest, OrganisationId, RecordingId, SegmentId};
use mvb::base::units::{BootTime, MediaTime, Run, TimeSource, TimeStatement, WallTime};
use mvb::media::{AccessUnit, Codec, Gap, GapCause, TrackId, TrackParams, UnitFlags};
use mvb::seal::frame::FRAME_HEAD;
use mvb::seal::journal::LOG;
use mvb::seal::keys::Randomness;
use mvb::seal::verify::{BoxKey, Evidence, HeadFile, Keys};
use mvb::seal::{
    EndReason, Event, Finished, JournalEntry, Meta, Position, Prev, RecipientRole, RecipientSecret, Recipients,
    Scanner, SealedFrame, Sealer, SegmentFlags, SegmentStart, header::Header,
};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

pub const ORGANISATION: OrganisationId = OrganisationId(*b"organisation 001");
pub const CAMERA: CameraId = CameraId(*b"camera of vector");
pub const RECORDING: RecordingId = RecordingId(*b"recording vector");
pub const RUN1: Run = Run { boot: BootId(*b"boot of vector 1"), start: 1 };
pub const RUN2: Run = Run { boot: BootId(*b"boot of vector 2"), start: 2 };

/// SHA-256 of a seed and a counter: repeatable, and good enough for keys that are published.
pub struct Seeded(pub [u8; 32], pub u64);

impl Seeded {
    pub fn new(seed: &str) -> Self {
        Self(sha2::Sha256::digest(seed).into(), 0)
    }

    pub fn below(&mut self, n: usize) -> usize {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % n.max(1) as u64) as usize
    }
}

impl Randomness for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let block = sha2::Sha256::new().chain_update(self.0).chain_update(self.1.to_be_bytes()).finalize();
            self.1 += 1;
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

pub fn box_a() -> Arc<dyn Signer> {
    Arc::new(SoftwareSigner::from_bytes(&[0x11; 32]).expect("a scalar"))
}

pub fn box_b() -> Arc<dyn Signer> {
    Arc::new(SoftwareSigner::from_bytes(&[0x22; 32]).expect("a scalar"))
}

pub fn organisation_key() -> RecipientSecret {
    RecipientSecret::from_bytes([0x33; 32])
}

pub fn recipients() -> Recipients {
    let keys = vec![
        organisation_key().public(RecipientRole::Organisation),
        RecipientSecret::from_bytes([0x44; 32]).public(RecipientRole::Recovery),
    ];
    Recipients::new(ORGANISATION, keys).expect("usable keys")
}

pub fn keys() -> Keys {
    Keys::new([box_a(), box_b()].iter().map(|signer| key(signer.public_key())))
}

fn key(key: PublicKey) -> BoxKey {
    BoxKey { box_id: key.box_id(), key, from: WallTime(1_700_000_000_000), to: None }
}

pub fn id(n: u8) -> SegmentId {
    // Far apart, as random ids are.
    let mut bytes = [0; 16];
    Seeded::new(&format!("segment {n}")).fill(&mut bytes);
    SegmentId(bytes)
}

pub fn name(n: u8) -> String {
    format!("{}.mvs", id(n))
}

pub fn time(at: u64) -> TimeStatement {
    TimeStatement { at: BootTime(at), wall: WallTime(1_795_000_000_000), source: TimeSource::Cloud, error_ms: 250 }
}

pub fn start(n: u8, run: Run, prev: Prev) -> SegmentStart {
    let at = u64::from(n) * 10_000_000;
    let params = |track, codec: Codec| {
        Arc::new(TrackParams {
            track: TrackId(track),
            codec,
            timescale: if codec.is_video() { 90_000 } else { 48_000 },
            config: vec![0x11, 0x90],
            width: if codec.is_video() { 640 } else { 0 },
            height: if codec.is_video() { 360 } else { 0 },
            channels: u8::from(!codec.is_video()),
            sample_rate: if codec.is_video() { 0 } else { 48_000 },
        })
    };
    SegmentStart {
        segment: id(n),
        run,
        at: BootTime(at),
        camera: CAMERA,
        recording: RECORDING,
        flags: SegmentFlags { starts_dependent: n == 2, ..SegmentFlags::default() },
        meta: Meta {
            organisation: "Gemeente Voorbeeld".into(),
            box_name: "bus 12".into(),
            camera: "bodycam 3".into(),
            officer: Some("BOA 7".into()),
            purpose: "handhaving".into(),
            legal_basis: "art. 151c".into(),
            retention: "28 dagen".into(),
            incident: None,
            firmware: "0.1.0".into(),
            time: time(at),
        },
        params: vec![params(0, Codec::H264), params(1, Codec::Aac)],
        prev,
    }
}

pub fn unit(n: u8, i: u64, len: usize) -> AccessUnit {
    let video = i % 3 != 2;
    AccessUnit {
        track: TrackId(u8::from(!video)),
        pts: MediaTime(i64::try_from(i).expect("small") * 3000 - 100),
        captured: BootTime(u64::from(n) * 10_000_000 + i * 33_000),
        flags: UnitFlags {
            key: i == 0 || !video,
            disposable: i % 3 == 1,
            loss_before: i == 4,
            damaged: i == 5,
            time_jump: i == 6,
        },
        data: Bytes::from((0..len).map(|at| (at as u64 * 31 + i * 7 + u64::from(n)) as u8).collect::<Vec<_>>()),
    }
}

/// Four checkpoints with three records before each but the first, and two records between the last and END.
pub fn segment(n: u8, run: Run, prev: Prev, signer: &Arc<dyn Signer>) -> (Vec<SealedFrame>, Finished) {
    let mut randomness = Seeded::new(&format!("keys of segment {n}"));
    let start = start(n, run, prev);
    let at = start.at.0;
    let (mut sealer, mut frames) = Sealer::start_with(start, &recipients(), signer.clone(), &mut randomness);
    for second in 1..4 {
        for i in 0..3 {
            let i = (second - 1) * 3 + i;
            frames.extend(sealer.unit(&unit(n, i, 40 + usize::try_from(i).expect("small") * 11)));
        }
        frames.push(sealer.checkpoint(BootTime(at + second * 1_000_000)));
    }
    let position = Position {
        latitude: 520_907_370,
        longitude: 51_214_200,
        height: None,
        accuracy: Some(500),
        speed: None,
        course: None,
    };
    frames.push(sealer.event(&Event {
        at: BootTime(at + 3_100_000),
        kind: mvb::seal::record::event::MARK,
        text: Some("aanhouding".into()),
        data: None,
        position: Some(position),
    }));
    frames.push(sealer.gap(&Gap {
        from: BootTime(at + 3_200_000),
        to: BootTime(at + 3_300_000),
        cause: GapCause::PacketLoss,
    }));
    let (end, finished) =
        sealer.end(if n == 3 { EndReason::Finished } else { EndReason::Next }, BootTime(at + 3_400_000));
    frames.push(end);
    (frames, finished)
}

pub fn file(frames: &[SealedFrame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.bytes.to_vec()).collect()
}

/// A store as files in memory.
#[derive(Clone)]
pub struct Store {
    pub segments: BTreeMap<String, Vec<u8>>,
    pub journals: BTreeMap<String, Vec<u8>>,
    pub head: Option<HeadFile>,
}

impl Evidence for Store {
    fn segments(&self) -> io::Result<Vec<String>> {
        Ok(self.segments.keys().cloned().collect())
    }

    fn segment(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        self.segments
            .get(name)
            .map(|bytes| Box::new(bytes.as_slice()) as Box<dyn Read>)
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn journals(&self) -> io::Result<Vec<String>> {
        Ok(self.journals.keys().cloned().collect())
    }

    fn journal(&self, name: &str) -> io::Result<Vec<u8>> {
        self.journals.get(name).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
}

/// Writes a journal.
pub struct Book {
    pub signer: Arc<dyn Signer>,
    pub entries: Vec<Signed>,
}

impl Book {
    pub fn new(signer: &Arc<dyn Signer>) -> Self {
        Self { signer: signer.clone(), entries: Vec::new() }
    }

    pub fn head(&self) -> Option<Head> {
        self.entries.last().map(|entry| entry.head(LOG))
    }

    pub fn write(&mut self, run: Run, entry: &JournalEntry) {
        let (kind, body) = entry.encode();
        let at = BootTime(self.entries.len() as u64 * 1_000_000);
        let signed = Signed::append(LOG, self.head(), self.signer.as_ref(), run, at, kind, body);
        self.entries.push(signed);
    }

    pub fn opened(&mut self, run: Run, n: u8, prev: Prev) {
        self.write(
            run,
            &JournalEntry::Opened {
                segment: id(n),
                organisation: ORGANISATION,
                camera: CAMERA,
                recording: RECORDING,
                prev,
                background: false,
            },
        );
    }

    pub fn closed(&mut self, run: Run, finished: &Finished, reason: EndReason, cut: Option<u64>) {
        let Finished { segment, size, sha256, end, .. } = *finished;
        self.write(run, &JournalEntry::Closed { segment, size, sha256, end, reason, cut });
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(Signed::to_frame).collect()
    }
}

pub const JOURNAL: &str = "0000000000000000.mvj";

pub struct World {
    /// Frames of segments 1, 2, 3 (complete) and 5 (open).
    pub frames: BTreeMap<u8, Vec<SealedFrame>>,
    pub book: Book,
    pub store: Store,
}

/// Segments 1 to 3 are complete, 4 was destroyed, 6 was cut by a loss of power and recovered, 5 is open.
pub fn world() -> World {
    let signer = box_a();
    let mut book = Book::new(&signer);
    let mut frames = BTreeMap::new();
    let mut segments = BTreeMap::new();
    let recipients = recipients();
    book.write(RUN1, &JournalEntry::RunStarted { clean: true, time: time(0) });
    book.write(RUN1, &JournalEntry::Recipients { organisation: ORGANISATION, keys: recipients.ids() });
    let mut prev = Prev::First;
    for n in [1, 2, 3, 4] {
        book.opened(RUN1, n, prev);
        let (made, finished) = segment(n, RUN1, prev, &signer);
        let reason = if n == 3 { EndReason::Finished } else { EndReason::Next };
        book.closed(RUN1, &finished, reason, None);
        prev = Prev::Segment(finished.segment, finished.end);
        if n != 4 {
            segments.insert(name(n), file(&made));
            frames.insert(n, made);
        }
    }
    book.write(RUN1, &JournalEntry::Held { segment: id(1), held: true });
    let gap = Gap { from: BootTime(50_000_000), to: BootTime(50_500_000), cause: GapCause::CameraGone };
    book.write(RUN1, &JournalEntry::Gap { camera: CAMERA, recording: RECORDING, gap, bytes: 0 });
    book.opened(RUN1, 6, prev);
    let (made, _) = segment(6, RUN1, prev, &signer);
    // Cut inside the second record after CKPT 2.
    let bytes = file(&made);
    let cut = made
        .iter()
        .filter(|f| f.kind == mvb::seal::FrameKind::Checkpoint)
        .nth(2)
        .map(|f| f.offset + f.bytes.len() as u64);
    let cut = usize::try_from(cut.expect("three checkpoints")).expect("small");
    let mut scanner = Scanner::new(signer.public_key());
    scanner.push(&bytes[..cut + 150]);
    let (end, finished) =
        scanner.recovery_end(EndReason::PowerCut, prev, RUN2, BootTime(1_000_000), &signer).expect("has a checkpoint");
    segments.insert(name(6), [&bytes[..cut], &end].concat());
    book.closed(RUN2, &finished, EndReason::PowerCut, Some(cut as u64));
    let gap = Gap { from: BootTime(60_000_000), to: BootTime(60_000_000), cause: GapCause::PowerCut };
    book.write(RUN2, &JournalEntry::Gap { camera: CAMERA, recording: RECORDING, gap, bytes: 150 });
    book.write(RUN2, &JournalEntry::RunStarted { clean: false, time: time(1) });
    book.write(RUN2, &JournalEntry::Destroyed { segment: id(4), cause: 1 });
    for n in 0..70 {
        book.write(RUN2, &JournalEntry::Time { time: time(n) });
        if n == 5 {
            let head = book.head().expect("not empty");
            book.write(RUN2, &JournalEntry::Acknowledged { head, statement: b"signed by the cloud".to_vec() });
        }
    }
    book.opened(RUN2, 5, Prev::Unknown);
    let (made, _) = segment(5, RUN2, Prev::Unknown, &signer);
    let open = &made[..made.len() - 3];
    segments.insert(name(5), file(open));
    frames.insert(5, open.to_vec());
    let head = book.head().expect("not empty");
    let head = HeadFile { box_id: signer.public_key().box_id(), seq: head.seq, hash: head.hash, statement: None };
    let journals = BTreeMap::from([(JOURNAL.to_owned(), book.bytes())]);
    World { frames, store: Store { segments, journals, head: Some(head) }, book }
}

/// Range of a frame in its file.
pub fn range(frame: &SealedFrame) -> std::ops::Range<usize> {
    let start = usize::try_from(frame.offset).expect("small");
    start..start + frame.bytes.len()
}

/// Signs as a box does: for vectors that break a rule and are signed all the same.
pub fn sign(signer: &dyn Signer, kind: u8, segment: SegmentId, before: &[u8]) -> [u8; 64] {
    let digest = sha2::Sha256::new()
        .chain_update(b"mvs1 sig")
        .chain_update([kind])
        .chain_update(segment.0)
        .chain_update(sha2::Sha256::digest(before))
        .finalize();
    signer.sign(&Digest(digest.into()))
}

/// A signed frame at the end of `file`.
pub fn push_signed(file: &mut Vec<u8>, signer: &dyn Signer, kind: u8, number: u32, segment: SegmentId, said: &[u8]) {
    let length = u32::try_from(said.len() + 64).expect("small");
    file.extend([kind, 0, 0, 0]);
    file.extend(number.to_be_bytes());
    file.extend(length.to_be_bytes());
    file.extend(said);
    let signature = sign(signer, kind, segment, file);
    file.extend(signature);
}

/// Signs every CKPT and END of a file anew, as whoever stole the box's key would.
pub fn resign(bytes: &[u8], signer: &dyn Signer) -> Vec<u8> {
    let (header, len) = Header::decode(bytes).expect("a header");
    let mut out = bytes[..len].to_vec();
    let mut rest = &bytes[len..];
    while !rest.is_empty() {
        let length = u32::from_be_bytes(*rest[8..].first_chunk().expect("a head")) as usize;
        let frame = &rest[..FRAME_HEAD + length];
        rest = &rest[frame.len()..];
        if matches!(frame[0], 64 | 65) {
            out.extend(&frame[..frame.len() - 64]);
            let signature = sign(signer, frame[0], header.segment, &out);
            out.extend(signature);
        } else {
            out.extend(frame);
        }
    }
    out
}
