//! Opened records of one camera into live fragments that a browser plays. Pure.
//!
//! Pictures in H.264, sound in AAC or Opus; anything else is named as unplayable here and can be exported. After a loss
//! pictures go on at the next key frame. Both tracks run on the box's timeline, counted from the first key frame.

use crate::base::units::BootTime;
use crate::media::mp4::{browser_codec, fragment};
use crate::media::{AccessUnit, Codec, TrackParams};
use crate::seal::Record;
use bytes::Bytes;

/// Where a player starts: MIME type and initialisation segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init {
    /// For Media Source Extensions, with codecs.
    pub mime: String,
    /// `ftyp` and `moov`.
    pub bytes: Bytes,
}

/// What records lead to.
#[derive(Debug)]
pub enum Muxed {
    /// No track of the camera can be played in a browser.
    Unplayable,
    /// A new initialisation segment; fragments after it need it.
    Init(Init),
    /// One fragment.
    Fragment {
        /// `moof` and `mdat`.
        bytes: Bytes,
        /// A player can start here.
        key: bool,
        /// When its sample was captured.
        captured: BootTime,
        /// The initialisation changed since the last key fragment.
        new_init: bool,
    },
}

/// A key frame this far from the picture before it, or before it, starts a new timeline: the box was restarted, or the
/// camera was away.
const NEW_TIMELINE: u64 = 10;

/// Makes fragments of one camera's records, in order.
#[derive(Debug, Default)]
pub struct Mux {
    known: Vec<TrackParams>,
    /// Tracks of the present initialisation, in order of their ids.
    playing: Vec<Playing>,
    /// Zero of the fragments' timeline, microseconds of the box's.
    zero: Option<i128>,
    number: u32,
    changed: bool,
    new_init: bool,
    said_unplayable: bool,
    waits_for_key: bool,
}

#[derive(Debug)]
struct Playing {
    params: TrackParams,
    last_dts: Option<u64>,
    /// Longest distance of two pictures so far, at most a second.
    step: u32,
}

impl Playing {
    /// Browsers take a distance of more than twice the longest duration so far for a break, and drop pictures up to the
    /// next key frame. So a picture says the longest distance seen, and the first one a quarter of a second.
    fn duration(&self, data: &[u8]) -> u32 {
        let timescale = self.params.timescale;
        match self.params.codec {
            Codec::H264 | Codec::H265 if self.step > 0 => self.step,
            Codec::H264 | Codec::H265 => timescale / 4,
            Codec::Aac => rescaled(1024, timescale, self.params.sample_rate),
            Codec::Opus => rescaled(opus_samples(data), timescale, 48_000),
            Codec::Pcmu | Codec::Pcma => rescaled(u32::try_from(data.len()).unwrap_or(0), timescale, 8_000),
        }
    }
}

fn rescaled(samples: u32, timescale: u32, rate: u32) -> u32 {
    let rate = if rate == 0 { timescale.max(1) } else { rate };
    u32::try_from(u64::from(samples) * u64::from(timescale) / u64::from(rate)).unwrap_or(u32::MAX)
}

/// Samples at 48 kHz of an Opus packet (RFC 6716, 3.1 and 3.2).
fn opus_samples(data: &[u8]) -> u32 {
    let Some(toc) = data.first() else { return 960 };
    let config = toc >> 3;
    let frame = match config {
        0..=11 => [480, 960, 1920, 2880][usize::from(config & 3)],
        12..=15 => [480, 960][usize::from(config & 1)],
        _ => [120, 240, 480, 960][usize::from(config & 3)],
    };
    match toc & 3 {
        0 => frame,
        1 | 2 => 2 * frame,
        _ => frame * u32::from(data.get(1).map_or(1, |count| count & 63)),
    }
}

impl Mux {
    /// The next record.
    pub fn record(&mut self, record: Record) -> Vec<Muxed> {
        match record {
            Record::Params(params) => self.params(params),
            Record::Unit(unit) => self.unit(&unit),
            Record::Meta(_) | Record::Event(_) | Record::Gap(_) => Vec::new(),
        }
    }

    /// Records are missing before the next one: pictures go on at the next key frame.
    pub fn lost(&mut self) {
        self.waits_for_key = true;
    }

    fn params(&mut self, params: TrackParams) -> Vec<Muxed> {
        match self.known.iter_mut().find(|known| known.track == params.track) {
            Some(known) if *known == params => return Vec::new(),
            Some(known) => *known = params,
            None => self.known.push(params),
        }
        self.changed = true;
        Vec::new()
    }

