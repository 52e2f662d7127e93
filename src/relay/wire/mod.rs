//! What crosses a link, byte for byte. Spec: `docs/spec/relay.md`.

pub mod control;
pub mod io;
pub mod stream;

pub use control::Message;
pub use stream::{ChunkHead, LiveHead};

use crate::base::reason::Coded;

/// Version of the protocol that this code speaks.
pub const VERSION: u16 = 1;
/// Largest control message: type and CBOR.
pub const MAX_CONTROL: usize = 256 * 1024;
/// Ranges, cameras and segments that one message may list.
pub const MAX_LIST: usize = 256;
/// Largest LIVE fragment's payload.
pub const MAX_FRAGMENT: usize = 16 * 1024;
/// Largest CHUNK payload.
pub const MAX_CHUNK: usize = 64 * 1024;

/// A breach of the protocol: the connection is closed with its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// A length field outside its bounds.
    #[error("a message or payload of a length that is not allowed")]
    Length,
    /// Not canonical CBOR of the message's shape.
    #[error("a malformed message")]
    Malformed,
    /// A type that every speaker of the version must know, and that is none.
    #[error("an unknown critical message type")]
    UnknownType,
    /// A known message that this side never gets, or not at this point.
    #[error("a message out of order")]
    OutOfOrder,
    /// No version in common.
    #[error("no version in common")]
    Version,
    /// The session's facts contradict the peer's key: another box, organisation or pairing.
    #[error("a session for another box, organisation or pairing")]
    WrongParty,
    /// Another key joins a bond.
    #[error("a bond of another box")]
    ForeignBond,
    /// A fragment that lies outside its frame or file.
    #[error("bytes outside their frame or object")]
    Outside,
    /// A chunk of something that was not offered, or beyond the credit.
    #[error("a chunk that was not asked for")]
    Unasked,
    /// A signed statement whose signature or fields are wrong.
    #[error("a statement that does not verify")]
    BadStatement,
    /// More streams, subscriptions or objects than allowed.
    #[error("more than the limits allow")]
    TooMany,
    /// The control stream ended or never came.
    #[error("no control stream")]
    NoControl,
    /// Journal entries that are not signed by this box.
    #[error("journal entries that do not verify")]
    BadJournal,
}

impl Coded for Violation {
    fn code(&self) -> &'static str {
        match self {
            Self::Length => "relay-length",
            Self::Malformed => "relay-malformed",
            Self::UnknownType => "relay-unknown-type",
            Self::OutOfOrder => "relay-out-of-order",
            Self::Version => "relay-version",
            Self::WrongParty => "relay-wrong-party",
            Self::ForeignBond => "relay-foreign-bond",
            Self::Outside => "relay-outside",
            Self::Unasked => "relay-unasked",
            Self::BadStatement => "relay-bad-statement",
            Self::TooMany => "relay-too-many",
            Self::NoControl => "relay-no-control",
            Self::BadJournal => "relay-bad-journal",
        }
    }
}
