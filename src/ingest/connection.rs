//! One connection of a publisher, from its first byte to the end of its session.
//!
//! ```text
//! Stranger ─ANNOUNCE, 401, ANNOUNCE─▶ Announced ─SETUP per track─▶ Ready ─RECORD─▶ Recording ◀─RECORD / PAUSE─▶ Ready
//! ```
//! Liveness is arriving media: real publishers send no keep-alive. A session ends by TEARDOWN, BYE of all tracks, the end
//! of the connection, 10 s without media, a newer session of the same camera, or the end of its enrolment.

mod requests;

use super::cameras::Camera;
use super::digest::Challenge;
use super::request::{self, Input, ReadError};
use super::sdp::Announced;
use super::server::Shared;
use super::track::{Report, Track};
use super::transport::{Datagram, Udp};
use crate::base::ids::random_bytes;
use crate::base::reason::Coded;
use crate::base::units::BootTime;
use crate::media::{Feed, Item};
use bytes::BytesMut;
use data_encoding::HEXLOWER;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A stranger must have authenticated within this.
const LOGIN: Duration = Duration::from_secs(10);
/// Between login and RECORD.
const SETUP: Duration = Duration::from_secs(30);
/// A recording session without media for this long is over.
const MEDIA: Duration = Duration::from_secs(10);
/// A paused session may rest this long.
const PAUSED: Duration = Duration::from_secs(60);
/// Datagrams that were sent before TEARDOWN may still lie in the kernel's buffers: none came for this long.
const DRAIN: Duration = Duration::from_millis(50);
/// A sender that does not stop is not waited for longer.
const MAX_DRAIN: Duration = Duration::from_secs(1);
/// Bytes of the control connection that are still taken when the server ends the session.
const MAX_REST: usize = 8 * 1024 * 1024;
/// A publisher must take an answer within this.
const ANSWER: Duration = Duration::from_secs(5);
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// So long after PAUSE nothing of before it comes any more.
const SETTLED: Duration = Duration::from_millis(300);
/// Datagrams that wait for the session.
const QUEUE: usize = 1024;
const REPORT_EVERY: Duration = Duration::from_secs(5);
const PUBLIC: &str = "OPTIONS, ANNOUNCE, SETUP, RECORD, PAUSE, GET_PARAMETER, SET_PARAMETER, TEARDOWN";

/// Seconds from 1900 to 1970 do not matter: only differences of NTP times are used.
type Origin = (u64, BootTime);

struct Channel {
    announced: Option<Announced>,
    control: String,
    track: Option<Track>,
    interleaved: Option<(u8, u8)>,
    udp: Option<Udp>,
    bye: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stranger,
    Announced,
    Recording,
    Paused,
}

struct Connection {
    number: u64,
    from: SocketAddr,
    local: SocketAddr,
    shared: Arc<Shared>,
    challenge: Challenge,
    state: State,
    since: Instant,
    camera: Option<Camera>,
    session: String,
    channels: Vec<Channel>,
    feed: Option<Box<dyn Feed>>,
    superseded: CancellationToken,
    /// Told to the session that superseded this one, when everything is delivered.
    over: Option<DropGuard>,
    /// It takes no answers any more; what it sent is still read.
    deaf: bool,
    published: Instant,
    udp_stop: CancellationToken,
    datagrams: mpsc::Sender<Datagram>,
    origin: Option<Origin>,
    media: Instant,
    video: Instant,
    delivered: u64,
    lost: u64,
    items: Vec<Item>,
}

/// Serves one connection to its end. `dropped` is told when the server stops or has no room for strangers.
pub(super) async fn serve(
    stream: TcpStream,
    from: SocketAddr,
    number: u64,
    shared: Arc<Shared>,
    dropped: CancellationToken,
) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    let now = Instant::now();
    let (datagrams, mut arriving) = mpsc::channel(QUEUE);
    let mut connection = Connection {
        number,
        from,
        local,
        challenge: Challenge::new(now),
        state: State::Stranger,
        since: now,
        camera: None,
        session: HEXLOWER.encode(&random_bytes::<8>()),
        channels: Vec::new(),
        feed: None,
        superseded: CancellationToken::new(),
        over: None,
        deaf: false,
        published: now,
        udp_stop: CancellationToken::new(),
        datagrams,
        origin: None,
        media: now,
        video: now,
        delivered: 0,
        lost: 0,
        items: Vec::new(),
        shared,
    };
    let reason = connection.run(stream, &mut arriving, &dropped).await;
    connection.drain(&mut arriving, reason).await;
    connection.end(reason);
}