    fn unit(&mut self, unit: &AccessUnit) -> Vec<Muxed> {
        let has_video = self.known.iter().any(|params| params.codec.is_video());
        let is_video = self.known.iter().any(|params| params.track == unit.track && params.codec.is_video());
        let starts = unit.flags.key && (is_video || !has_video);
        let mut out = Vec::new();
        if starts && self.leaps(unit) {
            self.changed = true;
        }
        if self.changed && starts {
            self.changed = false;
            let playable = |params: &&TrackParams| browser_codec(params).is_some();
            let tracks: Vec<TrackParams> = self.known.iter().filter(playable).cloned().collect();
            let shows = !has_video || tracks.iter().any(|params| params.codec.is_video());
            let codecs: Vec<String> = tracks.iter().filter_map(browser_codec).collect();
            match fragment::init(&tracks).filter(|_| shows && !tracks.is_empty()) {
                Some(bytes) => {
                    let kind = if has_video { "video" } else { "audio" };
                    let mime = format!("{kind}/mp4; codecs=\"{}\"", codecs.join(", "));
                    self.playing =
                        tracks.into_iter().map(|params| Playing { params, last_dts: None, step: 0 }).collect();
                    self.zero = None;
                    self.new_init = true;
                    self.waits_for_key = false;
                    out.push(Muxed::Init(Init { mime, bytes: bytes.into() }));
                }
                None if !self.said_unplayable => {
                    self.playing.clear();
                    self.said_unplayable = true;
                    out.push(Muxed::Unplayable);
                }
                None => self.playing.clear(),
            }
        }
        if is_video && unit.flags.loss_before && !unit.flags.key {
            self.waits_for_key = true;
        }
        if is_video && unit.flags.key {
            self.waits_for_key = false;
        }
        if is_video && self.waits_for_key {
            return out;
        }
        out.extend(self.fragment(unit, starts));
        out
    }

    fn leaps(&self, unit: &AccessUnit) -> bool {
        let Some(playing) = self.playing.iter().find(|playing| playing.params.track == unit.track) else {
            return false;
        };
        let (Some(zero), Some(last)) = (self.zero, playing.last_dts) else { return false };
        let timescale = i128::from(playing.params.timescale.max(1));
        let step = i128::from(unit.pts.0) - zero * timescale / 1_000_000 - i128::from(last);
        step < 0 || step > i128::from(NEW_TIMELINE) * timescale
    }

    fn fragment(&mut self, unit: &AccessUnit, starts: bool) -> Option<Muxed> {
        let index = self.playing.iter().position(|playing| playing.params.track == unit.track)?;
        let timescale = i128::from(self.playing[index].params.timescale.max(1));
        let micros = micros(unit, timescale);
        if self.zero.is_none() && !starts {
            return None;
        }
        let zero = *self.zero.get_or_insert(micros);
        // Sound that was captured just before the first picture has no place on the line.
        let pts = i64::try_from(i128::from(unit.pts.0) - zero * timescale / 1_000_000).ok().filter(|pts| *pts >= 0)?;
        let playing = &mut self.playing[index];
        // Decode order is arrival order; a picture that is shown earlier than the one before gets an offset.
        let dts = match playing.last_dts {
            None => pts.unsigned_abs(),
            Some(last) => pts.unsigned_abs().max(last + 1),
        };
        let step = playing.last_dts.map_or(0, |last| u32::try_from(dts - last).unwrap_or(u32::MAX));
        if step <= playing.params.timescale {
            playing.step = playing.step.max(step);
        }
        playing.last_dts = Some(dts);
        let duration = playing.duration(&unit.data);
        self.number = self.number.wrapping_add(1);
        let id = u32::try_from(index + 1).ok()?;
        let cts = pts - i64::try_from(dts).ok()?;
        let bytes = fragment::fragment(id, self.number, dts, cts, duration, unit.flags.key, &unit.data)?;
        let new_init = starts && std::mem::take(&mut self.new_init);
        Some(Muxed::Fragment { bytes: bytes.into(), key: starts, captured: unit.captured, new_init })
    }
}

