//! How a track's packets travel: interleaved on the control connection, or over a pair of UDP ports of ours.

use crate::base::clock::Clock;
use crate::base::tasks::Tasks;
use crate::base::units::BootTime;
use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Kernel buffer of a video port: a key frame of 1 MB arrives in one burst. The kernel gives what its limits allow.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// Largest datagram.
const MAX_DATAGRAM: usize = 65_536;

/// A datagram of a track.
pub struct Datagram {
    /// Index of the track in the session.
    pub track: usize,
    /// RTCP, not RTP.
    pub control: bool,
    /// Its bytes.
    pub bytes: Bytes,
    /// When it came.
    pub arrived: BootTime,
}

/// What SETUP asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Interleaved channels for RTP and RTCP; `None` = ours to choose.
    Tcp(Option<(u8, u8)>),
    /// The client's ports.
    Udp(u16, u16),
}

/// Reads a `Transport` header: the first alternative that we can do.
#[must_use]
pub fn parse(header: &str) -> Option<Asked> {
    header.split(',').find_map(|alternative| {
        let mut parts = alternative.split(';').map(str::trim);
        let profile = parts.next()?.to_ascii_uppercase();
        let pair = |value: &str| -> Option<(u16, u16)> {
            let (first, second) = value.split_once('-').unwrap_or((value, value));
            Some((first.trim().parse().ok()?, second.trim().parse().ok()?))
        };
        let parameters: Vec<(String, String)> = parts
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let value = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        if value("mode").is_some_and(|mode| !mode.trim_matches('"').eq_ignore_ascii_case("record")) {
            return None;
        }
        match profile.as_str() {
            "RTP/AVP/TCP" => match value("interleaved") {
                None => Some(Asked::Tcp(None)),
                Some(channels) => {
                    let (rtp, rtcp) = pair(channels)?;
                    Some(Asked::Tcp(Some((u8::try_from(rtp).ok()?, u8::try_from(rtcp).ok()?))))
                }
            },
            "RTP/AVP" | "RTP/AVP/UDP" if value("multicast").is_none() => {
                let (rtp, rtcp) = pair(value("client_port")?)?;
                Some(Asked::Udp(rtp, if rtcp == rtp { rtp.checked_add(1)? } else { rtcp }))
            }
            _ => None,
        }
    })
}

/// Hands out pairs of ports from the configured range.
#[derive(Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    next: AtomicU32,
}

impl Ports {
    /// An even first port; at least one pair.
    #[must_use]
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, next: AtomicU32::new(0) }
    }

    /// The next free pair on an address.
    ///
    /// # Errors
    /// No pair is free.
    pub fn take(&self, local: IpAddr) -> io::Result<(UdpSocket, UdpSocket, u16)> {
        let first = u32::from(*self.range.start()).next_multiple_of(2);
        let pairs = (u32::from(*self.range.end()) + 1).saturating_sub(first) / 2;
        for _ in 0..pairs {
            let at = self.next.fetch_add(1, Ordering::Relaxed) % pairs;
            let Ok(port) = u16::try_from(first + 2 * at) else { continue };
            let (Ok(rtp), Ok(rtcp)) = (bind(local, port), bind(local, port + 1)) else { continue };
            return Ok((rtp, rtcp, port));
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no pair of UDP ports is free in ingest.udp_ports"))
    }
}

fn bind(local: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(local, port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A track's UDP ports while its session lasts.
pub struct Udp {
    /// Our RTCP port, for receiver reports.
    pub rtcp: Arc<UdpSocket>,
    /// Where the client wants them.
    pub client_rtcp: SocketAddr,
    /// First port of the pair.
    pub port: u16,
}

/// Reads both ports into the session's queue; datagrams of other hosts are dropped. Ends when told or when the session
/// is gone.
#[allow(clippy::too_many_arguments)] // one call site; a struct would only rename them
pub fn open(
    ports: &Ports,
    local: IpAddr,
    peer: IpAddr,
    client: (u16, u16),
    track: usize,
    queue: mpsc::Sender<Datagram>,
    clock: Clock,
    tasks: &Tasks,
    stop: CancellationToken,
) -> io::Result<Udp> {
    let (rtp, rtcp, port) = ports.take(local)?;
    let rtcp = Arc::new(rtcp);
    tasks.spawn("rtp", read(Arc::new(rtp), peer, track, false, queue.clone(), clock.clone(), stop.clone()));
    tasks.spawn("rtcp", read(rtcp.clone(), peer, track, true, queue, clock, stop));
    Ok(Udp { rtcp, client_rtcp: SocketAddr::new(peer, client.1), port })
}

async fn read(
    socket: Arc<UdpSocket>,
    peer: IpAddr,
    track: usize,
    control: bool,
    queue: mpsc::Sender<Datagram>,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        let received = tokio::select! {
            biased;
            received = socket.recv_from(&mut buf) => received,
            () = stop.cancelled() => return,
        };
        match received {
            Ok((len, from)) if from.ip().to_canonical() == peer.to_canonical() => {
                let bytes = Bytes::copy_from_slice(&buf[..len]);
                // The kernel's buffer holds what the session cannot take yet.
                if queue.send(Datagram { track, control, bytes, arrived: clock.boottime() }).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            // An ICMP error of an earlier report; the port itself is fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::warn!(%error, "a UDP port of a camera cannot be read");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_of_real_publishers_are_understood() {
        assert_eq!(parse("RTP/AVP/TCP;unicast;interleaved=2-3;mode=record"), Some(Asked::Tcp(Some((2, 3)))));
        assert_eq!(parse("RTP/AVP/UDP;unicast;client_port=5000-5001;mode=record"), Some(Asked::Udp(5000, 5001)));
        assert_eq!(parse("RTP/AVP;unicast;client_port=5000-5001;mode=RECORD"), Some(Asked::Udp(5000, 5001)));
        assert_eq!(
            parse("RTP/SAVP;unicast;client_port=1-2,RTP/AVP/TCP;unicast;interleaved=0-1"),
            Some(Asked::Tcp(Some((0, 1))))
        );
        for bad in ["", "RTP/AVP/TCP;interleaved=300-301", "RTP/AVP;multicast;client_port=1-2", "RTP/AVP;unicast"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
