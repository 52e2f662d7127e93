//! The recorder's own lane: what waits for the card, counted in bytes until it is durable.
//!
//! The recorder asks for room before a unit is sealed, so no frame is ever laid out and then refused. Clear frames and
//! journal entries are always let in: they are small, and a segment must be able to end.

use crate::base::units::{BootTime, ByteCount};
use crate::seal::{EndReason, Finished, JournalEntry, SealedFrame};
use crate::store::writer::Writer;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

/// What the writer is to do, in order.
pub(crate) enum Op {
    /// Append to a segment's file; a HEADER makes the file.
    Frame(SealedFrame),
    /// The segment's END was handed over before: close it once END is durable.
    Ended(Finished, EndReason),
    /// Append to the journal what happened at that time: in a stall the writer comes to it much later.
    Journal(JournalEntry, BootTime),
    /// Hand everything to the file system (0.5 s).
    Flush,
    /// One group sync; the checkpoints before it were laid out at this time.
    Sync(BootTime),
    /// Background footage that no event promoted in time.
    Expire(crate::base::ids::SegmentId),
    /// Run something on the writer's thread, between operations.
    Call(Box<dyn FnOnce(&mut Writer) + Send>),
    /// Make everything durable and stop; the answer says whether it is.
    Stop(tokio::sync::oneshot::Sender<bool>),
}

/// Shared between the recorder (fills), the writer (drains) and the store's handle (calls).
pub(crate) struct Lane {
    ops: Sender<Op>,
    used: AtomicU64,
    capacity: AtomicU64,
    synced: AtomicU64,
    trouble: Mutex<Option<&'static str>>,
}

impl Lane {
    pub(crate) fn new(capacity: ByteCount, now: BootTime) -> (Self, Receiver<Op>) {
        let (ops, receiver) = channel();
        let lane = Self {
            ops,
            used: AtomicU64::new(0),
            capacity: AtomicU64::new(capacity.0),
            synced: AtomicU64::new(now.0),
            trouble: Mutex::default(),
        };
        (lane, receiver)
    }

    /// Hands an operation over; false if the writer is gone.
    pub(crate) fn send(&self, op: Op) -> bool {
        if let Op::Frame(frame) = &op {
            self.used.fetch_add(frame.bytes.len() as u64, Ordering::Relaxed);
        }
        self.ops.send(op).is_ok()
    }

    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.used().0.saturating_add(bytes) <= self.capacity().0
    }

    pub(crate) fn half_empty(&self) -> bool {
        self.used().0 <= self.capacity().0 / 2
    }

    pub(crate) fn used(&self) -> ByteCount {
        ByteCount(self.used.load(Ordering::Relaxed))
    }

    pub(crate) fn capacity(&self) -> ByteCount {
        ByteCount(self.capacity.load(Ordering::Relaxed))
    }

    pub(crate) fn set_capacity(&self, capacity: ByteCount) {
        self.capacity.store(capacity.0, Ordering::Relaxed);
    }

    /// When the last checkpoints that are durable were laid out.
    pub(crate) fn synced_at(&self) -> BootTime {
        BootTime(self.synced.load(Ordering::Relaxed))
    }

    /// Why the card does not take anything now.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn released(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_synced(&self, at: BootTime) {
        self.synced.fetch_max(at.0, Ordering::Relaxed);
    }

    pub(crate) fn set_trouble(&self, code: Option<&'static str>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = code;
    }
}
