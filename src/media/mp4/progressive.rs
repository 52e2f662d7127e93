//! A file with `moov` before `mdat`, laid out from sizes and times alone: the samples' bytes follow in the same order.
//!
//! Cameras give presentation times only. Decode times are the sorted presentation times of a track, moved back far
//! enough that no sample is shown before it is decoded; an edit list puts the presentation back in place. Tracks that
//! start later get an empty edit; a gap is the long duration of the sample before it.

use super::{name_g711, sample_entry};
use crate::media::TrackParams;
use mp4_atom::{
    Co64, Ctts, CttsEntry, Dinf, Dref, Edts, Elst, ElstEntry, Encode, FourCC, Ftyp, Hdlr, Mdhd, Mdia, Minf, Moov, Mvhd,
    Smhd, Stbl, Stco, Stsc, StscEntry, Stsd, Stss, Stsz, StszSamples, Stts, SttsEntry, Tkhd, Trak, Url, Vmhd,
};

/// Ticks per second of the movie's own times: a multiple of the usual track clocks.
const MOVIE: u32 = 90_000;

/// One sample in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Index of the track.
    pub track: usize,
    /// Index of the track's parameters.
    pub description: u32,
    /// Presentation time in ticks of the track.
    pub pts: i64,
    /// Bytes.
    pub size: u32,
    /// A decoder can start here.
    pub key: bool,
}

/// Parameters of a track over time; the first gives time scale and kind.
pub type Descriptions = Vec<TrackParams>;

/// The file's beginning: `ftyp`, `moov` and the head of `mdat`. Samples follow in the given order, nothing after them.
///
/// `None` if a track cannot be described or its samples do not fit the format (no description, 2^32 samples).
#[must_use]
pub fn layout(tracks: &[Descriptions], samples: &[Sample]) -> Option<Vec<u8>> {
    let data: u64 = samples.iter().map(|sample| u64::from(sample.size)).sum();
    let origin = samples
        .iter()
        .filter_map(|s| Some(movie_time(s.pts, tracks.get(s.track)?.first()?.timescale)))
        .min()
        .unwrap_or(0);
    let mut head = Vec::new();
    let ftyp = Ftyp {
        major_brand: b"isom".into(),
        minor_version: 512,
        compatible_brands: vec![b"isom".into(), b"iso2".into(), b"avc1".into(), b"mp41".into()],
    };
    ftyp.encode(&mut head).ok()?;
    let large = data + 16 > u64::from(u32::MAX);
    let mdat_head = if large { 16 } else { 8 };
    // Offsets change the moov's size only by their width, which is chosen before.
    let wide = data + 64 * 1024 * 1024 > u64::from(u32::MAX);
    let sized = moov(tracks, samples, origin, 0, wide)?;
    let start = head.len() as u64 + sized.len() as u64 + mdat_head;
    head.extend(moov(tracks, samples, origin, start, wide)?);
    if large {
        head.extend(1_u32.to_be_bytes());
        head.extend(b"mdat");
        head.extend((data + 16).to_be_bytes());
    } else {
        head.extend(u32::try_from(data + 8).ok()?.to_be_bytes());
        head.extend(b"mdat");
    }
    Some(head)
}

fn moov(tracks: &[Descriptions], samples: &[Sample], origin: i128, start: u64, wide: bool) -> Option<Vec<u8>> {
    let mut traks = Vec::new();
    let mut duration = 0;
    for (index, descriptions) in tracks.iter().enumerate() {
        let own: Vec<(u64, Sample)> = samples
            .iter()
            .scan(start, |offset, sample| {
                let at = *offset;
                *offset += u64::from(sample.size);
                Some((at, *sample))
            })
            .filter(|(_, sample)| sample.track == index)
            .collect();
        if own.is_empty() {
            continue;
        }
        let id = u32::try_from(traks.len() + 1).ok()?;
        let trak = trak(id, descriptions, &own, origin, wide)?;
        duration = duration.max(trak.tkhd.duration);
        traks.push(trak);
    }
    let moov = Moov {
        mvhd: Mvhd {
            timescale: MOVIE,
            duration,
            rate: 1.into(),
            volume: 1.into(),
            next_track_id: u32::try_from(traks.len() + 1).ok()?,
            ..Mvhd::default()
        },
        trak: traks,
        ..Moov::default()
    };
    let mut bytes = Vec::new();
    moov.encode(&mut bytes).ok()?;
    let entries = tracks
        .iter()
        .enumerate()
        .filter(|(index, _)| samples.iter().any(|sample| sample.track == *index))
        .flat_map(|(_, descriptions)| descriptions.iter().map(|params| params.codec));
    name_g711(&mut bytes, entries);
    Some(bytes)
}

