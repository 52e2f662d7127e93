//! A scripted RTSP publisher over real sockets: it does what it is told, packet by packet, right or wrong.
//!
//! Digest is written out here once more, so that the server's is checked by another hand. Every wait is bounded.

pub mod picture;
pub mod rtp;

use data_encoding::HEXLOWER;
use sha2::Digest as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Interleaved on the control connection.
    Tcp,
    /// A pair of ports for each track.
    Udp,
}

/// The only hash that a camera's Digest knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// RFC 2617.
    Md5,
    /// RFC 7616.
    Sha256,
}

impl Hash {
    const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    fn of(self, text: &str) -> String {
        match self {
            Self::Md5 => HEXLOWER.encode(&md5::Md5::digest(text)),
            Self::Sha256 => HEXLOWER.encode(&sha2::Sha256::digest(text)),
        }
    }
}

/// Why a step did not go as scripted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The connection failed or an answer did not come in time.
    #[error("no answer")]
    Io(#[from] io::Error),
    /// Another status than 200.
    #[error("answered with {0}")]
    Status(u16),
    /// No challenge with the only hash that the camera knows.
    #[error("no challenge that the camera can answer")]
    NoChallenge,
    /// Something that the camera does not understand.
    #[error("an answer that cannot be read")]
    Malformed,
}

/// Where, who and what.
#[derive(Debug, Clone)]
pub struct Script {
    /// The server.
    pub server: SocketAddr,
    /// Path of the URL.
    pub path: String,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// Only this is spoken.
    pub hash: Hash,
    /// For all tracks.
    pub carrier: Carrier,
    /// A second medium, AAC-hbr with 48 kHz.
    pub sound: bool,
    /// The description has the parameter sets.
    pub sets: bool,
}

struct Ports {
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

/// One session of a camera.
pub struct Camera {
    script: Script,
    stream: TcpStream,
    url: String,
    cseq: u32,
    count: u32,
    challenge: Option<(String, String)>,
    session: Option<String>,
    ports: Vec<Ports>,
    /// Bytes that came and are not yet read as an answer.
    came: Vec<u8>,
}

impl Camera {
    /// Connects and goes as far as RECORD.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn publish(script: Script) -> Result<Self, Refused> {
        let mut camera = Self::connect(script).await?;
        camera.announce().await?;
        camera.record().await?;
        Ok(camera)
    }

    /// Connects only.
    ///
    /// # Errors
    /// The connection is refused.
    pub async fn connect(script: Script) -> Result<Self, Refused> {
        let stream = TcpStream::connect(script.server).await?;
        stream.set_nodelay(true)?;
        let url = format!("rtsp://{}/{}", script.server, script.path);
        let (challenge, session) = (None, None);
        Ok(Self { script, stream, url, cseq: 0, count: 0, challenge, session, ports: Vec::new(), came: Vec::new() })
    }

