//! A card in memory that fails on request: short writes, errors, a full card, a stall, and power cut after operation N.
//!
//! The model is harsher than ext4: until a sync returned, a file's bytes, its creation, its truncation and its removal
//! may each be lost alone, in any order, and bytes may be lost in the middle of what was written after them. What a cut
//! leaves is chosen by a seed, so that a failing case can be run again.

use crate::store::{FileInfo, Space, Volume};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How unsynced data go when power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it is lost.
    Lost,
    /// All of it survives, as if the cache had just been written.
    Kept,
    /// It survives up to some operation of each file; the last one in part.
    Torn,
    /// Any sector of it survives or does not; holes read as zeroes.
    Reordered,
}

/// An operation, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// [`Volume::create`], [`Volume::make_folder`].
    Create,
    /// [`Volume::write_at`].
    Write,
    /// [`Volume::read_at`], [`Volume::size`], [`Volume::list`].
    Read,
    /// [`Volume::truncate`].
    Truncate,
    /// [`Volume::unlink`].
    Unlink,
    /// [`Volume::sync`], [`Volume::sync_all`].
    Sync,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Truncate(u64),
}

#[derive(Debug, Clone, Default)]
struct FileState {
    now: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
    /// Its entry in the folder is durable.
    named: bool,
    /// Unlinked, and that is not durable yet.
    unlinked: bool,
    /// The how-manieth file it was: names are random, and the same seed must do the same again.
    order: u64,
}

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<String, FileState>,
    operations: u64,
    cut_after: Option<u64>,
    log: Vec<(OpKind, String)>,
    script: Vec<(OpKind, u32, io::ErrorKind)>,
    short_writes: bool,
    capacity: u64,
    stalled: bool,
    written: u64,
}

/// The card; cloning gives another handle to the same card.
#[derive(Clone, Default)]
pub struct FaultVolume(Arc<(Mutex<Inner>, Condvar)>);

/// A small repeatable generator (SplitMix64).
#[derive(Debug, Clone)]
pub struct Seeded(pub u64);

impl Seeded {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (0 for `n` = 0).
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.draw() % n }
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.draw() & 1 == 1
    }
}

impl FaultVolume {
    /// An empty card of 1 GiB.
    #[must_use]
    pub fn new() -> Self {
        let volume = Self::default();
        volume.inner().capacity = 1 << 30;
        volume
    }

