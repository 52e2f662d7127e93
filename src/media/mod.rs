//! Pictures and sound as the box handles them: access units, tracks, timeline, hub, MP4.
//!
//! Belongs here: everything about coded media that is independent of how it arrived and of how it is sealed. Pure; only
//! `hub` uses `tokio::sync`. Does not belong here: RTP (see `ingest`), encryption (see `seal`), files (see `store`).

pub mod intake;
pub mod mp4;
pub mod timeline;
pub mod unit;

pub use intake::{Feed, Intake};
pub use unit::{AccessUnit, Codec, Gap, GapCause, Item, TrackId, TrackParams, UnitFlags};