    /// OPTIONS, ANNOUNCE with Digest, SETUP of each track.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn announce(&mut self) -> Result<(), Refused> {
        let url = self.url.clone();
        self.ask("OPTIONS", &url, &[], "").await?;
        let description = self.description();
        self.ask("ANNOUNCE", &url, &["Content-Type: application/sdp"], &description).await?;
        for track in 0..1 + usize::from(self.script.sound) {
            let transport = match self.script.carrier {
                Carrier::Tcp => format!("RTP/AVP/TCP;unicast;interleaved={}-{};mode=record", 2 * track, 2 * track + 1),
                Carrier::Udp => {
                    let ports = Ports { rtp: self.socket().await?, rtcp: self.socket().await? };
                    let (rtp, rtcp) = (ports.rtp.local_addr()?.port(), ports.rtcp.local_addr()?.port());
                    self.ports.push(ports);
                    format!("RTP/AVP/UDP;unicast;client_port={rtp}-{rtcp};mode=record")
                }
            };
            let head =
                self.ask("SETUP", &format!("{url}/track{track}"), &[&format!("Transport: {transport}")], "").await?;
            self.session = header(&head, "Session").map(str::to_owned);
            if self.script.carrier == Carrier::Udp {
                let port = server_port(header(&head, "Transport").unwrap_or_default()).ok_or(Refused::Malformed)?;
                let ports = self.ports.last().ok_or(Refused::Malformed)?;
                let host = self.script.server.ip();
                ports.rtp.connect((host, port)).await?;
                ports.rtcp.connect((host, port + 1)).await?;
            }
        }
        Ok(())
    }

    /// RECORD.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn record(&mut self) -> Result<(), Refused> {
        let url = self.url.clone();
        self.ask("RECORD", &url, &[], "").await.map(|_| ())
    }

    /// PAUSE.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn pause(&mut self) -> Result<(), Refused> {
        let url = self.url.clone();
        self.ask("PAUSE", &url, &[], "").await.map(|_| ())
    }

    /// TEARDOWN, and the connection is closed.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn teardown(mut self) -> Result<(), Refused> {
        let url = self.url.clone();
        self.ask("TEARDOWN", &url, &[], "").await.map(|_| ())
    }

    /// Small requests at once, without waiting for answers: the server is busy for a while.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn chatter(&mut self, requests: usize) -> io::Result<()> {
        self.stream.write_all("OPTIONS * RTSP/1.0\r\nCSeq: 0\r\n\r\n".repeat(requests).as_bytes()).await
    }

    /// One RTP packet of a track.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn send(&mut self, track: usize, packet: &[u8]) -> io::Result<()> {
        match self.ports.get(track) {
            Some(ports) => ports.rtp.send(packet).await.map(|_| ()),
            None => self.frame(2 * track, packet).await,
        }
    }

    /// RTP packets of a track, in this order.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn send_all(&mut self, track: usize, packets: &[Vec<u8>]) -> io::Result<()> {
        for packet in packets {
            self.send(track, packet).await?;
        }
        Ok(())
    }

    /// One RTCP packet of a track.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn control(&mut self, track: usize, packet: &[u8]) -> io::Result<()> {
        match self.ports.get(track) {
            Some(ports) => ports.rtcp.send(packet).await.map(|_| ()),
            None => self.frame(2 * track + 1, packet).await,
        }
    }

    /// Any bytes on the control connection.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The connection ends without a word, when all that was sent has arrived: `reset` as when the process dies with
    /// unread bytes, else closed.
    ///
    /// # Errors
    /// The socket refuses its option, or what was sent does not arrive.
    pub async fn vanish(self, reset: bool) -> io::Result<()> {
        let port = self.stream.local_addr()?.port();
        let end = tokio::time::Instant::now() + PATIENCE;
        while unsent(port)? {
            if tokio::time::Instant::now() > end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if reset {
            self.stream.set_zero_linger()?;
        }
        Ok(())
    }

    /// The server has closed the connection.
    pub async fn closed(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = async {
            loop {
                if !matches!(self.stream.read(&mut bytes).await, Ok(1..)) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.is_ok()
    }

    async fn socket(&self) -> io::Result<UdpSocket> {
        UdpSocket::bind((self.stream.local_addr()?.ip(), 0)).await
    }

    async fn frame(&mut self, channel: usize, packet: &[u8]) -> io::Result<()> {
        let len = u16::try_from(packet.len()).map_err(|_| io::ErrorKind::InvalidInput)?.to_be_bytes();
        let head = [b'$', u8::try_from(channel).unwrap_or(u8::MAX), len[0], len[1]];
        self.stream.write_all(&[&head, packet].concat()).await
    }

    fn description(&self) -> String {
        let sets = [picture::SPS.as_slice(), picture::PPS.as_slice()].map(|set| data_encoding::BASE64.encode(set));
        let sets = if self.script.sets { format!("; sprop-parameter-sets={}", sets.join(",")) } else { String::new() };
        let mut text = format!(
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n\
             a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1{sets}\r\na=control:track0\r\n"
        );
        if self.script.sound {
            text += "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/48000/1\r\na=fmtp:97 mode=AAC-hbr;sizelength=13;\
                     indexlength=3;indexdeltalength=3;config=1188\r\na=control:track1\r\n";
        }
        text
    }

    /// Asks, answers one challenge, and yields the head of a 200.
    async fn ask(&mut self, method: &str, url: &str, more: &[&str], body: &str) -> Result<String, Refused> {
        let text = self.text(method, url, more, body);
        self.stream.write_all(text.as_bytes()).await?;
        let mut head = self.answer().await?;
        if status(&head) == Some(401) && self.challenge.is_none() {
            self.challenge = Some(self.understood(&head).ok_or(Refused::NoChallenge)?);
            let text = self.text(method, url, more, body);
            self.stream.write_all(text.as_bytes()).await?;
            head = self.answer().await?;
        }
        match status(&head) {
            Some(200) => Ok(head),
            Some(other) => Err(Refused::Status(other)),
            None => Err(Refused::Malformed),
        }
    }

    fn text(&mut self, method: &str, url: &str, more: &[&str], body: &str) -> String {
        self.cseq += 1;
        let mut text = format!("{method} {url} RTSP/1.0\r\nCSeq: {}\r\nUser-Agent: sim\r\n", self.cseq);
        if let Some((realm, nonce)) = &self.challenge {
            self.count += 1;
            let (hash, script, nc) = (self.script.hash, &self.script, format!("{:08x}", self.count));
            let first = hash.of(&format!("{}:{realm}:{}", script.user, script.password));
            let second = hash.of(&format!("{method}:{url}"));
            let response = hash.of(&format!("{first}:{nonce}:{nc}:c0ffee:auth:{second}"));
            text += &format!(
                "Authorization: Digest username=\"{}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{url}\", \
                 algorithm={}, qop=auth, nc={nc}, cnonce=\"c0ffee\", response=\"{response}\"\r\n",
                script.user,
                hash.name()
            );
        }
        if let Some(session) = &self.session {
            text += &format!("Session: {session}\r\n");
        }
        for line in more {
            text += &format!("{line}\r\n");
        }
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text + "\r\n" + body
    }

    /// Realm and nonce of the challenge with the only hash that is known.
    fn understood(&self, head: &str) -> Option<(String, String)> {
        let wanted = format!("algorithm={},", self.script.hash.name());
        let line = head.lines().find(|line| line.starts_with("WWW-Authenticate: Digest") && line.contains(&wanted))?;
        let field = |name: &str| {
            let (_, value) = line.split_once(&format!("{name}=\""))?;
            value.split_once('"').map(|(value, _)| value.to_owned())
        };
        Some((field("realm")?, field("nonce")?))
    }

    /// The next answer's head; interleaved frames and answers to mentions before it are passed over.
    async fn answer(&mut self) -> Result<String, Refused> {
        let wanted = format!("CSeq: {}\r\n", self.cseq);
        let read = async {
            loop {
                while let Some(head) = take_answer(&mut self.came) {
                    if head.contains(&wanted) {
                        return Ok(head);
                    }
                }
                if self.stream.read_buf(&mut self.came).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
            }
        };
        Ok(tokio::time::timeout(PATIENCE, read).await.map_err(io::Error::from)??)
    }
}

fn take_answer(came: &mut Vec<u8>) -> Option<String> {
    while let Some(&[b'$', _, high, low]) = came.first_chunk::<4>() {
        let end = 4 + usize::from(u16::from_be_bytes([high, low]));
        if came.len() < end {
            return None;
        }
        came.drain(..end);
    }
    let end = came.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    String::from_utf8(came.drain(..end).collect()).ok()
}

fn status(head: &str) -> Option<u16> {
    head.strip_prefix("RTSP/1.0 ")?.get(..3)?.parse().ok()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Whether the kernel still holds bytes of an IPv4 connection from this port (`tx_queue` of proc(5)): an end of the
/// connection may throw them away.
fn unsent(port: u16) -> io::Result<bool> {
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let own = format!(":{port:04X}");
    Ok(table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().is_some_and(|local| local.ends_with(&own));
        local && fields.nth(2).is_some_and(|queues| !queues.starts_with("00000000:"))
    }))
}

fn server_port(transport: &str) -> Option<u16> {
    let (_, ports) = transport.split_once("server_port=")?;
    ports.split(['-', ';']).next()?.parse().ok()
}
