//! Reads what a publisher sends: requests, interleaved frames, nothing else. Bounded before it is believed.

use crate::base::reason::Coded;
use bytes::{Buf, Bytes, BytesMut};
use rtsp_types::headers;

/// Head of a message: request line and headers.
pub const MAX_HEAD: usize = 64 * 1024;
/// Body of a message.
pub const MAX_BODY: usize = 64 * 1024;

/// One thing that came.
#[derive(Debug)]
pub enum Input {
    /// A request.
    Request(Request),
    /// An interleaved frame: channel and bytes.
    Frame(u8, Bytes),
}

/// A request, as far as we look at it.
#[derive(Debug)]
pub struct Request {
    /// `ANNOUNCE`, `SETUP` …
    pub method: String,
    /// The URI as sent.
    pub uri: String,
    /// `CSeq`.
    pub cseq: String,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `Transport`.
    pub transport: Option<String>,
    /// `Session`, without parameters.
    pub session: Option<String>,
    /// Body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first segment of the URI's path: which camera.
    #[must_use]
    pub fn camera_path(&self) -> &str {
        self.path().split(['/', '?']).next().unwrap_or_default()
    }

    /// The URI's path without the first slash.
    #[must_use]
    pub fn path(&self) -> &str {
        let rest = self
            .uri
            .split_once("://")
            .map_or(self.uri.as_str(), |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
        rest.trim_start_matches('/')
    }
}

/// Why the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The head does not end within [`MAX_HEAD`].
    #[error("request head longer than {MAX_HEAD} bytes")]
    HeadTooLong,
    /// `Content-Length` above [`MAX_BODY`].
    #[error("request body longer than {MAX_BODY} bytes")]
    BodyTooLong,
    /// Not RTSP.
    #[error("not an RTSP request")]
    Malformed,
}

impl Coded for ReadError {
    fn code(&self) -> &'static str {
        match self {
            Self::HeadTooLong => "rtsp-head-too-long",
            Self::BodyTooLong => "rtsp-body-too-long",
            Self::Malformed => "rtsp-malformed",
        }
    }
}

/// Takes the next input from the front of `buf`; `None` if more bytes are needed.
///
/// # Errors
/// See [`ReadError`].
pub fn take(buf: &mut BytesMut) -> Result<Option<Input>, ReadError> {
    // Some publishers put empty lines between messages.
    while buf.starts_with(b"\r\n") {
        buf.advance(2);
    }
    if buf.first() == Some(&b'$') {
        let Some(&[_, channel, high, low]) = buf.first_chunk::<4>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if buf.len() < 4 + len {
            return Ok(None);
        }
        buf.advance(4);
        return Ok(Some(Input::Frame(channel, buf.split_to(len).freeze())));
    }
    let Some(head) = buf.windows(4).take(MAX_HEAD).position(|window| window == b"\r\n\r\n") else {
        return if buf.len() >= MAX_HEAD { Err(ReadError::HeadTooLong) } else { Ok(None) };
    };
    // Looked at before the parser does: it would wait for any length that it is told.
    let head_text = std::str::from_utf8(&buf[..head]).map_err(|_| ReadError::Malformed)?;
    let mut length = 0_usize;
    for line in head_text.split("\r\n").skip(1) {
        if let Some((name, value)) = line.split_once(':')
            && name.trim().eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| ReadError::Malformed)?;
        }
    }
    if length > MAX_BODY {
        return Err(ReadError::BodyTooLong);
    }
    let total = head + 4 + length;
    if buf.len() < total {
        return Ok(None);
    }
    let bytes = buf.split_to(total);
    let line = head_text_line(&bytes).ok_or(ReadError::Malformed)?;
    match rtsp_types::Message::<Vec<u8>>::parse(&bytes[..]) {
        Ok((rtsp_types::Message::Request(request), _)) => {
            let text = |name: &rtsp_types::HeaderName| request.header(name).map(|value| value.as_str().to_owned());
            let session = text(&headers::SESSION).map(|s| s.split(';').next().unwrap_or_default().trim().to_owned());
            Ok(Some(Input::Request(Request {
                method: <&str>::from(request.method()).to_owned(),
                uri: line.to_owned(),
                cseq: text(&headers::CSEQ).unwrap_or_default(),
                authorization: text(&headers::AUTHORIZATION),
                transport: text(&headers::TRANSPORT),
                session,
                body: request.body().clone(),
            })))
        }
        // An answer to something that we never asked.
        _ => Err(ReadError::Malformed),
    }
}

/// The URI exactly as sent: Digest hashes it.
fn head_text_line(bytes: &[u8]) -> Option<&str> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    std::str::from_utf8(&bytes[..end]).ok()?.split(' ').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buf(text: &str) -> BytesMut {
        BytesMut::from(text.as_bytes())
    }

    #[test]
    fn requests_and_frames_come_apart() {
        let mut bytes = buf("ANNOUNCE rtsp://h:8554/cam/x RTSP/1.0\r\nCSeq: 2\r\nContent-Length: 3\r\n\r\nabc");
        bytes.extend_from_slice(&[b'$', 0, 0, 2, 7, 8, b'$', 1]);
        match take(&mut bytes) {
            Ok(Some(Input::Request(request))) => {
                assert_eq!(
                    (request.method.as_str(), request.camera_path(), request.cseq.as_str()),
                    ("ANNOUNCE", "cam", "2")
                );
                assert_eq!(request.body, b"abc");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(take(&mut bytes), Ok(Some(Input::Frame(0, frame))) if frame[..] == [7, 8]));
        assert!(matches!(take(&mut bytes), Ok(None)));
    }

    #[test]
    fn lengths_are_refused_before_they_are_waited_for() {
        let huge = "ANNOUNCE rtsp://h/c RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 1073741824\r\n\r\n";
        assert_eq!(take(&mut buf(huge)).err(), Some(ReadError::BodyTooLong));
        let endless = format!("OPTIONS * RTSP/1.0\r\nX: {}", "y".repeat(MAX_HEAD));
        assert_eq!(take(&mut buf(&endless)).err(), Some(ReadError::HeadTooLong));
        assert_eq!(take(&mut buf("GET / HTTP/1.1\r\n\r\n")).err(), Some(ReadError::Malformed));
    }

    #[test]
    fn mutated_requests_never_panic() {
        let seed = crate::base::ids::random_bytes::<8>();
        println!("seed {seed:02x?}");
        let mut state = u64::from_be_bytes(seed) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let good = "ANNOUNCE rtsp://h:8554/cam RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP;unicast;client_port=1-2\r\n\
                    Authorization: Digest username=\"u\", nonce=\"n\"\r\nContent-Length: 3\r\n\r\nabc";
        for _ in 0..20_000 {
            let mut bytes = good.as_bytes().to_vec();
            for _ in 0..1 + next() % 4 {
                let at = (next() % bytes.len() as u64) as usize;
                bytes[at] = next() as u8;
            }
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut bytes) {}
        }
    }
}
