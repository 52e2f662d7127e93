//! MP4 as files and as fragments (ISO/IEC 14496-12, boxes by `mp4-atom`).
//!
//! [`progressive`] lays out an export with `moov` first; [`fragment`] makes what browsers take live. Both describe a
//! track by its [`TrackParams`]. Pure: bytes out, nothing read or written here.

pub mod fragment;
pub mod progressive;

use crate::media::{Codec, TrackParams};
use mp4_atom::{Atom as _, Audio, Avc1, Avcc, Encode, Opus, Visual, esds};

/// A sample entry; G.711 is written as `sowt` and renamed, because `mp4-atom` has no entry of its own for it.
fn sample_entry(params: &TrackParams) -> Option<mp4_atom::Codec> {
    let visual = Visual {
        data_reference_index: 1,
        width: params.width,
        height: params.height,
        horizresolution: 0x48.into(),
        vertresolution: 0x48.into(),
        frame_count: 1,
        compressor: "".into(),
        depth: 24,
    };
    let audio = Audio {
        data_reference_index: 1,
        channel_count: params.channels.max(1).into(),
        sample_size: 16,
        // The field has 16 bits; above that the decoder configuration tells.
        sample_rate: u16::try_from(params.sample_rate).unwrap_or(0).into(),
    };
    Some(match params.codec {
        Codec::H264 => {
            let avcc = Avcc::decode_body(&mut &params.config[..]).ok()?;
            mp4_atom::Codec::Avc1(Avc1 { visual, avcc, ..Avc1::default() })
        }
        Codec::H265 => {
            let hvcc = mp4_atom::Hvcc::decode_body(&mut &params.config[..]).ok()?;
            mp4_atom::Codec::Hvc1(mp4_atom::Hvc1 { visual, hvcc, ..mp4_atom::Hvc1::default() })
        }
        Codec::Aac => {
            let specific = esds::DecoderSpecific { raw: params.config.clone(), ..esds::DecoderSpecific::default() };
            let config = esds::DecoderConfig {
                object_type_indication: 0x40,
                stream_type: 5,
                dec_specific: Some(specific),
                ..esds::DecoderConfig::default()
            };
            let es_desc = esds::EsDescriptor { es_id: 1, dec_config: config, ..esds::EsDescriptor::default() };
            let esds = esds::Esds { es_desc };
            mp4_atom::Codec::Mp4a(mp4_atom::Mp4a { audio, esds, btrt: None, taic: None })
        }
        Codec::Opus => {
            let dops = mp4_atom::Dops::decode_body(&mut &params.config[..]).ok();
            let dops = dops.unwrap_or(mp4_atom::Dops {
                output_channel_count: params.channels.max(1),
                pre_skip: 0,
                input_sample_rate: 48_000,
                output_gain: 0,
                channel_mapping: None,
            });
            mp4_atom::Codec::Opus(Opus { audio, dops, btrt: None })
        }
        Codec::Pcmu | Codec::Pcma => {
            // `mp4-atom` decodes what it cannot be asked to make: the entry as bytes, read back.
            let mut body = Vec::new();
            audio.encode(&mut body).ok()?;
            mp4_atom::Codec::Sowt(mp4_atom::Sowt::decode_body(&mut &body[..]).ok()?)
        }
    })
}

/// Names the G.711 entries of an encoded `moov`, in the order of its tracks.
fn name_g711(moov: &mut [u8], entries: impl Iterator<Item = Codec>) {
    let mut from = 0;
    for codec in entries {
        let name = match codec {
            Codec::Pcmu => b"ulaw",
            Codec::Pcma => b"alaw",
            _ => continue,
        };
        let Some(at) = moov[from..].windows(4).position(|window| window == b"sowt") else { return };
        moov[from + at..from + at + 4].copy_from_slice(name);
        from += at + 4;
    }
}

/// The `codecs` value of a track's MIME type (RFC 6381); `None` if browsers do not play it in MP4.
#[must_use]
pub fn browser_codec(params: &TrackParams) -> Option<String> {
    match params.codec {
        Codec::H264 => match params.config[..] {
            [1, profile, compatibility, level, ..] => Some(format!("avc1.{profile:02x}{compatibility:02x}{level:02x}")),
            _ => None,
        },
        Codec::Aac => Some(format!("mp4a.40.{}", params.config.first()? >> 3)),
        Codec::Opus => Some("opus".into()),
        Codec::H265 | Codec::Pcmu | Codec::Pcma => None,
    }
}

/// Whether a track can be described in MP4.
#[must_use]
pub fn is_describable(params: &TrackParams) -> bool {
    sample_entry(params).is_some()
}
