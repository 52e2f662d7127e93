//! What a publisher asks for, and the answers: login, description, transport, recording.

use super::{Channel, Connection, PUBLIC, State};
use crate::base::reason::Coded;
use crate::ingest::digest::{Challenge, Denied};
use crate::ingest::request::Request;
use crate::ingest::sdp;
use crate::ingest::track::Track;
use crate::ingest::transport::{self, Asked};
use crate::media::{Item, TrackId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The older session of the camera has this long to deliver what it has.
const HANDOVER: Duration = Duration::from_secs(1);

impl Connection {
    /// The answer, and why the connection ends if it does.
    pub(super) async fn request(&mut self, request: &Request) -> (String, Option<&'static str>) {
        let now = Instant::now();
        let answer = |status: &str, more: &str| {
            format!("RTSP/1.0 {status}\r\nCSeq: {}\r\nServer: mvb\r\n{more}\r\n", request.cseq)
        };
        if request.method == "OPTIONS" {
            return (answer("200 OK", &format!("Public: {PUBLIC}\r\n")), None);
        }
        if !self.shared.may_try(self.from.ip(), now) {
            return (answer("403 Forbidden", ""), Some("rtsp-banned"));
        }
        let cameras = self.shared.cameras.borrow().clone();
        let asked = cameras.by_path(request.camera_path());
        match self.challenge.check(request.authorization.as_deref(), &request.method, asked, now) {
            Ok(()) => {}
            Err(denied) => {
                if matches!(denied, Denied::Wrong | Denied::Replayed) {
                    self.shared.wrong_login(self.from.ip(), now);
                    self.shared.counters.add("rtsp-wrong-login", 1);
                    tracing::warn!(from = %self.from, path = request.camera_path(), "wrong login of a camera");
                    self.challenge = Challenge::new(now);
                }
                let more: String = self
                    .challenge
                    .headers(asked, denied == Denied::Stale)
                    .iter()
                    .map(|header| format!("WWW-Authenticate: {header}\r\n"))
                    .collect();
                return (answer("401 Unauthorized", &more), None);
            }
        }
        let Some(asked) = asked.cloned() else { return (answer("404 Not Found", ""), None) };
        if self.camera.as_ref().is_some_and(|camera| camera.id != asked.id) {
            return (answer("403 Forbidden", ""), Some("rtsp-other-camera"));
        }
        if request.session.as_ref().is_some_and(|session| *session != self.session) {
            return (answer("454 Session Not Found", ""), None);
        }
        let session = format!("Session: {}\r\n", self.session);
        match (request.method.as_str(), self.state) {
            ("ANNOUNCE", State::Stranger | State::Announced) => match sdp::parse(&request.body) {
                Ok(tracks) => {
                    self.shared.known(self.number);
                    self.camera = Some(asked);
                    self.state = State::Announced;
                    self.since = now;
                    self.channels = tracks
                        .into_iter()
                        .map(|announced| Channel {
                            control: announced.control.clone(),
                            announced: Some(announced),
                            track: None,
                            interleaved: None,
                            udp: None,
                            bye: false,
                        })
                        .collect();
                    (answer("200 OK", ""), None)
                }
                Err(error) => {
                    self.shared.counters.count(&error);
                    tracing::warn!(camera = %asked.id, %error, "a camera's description is refused");
                    let status = match error {
                        sdp::SdpError::Unsupported(_) => "415 Unsupported Media Type",
                        _ => "400 Bad Request",
                    };
                    (answer(status, &format!("X-Reason: {}\r\n", error.code())), None)
                }
            },
            ("SETUP", State::Announced) => match self.setup(request) {
                Ok(transport) => (answer("200 OK", &format!("{session}Transport: {transport}\r\n")), None),
                Err(status) => (answer(status, &session), None),
            },
            ("RECORD", State::Announced | State::Paused) if self.channels.iter().any(|c| c.track.is_some()) => {
                self.record().await;
                (answer("200 OK", &session), None)
            }
            ("RECORD", State::Recording) => (answer("200 OK", &session), None),
            ("PAUSE", State::Recording | State::Paused) => {
                self.pause();
                (answer("200 OK", &session), None)
            }
            ("GET_PARAMETER" | "SET_PARAMETER", _) => (answer("200 OK", &session), None),
            ("TEARDOWN", _) => (answer("200 OK", &session), Some("teardown")),
            ("ANNOUNCE" | "SETUP" | "RECORD" | "PAUSE", _) => (answer("455 Method Not Valid in This State", ""), None),
            ("DESCRIBE" | "PLAY", _) => (answer("405 Method Not Allowed", &format!("Allow: {PUBLIC}\r\n")), None),
            _ => (answer("501 Not Implemented", ""), None),
        }
    }

    fn setup(&mut self, request: &Request) -> Result<String, &'static str> {
        let index = self.channel_of(request).ok_or("404 Not Found")?;
        let asked = request.transport.as_deref().and_then(transport::parse).ok_or("461 Unsupported Transport")?;
        let taken: Vec<u8> = self.channels.iter().filter_map(|c| c.interleaved).flat_map(|(a, b)| [a, b]).collect();
        let channel = self.channels.get_mut(index).ok_or("404 Not Found")?;
        let announced = channel.announced.take().ok_or("455 Method Not Valid in This State")?;
        let id = TrackId(u8::try_from(index).unwrap_or(u8::MAX));
        match asked {
            Asked::Tcp(channels) => {
                let ours = u8::try_from(2 * index).unwrap_or(0);
                let pair = channels.unwrap_or((ours, ours + 1));
                if taken.contains(&pair.0) || taken.contains(&pair.1) || pair.0 == pair.1 {
                    channel.announced = Some(announced);
                    return Err("461 Unsupported Transport");
                }
                channel.interleaved = Some(pair);
                channel.track = Some(Track::new(id, announced, false));
                Ok(format!("RTP/AVP/TCP;unicast;interleaved={}-{};mode=record", pair.0, pair.1))
            }
            Asked::Udp(rtp, rtcp) => {
                let opened = self.shared.ports.as_ref().map(|ports| {
                    transport::open(
                        ports,
                        self.local.ip(),
                        self.from.ip(),
                        (rtp, rtcp),
                        index,
                        self.datagrams.clone(),
                        self.shared.clock.clone(),
                        &self.shared.tasks,
                        self.udp_stop.clone(),
                    )
                });
                let udp = match opened {
                    Some(Ok(udp)) => udp,
                    refused => {
                        if let Some(Err(error)) = refused {
                            self.shared.counters.add("rtsp-no-udp-port", 1);
                            tracing::error!(%error, "no UDP ports for a camera");
                        }
                        channel.announced = Some(announced);
                        return Err("461 Unsupported Transport");
                    }
                };
                let port = udp.port;
                channel.udp = Some(udp);
                channel.track = Some(Track::new(id, announced, true));
                Ok(format!(
                    "RTP/AVP/UDP;unicast;client_port={rtp}-{rtcp};server_port={port}-{};mode=record",
                    u32::from(port) + 1
                ))
            }
        }
    }

    /// The medium that a SETUP means: by its control attribute, absolute or relative; one without any by its place.
    fn channel_of(&self, request: &Request) -> Option<usize> {
        let path = request.path().trim_end_matches('/');
        let by_control = self.channels.iter().position(|channel| {
            let control = channel.control.trim_end_matches('/');
            !control.is_empty()
                && (request.uri.trim_end_matches('/') == control
                    || path
                        .strip_suffix(control)
                        .is_some_and(|before| before.ends_with(['/', '?']) || before.is_empty()))
        });
        by_control.or_else(|| {
            let only = self.channels.len() == 1;
            self.channels.iter().position(|c| (only || c.control.is_empty()) && c.announced.is_some())
        })
    }

    async fn record(&mut self) {
        let Some(camera) = self.camera.as_ref().map(|camera| camera.id) else { return };
        let resumed = self.state == State::Paused && self.feed.is_some();
        self.state = State::Recording;
        (self.media, self.video) = (Instant::now(), Instant::now());
        if resumed {
            return;
        }
        let turn = self.shared.begin(camera, self.number);
        if let Some(older) = turn.older {
            // What the older session still has must come before the new one opens, or the recorder drops it.
            let _ = tokio::time::timeout(HANDOVER, older.cancelled()).await;
        }
        (self.superseded, self.over) = (turn.superseded, Some(turn.over));
        let mut feed = self.shared.intake.open(camera);
        for track in self.channels.iter().filter_map(|channel| channel.track.as_ref()) {
            if let Some(params) = track.params() {
                feed.push(Item::Params(Arc::new(params)));
            }
        }
        self.feed = Some(feed);
        let transport = if self.channels.iter().any(|channel| channel.udp.is_some()) { "udp" } else { "tcp" };
        let from = self.from;
        tracing::info!(%camera, %from, transport, "a camera streams");
        self.shared.update(camera, |status| {
            status.connected = true;
            status.transport = transport;
            status.remote = Some(from);
            status.no_video = false;
            status.sessions += 1;
        });
    }

    /// Datagrams sent before PAUSE may come after it: the last unit is finished a little later.
    fn pause(&mut self) {
        self.state = State::Paused;
        self.since = Instant::now();
    }
}
