//! Walks a segment's clear structure without any content key: for recovery, verification and receiving.

use crate::base::chain::{PublicKey, Signer};
use crate::base::ids::Digest;
use crate::base::units::{BootTime, Run};
use crate::seal::{EndReason, Finished, Header, Prev};
use std::sync::Arc;

/// A checkpoint whose signature covers everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// 0, 1, 2 …
    pub number: u32,
    /// Sealed records before it.
    pub records: u32,
    /// First byte after it.
    pub offset: u64,
    /// When.
    pub at: BootTime,
    /// Written by which run.
    pub run: Run,
}

/// The END frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// What came before.
    pub prev: Prev,
    /// Which run wrote it.
    pub run: Run,
    /// Digests and counts.
    pub finished: Finished,
}

/// What is wrong, and from where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// First byte that cannot be vouched for because of it.
    pub at: u64,
    /// Stable code: `segment-flipped`, `segment-truncated`, …
    pub code: &'static str,
}

/// What a walk found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The header, if it is whole and well formed.
    pub header: Option<Header>,
    /// The last valid checkpoint.
    pub last: Option<Point>,
    /// The end, if it is there and valid.
    pub end: Option<Ended>,
    /// What is wrong. An open segment that simply stops has none.
    pub fault: Option<Fault>,
    /// Bytes seen.
    pub size: u64,
    /// SHA-256 of all bytes seen.
    pub sha256: Digest,
}

/// Walks bytes in file order.
pub struct Scanner {
    _private: (),
}

impl Scanner {
    /// Signatures are checked with `key`, the evidence key of the box that the header names.
    #[must_use]
    pub fn new(_key: PublicKey) -> Self {
        todo!()
    }

    /// The next bytes of the file, any number.
    pub fn push(&mut self, _bytes: &[u8]) {
        todo!()
    }

    /// The last valid checkpoint so far.
    #[must_use]
    pub fn last(&self) -> Option<Point> {
        todo!()
    }

    /// The END that recovery appends at `last().offset`, after everything beyond was truncated.
    #[must_use]
    pub fn recovery_end(
        &self,
        _reason: EndReason,
        _prev: Prev,
        _run: Run,
        _at: BootTime,
        _signer: &Arc<dyn Signer>,
    ) -> Option<(Vec<u8>, Finished)> {
        todo!()
    }

    /// The verdict.
    #[must_use]
    pub fn finish(self) -> Scan {
        todo!()
    }
}