    /// Operations so far; each is a point at which power can be cut.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.inner().operations
    }

    /// Kind and path of each changing operation so far.
    #[must_use]
    pub fn log(&self) -> Vec<(OpKind, String)> {
        self.inner().log.clone()
    }

    /// Bytes written so far, rewritten ones too.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.inner().written
    }

    /// Power goes after `n` changing operations in all; everything fails from then on.
    pub fn cut_after(&self, n: u64) {
        self.inner().cut_after = Some(n);
    }

    /// Whether power is gone.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        let inner = self.inner();
        inner.cut_after.is_some_and(|n| inner.operations >= n)
    }

    /// The next `times` operations of a kind fail.
    pub fn fail(&self, kind: OpKind, times: u32, error: io::ErrorKind) {
        self.inner().script.push((kind, times, error));
    }

    /// Every write stores half of what was asked (at least one byte).
    pub fn short_writes(&self, on: bool) {
        self.inner().short_writes = on;
    }

    /// Size of the card, bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.inner().capacity = bytes;
    }

    /// While stalled, changing operations block.
    pub fn stall(&self, on: bool) {
        self.inner().stalled = on;
        self.0.1.notify_all();
    }

    /// Flips bits of a byte, now and durably: bit rot.
    pub fn flip(&self, path: &str, at: usize, bits: u8) {
        let mut inner = self.inner();
        let file = inner.files.get_mut(path).expect("the file exists");
        file.now[at] ^= bits;
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= bits;
        }
    }

    /// Cuts a file, durably, behind the store's back.
    pub fn chop(&self, path: &str, size: usize) {
        let mut inner = self.inner();
        let file = inner.files.get_mut(path).expect("the file exists");
        file.now.truncate(size);
        file.durable.truncate(size);
        file.changes.clear();
    }

    /// Places a file, durably, behind the store's back.
    pub fn plant(&self, path: &str, bytes: &[u8]) {
        let file = FileState { now: bytes.to_vec(), durable: bytes.to_vec(), named: true, ..FileState::default() };
        self.inner().files.insert(path.to_owned(), file);
    }

    /// The card as it is now, synced or not: to roll it back later, or to look at it.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        self.survivor(Loss::Kept, 0)
    }

    /// All files, as read now.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.inner();
        inner.files.iter().filter(|(_, f)| !f.unlinked).map(|(path, f)| (path.clone(), f.now.clone())).collect()
    }

    /// What the card holds when power comes back.
    #[must_use]
    pub fn survivor(&self, loss: Loss, seed: u64) -> Self {
        let mut random = Seeded(seed);
        let inner = self.inner();
        let mut files = BTreeMap::new();
        let mut by_age: Vec<_> = inner.files.iter().collect();
        by_age.sort_by_key(|(_, file)| file.order);
        for (path, file) in by_age {
            let keep = |random: &mut Seeded| match loss {
                Loss::Lost => false,
                Loss::Kept => true,
                Loss::Torn | Loss::Reordered => random.coin(),
            };
            if (file.unlinked && keep(&mut random)) || (!file.named && !keep(&mut random)) {
                continue;
            }
            let bytes = survived(file, loss, &mut random);
            files.insert(
                path.clone(),
                FileState {
                    now: bytes.clone(),
                    durable: bytes,
                    named: true,
                    order: file.order,
                    ..FileState::default()
                },
            );
        }
        let survivor = Self::new();
        {
            let mut fresh = survivor.inner();
            fresh.files = files;
            fresh.capacity = inner.capacity;
        }
        survivor
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and refuses; the guard that comes back is the moment in which the operation happens.
    fn begin(&self, kind: OpKind, path: &str) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.inner();
        if kind != OpKind::Read {
            while inner.stalled {
                inner = self.0.1.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if inner.cut_after.is_some_and(|n| inner.operations >= n) {
            return Err(io::Error::other("power is gone"));
        }
        if let Some(at) = inner.script.iter().position(|(k, times, _)| *k == kind && *times > 0) {
            let (_, times, error) = &mut inner.script[at];
            *times -= 1;
            return Err((*error).into());
        }
        if kind != OpKind::Read {
            inner.operations += 1;
            inner.log.push((kind, path.to_owned()));
        }
        Ok(inner)
    }
}

fn survived(file: &FileState, loss: Loss, random: &mut Seeded) -> Vec<u8> {
    const SECTOR: usize = 512;
    match loss {
        Loss::Lost => file.durable.clone(),
        Loss::Kept => file.now.clone(),
        Loss::Torn => {
            let mut bytes = file.durable.clone();
            let whole = usize::try_from(random.below(file.changes.len() as u64 + 1)).unwrap_or(0);
            for change in file.changes.iter().take(whole) {
                apply(&mut bytes, change);
            }
            if let Some(Change::Write { offset, bytes: last }) = file.changes.get(whole) {
                let part = usize::try_from(random.below(last.len() as u64 + 1)).unwrap_or(0);
                apply(&mut bytes, &Change::Write { offset: *offset, bytes: last[..part].to_vec() });
            }
            bytes
        }
        Loss::Reordered => {
            // The size is old or new; each sector that differs is old (zero beyond the old end) or new.
            let size = if random.coin() { file.now.len() } else { file.durable.len() };
            let mut bytes = file.durable.clone();
            bytes.resize(size, 0);
            for (at, sector) in file.now.chunks(SECTOR).enumerate() {
                let from = at * SECTOR;
                if random.coin() && from < size {
                    let n = sector.len().min(size - from);
                    bytes[from..from + n].copy_from_slice(&sector[..n]);
                }
            }
            bytes
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Truncate(size) => bytes.truncate(usize::try_from(*size).unwrap_or(usize::MAX)),
        Change::Write { offset, bytes: new } => {
            let from = usize::try_from(*offset).expect("small files");
            if bytes.len() < from + new.len() {
                bytes.resize(from + new.len(), 0);
            }
            bytes[from..from + new.len()].copy_from_slice(new);
        }
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Volume for FaultVolume {
    fn make_folder(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &str) -> io::Result<()> {
        let mut inner = self.begin(OpKind::Create, path)?;
        match inner.files.get_mut(path) {
            Some(file) if !file.unlinked => Err(io::ErrorKind::AlreadyExists.into()),
            _ => {
                let order = inner.operations;
                inner.files.insert(path.to_owned(), FileState { order, ..FileState::default() });
                Ok(())
            }
        }
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.begin(OpKind::Write, path)?;
        let used: u64 = inner.files.values().filter(|f| !f.unlinked).map(|f| f.now.len() as u64).sum();
        let n = if inner.short_writes { bytes.len().div_ceil(2) } else { bytes.len() };
        let capacity = inner.capacity;
        let file = inner.files.get_mut(path).filter(|f| !f.unlinked).ok_or_else(missing)?;
        let grows = (offset + n as u64).saturating_sub(file.now.len() as u64);
        if used + grows > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let change = Change::Write { offset, bytes: bytes[..n].to_vec() };
        apply(&mut file.now, &change);
        file.changes.push(change);
        inner.written += n as u64;
        Ok(n)
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let inner = self.begin(OpKind::Read, path)?;
        let file = inner.files.get(path).filter(|f| !f.unlinked).ok_or_else(missing)?;
        let rest = usize::try_from(offset).ok().and_then(|from| file.now.get(from..)).unwrap_or_default();
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn truncate(&self, path: &str, size: u64) -> io::Result<()> {
        let mut inner = self.begin(OpKind::Truncate, path)?;
        let file = inner.files.get_mut(path).filter(|f| !f.unlinked).ok_or_else(missing)?;
        apply(&mut file.now, &Change::Truncate(size));
        file.changes.push(Change::Truncate(size));
        Ok(())
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let mut inner = self.begin(OpKind::Unlink, path)?;
        let file = inner.files.get_mut(path).filter(|f| !f.unlinked).ok_or_else(missing)?;
        file.unlinked = true;
        Ok(())
    }

    fn sync(&self, path: &str) -> io::Result<()> {
        let mut inner = self.begin(OpKind::Sync, path)?;
        let file = inner.files.get_mut(path).filter(|f| !f.unlinked).ok_or_else(missing)?;
        settle(file);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut inner = self.begin(OpKind::Sync, "")?;
        inner.files.retain(|_, file| !file.unlinked);
        inner.files.values_mut().for_each(settle);
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<FileInfo>> {
        let inner = self.begin(OpKind::Read, folder)?;
        Ok(inner
            .files
            .iter()
            .filter(|(_, file)| !file.unlinked)
            .filter_map(|(path, file)| {
                let (within, name) = path.split_once('/')?;
                (within == folder).then(|| FileInfo { name: name.to_owned(), size: file.now.len() as u64 })
            })
            .collect())
    }

    fn size(&self, path: &str) -> io::Result<u64> {
        let inner = self.begin(OpKind::Read, path)?;
        inner.files.get(path).filter(|f| !f.unlinked).map(|file| file.now.len() as u64).ok_or_else(missing)
    }

    fn space(&self) -> io::Result<Space> {
        let inner = self.begin(OpKind::Read, "")?;
        let used: u64 = inner.files.values().filter(|f| !f.unlinked).map(|f| f.now.len() as u64).sum();
        Ok(Space { free: inner.capacity.saturating_sub(used), total: inner.capacity })
    }
}

fn settle(file: &mut FileState) {
    file.durable.clone_from(&file.now);
    file.changes.clear();
    file.named = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_loses_only_what_was_not_synced() {
        let volume = FaultVolume::new();
        volume.create("a/x").expect("creates");
        volume.write_at("a/x", 0, b"old").expect("writes");
        volume.sync_all().expect("syncs");
        volume.write_at("a/x", 3, b"new").expect("writes");
        volume.create("a/y").expect("creates");
        volume.cut_after(volume.operations());
        assert!(volume.write_at("a/x", 6, b"!").is_err());
        assert_eq!(volume.survivor(Loss::Lost, 1).files(), [("a/x".to_owned(), b"old".to_vec())].into());
        assert_eq!(volume.survivor(Loss::Kept, 1).files().len(), 2);
        for seed in 0..50 {
            let files = volume.survivor(Loss::Torn, seed).files();
            assert!(b"oldnew".starts_with(files["a/x"].as_slice()) && files["a/x"].starts_with(b"old"), "seed {seed}");
        }
    }

    #[test]
    fn scripted_faults_happen_once_and_a_full_card_says_so() {
        let volume = FaultVolume::new();
        volume.create("x").expect("creates");
        volume.fail(OpKind::Sync, 1, io::ErrorKind::Other);
        assert!(volume.sync("x").is_err());
        volume.sync("x").expect("the second time it works");
        volume.set_capacity(2);
        assert_eq!(volume.write_at("x", 0, b"abc").expect_err("full").kind(), io::ErrorKind::StorageFull);
        volume.short_writes(true);
        assert_eq!(volume.write_at("x", 0, b"ab").expect("half"), 1);
    }
}
