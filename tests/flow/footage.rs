//! What the vault holds, opened with the organisation's key and nothing else, and compared with the camera's file.

use crate::camera;
use crate::world::World;
use data_encoding::HEXLOWER;
use md5::{Digest as _, Md5};
use mvb::base::ids::CameraId;
use mvb::cloud::command::Secret;
use mvb::cloud::keys::Keys;
use mvb::cloud::vault::keyring::Keyring;
use mvb::cloud::vault::{FileState, Reader, StoredFile};
use mvb::media::{AccessUnit, Gap};
use mvb::seal::frame::FrameHead;
use mvb::seal::{Header, Meta, Reader as Opener, Record};
use std::collections::BTreeMap;
use std::path::Path;

/// Everything committed of one camera, in the order in which it was sealed.
#[derive(Default)]
pub struct Footage {
    pub units: Vec<AccessUnit>,
    pub gaps: Vec<Gap>,
    pub metas: Vec<Meta>,
    pub headers: Vec<Header>,
    /// Units per recording, in order.
    pub recordings: Vec<usize>,
}

impl Footage {
    /// Hashes of a track's units, as framemd5 would state them. Pictures are track 0 or whatever comes first.
    pub fn hashes(&self, video: bool) -> Vec<String> {
        let mut tracks: BTreeMap<u8, Vec<String>> = BTreeMap::new();
        for unit in &self.units {
            tracks.entry(unit.track.0).or_default().push(HEXLOWER.encode(&Md5::digest(&unit.data)));
        }
        tracks.remove(&u8::from(!video)).unwrap_or_default()
    }
}

pub fn keyring(data: &Path) -> Keyring {
    let keys = Keys::load(data).expect("the cloud's keys");
    keys.unlock(&Secret::new("only for tests".into())).expect("the passphrase fits")
}

/// The committed files of a camera, in the order in which they were sealed.
pub fn files(data: &Path, camera: &str) -> Vec<StoredFile> {
    let camera: CameraId = camera.parse().expect("a camera id");
    let mut files = Reader::open(data).expect("a vault").files().expect("a list");
    files.retain(|file| file.row.origin.is_some_and(|origin| origin.camera == camera));
    files.sort_by_key(|file| file.row.origin.map(|origin| (origin.run.start, origin.at.0)));
    files
}

/// Opens one segment's bytes to their end.
pub fn open(bytes: &[u8], keys: &Keyring, into: &mut Footage) {
    let (header, size) = Header::decode(bytes).expect("a header");
    let key = keys.open(&header).expect("unlocked").expect("sealed to the organisation");
    let mut opener = Opener::new(&bytes[..size], key);
    let mut rest = &bytes[size..];
    while !rest.is_empty() {
        let head = FrameHead::parse(rest).expect("a frame");
        let (frame, after) = rest.split_at(usize::try_from(head.frame_len()).expect("small"));
        rest = after;
        match opener.frame(frame).expect("opens") {
            Some(Record::Unit(unit)) => into.units.push(unit),
            Some(Record::Gap(gap)) => into.gaps.push(gap),
            Some(Record::Meta(meta)) => into.metas.push(meta),
            _ => {}
        }
    }
    into.headers.push(header);
}

/// Opens everything of a camera. A file that is not committed is a failure.
pub fn of(world: &World, camera: &str) -> Footage {
    let data = world.cloud_data();
    let keys = keyring(&data);
    let mut footage = Footage::default();
    let mut last = None;
    for file in files(&data, camera) {
        assert_eq!(file.row.state, FileState::Committed, "{:?}\n{}", file.row, world.logs());
        let before = footage.units.len();
        open(&file.bytes().expect("readable"), &keys, &mut footage);
        let recording = file.row.origin.map(|origin| origin.recording);
        if recording != last {
            footage.recordings.push(0);
            last = recording;
        }
        *footage.recordings.last_mut().expect("one was pushed") += footage.units.len() - before;
    }
    footage
}

/// Asserts that the camera's whole file is there, packet for packet, and nothing else.
pub fn assert_whole(footage: &Footage, file: &Path) {
    let source = camera::packets(file);
    for (index, video) in [(0, true), (1, false)] {
        let (sent, kept) = (camera::stream(&source, index), footage.hashes(video));
        assert_eq!(kept.len(), sent.len(), "number of packets, video: {video}");
        if let Some(at) = kept.iter().zip(&sent).position(|(kept, sent)| kept != sent) {
            panic!("packet {at} differs, video: {video}");
        }
    }
}

/// How many of `sent` `kept` begins with.
pub fn common(kept: &[String], sent: &[&str]) -> usize {
    kept.iter().zip(sent).take_while(|(kept, sent)| kept == sent).count()
}
