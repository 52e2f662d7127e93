//! Live fragments for Media Source Extensions: one initialisation segment, then one `moof` + `mdat` per sample.

use super::{name_g711, sample_entry};
use crate::media::TrackParams;
use mp4_atom::{
    Dinf, Dref, Encode, FourCC, Ftyp, Hdlr, Mdhd, Mdia, Mfhd, Minf, Moof, Moov, Mvex, Mvhd, Smhd, Stbl, Stco, Stsd,
    Tfdt, Tfhd, Tkhd, Traf, Trak, Trex, Trun, TrunEntry, Url, Vmhd,
};

/// `sample_depends_on` = 2: starts by itself.
const SYNC: u32 = 0x0200_0000;
/// `sample_depends_on` = 1 and `sample_is_non_sync_sample`.
const DEPENDS: u32 = 0x0101_0000;

/// `ftyp` and `moov` for tracks with ids 1, 2 …; `None` if one cannot be described.
#[must_use]
pub fn init(tracks: &[TrackParams]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let ftyp =
        Ftyp { major_brand: b"iso6".into(), minor_version: 0, compatible_brands: vec![b"iso6".into(), b"mp41".into()] };
    ftyp.encode(&mut bytes).ok()?;
    let start = bytes.len();
    let trak = (1..).zip(tracks).map(|(id, params)| trak(id, params)).collect::<Option<Vec<_>>>()?;
    let trex = (1..)
        .zip(tracks)
        .map(|(track_id, _)| Trex { track_id, default_sample_description_index: 1, ..Trex::default() })
        .collect();
    let moov = Moov {
        mvhd: Mvhd {
            timescale: 1000,
            rate: 1.into(),
            volume: 1.into(),
            next_track_id: u32::try_from(tracks.len() + 1).ok()?,
            ..Mvhd::default()
        },
        mvex: Some(Mvex { mehd: None, trex }),
        trak,
        ..Moov::default()
    };
    moov.encode(&mut bytes).ok()?;
    name_g711(&mut bytes[start..], tracks.iter().map(|params| params.codec));
    Some(bytes)
}

fn trak(id: u32, params: &TrackParams) -> Option<Trak> {
    let is_video = params.codec.is_video();
    Some(Trak {
        tkhd: Tkhd {
            track_id: id,
            enabled: true,
            in_movie: true,
            volume: u8::from(!is_video).into(),
            width: params.width.into(),
            height: params.height.into(),
            ..Tkhd::default()
        },
        mdia: Mdia {
            mdhd: Mdhd { timescale: params.timescale, language: "und".into(), ..Mdhd::default() },
            hdlr: Hdlr {
                handler: FourCC::new(if is_video { b"vide" } else { b"soun" }),
                name: if is_video { "video" } else { "sound" }.into(),
            },
            minf: Minf {
                vmhd: is_video.then(Vmhd::default),
                smhd: (!is_video).then(Smhd::default),
                dinf: Dinf { dref: Dref { entries: vec![mp4_atom::DrefEntry::Url(Url { location: String::new() })] } },
                stbl: Stbl {
                    stsd: Stsd { codecs: vec![sample_entry(params)?] },
                    stco: Some(Stco::default()),
                    ..Stbl::default()
                },
                ..Minf::default()
            },
        },
        ..Trak::default()
    })
}

/// One sample of track `id` as a fragment. Times in ticks of the track; `number` rises by one per fragment.
#[must_use]
pub fn fragment(id: u32, number: u32, dts: u64, cts: i64, duration: u32, key: bool, data: &[u8]) -> Option<Vec<u8>> {
    let moof = |data_offset| Moof {
        mfhd: Mfhd { sequence_number: number },
        traf: vec![Traf {
            tfhd: Tfhd { track_id: id, default_base_is_moof: true, ..Tfhd::default() },
            tfdt: Some(Tfdt { base_media_decode_time: dts }),
            trun: vec![Trun {
                data_offset: Some(data_offset),
                samples: vec![TrunEntry {
                    duration: Some(duration),
                    size: u32::try_from(data.len()).ok(),
                    flags: Some(if key { SYNC } else { DEPENDS }),
                    cts: (cts != 0).then_some(cts),
                }]
                .into(),
            }],
            ..Traf::default()
        }],
    };
    let mut sized = Vec::new();
    moof(0).encode(&mut sized).ok()?;
    let mut bytes = Vec::with_capacity(sized.len() + 8 + data.len());
    moof(i32::try_from(sized.len() + 8).ok()?).encode(&mut bytes).ok()?;
    bytes.extend(u32::try_from(data.len() + 8).ok()?.to_be_bytes());
    bytes.extend(b"mdat");
    bytes.extend_from_slice(data);
    Some(bytes)
}
