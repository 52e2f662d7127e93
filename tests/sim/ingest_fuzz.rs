//! Garbage from a camera: descriptions and packets of every payload format, mutated from valid ones. Nothing panics,
//! memory stays bounded, and a valid picture or sound behind the garbage is received.

use mvb::base::ids::random_bytes;
use mvb::base::units::BootTime;
use mvb::ingest::depack::MAX_UNIT;
use mvb::ingest::sdp;
use mvb::ingest::track::Track;
use mvb::media::{AccessUnit, Item, TrackId};
use mvb::sim::camera::picture::{heard, picture, seen, sound};
use mvb::sim::camera::rtp::Sender;
use mvb::sim::volume::Seeded;
use std::time::{Duration, Instant};

/// For each payload format and for descriptions.
const TIME: Duration = Duration::from_millis(1200);
/// A packet that is started when a unit is full, and its length.
const SLACK: usize = 65_536 + 4;

const FORMATS: [(&str, &str); 7] = [
    (
        "h264",
        "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z0LAHtkAoEf+iA==,aM48gA==\r\n",
    ),
    ("h264 without sets", "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"),
    (
        "aac-hbr",
        "m=audio 0 RTP/AVP 96\r\na=rtpmap:96 MPEG4-GENERIC/48000/1\r\na=fmtp:96 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3; config=118856E500\r\n",
    ),
    ("latm", "m=audio 0 RTP/AVP 96\r\na=rtpmap:96 MP4A-LATM/44100/2\r\na=fmtp:96 cpresent=0;config=400024203fc0\r\n"),
    ("opus", "m=audio 0 RTP/AVP 96\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 sprop-stereo=1\r\n"),
    ("pcmu", "m=audio 0 RTP/AVP 0\r\n"),
    ("pcma", "m=audio 0 RTP/AVP 8\r\n"),
];

fn description(media: &str) -> String {
    format!("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{media}a=control:track0\r\n")
}

struct Random(Seeded);

impl Random {
    fn seeded() -> Self {
        let seed = u64::from_be_bytes(random_bytes::<8>());
        println!("seed {seed:#x}");
        Self(Seeded(seed))
    }

    fn next(&mut self) -> u64 {
        self.0.draw()
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.below(end as u64)).expect("below a usize")
    }

    /// Bytes changed, cut off, put in or repeated; at least one of these.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len());
            match self.below(8) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next() as u8),
                2 => {
                    let part = bytes[at..(at + 20).min(bytes.len())].to_vec();
                    bytes.extend(part);
                }
                3 if !bytes.is_empty() => bytes[at] = [0, 0xff, 0x7f, 0x80][self.below(4)],
                _ if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
    }
}

#[test]
fn mutated_descriptions_never_panic_and_keep_their_limits() {
    let mut random = Random::seeded();
    let end = Instant::now() + TIME;
    let (mut read, mut rounds) = (0_u32, 0_u32);
    while Instant::now() < end {
        for (name, media) in FORMATS {
            let mut text = description(media).into_bytes();
            random.mutate(&mut text);
            rounds += 1;
            if let Ok(tracks) = sdp::parse(&text) {
                read += 1;
                assert!((1..=sdp::MAX_TRACKS).contains(&tracks.len()), "{name}");
                for announced in tracks {
                    assert!(announced.clock > 0 && announced.payload_type < 128, "{name}");
                    // Whatever it describes takes packets.
                    let mut track = Track::new(TrackId(0), announced, false);
                    let mut payload = vec![0; 40];
                    random.mutate(&mut payload);
                    track.push(&Sender::new(96, 1, 1).packet(&payload, 0, true), BootTime(1), None, &mut Vec::new());
                    track.flush(BootTime(2), None, &mut Vec::new());
                }
            }
        }
    }
    println!("{read} of {rounds} were read");
    assert!(read > rounds / 10, "mutations are so wild that nothing is tried: {read} of {rounds}");
    let many = description(&FORMATS[5].1.repeat(sdp::MAX_TRACKS + 1));
    assert_eq!(sdp::parse(many.as_bytes()).err(), Some(sdp::SdpError::TooMany));
}

/// A valid unit as packets of a format.
fn valid(name: &str, number: u32, sender: &mut Sender, timestamp: u32) -> Vec<Vec<u8>> {
    match name {
        "aac-hbr" => vec![sender.sounds(&[sound(number, 300)], timestamp)],
        "latm" => {
            let unit = sound(number, 300);
            vec![sender.packet(&[&[255, 45], unit.as_slice()].concat(), timestamp, true)]
        }
        "opus" | "pcmu" | "pcma" => vec![sender.packet(&sound(number, 300), timestamp, true)],
        _ => {
            sender.aggregates = number.is_multiple_of(2);
            sender.picture(&picture(number, true, 2000), timestamp)
        }
    }
}

fn number(name: &str, unit: &AccessUnit) -> Option<u32> {
    match name {
        "h264" | "h264 without sets" => seen(&unit.data).filter(|seen| seen.whole).map(|seen| seen.number),
        _ => heard(&unit.data),
    }
}

