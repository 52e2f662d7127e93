//! The seam between what is sent and what it is sent over: QUIC today, TCP as a fallback and simulated links later.
//!
//! A scheduler for several links will stand between [`super::session`] and the links; it needs no more than this.

use bytes::Bytes;
use std::fmt;
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// What a piece is for; larger goes first on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Class {
    /// Finished segments.
    Backlog = 0,
    /// Live pictures.
    Live = 10,
    /// What a decoder cannot start without: headers, parameters, key frames.
    Key = 11,
    /// Live sound.
    Audio = 20,
    /// Messages.
    Control = 30,
}

/// Why a piece did not arrive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Its deadline passed; the receiver may have a part of it.
    #[error("expired")]
    Expired,
    /// The link is gone; the reason is the peer's code if it gave one.
    #[error("the link is closed: {0}")]
    Closed(String),
}

/// An established, authenticated link; cheap to clone.
pub trait Link: Clone + Send + Sync + 'static {
    /// Sends a piece on its own, and resolves when the peer's transport has all of it. Dropping the future cancels:
    /// what was not sent is not sent any more.
    fn send(
        &self,
        class: Class,
        pieces: Vec<Bytes>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<(), SendError>> + Send;

    /// Ends the link at once; the peer sees the code.
    fn close(&self, code: &str);

    /// Resolves when the link is gone, with the peer's code or what the transport says.
    fn closed(&self) -> impl Future<Output = String> + Send;
}

/// The control stream's two halves.
pub type Control = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// Makes links.
pub trait Dialer: Send + Sync + 'static {
    /// What it makes.
    type Link: Link;

    /// Connects once, within the transport's own time-out; gives the link and its control stream.
    fn dial(&self) -> impl Future<Output = Result<(Self::Link, Control), DialError>> + Send;
}

/// Why there is no link.
#[derive(Debug)]
pub struct DialError {
    /// Stable code: `relay-unreachable`, `tls-wrong-issuer`, `relay-tls-rejected` …
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl std::error::Error for DialError {}

impl crate::base::reason::Coded for DialError {
    fn code(&self) -> &'static str {
        self.code
    }
}
