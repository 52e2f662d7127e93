//! Opened records of one camera into live fragments that a browser plays. Pure.
//!
//! Pictures in H.264, sound in AAC or Opus; anything else is named as unplayable here and can be exported. After a loss
//! pictures go on at the next key frame. Both tracks run on the box's timeline, counted from the first key frame.

use crate::base::units::BootTime;
use crate::media::mp4::{browser_codec, fragment};
use crate::media::{AccessUnit, TrackParams};
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
    step: u32,
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

    fn fragment(&mut self, unit: &AccessUnit, starts: bool) -> Option<Muxed> {
        let index = self.playing.iter().position(|playing| playing.params.track == unit.track)?;
        let timescale = i128::from(self.playing[index].params.timescale.max(1));
        let micros = i128::from(unit.pts.0) * 1_000_000 / timescale;
        if self.zero.is_none() && !starts {
            return None;
        }
        let zero = *self.zero.get_or_insert(micros);
        // Sound that was captured just before the first picture has no place on the line.
        let pts = i64::try_from((micros - zero) * timescale / 1_000_000).ok().filter(|pts| *pts >= 0)?;
        let playing = &mut self.playing[index];
        // Decode order is arrival order; a picture that is shown earlier than the one before gets an offset.
        let dts = match playing.last_dts {
            None => pts.unsigned_abs(),
            Some(last) => pts.unsigned_abs().max(last + 1),
        };
        let step = playing.last_dts.map_or(0, |last| u32::try_from(dts - last).unwrap_or(0));
        if step > 0 {
            playing.step = step;
        }
        playing.last_dts = Some(dts);
        let usual = if playing.params.codec.is_video() { playing.params.timescale / 25 } else { 1024 };
        let duration = if playing.step > 0 { playing.step } else { usual };
        self.number = self.number.wrapping_add(1);
        let id = u32::try_from(index + 1).ok()?;
        let cts = pts - i64::try_from(dts).ok()?;
        let bytes = fragment::fragment(id, self.number, dts, cts, duration, unit.flags.key, &unit.data)?;
        let new_init = starts && std::mem::take(&mut self.new_init);
        Some(Muxed::Fragment { bytes: bytes.into(), key: starts, captured: unit.captured, new_init })
    }
}
