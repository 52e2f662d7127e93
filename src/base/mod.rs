//! What every room may use: identifiers, units, time, reason codes, canonical CBOR, the signed chain.
//!
//! Belongs here: small, dependency-free building blocks that at least two rooms share.
//! Does not belong here: anything that knows about video, segments, networks or configuration.

pub mod cbor;
pub mod chain;
pub mod clock;
pub mod framing;
pub mod fs;
pub mod ids;
pub mod log;
pub mod reason;
pub mod tasks;
pub mod units;
