//! One append-only file on a volume that may fail: bytes stay in memory until a sync made them durable.
//!
//! After a failed sync nobody knows what the card holds, and the kernel may have dropped the pages: the same bytes are
//! then written again at the same offsets. That is why the lane counts bytes until they are synced, not until written.

use crate::store::Volume;
use crate::store::volume::write_all_at;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;

/// A file that grows.
#[derive(Debug)]
pub(crate) struct Appender {
    path: String,
    created: bool,
    /// Everything before is durable; the first pending byte has this offset.
    synced: u64,
    /// Everything before was handed to the file system.
    written: u64,
    end: u64,
    pending: VecDeque<Bytes>,
}

impl Appender {
    /// A file that is created with its first bytes.
    pub(crate) fn create(path: String) -> Self {
        Self { path, created: false, synced: 0, written: 0, end: 0, pending: VecDeque::new() }
    }

    /// A file that exists and is durable up to `size`.
    pub(crate) fn existing(path: String, size: u64) -> Self {
        Self { path, created: true, synced: size, written: size, end: size, pending: VecDeque::new() }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Offset after the last byte that was pushed.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that a power cut may take.
    pub(crate) fn pending(&self) -> u64 {
        self.end - self.synced
    }

    /// Whether anything waits to be written.
    pub(crate) fn dirty(&self) -> bool {
        self.written < self.end
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.end += bytes.len() as u64;
        self.pending.push_back(bytes);
    }

    /// Hands everything to the file system, in one write: small appends would cost a system call each.
    ///
    /// # Errors
    /// The volume's; whatever was not written is written by the next call.
    pub(crate) fn write(&mut self, volume: &dyn Volume) -> io::Result<()> {
        if !self.dirty() {
            return Ok(());
        }
        if !self.created {
            match volume.create(&self.path) {
                // An earlier attempt made it and then failed: names are random, or were free when chosen.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            self.created = true;
        }
        let mut at = self.synced;
        let mut batch = Vec::with_capacity(usize::try_from(self.end - self.written).unwrap_or(0));
        for bytes in &self.pending {
            let skip = usize::try_from(self.written.saturating_sub(at)).unwrap_or(usize::MAX);
            batch.extend_from_slice(bytes.get(skip..).unwrap_or_default());
            at += bytes.len() as u64;
        }
        write_all_at(volume, &self.path, self.written, &batch)?;
        self.written = self.end;
        Ok(())
    }

    /// A sync made everything durable that was written. Returns the number of bytes that may leave memory.
    pub(crate) fn synced(&mut self) -> u64 {
        let mut released = 0;
        while let Some(first) = self.pending.front() {
            let len = first.len() as u64;
            if self.synced + len > self.written {
                break;
            }
            self.synced += len;
            released += len;
            self.pending.pop_front();
        }
        released
    }

    /// A sync failed: nothing since the last good one can be trusted to be on the card.
    pub(crate) fn rewind(&mut self) {
        self.written = self.synced;
    }
}

#[cfg(feature = "sim")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::volume::{FaultVolume, Loss, OpKind};

    #[test]
    fn bytes_stay_in_memory_until_a_sync_and_are_written_again_after_a_failed_one() {
        let volume = FaultVolume::new();
        let mut file = Appender::create("f".into());
        file.push(Bytes::from_static(b"abc"));
        file.push(Bytes::from_static(b"de"));
        volume.short_writes(true);
        file.write(&volume).expect("writes through short writes");
        assert_eq!((file.pending(), file.dirty()), (5, false));
        // The sync failed, and the card lost what was written.
        volume.fail(OpKind::Sync, 1, io::ErrorKind::Other);
        assert!(volume.sync_all().is_err());
        let volume = volume.survivor(Loss::Lost, 0);
        volume.plant("f", b"");
        file.rewind();
        file.push(Bytes::from_static(b"f"));
        volume.fail(OpKind::Write, 1, io::ErrorKind::StorageFull);
        assert!(file.write(&volume).is_err());
        file.write(&volume).expect("writes");
        volume.sync_all().expect("syncs");
        assert_eq!(file.synced(), 6);
        assert_eq!((file.pending(), volume.files()["f"].as_slice()), (0, &b"abcdef"[..]));
    }
}