fn trak(id: u32, descriptions: &[TrackParams], own: &[(u64, Sample)], origin: i128, wide: bool) -> Option<Trak> {
    let first = descriptions.first()?;
    let is_video = first.codec.is_video();
    let times = decode_times(own);
    let base = *times.first()?;
    let shift = own.iter().map(|(_, sample)| sample.pts).min()? - base;
    let deltas = durations(&times, is_video);
    let media: u64 = deltas.iter().map(|delta| u64::from(*delta)).sum();
    let shown = media.saturating_sub(u64::try_from(shift).unwrap_or(0));
    let late = u64::try_from(movie_time(base + shift, first.timescale) - origin).unwrap_or(0);
    let shown_movie = u64::try_from(movie_time(i64::try_from(shown).ok()?, first.timescale)).ok()?;
    let mut edits = Vec::new();
    if late > 0 {
        edits.push(ElstEntry { segment_duration: late, media_time: None, media_rate: 1.into() });
    }
    edits.push(ElstEntry {
        segment_duration: shown_movie,
        media_time: Some(u64::try_from(shift).unwrap_or(0)),
        media_rate: 1.into(),
    });
    let offsets: Vec<i64> = own.iter().zip(&times).map(|((_, sample), dts)| sample.pts - dts).collect();
    let keys: Vec<u32> = (1..).zip(own).filter(|(_, (_, sample))| sample.key).map(|(number, _)| number).collect();
    let (chunks, stsc) = chunks(own);
    let stbl = Stbl {
        stsd: Stsd { codecs: descriptions.iter().map(sample_entry).collect::<Option<_>>()? },
        stts: Stts {
            entries: runs(&deltas)
                .map(|(sample_count, sample_delta)| SttsEntry { sample_count, sample_delta })
                .collect(),
        },
        ctts: offsets.iter().any(|offset| *offset != 0).then(|| Ctts {
            entries: runs(&offsets)
                .map(|(sample_count, sample_offset)| CttsEntry { sample_count, sample_offset })
                .collect(),
        }),
        stss: (is_video && keys.len() < own.len()).then_some(Stss { entries: keys }),
        stsc,
        stsz: Stsz { samples: sizes(own) },
        stco: (!wide)
            .then(|| {
                chunks.iter().map(|at| u32::try_from(*at).ok()).collect::<Option<_>>().map(|entries| Stco { entries })
            })
            .flatten(),
        co64: wide.then(|| Co64 { entries: chunks.clone() }),
        ..Stbl::default()
    };
    Some(Trak {
        tkhd: Tkhd {
            track_id: id,
            duration: late + shown_movie,
            enabled: true,
            in_movie: true,
            volume: u8::from(!is_video).into(),
            width: first.width.into(),
            height: first.height.into(),
            ..Tkhd::default()
        },
        edts: Some(Edts { elst: Some(Elst { entries: edits }) }),
        mdia: Mdia {
            mdhd: Mdhd { timescale: first.timescale, duration: media, language: "und".into(), ..Mdhd::default() },
            hdlr: Hdlr {
                handler: FourCC::new(if is_video { b"vide" } else { b"soun" }),
                name: if is_video { "video" } else { "sound" }.into(),
            },
            minf: Minf {
                vmhd: is_video.then(Vmhd::default),
                smhd: (!is_video).then(Smhd::default),
                dinf: Dinf { dref: Dref { entries: vec![mp4_atom::DrefEntry::Url(Url { location: String::new() })] } },
                stbl,
                ..Minf::default()
            },
        },
        ..Trak::default()
    })
}

