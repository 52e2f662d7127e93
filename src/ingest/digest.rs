//! HTTP Digest on the server's side (RFC 7616, and RFC 2069 for devices without `qop`).
//!
//! One nonce per connection, for both algorithms: SHA-256 is offered first and MD5 last, because ffmpeg takes the last
//! header and gives up on SHA-256, while GStreamer ignores `algorithm` and answers MD5 (FACTS of the field).

use super::cameras::{Camera, Ha1};
use crate::base::ids::random_bytes;
use data_encoding::HEXLOWER;
use sha2::Digest as _;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// Realm of all cameras; part of each HA1.
pub const REALM: &str = "mvb";
/// A nonce older than this is answered with `stale=true`.
const NONCE_LIFE: Duration = Duration::from_secs(300);

/// A hash of Digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// What cameras know.
    Md5,
    /// RFC 7616.
    Sha256,
}

impl Algorithm {
    fn hash(self, text: &str) -> String {
        match self {
            Self::Md5 => HEXLOWER.encode(&md5::Md5::digest(text)),
            Self::Sha256 => HEXLOWER.encode(&sha2::Sha256::digest(text)),
        }
    }
}

/// HA1 of a password.
#[must_use]
pub fn ha1(algorithm: Algorithm, user: &str, password: &str) -> Ha1 {
    Ha1(algorithm.hash(&format!("{user}:{REALM}:{password}")))
}

/// Why a request is not authorised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No Authorization header: normal at first.
    Missing,
    /// The nonce was ours, but is too old: the client may try again.
    Stale,
    /// Wrong user, password, algorithm, or a malformed header.
    Wrong,
    /// The same nonce count twice.
    Replayed,
}

/// The challenge of one connection.
#[derive(Debug)]
pub struct Challenge {
    nonce: String,
    made: Instant,
    last_count: u32,
}

impl Challenge {
    /// A new nonce.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { nonce: HEXLOWER.encode(&random_bytes::<16>()), made: now, last_count: 0 }
    }

    /// The `WWW-Authenticate` headers for a camera, in the order that works with real devices.
    #[must_use]
    pub fn headers(&self, camera: Option<&Camera>, stale: bool) -> Vec<String> {
        let stale = if stale { ", stale=true" } else { "" };
        let line = |algorithm| {
            format!("Digest realm=\"{REALM}\", nonce=\"{}\", algorithm={algorithm}, qop=\"auth\"{stale}", self.nonce)
        };
        // An unknown path is challenged like a known one: nobody learns which cameras exist.
        let sha256 = camera.is_some_and(|camera| camera.sha256.is_some());
        let md5 = camera.is_none_or(|camera| camera.md5.is_some());
        let mut headers = Vec::new();
        if sha256 {
            headers.push(line("SHA-256"));
        }
        if md5 {
            headers.push(line("MD5"));
        }
        headers
    }

    /// Checks an Authorization header. A stale nonce is replaced.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn check(
        &mut self,
        header: Option<&str>,
        method: &str,
        camera: Option<&Camera>,
        now: Instant,
    ) -> Result<(), Denied> {
        let header = header.ok_or(Denied::Missing)?;
        let given = Given::parse(header).ok_or(Denied::Wrong)?;
        if given.nonce != self.nonce {
            return Err(Denied::Stale).inspect_err(|_| *self = Self::new(now));
        }
        let camera = camera.filter(|camera| camera.user == given.user).ok_or(Denied::Wrong)?;
        let (algorithm, ha1) = match given.algorithm.as_deref().map(str::to_ascii_uppercase).as_deref() {
            None | Some("MD5") => (Algorithm::Md5, camera.md5.as_ref()),
            Some("SHA-256") => (Algorithm::Sha256, camera.sha256.as_ref()),
            Some(_) => return Err(Denied::Wrong),
        };
        let Ha1(ha1) = ha1.ok_or(Denied::Wrong)?;
        let ha2 = algorithm.hash(&format!("{method}:{}", given.uri));
        let (expected, count) = match given.qop.as_deref() {
            None => (algorithm.hash(&format!("{ha1}:{}:{ha2}", given.nonce)), None),
            Some("auth") => {
                let count = u32::from_str_radix(&given.nc, 16).map_err(|_| Denied::Wrong)?;
                let text = format!("{ha1}:{}:{}:{}:auth:{ha2}", given.nonce, given.nc, given.cnonce);
                (algorithm.hash(&text), Some(count))
            }
            Some(_) => return Err(Denied::Wrong),
        };
        if !bool::from(expected.as_bytes().ct_eq(given.response.to_ascii_lowercase().as_bytes())) {
            return Err(Denied::Wrong);
        }
        // Only a right answer may move the count, or anybody could lock the camera out. ffmpeg repeats nc=00000001
        // with a new cnonce in every request; what protects against replays is that the nonce dies with the connection.
        if let Some(count) = count {
            if count < self.last_count {
                return Err(Denied::Replayed);
            }
            self.last_count = count;
        }
        if now.duration_since(self.made) > NONCE_LIFE {
            *self = Self::new(now);
            return Err(Denied::Stale);
        }
        Ok(())
    }
}

