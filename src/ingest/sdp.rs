//! What a camera announces: its session description as tracks that we can receive (RFC 8866).

use super::depack::plain::Plain;
use super::depack::{Config, Depacketiser, aac::Aac, h264::H264};
use crate::base::reason::Coded;
use crate::media::Codec;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

/// Tracks that are taken from one description; more are refused.
pub const MAX_TRACKS: usize = 8;

/// Why a description is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Not SDP.
    #[error("the session description cannot be read")]
    Malformed,
    /// No picture and no sound.
    #[error("the session description has no media")]
    Empty,
    /// Too many.
    #[error("more than {MAX_TRACKS} media")]
    TooMany,
    /// A coding that is not carried.
    #[error("{0} is not supported")]
    Unsupported(String),
}

impl Coded for SdpError {
    fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "sdp-malformed",
            Self::Empty => "sdp-empty",
            Self::TooMany => "sdp-too-many",
            Self::Unsupported(_) => "sdp-unsupported",
        }
    }
}

/// One medium.
pub struct Announced {
    /// Its `a=control`, relative or absolute; empty if there is none.
    pub control: String,
    /// RTP payload type.
    pub payload_type: u8,
    /// RTP clock rate, Hz.
    pub clock: u32,
    /// Coding.
    pub codec: Codec,
    /// Its state.
    pub depacketiser: Depacketiser,
}

/// Reads a description.
///
/// # Errors
/// See [`SdpError`].
pub fn parse(bytes: &[u8]) -> Result<Vec<Announced>, SdpError> {
    let session = sdp_types::Session::parse(bytes).map_err(|_| SdpError::Malformed)?;
    if session.medias.len() > MAX_TRACKS {
        return Err(SdpError::TooMany);
    }
    let tracks = session.medias.iter().map(media).collect::<Result<Vec<_>, _>>()?;
    if tracks.is_empty() { Err(SdpError::Empty) } else { Ok(tracks) }
}

