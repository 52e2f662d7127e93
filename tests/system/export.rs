//! Footage that ffmpeg coded goes through the sealer and `mvbctl export`; ffmpeg must find the same packets in the export.

use bytes::Bytes;
use mvb::base::chain::{Signer, SoftwareSigner};
use mvb::base::ids::{BootId, CameraId, OrganisationId, RecordingId, SegmentId};
use mvb::base::units::{BootTime, MediaTime, Run, TimeSource, TimeStatement, WallTime};
use mvb::media::{AccessUnit, Codec, TrackId, TrackParams, UnitFlags};
use mvb::play::{Footage, export};
use mvb::seal::{
    EndReason, Meta, Prev, RecipientRole, RecipientSecret, Recipients, Sealer, SegmentFlags, SegmentStart, keyfile,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

/// Boot time of the first sample: what a box shows after a day and a half.
const START: i64 = 130_000;

/// A recording on its way onto a card.
struct Card {
    folder: tempfile::TempDir,
    secret: RecipientSecret,
    recipients: Recipients,
    signer: Arc<dyn Signer>,
    run: Run,
    wall: TimeStatement,
    recording: RecordingId,
    files: Vec<PathBuf>,
}

enum Item {
    Params(TrackParams),
    Unit(AccessUnit),
}

impl Card {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("segments")).expect("a folder");
        let secret = RecipientSecret::generate();
        let keys = vec![secret.public(RecipientRole::Recovery)];
        std::fs::write(folder.path().join("key"), &*keyfile::secret_text(&secret)).expect("a key file");
        Self {
            secret,
            recipients: Recipients::new(OrganisationId([3; 16]), keys).expect("usable"),
            signer: Arc::new(SoftwareSigner::generate()),
            run: Run { boot: BootId([1; 16]), start: 1 },
            wall: TimeStatement { at: BootTime(0), wall: WallTime(0), source: TimeSource::Unknown, error_ms: u64::MAX },
            recording: RecordingId([5; 16]),
            files: Vec::new(),
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Seals items into segments that start at every `every`th key picture.
    fn record(&mut self, items: &[Item], every: usize) {
        let mut params: BTreeMap<TrackId, Arc<TrackParams>> = BTreeMap::new();
        let (mut open, mut bytes, mut keys) = (None::<Sealer>, Vec::new(), 0);
        for item in items {
            match item {
                Item::Params(new) => {
                    params.insert(new.track, Arc::new(new.clone()));
                    if let Some(sealer) = &mut open {
                        bytes.extend_from_slice(&sealer.params(new, BootTime(0)).bytes);
                    }
                }
                Item::Unit(unit) => {
                    let video = params.get(&unit.track).is_some_and(|params| params.codec.is_video());
                    keys += usize::from(unit.flags.key && video);
                    if open.is_none() || (unit.flags.key && video && keys % every == 0) {
                        self.close(open.take(), &mut bytes, unit.captured);
                        let (sealer, frames) =
                            Sealer::start(self.start(unit.captured, &params), &self.recipients, self.signer.clone());
                        frames.iter().for_each(|frame| bytes.extend_from_slice(&frame.bytes));
                        open = Some(sealer);
                    }
                    let sealer = open.as_mut().expect("just opened");
                    sealer.unit(unit).iter().for_each(|frame| bytes.extend_from_slice(&frame.bytes));
                    bytes.extend_from_slice(&sealer.checkpoint(unit.captured).bytes);
                }
            }
        }
        self.close(open, &mut bytes, BootTime(u64::MAX));
    }

    fn start(&self, at: BootTime, params: &BTreeMap<TrackId, Arc<TrackParams>>) -> SegmentStart {
        SegmentStart {
            segment: SegmentId::random(),
            run: self.run,
            at,
            camera: CameraId([4; 16]),
            recording: self.recording,
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
                time: self.wall,
            },
            params: params.values().cloned().collect(),
            prev: Prev::First,
        }
    }

    fn close(&mut self, sealer: Option<Sealer>, bytes: &mut Vec<u8>, at: BootTime) {
        let Some(sealer) = sealer else { return };
        let path = self.path("segments").join(format!("{}.mvs", sealer.segment()));
        bytes.extend_from_slice(&sealer.end(EndReason::Finished, at).0.bytes);
        std::fs::write(&path, std::mem::take(bytes)).expect("written");
        self.files.push(path);
    }

    fn mvbctl(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvbctl"));
        command.args(["--json", "export"]).arg(self.folder.path()).arg("--key").arg(self.path("key"));
        command.arg("--out").arg(self.path("out.mp4")).args(more).output().expect("mvbctl runs")
    }

    /// Exports the card; ffmpeg's view of the result.
    fn export(&self, more: &[&str]) -> Vec<Packet> {
        let output = self.mvbctl(more);
        assert!(output.status.success(), "{output:?}");
        packets(&self.path("out.mp4"))
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Packet {
    stream: usize,
    md5: String,
    seconds: f64,
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    // It says so of every G.711, whoever wrote the file.
    let quiet = said.lines().all(|line| line.trim().is_empty() || line.starts_with("Guessed Channel Layout"));
    assert!(output.status.success() && quiet, "{program} {args:?}: {said}");
    output.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Packets as ffmpeg copies them, times counted from the earliest. A warning fails the test.
fn packets(path: &Path) -> Vec<Packet> {
    let out = run("ffmpeg", &["-v", "warning", "-i", text(path), "-map", "0", "-c", "copy", "-f", "framemd5", "-"]);
    let (mut base, mut list) = (BTreeMap::new(), Vec::new());
    for line in String::from_utf8(out).expect("text").lines() {
        if let Some((stream, fraction)) = line.strip_prefix("#tb ").and_then(|rest| rest.split_once(": ")) {
            let (n, d) = fraction.split_once('/').expect("a fraction");
            base.insert(stream.to_owned(), n.parse::<f64>().expect("number") / d.parse::<f64>().expect("number"));
        }
        if line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if let [stream, _dts, pts, _duration, _size, md5, ..] = fields[..] {
            list.push(Packet {
                stream: stream.parse().expect("number"),
                md5: md5.into(),
                seconds: pts.parse::<f64>().expect("number") * base[stream],
            });
        }
    }
    let first = list.iter().map(|packet| packet.seconds).fold(f64::MAX, f64::min);
    list.iter_mut().for_each(|packet| packet.seconds -= first);
    list
}

fn of(list: &[Packet], stream: usize) -> Vec<&Packet> {
    list.iter().filter(|packet| packet.stream == stream).collect()
}

/// Same packets, same order in each stream, same relative times to a millisecond.
fn same(expected: &[Packet], found: &[Packet]) {
    for stream in 0..2 {
        let (expected, found) = (of(expected, stream), of(found, stream));
        assert_eq!(expected.len(), found.len(), "packets of stream {stream}");
        for (n, (a, b)) in expected.iter().zip(found).enumerate() {
            assert_eq!(a.md5, b.md5, "packet {n} of stream {stream}");
            let off = (a.seconds - b.seconds).abs();
            assert!(off < 0.001, "packet {n} of stream {stream}: {} is {}", a.seconds, b.seconds);
        }
    }
}

/// A file coded by ffmpeg: 4 s of picture and sound.
fn source(folder: &Path, name: &str, size: &str, coding: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let video = format!("testsrc2=size={size}:rate=25:duration=4");
    let mut args = vec!["-v", "error", "-f", "lavfi", "-i", &video, "-f", "lavfi", "-i", "sine=duration=4", "-g", "25"];
    args.extend(coding);
    args.push(text(&path));
    run("ffmpeg", &args);
    path
}

/// Takes a file apart into what a camera would deliver, `later` seconds after [`START`].
fn items(path: &Path, later: i64) -> Vec<Item> {
    let bytes = std::fs::read(path).expect("reads");
    let probe =
        run("ffprobe", &["-v", "error", "-show_streams", "-show_packets", "-show_data", "-of", "json", text(path)]);
    let probe: Value = serde_json::from_slice(&probe).expect("JSON");
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0);
    let mut list = Vec::new();
    let mut scales = Vec::new();
    for (n, stream) in probe["streams"].as_array().expect("streams").iter().enumerate() {
        let extra = dump(stream["extradata"].as_str().unwrap_or_default());
        let (codec, config) = match stream["codec_name"].as_str().expect("a codec") {
            "h264" => (Codec::H264, extra),
            "hevc" => (Codec::H265, extra),
            "aac" => (Codec::Aac, extra),
            "opus" => (Codec::Opus, dops(&extra)),
            other => panic!("no test for {other}"),
        };
        let (_, timescale) = stream["time_base"].as_str().expect("time base").split_once('/').expect("a fraction");
        let timescale: u32 = timescale.parse().expect("number");
        scales.push(i64::from(timescale));
        list.push(Item::Params(TrackParams {
            track: TrackId(u8::try_from(n).expect("few")),
            codec,
            timescale,
            config,
            width: u16::try_from(number(&stream["width"])).expect("small"),
            height: u16::try_from(number(&stream["height"])).expect("small"),
            channels: u8::try_from(number(&stream["channels"])).expect("small"),
            sample_rate: u32::try_from(number(&stream["sample_rate"])).expect("small"),
        }));
    }
    for packet in probe["packets"].as_array().expect("packets") {
        let track = usize::try_from(number(&packet["stream_index"])).expect("small");
        let at = usize::try_from(number(&packet["pos"])).expect("a place");
        let len = usize::try_from(number(&packet["size"])).expect("a size");
        let pts = number(&packet["pts"]) + (START + later) * scales[track];
        list.push(Item::Unit(AccessUnit {
            track: TrackId(u8::try_from(track).expect("few")),
            pts: MediaTime(pts),
            captured: BootTime(u64::try_from(pts * 1_000_000 / scales[track]).expect("positive")),
            flags: UnitFlags {
                key: packet["flags"].as_str().is_some_and(|f| f.starts_with('K')),
                ..UnitFlags::default()
            },
            data: Bytes::copy_from_slice(&bytes[at..at + len]),
        }));
    }
    list
}

/// Bytes from ffprobe's dump: offset, colon, eight groups of four digits, then text.
fn dump(text: &str) -> Vec<u8> {
    let groups = text.lines().filter_map(|line| line.split_once(": ")).map(|(_, rest)| rest.get(..40).unwrap_or(rest));
    let digits: String = groups.flat_map(str::chars).filter(char::is_ascii_hexdigit).collect();
    data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).expect("hex")
}

/// The box of MP4 from the header of Ogg: the same fields, the other byte order.
fn dops(head: &[u8]) -> Vec<u8> {
    let [_, channels, ref skip @ .., g0, g1, family] = head[8..19] else { panic!("no Opus header") };
    let (skip, rate) = skip.split_at(2);
    let mut body = vec![0, channels];
    body.extend(skip.iter().rev());
    body.extend(rate.iter().rev());
    body.extend([g1, g0, family]);
    body
}

#[test]
fn ffmpeg_finds_the_cameras_packets_in_the_export() {
    let x264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
    let codings: [&[&str]; 3] = [
        &[&x264[..], &["-c:a", "aac"]].concat(),
        &[&x264[..], &["-bf", "3", "-b_strategy", "0", "-c:a", "aac", "-ar", "48000"]].concat(),
        &[
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-x265-params",
            "log-level=none",
            "-tag:v",
            "hvc1",
            "-c:a",
            "libopus",
        ],
    ];
    for coding in codings {
        let mut card = Card::new();
        let file = source(card.folder.path(), "source.mp4", "320x240", coding);
        card.record(&items(&file, 0), 2);
        assert!(card.files.len() >= 2, "{coding:?}: only {} segments", card.files.len());
        same(&packets(&file), &card.export(&[]));
    }
}

#[test]
fn a_camera_that_changes_its_picture_size_keeps_every_packet() {
    let mut card = Card::new();
    let coding = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"];
    let small = source(card.folder.path(), "small.mp4", "320x240", &coding);
    let large = source(card.folder.path(), "large.mp4", "640x480", &coding);
    // Within one segment, so that parameters change in its middle; and back.
    let mut all = items(&small, 0);
    all.extend(items(&large, 5));
    all.extend(items(&small, 10));
    card.record(&all, 1000);
    assert_eq!(card.files.len(), 1);
    let mut expected = Vec::new();
    for (file, later) in [(&small, 0.0), (&large, 5.0), (&small, 10.0)] {
        expected.extend(packets(file).into_iter().map(|packet| Packet { seconds: packet.seconds + later, ..packet }));
    }
    same(&expected, &card.export(&[]));
    // A player follows the change: every picture decodes.
    let out = card.path("out.mp4");
    let count = ["-v", "error", "-count_frames", "-select_streams", "v", "-show_entries", "stream=nb_read_frames"];
    let frames = run("ffprobe", &[&count[..], &["-of", "csv=p=0", text(&out)]].concat());
    assert_eq!(String::from_utf8_lossy(&frames).trim(), "300");
}

#[test]
fn a_cut_segment_is_exported_to_its_last_whole_record() {
    let mut card = Card::new();
    let coding = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"];
    let file = source(card.folder.path(), "source.mp4", "320x240", &coding);
    card.record(&items(&file, 0), 2);
    let last = card.files.last().expect("a segment");
    let bytes = std::fs::read(last).expect("reads");
    std::fs::write(last, &bytes[..bytes.len() * 2 / 3]).expect("written");
    let output = card.mvbctl(&[]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(4), "{report}");
    assert_eq!(report["left_out"][0]["code"], "segment-truncated");
    let (whole, found) = (packets(&file), packets(&card.path("out.mp4")));
    for stream in 0..2 {
        let (whole, found) = (of(&whole, stream), of(&found, stream));
        assert!(found.len() > whole.len() / 2 && found.len() < whole.len());
        assert!(whole.iter().zip(&found).all(|(a, b)| a.md5 == b.md5));
    }
    let again = card.mvbctl(&[]);
    assert_eq!(again.status.code(), Some(2), "an existing export is kept: {again:?}");
}

#[test]
fn several_runs_of_a_camera_come_one_after_another_with_their_distance() {
    let mut card = Card::new();
    let coding = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"];
    let file = source(card.folder.path(), "source.mp4", "320x240", &coding);
    let all = items(&file, 0);
    // Two boots; the cloud's time says that the second began 3600 s after the first.
    let boot_at = |ms| TimeStatement { at: BootTime(0), wall: WallTime(ms), source: TimeSource::Cloud, error_ms: 100 };
    card.wall = boot_at(1_000_000);
    card.record(&all, 1000);
    card.run = Run { boot: BootId([2; 16]), start: 2 };
    card.wall = boot_at(4_600_000);
    card.recording = RecordingId([6; 16]);
    card.record(&all, 1000);
    let refused = card.mvbctl(&[]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && said.contains(&RecordingId([6; 16]).to_string()), "{said}");
    let one = packets(&file);
    let mut expected = one.clone();
    expected.extend(one.into_iter().map(|packet| Packet { seconds: packet.seconds + 3600.0, ..packet }));
    same(&expected, &card.export(&["--camera", &CameraId([4; 16]).to_string()]));
}

#[test]
fn telephone_sound_is_named_and_kept_byte_by_byte() {
    for (codec, name) in [(Codec::Pcmu, "pcm_mulaw"), (Codec::Pcma, "pcm_alaw")] {
        let mut card = Card::new();
        let mut list = vec![Item::Params(TrackParams {
            track: TrackId(1),
            codec,
            timescale: 8000,
            config: Vec::new(),
            width: 0,
            height: 0,
            channels: 1,
            sample_rate: 8000,
        })];
        let mut sound = Vec::new();
        for n in 0..100_u8 {
            let data = Bytes::from(vec![n; 160]);
            sound.extend_from_slice(&data);
            list.push(Item::Unit(AccessUnit {
                track: TrackId(1),
                pts: MediaTime(START * 8000 + i64::from(n) * 160),
                captured: BootTime(u64::from(n)),
                flags: UnitFlags { key: true, ..UnitFlags::default() },
                data,
            }));
        }
        card.record(&list, 1);
        card.export(&[]);
        let out = card.path("out.mp4");
        let probe =
            run("ffprobe", &["-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", text(&out)]);
        assert_eq!(String::from_utf8_lossy(&probe).trim(), name);
        let raw = run("ffmpeg", &["-v", "warning", "-i", text(&out), "-c", "copy", "-f", &name[4..], "-"]);
        assert!(raw == sound, "{name}: {} bytes of {}", raw.len(), sound.len());
    }
}

#[test]
fn a_wrong_key_and_damaged_bytes_are_told_and_never_a_crash() {
    let mut card = Card::new();
    let coding = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"];
    let file = source(card.folder.path(), "source.mp4", "320x240", &coding);
    card.record(&items(&file, 0), 2);
    let key = card.path("key");
    std::fs::write(&key, &*keyfile::secret_text(&RecipientSecret::generate())).expect("written");
    let output = card.mvbctl(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("does not open with this key"), "{output:?}");
    assert!(!card.path("out.mp4").exists() && !card.path("out.part").exists());

    let whole = std::fs::read(&card.files[0]).expect("reads");
    let mut seed: u64 = 0x5eed;
    println!("seed {seed:#x}");
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).expect("31 bits")
    };
    let run = |bytes: Vec<u8>| {
        let mut footage = Footage::default();
        footage.add("hostile", Box::new(bytes)).ok()?;
        export(&mut footage, &[&card.secret], &mut Vec::new(), &mut |_, _| {}, &|| false).ok()
    };
    let clean = run(whole.clone()).expect("exports");
    assert!(clean.left_out.is_empty());
    let (mut damaged, mut units) = (0, 0);
    for _ in 0..100 {
        let mut bytes = whole.clone();
        match next() % 3 {
            0 => bytes.truncate(next() % whole.len()),
            1 => bytes[next() % whole.len()] ^= 1 << (next() % 8),
            _ => {
                let at = next() % whole.len();
                let end = (at + 1 + next() % 64).min(whole.len());
                bytes[at..end].fill_with(|| next().to_le_bytes()[0]);
            }
        }
        if let Some(report) = run(bytes) {
            damaged += usize::from(!report.left_out.is_empty());
            units += report.packets.values().sum::<u64>();
        }
    }
    assert!(damaged > 40 && units > 0, "{damaged} reports name damage");
    // One flipped bit in one record costs that record, no more.
    let mut bytes = whole.clone();
    let at = whole.len() / 2;
    bytes[at] ^= 1;
    let report = run(bytes).expect("exports");
    let (lost, all) = (report.packets.values().sum::<u64>(), clean.packets.values().sum::<u64>());
    assert!(all - lost <= 1, "{lost} of {all}: {:?}", report.left_out);
}