/// The fields of an Authorization header.
#[derive(Debug, Default)]
struct Given {
    user: String,
    nonce: String,
    uri: String,
    response: String,
    algorithm: Option<String>,
    qop: Option<String>,
    nc: String,
    cnonce: String,
}

impl Given {
    fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("digest") {
            return None;
        }
        let mut given = Self::default();
        loop {
            rest = rest.trim_start_matches([' ', ',', '\t']);
            if rest.is_empty() {
                break;
            }
            let (name, tail) = rest.split_once('=')?;
            let value;
            if let Some(quoted) = tail.strip_prefix('"') {
                let end = quoted.find('"')?;
                value = &quoted[..end];
                rest = &quoted[end + 1..];
            } else {
                let end = tail.find(',').unwrap_or(tail.len());
                value = tail[..end].trim();
                rest = &tail[end..];
            }
            let value = value.to_owned();
            match name.trim().to_ascii_lowercase().as_str() {
                "username" => given.user = value,
                "nonce" => given.nonce = value,
                "uri" => given.uri = value,
                "response" => given.response = value,
                "algorithm" => given.algorithm = Some(value),
                "qop" => given.qop = Some(value),
                "nc" => given.nc = value,
                "cnonce" => given.cnonce = value,
                _ => {}
            }
        }
        Some(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::CameraId;

    fn camera() -> Camera {
        Camera {
            id: CameraId([1; 16]),
            path: "cam".into(),
            user: "u".into(),
            md5: Some(ha1(Algorithm::Md5, "u", "pass")),
            sha256: Some(ha1(Algorithm::Sha256, "u", "pass")),
        }
    }

    fn answer(header: &str, password: &str) -> String {
        let mut prompt = digest_auth::parse(header).expect("a challenge");
        let mut context = digest_auth::AuthContext::new("u", password, "rtsp://h/cam");
        context.method = digest_auth::HttpMethod("ANNOUNCE".into());
        prompt.respond(&context).expect("an answer").to_header_string()
    }

    #[test]
    fn both_algorithms_of_an_independent_client_are_accepted() {
        for (at, algorithm) in [(0, "SHA-256"), (1, "MD5")] {
            let mut challenge = Challenge::new(Instant::now());
            let headers = challenge.headers(Some(&camera()), false);
            assert!(headers[at].contains(algorithm), "{headers:?}");
            let header = answer(&headers[at], "pass");
            assert_eq!(challenge.check(Some(&header), "ANNOUNCE", Some(&camera()), Instant::now()), Ok(()));
            assert_eq!(
                challenge.check(Some(&header), "RECORD", Some(&camera()), Instant::now()),
                Err(Denied::Wrong),
                "for another method"
            );
            let wrong = answer(&headers[at], "guess");
            let denied = challenge.check(Some(&wrong), "ANNOUNCE", Some(&camera()), Instant::now());
            assert_eq!(denied, Err(Denied::Wrong));
        }
    }

    #[test]
    fn a_legacy_answer_without_qop_is_accepted() {
        let mut challenge = Challenge::new(Instant::now());
        let Ha1(ha1) = ha1(Algorithm::Md5, "u", "pass");
        let ha2 = Algorithm::Md5.hash("SETUP:rtsp://h/cam");
        let response = Algorithm::Md5.hash(&format!("{ha1}:{}:{ha2}", challenge.nonce));
        let header = format!(
            "Digest username=\"u\", realm=\"mvb\", nonce=\"{}\", uri=\"rtsp://h/cam\", response=\"{response}\"",
            challenge.nonce
        );
        assert_eq!(challenge.check(Some(&header), "SETUP", Some(&camera()), Instant::now()), Ok(()));
    }

    #[test]
    fn old_and_foreign_nonces_are_stale_and_garbage_is_wrong() {
        let start = Instant::now();
        let mut challenge = Challenge::new(start);
        let header = answer(&challenge.headers(Some(&camera()), false)[1], "pass");
        let later = start + NONCE_LIFE + Duration::from_secs(1);
        assert_eq!(challenge.check(Some(&header), "ANNOUNCE", Some(&camera()), later), Err(Denied::Stale));
        assert_eq!(challenge.check(Some(&header), "ANNOUNCE", Some(&camera()), later), Err(Denied::Stale));
        for bad in ["", "Digest", "Digest x", "Basic dTpw", "Digest username=\"u", "Digest =,=,\"\""] {
            let denied = challenge.check(Some(bad), "ANNOUNCE", Some(&camera()), later);
            assert!(denied.is_err(), "{bad}");
        }
        assert_eq!(challenge.check(None, "ANNOUNCE", Some(&camera()), later), Err(Denied::Missing));
    }
}