fn media(media: &sdp_types::Media) -> Result<Announced, SdpError> {
    let first = media.fmt.split_ascii_whitespace().next().unwrap_or_default();
    let payload_type: u8 = first.parse().ok().filter(|pt| *pt < 128).ok_or(SdpError::Malformed)?;
    let attribute = |name: &str| -> Vec<&str> {
        let named = media.attributes.iter().filter(|a| a.attribute.eq_ignore_ascii_case(name));
        named.filter_map(|a| a.value.as_deref()).collect()
    };
    let of_type = |value: &str| {
        let (number, rest) = value.trim().split_once(char::is_whitespace)?;
        (number.parse() == Ok(payload_type)).then(|| rest.trim().to_owned())
    };
    // RFC 3551: 0 and 8 need no rtpmap, and ffmpeg sends none.
    let map = attribute("rtpmap").into_iter().find_map(of_type).unwrap_or_else(|| match payload_type {
        0 => "PCMU/8000".into(),
        8 => "PCMA/8000".into(),
        other => format!("payload type {other}/0"),
    });
    let mut parts = map.split('/');
    let name = parts.next().unwrap_or_default().to_ascii_uppercase();
    let clock: u32 = parts.next().and_then(|rate| rate.trim().parse().ok()).unwrap_or(0);
    let channels: u8 = parts.next().and_then(|n| n.trim().parse().ok()).unwrap_or(1);
    let parameters = attribute("fmtp").into_iter().find_map(of_type).unwrap_or_default();
    let parameter = |wanted: &str| {
        parameters.split(';').find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
        })
    };
    let unsupported = || SdpError::Unsupported(format!("{} {name}", media.media));
    if clock == 0 || clock > 10_000_000 {
        return Err(unsupported());
    }
    let plain = |codec, bytes: Vec<u8>, channels, sample_rate| {
        let config = Config { codec, bytes, width: 0, height: 0, channels, sample_rate };
        (codec, Depacketiser::Plain(Plain::new(config)))
    };
    let (codec, depacketiser) = match name.as_str() {
        "H264" => {
            let sets: Vec<Vec<u8>> = parameter("sprop-parameter-sets")
                .unwrap_or_default()
                .split(',')
                .filter_map(|set| BASE64.decode(set.trim().as_bytes()).ok())
                .filter(|set| !set.is_empty())
                .collect();
            (Codec::H264, Depacketiser::H264(H264::new(&sets)))
        }
        "MPEG4-GENERIC" => {
            let config = parameter("config").and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok());
            let mode = parameter("mode").unwrap_or_default();
            if !mode.eq_ignore_ascii_case("AAC-hbr") {
                return Err(SdpError::Unsupported(format!("MPEG4-GENERIC mode {mode}")));
            }
            let aac = config.and_then(|config| Aac::hbr(&config, clock)).ok_or_else(unsupported)?;
            (Codec::Aac, Depacketiser::Aac(aac))
        }
        "MP4A-LATM" => {
            if parameter("cpresent").as_deref() != Some("0") {
                return Err(SdpError::Unsupported("MP4A-LATM with in-band configuration".into()));
            }
            let config = parameter("config").and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok());
            let aac = config.and_then(|config| Aac::latm(&config, clock)).ok_or_else(unsupported)?;
            (Codec::Aac, Depacketiser::Aac(aac))
        }
        "OPUS" => {
            // RFC 7845 identification header without its magic: version 1 in Ogg is 0 in MP4's dOps; no pre-skip,
            // because the stream did not start with the encoder.
            let stereo = parameter("sprop-stereo").as_deref() == Some("1") || channels == 2;
            let channels = if stereo { 2 } else { 1 };
            plain(Codec::Opus, vec![0, channels, 0, 0, 0, 0, 0xbb, 0x80, 0, 0, 0], channels, 48_000)
        }
        "PCMU" => plain(Codec::Pcmu, Vec::new(), channels, clock),
        "PCMA" => plain(Codec::Pcma, Vec::new(), channels, clock),
        _ => return Err(unsupported()),
    };
    let control = attribute("control").first().copied().unwrap_or_default().to_owned();
    Ok(Announced { control, payload_type, clock, codec, depacketiser })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FFMPEG: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=No Name\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
        a=tool:libavformat 59\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1; \
        sprop-parameter-sets=Z0LAHtkAoEf+iA==,aM48gA==; profile-level-id=42C01E\r\na=control:streamid=0\r\n\
        m=audio 0 RTP/AVP 97\r\nb=AS:69\r\na=rtpmap:97 MPEG4-GENERIC/48000/1\r\na=fmtp:97 profile-level-id=1;\
        mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3; config=118856E500\r\na=control:streamid=1\r\n";

    #[test]
    fn what_ffmpeg_announces_is_read_whole() {
        let tracks = parse(FFMPEG.as_bytes()).expect("reads");
        assert_eq!(tracks.len(), 2);
        assert_eq!((tracks[0].codec, tracks[0].payload_type, tracks[0].clock), (Codec::H264, 96, 90_000));
        assert_eq!(tracks[1].control, "streamid=1");
        assert_eq!(tracks[1].depacketiser.config().expect("known").bytes, [0x11, 0x88, 0x56, 0xe5, 0]);
    }

    #[test]
    fn g711_needs_no_map_and_other_codings_are_named() {
        let head = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n";
        let tracks = parse(format!("{head}m=audio 0 RTP/AVP 0\r\n").as_bytes()).expect("reads");
        assert_eq!((tracks[0].codec, tracks[0].clock), (Codec::Pcmu, 8000));
        let vp8 = parse(format!("{head}m=video 0 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n").as_bytes());
        assert_eq!(vp8.err(), Some(SdpError::Unsupported("video VP8".into())));
        assert_eq!(parse(head.as_bytes()).err(), Some(SdpError::Empty));
        assert_eq!(parse(b"nonsense").err(), Some(SdpError::Malformed));
    }
}