fn micros(unit: &AccessUnit, timescale: i128) -> i128 {
    i128::from(unit.pts.0) * 1_000_000 / timescale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::MediaTime;
    use crate::media::{TrackId, UnitFlags};
    use mp4_atom::{Decode as _, Moof};

    fn params(track: u8, codec: Codec, timescale: u32, config: &[u8]) -> Record {
        Record::Params(TrackParams {
            track: TrackId(track),
            codec,
            timescale,
            config: config.to_vec(),
            width: 64,
            height: 64,
            channels: u8::from(!codec.is_video()),
            sample_rate: if codec.is_video() { 0 } else { timescale },
        })
    }

    fn video() -> Record {
        let sps = [0x67, 66, 0, 30, 1];
        let config = [&[1, 66, 0, 30, 0xff, 0xe1, 0, 5][..], &sps, &[1, 0, 2, 0x68, 1]].concat();
        params(0, Codec::H264, 90_000, &config)
    }

    fn unit(track: u8, pts: i64, key: bool) -> AccessUnit {
        AccessUnit {
            track: TrackId(track),
            pts: MediaTime(pts),
            captured: BootTime(1),
            flags: UnitFlags { key, ..UnitFlags::default() },
            data: Bytes::from_static(&[0, 0, 0, 1, 9]),
        }
    }

    /// (track, dts, pts, duration) of each fragment, and how many initialisations came before it.
    fn mux(mux: &mut Mux, records: impl IntoIterator<Item = Record>) -> Vec<(usize, u32, i64, i64, i64)> {
        let (mut inits, mut list) = (0, Vec::new());
        for muxed in records.into_iter().flat_map(|record| mux.record(record)) {
            match muxed {
                Muxed::Init(_) => inits += 1,
                Muxed::Unplayable => panic!("playable"),
                Muxed::Fragment { bytes, .. } => {
                    let moof = Moof::decode(&mut &bytes[..]).expect("a moof");
                    let traf = &moof.traf[0];
                    let mp4_atom::TrunSamples::Explicit(entries) = &traf.trun[0].samples else { panic!("one sample") };
                    let dts = i64::try_from(traf.tfdt.as_ref().expect("a time").base_media_decode_time).expect("small");
                    let entry = &entries[0];
                    let duration = i64::from(entry.duration.expect("a duration"));
                    list.push((inits, traf.tfhd.track_id, dts, dts + entry.cts.unwrap_or(0), duration));
                }
            }
        }
        list
    }

    #[test]
    fn reordered_pictures_keep_their_time_and_no_distance_looks_like_a_break() {
        let order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8];
        let units = order.map(|n| Record::Unit(unit(0, 90_000_000 + n * 3600, n == 0)));
        let list = mux(&mut Mux::default(), std::iter::once(video()).chain(units));
        assert_eq!(list.iter().map(|each| each.3).collect::<Vec<_>>(), order.map(|n| n * 3600));
        let mut longest = 0;
        for pair in list.windows(2) {
            longest = longest.max(pair[0].4);
            let step = pair[1].2 - pair[0].2;
            assert!(step > 0 && step <= 2 * longest, "{pair:?}");
        }
    }

    #[test]
    fn after_a_loss_pictures_wait_for_a_key_frame_and_sound_goes_on() {
        let mut one = Mux::default();
        let aac = params(1, Codec::Aac, 48_000, &[0x11, 0x88]);
        let first = [video(), aac, Record::Unit(unit(0, 90_000, true)), Record::Unit(unit(1, 48_000, true))];
        assert_eq!(mux(&mut one, first).len(), 2);
        one.lost();
        let rest = [(0, 93_600, false), (1, 49_024, true), (0, 97_200, true), (0, 100_800, false)];
        let list = mux(&mut one, rest.map(|(track, pts, key)| Record::Unit(unit(track, pts, key))));
        assert_eq!(list.iter().map(|each| (each.1, each.3)).collect::<Vec<_>>(), [(2, 1024), (1, 7200), (1, 10_800)]);
    }

    #[test]
    fn a_box_that_was_restarted_starts_a_new_timeline_at_a_key_frame() {
        let times = [(9_000_000, true), (9_003_600, false), (3_600, false), (7_200, true), (10_800, false)];
        let units = times.map(|(pts, key)| Record::Unit(unit(0, pts, key)));
        let list = mux(&mut Mux::default(), std::iter::once(video()).chain(units));
        let last: Vec<_> = list.iter().filter(|each| each.0 == 2).map(|each| each.3).collect();
        assert_eq!(last, [0, 3600], "{list:?}");
    }

    #[test]
    fn durations_of_sound_are_its_samples() {
        assert_eq!([&[0x78_u8][..], &[0x79], &[0x7b, 3], &[0x08], &[]].map(opus_samples), [960, 1920, 2880, 960, 960]);
        assert_eq!(rescaled(1024, 90_000, 48_000), 1920);
    }

    #[test]
    fn what_browsers_do_not_play_is_said_once() {
        let mut mux = Mux::default();
        mux.record(params(0, Codec::H265, 90_000, &[]));
        let said: Vec<_> = (0..3).flat_map(|n| mux.record(Record::Unit(unit(0, n * 3600, true)))).collect();
        assert!(matches!(said[..], [Muxed::Unplayable]), "{said:?}");
    }
}
