//! QUIC under the relay: endpoints, transport settings, and a link on one connection.
//!
//! Settings are DESIGN's checked ones: many unidirectional streams (the default of 100 would be exhausted by chunks and
//! block live), a large send window (a full one blocks live writes), expiry by explicit reset (dropping a stream would
//! finish it). Spec: `docs/spec/relay.md`, "Transport".

use super::link::{Class, Control, DialError, Dialer, Link, SendError};
use crate::trust::identity::{Generation, Spki, TlsKey};
use crate::trust::tls::{self, Pins, Refusals};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Connecting, handshake included.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A link that heard nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(10);
/// Something is heard this often.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Socket buffers: a burst of a key frame at both ends.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;

/// Application error code of an ordered close; the reason carries the stable code.
const CLOSE: u32 = 1;
/// Error code of a stream that was given up.
const GIVEN_UP: u32 = 2;

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(4096))
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        .send_window(64 * 1024 * 1024)
        .receive_window(VarInt::from_u32(64 * 1024 * 1024))
        .stream_receive_window(VarInt::from_u32(2 * 1024 * 1024))
        .datagram_send_buffer_size(64 * 1024)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    Arc::new(transport)
}

/// A UDP socket with large buffers, bound to an interface if one is named (needs no capability when bound once).
fn socket(local: SocketAddr, interface: Option<&str>) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel gives what its limits allow; less is no error.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}

/// A link on one QUIC connection.
#[derive(Clone)]
pub struct QuicLink(Connection);

impl QuicLink {
    /// The peer's public key, proved by the handshake.
    #[must_use]
    pub fn peer(&self) -> Option<Spki> {
        self.0.peer_identity().and_then(tls::peer_spki)
    }

    /// The generation of the cloud's serving certificate.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.0.peer_identity().and_then(tls::peer_generation)
    }

    /// Where the peer is.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Round trip as the transport sees it.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.0.rtt()
    }

    /// The next stream that the peer opens for one piece.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn accept(&self) -> Result<Incoming, SendError> {
        self.0.accept_uni().await.map(Incoming).map_err(|error| SendError::Closed(reason(&error)))
    }

    /// The control stream that the box opens.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn accept_control(&self) -> Result<Control, SendError> {
        let (send, recv) = self.0.accept_bi().await.map_err(|error| SendError::Closed(reason(&error)))?;
        let _ = send.set_priority(Class::Control as i32);
        Ok((Box::new(recv), Box::new(send)))
    }
}

/// What became of reading a part of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// All of it is there.
    Full,
    /// The peer ended the stream before the first byte of it.
    End,
    /// The peer ended the stream in the middle of it.
    Short,
    /// The peer gave the stream up, or the link is gone.
    GivenUp,
}

/// A stream of the peer's.
pub struct Incoming(quinn::RecvStream);

impl Incoming {
    /// Fills `buf`.
    pub async fn fill(&mut self, buf: &mut [u8]) -> Fill {
        match self.0.read_exact(buf).await {
            Ok(()) => Fill::Full,
            Err(quinn::ReadExactError::FinishedEarly(0)) => Fill::End,
            Err(quinn::ReadExactError::FinishedEarly(_)) => Fill::Short,
            Err(quinn::ReadExactError::ReadError(_)) => Fill::GivenUp,
        }
    }
}

impl Link for QuicLink {
    async fn send(&self, class: Class, pieces: Vec<Bytes>, deadline: Option<Instant>) -> Result<(), SendError> {
        let mut stream = match deadline {
            Some(at) => tokio::time::timeout_at(at, self.0.open_uni()).await.map_err(|_| SendError::Expired)?,
            None => self.0.open_uni().await,
        }
        .map(GiveUp)
        .map_err(|error| SendError::Closed(reason(&error)))?;
        let _ = stream.0.set_priority(class as i32);
        let all = async {
            let mut pieces = pieces;
            stream.0.write_all_chunks(&mut pieces).await.map_err(|error| SendError::Closed(error.to_string()))?;
            stream.0.finish().map_err(|error| SendError::Closed(error.to_string()))?;
            match stream.0.stopped().await {
                Ok(None) => Ok(()),
                Ok(Some(code)) => Err(SendError::Closed(format!("stream stopped by the peer ({code})"))),
                Err(error) => Err(SendError::Closed(error.to_string())),
            }
        };
        match deadline {
            Some(at) => tokio::time::timeout_at(at, all).await.map_err(|_| SendError::Expired)?,
            None => all.await,
        }
    }

    fn close(&self, code: &str) {
        self.0.close(VarInt::from_u32(CLOSE), code.as_bytes());
    }

    async fn closed(&self) -> String {
        reason(&self.0.closed().await)
    }
}

/// Resets the stream when it is dropped before the peer has all of it; after that a reset does nothing.
struct GiveUp(quinn::SendStream);

impl Drop for GiveUp {
    fn drop(&mut self) {
        let _ = self.0.reset(VarInt::from_u32(GIVEN_UP));
    }
}