fn track(media: &str, reorders: bool) -> (Track, u8) {
    let mut tracks = sdp::parse(description(media).as_bytes()).expect("a valid description");
    let announced = tracks.remove(0);
    let payload_type = announced.payload_type;
    (Track::new(TrackId(0), announced, reorders), payload_type)
}

fn units(items: &mut Vec<Item>) -> Vec<AccessUnit> {
    let units = items.drain(..).filter_map(|item| if let Item::Unit(unit) = item { Some(unit) } else { None });
    units.collect()
}

#[test]
fn mutated_packets_never_panic_and_what_comes_after_them_is_received() {
    let mut random = Random::seeded();
    for (name, media) in FORMATS {
        let end = Instant::now() + TIME;
        let mut rounds = 0_u32;
        while Instant::now() < end || rounds < 20 {
            rounds += 1;
            let (mut track, payload_type) = track(media, rounds.is_multiple_of(2));
            let mut sender = Sender::new(payload_type, 1, random.next() as u16);
            sender.mtu = 200 + random.below(1200);
            let (mut items, mut time, mut timestamp) = (Vec::new(), 1_000_000, random.next() as u32);
            // In one round of three headers are broken too; a new sender comes after that.
            let heads = rounds.is_multiple_of(3);
            for n in 0..30 {
                for mut packet in valid(name, n, &mut sender, timestamp) {
                    time += 500;
                    match random.below(4) {
                        0 if heads => random.mutate(&mut packet),
                        0 | 1 => {
                            let mut payload = packet.split_off(12);
                            random.mutate(&mut payload);
                            packet.extend(payload);
                            packet[1] ^= (u8::from(random.below(4) == 0)) << 7;
                        }
                        _ => {}
                    }
                    track.push(&packet, BootTime(time), None, &mut items);
                }
                timestamp = timestamp.wrapping_add(if random.below(4) == 0 { 0 } else { 3600 });
            }
            let got = units(&mut items);
            assert!(got.iter().all(|unit| unit.data.len() < 1 << 20), "{name}: more than was sent");
            if heads {
                sender.ssrc = 2;
            }
            // The first unit behind the garbage ends what was begun; the second is beyond doubt.
            for n in [1000, 1001] {
                for packet in valid(name, n, &mut sender, timestamp.wrapping_add(3600 * (n - 999))) {
                    track.push(&packet, BootTime(time + 1000), None, &mut items);
                }
            }
            track.poll(BootTime(time + 1_000_000), None, &mut items);
            track.flush(BootTime(time + 1_000_000), None, &mut items);
            let after: Vec<u32> = units(&mut items).iter().filter_map(|unit| number(name, unit)).collect();
            assert!(after.ends_with(&[1000, 1001]), "{name}, round {rounds}, broken headers: {heads}: {after:?}");
        }
        println!("{name}: {rounds} rounds");
    }
}

/// One timestamp, no marker, for ever: what is held is bounded, and what was sent comes out.
#[test]
fn units_that_never_end_come_out_in_pieces_of_bounded_size() {
    let starts: [(&str, &[u8]); 9] = [
        ("h264", &[0x7c, 0x85]),
        ("h264", &[0x7c, 0x05]),
        ("h264", &[0x7c, 0x45]),
        ("h264", &[0x65]),
        ("h264", &[0x78, 0xea, 0x60]),
        ("aac-hbr", &[0, 16, 0xff, 0xf8]),
        ("latm", &[255]),
        ("latm", &[0]),
        ("opus", &[1]),
    ];
    for (name, start) in starts {
        let media = FORMATS.iter().find(|(format, _)| *format == name).expect("known").1;
        let (mut track, payload_type) = track(media, false);
        let mut sender = Sender::new(payload_type, 1, 1);
        // AAC-hbr's sizes have 13 bits; what lies behind a whole unit is padding.
        let body = if name == "aac-hbr" { 8000 } else { 60_000 };
        let payload = [start, &vec![0xa5; body]].concat();
        let (mut items, mut sent, mut come) = (Vec::new(), 0, 0);
        for n in 0..500_u64 {
            track.push(&sender.packet(&payload, 7, false), BootTime(1_000_000 + n), None, &mut items);
            sent += body;
            for unit in units(&mut items) {
                assert!(unit.data.len() <= MAX_UNIT + SLACK, "{name} {start:x?}: a unit of {}", unit.data.len());
                come += unit.data.len();
            }
            assert!(sent.saturating_sub(come) <= 2 * MAX_UNIT + SLACK, "{name} {start:x?}: {sent} sent, {come} come");
        }
        track.flush(BootTime(2_000_000), None, &mut items);
        come += units(&mut items).iter().map(|unit| unit.data.len()).sum::<usize>();
        assert!(come >= sent / 10 * 9, "{name} {start:x?}: {come} of {sent} came out");
    }
}
