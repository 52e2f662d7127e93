//! Sealed segments: the byte layout, the keys, the journal's meaning and the proof. Spec: `docs/spec/sealed-segment.md`.
//!
//! `seal` alone lays out a segment file: it turns each access unit into sealed frames once, and whoever stores or sends
//! them copies bytes. Pure: no clock, socket or file inside; time, randomness and the signing key are passed in.
//! AEAD crates are used here and in `trust::secrets` only.

pub mod frame;
pub mod header;
pub mod journal;
pub mod keyfile;
pub mod keys;
pub mod open;
pub mod recipients;
pub mod record;
#[cfg(test)]
mod round_trip;
pub mod scan;
pub mod sealer;
pub(crate) mod signed;
pub mod source;
pub mod verify;

pub use frame::{FrameHint, FrameKind, SealedFrame, Tap};
pub use header::{Header, HeaderError, Meta, SegmentFlags};
pub use journal::JournalEntry;
pub use open::{OpenError, Reader, Record, SegmentKey};
pub use recipients::{RecipientKey, RecipientRole, RecipientSecret, Recipients};
pub use record::{Event, Position};
pub use scan::{Ended, Fault, Point, Scan, Scanner};
pub use sealer::{EndReason, Finished, Prev, Sealer, SegmentStart};
pub use source::{Receipt, SegmentOffer, SegmentSource, UploadClass};