fn reason(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::ApplicationClosed(closed) => String::from_utf8_lossy(&closed.reason).into_owned(),
        quinn::ConnectionError::LocallyClosed => "closed-here".into(),
        quinn::ConnectionError::TimedOut => "relay-timeout".into(),
        other => other.to_string(),
    }
}

/// Dials one cloud over one interface.
pub struct QuicDialer {
    /// `host:port`, looked up at each attempt.
    pub address: String,
    /// Network interface, or whatever the routes say.
    pub interface: Option<String>,
    /// Who we are.
    pub identity: Arc<TlsKey>,
    /// Whom we accept.
    pub pins: Pins,
    /// Where refused certificates are told.
    pub refusals: Refusals,
}

impl Dialer for QuicDialer {
    type Link = QuicLink;

    async fn dial(&self) -> Result<(QuicLink, Control), DialError> {
        let failed = |code, message: String| DialError { code, message };
        let addresses: Vec<SocketAddr> =
            match tokio::time::timeout(DIAL_TIMEOUT, tokio::net::lookup_host(&self.address)).await {
                Ok(Ok(found)) => found.collect(),
                Ok(Err(error)) => return Err(failed("relay-name", format!("{}: {error}", self.address))),
                Err(_) => {
                    return Err(failed("relay-name", format!("{}: the name server does not answer", self.address)));
                }
            };
        let config = tls::box_client(&self.identity, self.pins.clone(), self.refusals.clone())
            .map_err(|error| failed("relay-identity", error.to_string()))?;
        let crypto = QuicClientConfig::try_from(config).map_err(|error| failed("relay-identity", error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport());
        let mut last = failed("relay-name", format!("{} has no address", self.address));
        for address in addresses {
            match self.dial_one(address, config.clone()).await {
                Ok(done) => return Ok(done),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl QuicDialer {
    async fn dial_one(&self, to: SocketAddr, config: quinn::ClientConfig) -> Result<(QuicLink, Control), DialError> {
        let failed = |code, message: String| DialError { code, message };
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = socket(any, self.interface.as_deref())
            .map_err(|error| failed("relay-interface", format!("no socket on {:?}: {error}", self.interface)))?;
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(quinn::TokioRuntime))
            .map_err(|error| failed("relay-interface", error.to_string()))?;
        let _ = self.refusals.take();
        let connecting = endpoint
            .connect_with(config, to, tls::SERVER_NAME)
            .map_err(|e| failed("relay-unreachable", e.to_string()))?;
        let connection = match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
            Err(_) => return Err(failed("relay-unreachable", format!("{to} does not answer"))),
            Ok(Err(error)) => {
                use crate::base::reason::Coded;
                let code = match (self.refusals.take(), &error) {
                    (Some(refusal), _) => refusal.code(),
                    (None, quinn::ConnectionError::ConnectionClosed(_)) => "relay-tls-rejected",
                    (None, _) => "relay-unreachable",
                };
                return Err(failed(code, format!("{to}: {error}")));
            }
            Ok(Ok(connection)) => connection,
        };
        let (send, recv) = connection
            .open_bi()
            .await
            .map_err(|error| failed("relay-unreachable", format!("{to}: {}", reason(&error))))?;
        let _ = send.set_priority(Class::Control as i32);
        Ok((QuicLink(connection), (Box::new(recv), Box::new(send))))
    }
}

/// The cloud's endpoint.
pub struct QuicListener {
    endpoint: Endpoint,
}

impl QuicListener {
    /// Binds. `config` comes from [`tls::cloud_server`].
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn bind(listen: SocketAddr, config: tls::ServerSide) -> io::Result<Self> {
        let crypto = QuicServerConfig::try_from(config).map_err(io::Error::other)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport());
        let socket = socket(listen, None)?;
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(quinn::TokioRuntime))?;
        Ok(Self { endpoint })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next connection attempt; `None` when the endpoint is closed. Finish it off the accepting loop.
    pub async fn accept(&self) -> Option<Attempt> {
        let incoming = self.endpoint.accept().await?;
        // An unproved source address gets a token first: it costs the sender a round trip and us no state.
        if !incoming.remote_address_validated() && self.endpoint.open_connections() > 256 && incoming.may_retry() {
            let _ = incoming.retry();
            return Some(Attempt(None));
        }
        Some(Attempt(Some(incoming)))
    }

    /// Ends all connections.
    pub fn close(&self, code: &str) {
        self.endpoint.close(VarInt::from_u32(CLOSE), code.as_bytes());
    }
}

/// A connection attempt.
pub struct Attempt(Option<quinn::Incoming>);

impl Attempt {
    /// The handshake; `None` if it fails (the verifier has told why) or takes longer than [`DIAL_TIMEOUT`].
    pub async fn finish(self) -> Option<QuicLink> {
        let connecting = self.0?.accept().ok()?;
        let connection = tokio::time::timeout(DIAL_TIMEOUT, connecting).await.ok()?.ok()?;
        Some(QuicLink(connection))
    }
}