/// Decode times in file order: sorted presentation times, moved back by the longest wait.
fn decode_times(own: &[(u64, Sample)]) -> Vec<i64> {
    let mut sorted: Vec<i64> = own.iter().map(|(_, sample)| sample.pts).collect();
    sorted.sort_unstable();
    let wait = own.iter().zip(&sorted).map(|((_, sample), at)| at - sample.pts).max().unwrap_or(0).max(0);
    sorted.iter().map(|at| at - wait).collect()
}

/// Durations from decode times; the last sample lasts as long as the one before (a picture: 40 ms if it is alone).
fn durations(times: &[i64], is_video: bool) -> Vec<u32> {
    let mut deltas: Vec<u32> =
        times.windows(2).map(|pair| u32::try_from(pair[1] - pair[0]).unwrap_or(u32::MAX)).collect();
    let usual = {
        let mut sorted = deltas.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    };
    deltas.push(usual.unwrap_or(if is_video { 3600 } else { 1024 }));
    deltas
}

fn runs<T: Copy + PartialEq>(values: &[T]) -> impl Iterator<Item = (u32, T)> {
    let mut list: Vec<(u32, T)> = Vec::new();
    for value in values {
        match list.last_mut() {
            Some((count, last)) if last == value => *count += 1,
            _ => list.push((1, *value)),
        }
    }
    list.into_iter()
}

fn sizes(own: &[(u64, Sample)]) -> StszSamples {
    StszSamples::Different { sizes: own.iter().map(|(_, sample)| sample.size).collect() }
}

/// Samples that lie behind each other and share a description are one chunk.
fn chunks(own: &[(u64, Sample)]) -> (Vec<u64>, Stsc) {
    let mut offsets: Vec<u64> = Vec::new();
    let mut counts: Vec<(u32, u32)> = Vec::new();
    let mut end = None;
    for (at, sample) in own {
        match counts.last_mut() {
            Some((count, description)) if end == Some(*at) && *description == sample.description => *count += 1,
            _ => {
                offsets.push(*at);
                counts.push((1, sample.description));
            }
        }
        end = Some(at + u64::from(sample.size));
    }
    let mut entries: Vec<StscEntry> = Vec::new();
    for (number, (count, description)) in (1..).zip(counts) {
        let entry =
            StscEntry { first_chunk: number, samples_per_chunk: count, sample_description_index: description + 1 };
        let same = entries.last().is_some_and(|last| {
            (last.samples_per_chunk, last.sample_description_index)
                == (entry.samples_per_chunk, entry.sample_description_index)
        });
        if !same {
            entries.push(entry);
        }
    }
    (offsets, Stsc { entries })
}

fn movie_time(ticks: i64, timescale: u32) -> i128 {
    i128::from(ticks) * i128::from(MOVIE) / i128::from(timescale.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pts: i64) -> (u64, Sample) {
        (0, Sample { track: 0, description: 0, pts, size: 1, key: true })
    }

    #[test]
    fn decode_times_rise_and_never_pass_presentation() {
        let mut seed = 1_u64;
        for _ in 0..200 {
            // Groups of up to four pictures in any order inside the group.
            let mut pts: Vec<i64> = (0..60).map(|n| n * 3600).collect();
            for group in pts.chunks_mut(4) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let len = group.len();
                group.swap((seed >> 33) as usize % len, (seed >> 40) as usize % len);
            }
            let own: Vec<_> = pts.iter().map(|pts| sample(*pts)).collect();
            let times = decode_times(&own);
            assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{pts:?}");
            assert!(times.iter().zip(&pts).all(|(dts, pts)| dts <= pts), "{pts:?}");
        }
    }

    #[test]
    fn pictures_in_order_need_no_offsets() {
        let own: Vec<_> = [90_000, 93_600, 97_200].map(sample).into();
        assert_eq!(decode_times(&own), [90_000, 93_600, 97_200]);
        assert_eq!(durations(&[90_000, 93_600, 97_200], true), [3600; 3]);
    }
}
