//! Which bytes of a file are there: sorted, disjoint, non-touching ranges. Pure.
//!
//! Belongs here: set arithmetic over byte offsets and its canonical encoding. Does not belong here: files. HAVE of
//! `docs/spec/relay.md` carries at most `MAX_SENT` of these ranges.

use crate::base::cbor;
use std::ops::Range;

/// Most ranges that one HAVE carries.
pub const MAX_SENT: usize = 256;

/// A set of byte offsets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// The ranges, rising.
    #[must_use]
    pub fn as_slice(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Number of offsets in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// End of the last range, zero when empty.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |r| r.end)
    }

    /// End of the range that starts at zero: how far the bytes reach without a hole.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        self.0.first().filter(|r| r.start == 0).map_or(0, |r| r.end)
    }

    /// Whether all of `range` is in the set.
    #[must_use]
    pub fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.0.iter().any(|r| r.start <= range.start && range.end <= r.end)
    }

    /// Adds a range; an empty one changes nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|r| r.end < range.start);
        let last = self.0.partition_point(|r| r.start <= range.end);
        let mut merged = range;
        for r in self.0.get(first..last).unwrap_or_default() {
            merged.start = merged.start.min(r.start);
            merged.end = merged.end.max(r.end);
        }
        self.0.splice(first..last, [merged]);
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        for range in &other.0 {
            self.insert(range.clone());
        }
    }

    /// The parts of `range` that are in the set.
    #[must_use]
    pub fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        self.0.iter().map(|r| r.start.max(range.start)..r.end.min(range.end)).filter(|r| !r.is_empty()).collect()
    }

    /// The parts of `range` that are not in the set.
    #[must_use]
    pub fn missing(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut holes = Vec::new();
        let mut at = range.start;
        for held in self.within(range) {
            if at < held.start {
                holes.push(at..held.start);
            }
            at = held.end;
        }
        if at < range.end {
            holes.push(at..range.end);
        }
        holes
    }

    /// Forgets everything at or beyond `end` and returns what was forgotten.
    pub fn split_off(&mut self, end: u64) -> Self {
        let beyond = Self(self.within(&(end..u64::MAX)));
        self.0 = self.within(&(0..end));
        beyond
    }

    /// At most `MAX_SENT` ranges, the longest when there are more: a peer then sends the rest once again.
    #[must_use]
    pub fn to_send(&self) -> Vec<Range<u64>> {
        let mut ranges = self.0.clone();
        if ranges.len() > MAX_SENT {
            ranges.sort_by_key(|r| std::cmp::Reverse(r.end - r.start));
            ranges.truncate(MAX_SENT);
            ranges.sort_by_key(|r| r.start);
        }
        ranges
    }

    /// Canonical CBOR: an array of starts and ends in turn.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(&self.0.iter().flat_map(|r| [r.start, r.end]).collect::<Vec<u64>>())
    }

    /// Reads [`Self::to_bytes`]; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let flat: Vec<u64> = cbor::decode(bytes, 16 * 1024 * 1024).ok()?;
        if !flat.is_sorted_by(|a, b| a < b) || !flat.len().is_multiple_of(2) {
            return None;
        }
        Some(Self(flat.chunks_exact(2).filter_map(|pair| Some(*pair.first()?..*pair.get(1)?)).collect()))
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(iter: I) -> Self {
        let mut set = Self::default();
        for range in iter {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_ranges_agrees_with_a_set_of_offsets() {
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let mut set = Ranges::default();
            let mut plain = [false; 64];
            for _ in 0..12 {
                let start = next(60);
                let end = (start + next(8)).min(64);
                set.insert(start..end);
                plain[start as usize..end as usize].fill(true);
            }
            let (a, b) = (next(64), next(64));
            let (a, b) = (a.min(b), a.max(b));
            assert_eq!(set.len(), plain.iter().filter(|held| **held).count() as u64);
            assert!(set.as_slice().windows(2).all(|w| w[0].end < w[1].start), "merged: {set:?}");
            let held: Vec<u64> = set.within(&(a..b)).into_iter().flatten().collect();
            assert_eq!(held, (a..b).filter(|i| plain[*i as usize]).collect::<Vec<_>>());
            let missing: Vec<u64> = set.missing(&(a..b)).into_iter().flatten().collect();
            assert_eq!(missing, (a..b).filter(|i| !plain[*i as usize]).collect::<Vec<_>>());
            assert_eq!(set.covers(&(a..b)), missing.is_empty());
            assert_eq!(set.prefix(), plain.iter().take_while(|held| **held).count() as u64);
            assert_eq!(Ranges::from_bytes(&set.to_bytes()), Some(set.clone()));
            let mut low = set.clone();
            let high = low.split_off(a);
            assert!(low.end() <= a);
            low.extend(&high);
            assert_eq!(low, set);
        }
    }

    #[test]
    fn at_most_256_ranges_are_sent_the_longest_ones() {
        let set: Ranges = (0..1000_u64).map(|i| i * 100..i * 100 + 1 + i % 50).collect();
        let sent = set.to_send();
        assert_eq!(sent.len(), MAX_SENT);
        assert!(sent.iter().all(|r| set.covers(r) && r.end - r.start > 30));
    }

    #[test]
    fn foreign_bytes_are_no_ranges() {
        for bad in [&[0x82, 5, 5][..], &[0x82, 6, 5], &[0x81, 1], &[0x80, 0]] {
            assert_eq!(Ranges::from_bytes(bad), None);
        }
    }
}
