//! `mvb`: open firmware of a Mobile Video Box, and its counterpart in the cloud.
//!
//! A frame travels through the rooms in this order; the table of who may use whom is in `docs/architecture.md` and
//! `tests/layering.rs` enforces it.
//!
//! | room | what lives here |
//! |---|---|
//! | [`base`] | identifiers, units, time, reason codes, canonical CBOR, the signed chain |
//! | [`media`] | access units, tracks, timeline, hub, MP4 |
//! | [`seal`] | sealed segments: layout, keys, journal format, verification |
//! | [`control`] | configuration, roster, commands, status, `mvbctl` |
//! | [`daemon`] | the assembly of `mvbd` in boot order, supervisor, shutdown |
//! | [`store`] | writer, volume, journal files, catalog, recovery, retention |

// Tests may spawn on the runtime of the test itself.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod base;
#[cfg(feature = "cloud")]
pub mod cloud;
pub mod control;
pub mod daemon;
pub mod ingest;
pub mod media;
pub mod play;
pub mod relay;
pub mod seal;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
pub mod trust;