impl Connection {
    async fn run(
        &mut self,
        mut stream: TcpStream,
        arriving: &mut mpsc::Receiver<Datagram>,
        dropped: &CancellationToken,
    ) -> &'static str {
        let (mut reader, mut writer) = stream.split();
        // Grows with what a camera sends; a stranger costs a page.
        let mut buf = BytesMut::with_capacity(4096);
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reported = Instant::now();
        let mut cameras = self.shared.cameras.clone();
        loop {
            let superseded = self.superseded.clone();
            tokio::select! {
                biased;
                () = dropped.cancelled() => {
                    self.rest(&reader, &mut buf);
                    return if self.state == State::Stranger { "too-many" } else { "shutdown" };
                }
                () = superseded.cancelled() => {
                    self.rest(&reader, &mut buf);
                    return "superseded";
                }
                Some(datagram) = arriving.recv() => {
                    self.datagram(&datagram);
                    if self.all_bye() {
                        return "bye";
                    }
                }
                read = reader.read_buf(&mut buf) => match read {
                    Ok(0) => return "closed",
                    Err(_) => return "reset",
                    Ok(_) => loop {
                        match request::take(&mut buf) {
                            Ok(None) => break,
                            Ok(Some(Input::Frame(channel, bytes))) => {
                                self.frame(channel, &bytes);
                                if self.all_bye() {
                                    return "bye";
                                }
                            }
                            Ok(Some(Input::Request(request))) => {
                                let (answer, end) = self.request(&request).await;
                                self.say(&mut writer, answer.as_bytes()).await;
                                if self.deaf && self.feed.is_none() {
                                    return "reset";
                                }
                                if let Some(end) = end {
                                    return end;
                                }
                            }
                            Err(error) => {
                                tracing::warn!(from = %self.from, code = error.code(), "a camera's connection is closed");
                                let status = match error {
                                    ReadError::BodyTooLong => "413 Request Entity Too Large",
                                    _ => "400 Bad Request",
                                };
                                let last = format!("RTSP/1.0 {status}\r\nConnection: close\r\n\r\n");
                                self.say(&mut writer, last.as_bytes()).await;
                                return error.code();
                            }
                        }
                    },
                },
                changed = cameras.changed(), if self.camera.is_some() => {
                    let still = self.camera.as_ref().is_some_and(|own| cameras.borrow().0.contains(own));
                    if changed.is_err() || !still {
                        return "enrolment-ended";
                    }
                }
                _ = tick.tick() => {
                    if let Some(end) = self.tick() {
                        return end;
                    }
                    if self.state == State::Recording && reported.elapsed() >= REPORT_EVERY {
                        reported = Instant::now();
                        for bytes in self.receiver_reports() {
                            self.say(&mut writer, &bytes).await;
                        }
                    }
                }
            }
            if buf.is_empty() && buf.capacity() > 256 * 1024 {
                // A burst is over; its memory goes back.
                buf = BytesMut::with_capacity(16 * 1024);
            }
        }
    }

    /// Answers, if somebody listens. A publisher that is gone or does not read may have sent frames before.
    async fn say(&mut self, writer: &mut WriteHalf<'_>, bytes: &[u8]) {
        if !self.deaf {
            let said = tokio::time::timeout(ANSWER, writer.write_all(bytes)).await;
            self.deaf = !matches!(said, Ok(Ok(())));
        }
    }

    /// Frames that have arrived already, when the server ends the session.
    fn rest(&mut self, reader: &ReadHalf<'_>, buf: &mut BytesMut) {
        let mut taken = 0;
        while self.feed.is_some() && taken < MAX_REST {
            buf.reserve(64 * 1024);
            match reader.try_read_buf(buf) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
            loop {
                match request::take(buf) {
                    Ok(Some(Input::Frame(channel, bytes))) => {
                        taken += bytes.len();
                        self.frame(channel, &bytes);
                    }
                    Ok(Some(Input::Request(_))) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }

    fn frame(&mut self, channel: u8, bytes: &[u8]) {
        let arrived = self.shared.clock.boottime();
        let found = self.channels.iter().enumerate().find_map(|(index, c)| {
            let (rtp, rtcp) = c.interleaved?;
            if rtp == channel { Some((index, false)) } else { (rtcp == channel).then_some((index, true)) }
        });
        match found {
            Some((index, false)) => self.rtp(index, bytes, arrived),
            Some((index, true)) => self.rtcp(index, bytes, arrived),
            None => self.shared.counters.add("rtsp-unknown-channel", 1),
        }
    }

    fn datagram(&mut self, datagram: &Datagram) {
        if datagram.control {
            self.rtcp(datagram.track, &datagram.bytes, datagram.arrived);
        } else {
            self.rtp(datagram.track, &datagram.bytes, datagram.arrived);
        }
    }

    fn rtp(&mut self, index: usize, bytes: &[u8], arrived: BootTime) {
        // What comes between SETUP and RECORD was sent before the answer; nothing is recorded before RECORD.
        if self.feed.is_none() {
            return;
        }
        let origin = self.origin;
        if let Some(track) = self.channels.get_mut(index).and_then(|channel| channel.track.as_mut()) {
            track.push(bytes, arrived, origin, &mut self.items);
            let is_video = track.codec().is_video();
            self.media = Instant::now();
            if is_video {
                self.video = self.media;
            }
        }
        self.deliver();
    }

    fn rtcp(&mut self, index: usize, bytes: &[u8], arrived: BootTime) {
        let Ok(compound) = rtcp_types::Compound::parse(bytes) else {
            self.shared.counters.add("rtcp-malformed", 1);
            return;
        };
        let Some(channel) = self.channels.get_mut(index) else { return };
        for packet in compound {
            match packet {
                Ok(rtcp_types::Packet::Sr(sr)) if sr.ntp_timestamp() != 0 => {
                    let report = Report { ntp: sr.ntp_timestamp(), rtp: sr.rtp_timestamp() };
                    self.origin.get_or_insert((report.ntp, arrived));
                    if let Some(track) = &mut channel.track {
                        track.report(report);
                    }
                }
                Ok(rtcp_types::Packet::Bye(_)) => channel.bye = true,
                Ok(_) => {}
                Err(_) => {
                    self.shared.counters.add("rtcp-malformed", 1);
                    return;
                }
            }
        }
    }

    fn all_bye(&self) -> bool {
        let mut tracks = self.channels.iter().filter(|channel| channel.track.is_some()).peekable();
        tracks.peek().is_some() && tracks.all(|channel| channel.bye)
    }

    fn deliver(&mut self) {
        let Some(feed) = &mut self.feed else { return self.items.clear() };
        for item in self.items.drain(..) {
            feed.push(item);
        }
    }

    fn flush(&mut self) {
        let (now, origin) = (self.shared.clock.boottime(), self.origin);
        for track in self.channels.iter_mut().filter_map(|channel| channel.track.as_mut()) {
            track.flush(now, origin, &mut self.items);
        }
        self.deliver();
    }

    /// Time-outs, holes that waited long enough, status.
    fn tick(&mut self) -> Option<&'static str> {
        let limit = match self.state {
            State::Stranger => (self.since, LOGIN, "login-timeout"),
            State::Announced => (self.since, SETUP, "setup-timeout"),
            State::Paused => (self.since, PAUSED, "pause-timeout"),
            State::Recording => (self.media, MEDIA, "media-timeout"),
        };
        if limit.0.elapsed() >= limit.1 {
            return Some(limit.2);
        }
        if self.state == State::Paused && self.since.elapsed() >= SETTLED {
            self.flush();
        }
        if self.state != State::Recording {
            return None;
        }
        let (now, origin) = (self.shared.clock.boottime(), self.origin);
        for track in self.channels.iter_mut().filter_map(|channel| channel.track.as_mut()) {
            track.poll(now, origin, &mut self.items);
        }
        self.deliver();
        if self.published.elapsed() >= PUBLISH_EVERY {
            self.publish();
        }
        None
    }

    fn publish(&mut self) {
        self.published = Instant::now();
        let Some(camera) = self.camera.as_ref().map(|camera| camera.id) else { return };
        let tracks = || self.channels.iter().filter_map(|channel| channel.track.as_ref());
        let delivered: u64 = tracks().map(|track| track.counts().units).sum();
        let lost: u64 = tracks().map(|track| track.counts().lost).sum();
        let no_video = tracks().any(|track| track.codec().is_video()) && self.video.elapsed() >= MEDIA;
        let (more, more_lost) = (delivered - self.delivered, lost - self.lost);
        (self.delivered, self.lost) = (delivered, lost);
        if no_video && !self.shared.status.borrow().cameras.get(&camera).is_some_and(|status| status.no_video) {
            self.shared.counters.add("camera-no-video", 1);
            tracing::warn!(%camera, "the camera sends no picture any more");
        }
        self.shared.update(camera, |status| {
            status.accepted += more;
            status.lost += more_lost;
            status.no_video = no_video;
        });
    }

    /// Receiver reports: as interleaved frames to write, or sent over UDP here.
    fn receiver_reports(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for channel in &self.channels {
            let Some((ssrc, highest, lost)) = channel.track.as_ref().and_then(Track::reception) else { continue };
            let mut report = vec![0x81, 201, 0, 7];
            // Our own SSRC: the receiver has none of its own, any fixed one serves.
            report.extend(1_u32.to_be_bytes());
            report.extend(ssrc.to_be_bytes());
            let lost = u32::try_from(lost.min(0x7f_ffff)).unwrap_or(0);
            report.extend(lost.to_be_bytes());
            report.extend(highest.to_be_bytes());
            report.extend([0; 12]);
            match (&channel.udp, channel.interleaved) {
                (Some(udp), _) => {
                    let _ = udp.rtcp.try_send_to(&report, udp.client_rtcp);
                }
                (None, Some((_, rtcp))) => {
                    let len = u16::try_from(report.len()).unwrap_or(0).to_be_bytes();
                    frames.push([&[b'$', rtcp, len[0], len[1]][..], &report].concat());
                }
                (None, None) => {}
            }
        }
        frames
    }

    /// Datagrams that were on their way when the session ended are still taken. A sender that is superseded may go on for
    /// ever: it has [`DRAIN`] in all.
    async fn drain(&mut self, arriving: &mut mpsc::Receiver<Datagram>, reason: &'static str) {
        if self.feed.is_some() && self.channels.iter().any(|channel| channel.udp.is_some()) {
            let end = Instant::now() + if reason == "superseded" { DRAIN } else { MAX_DRAIN };
            loop {
                let idle = (Instant::now() + DRAIN).min(end);
                match tokio::time::timeout_at(idle, arriving.recv()).await {
                    Ok(Some(datagram)) if Instant::now() < end => self.datagram(&datagram),
                    _ => break,
                }
            }
        }
        self.udp_stop.cancel();
    }

    fn end(&mut self, reason: &'static str) {
        self.flush();
        self.publish();
        self.shared.counters.add(reason, 1);
        if let Some(feed) = self.feed.take() {
            feed.end(reason);
            if let Some(camera) = self.camera.as_ref().map(|camera| camera.id) {
                tracing::info!(%camera, reason, "a camera's session ended");
                let present = self.shared.end(camera, self.number);
                self.shared.update(camera, |status| {
                    status.last_end = Some(reason);
                    if present {
                        status.connected = false;
                    }
                });
            }
        }
        self.over = None;
    }
}
