//! What may be erased when the card is full, and in which order. Spec: DESIGN promises in `docs/architecture.md`,
//! "Retention".
//!
//! 1. Uploaded, not held, and the cloud has freshly said yes to ERASE?.
//! 2. Offline only (the card has been short for a while and no answer to ERASE? came): uploaded by its receipt, not held.
//! 3. Background that no event promoted.
//! 4. Never uploaded, unmarked, not held: with an alarm.
//!
//! Held footage, marked footage that is not uploaded, and damaged files are never erased by themselves. A segment to
//! which the cloud said no is not erased on the strength of a receipt: a cloud restored from a backup may have lost it.
//! While the cloud may still answer for an uploaded segment, nothing of 2 to 4 is erased.

use crate::base::ids::SegmentId;
use crate::base::units::BootTime;
use crate::store::catalog::{Catalog, Cause};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// A yes is fresh for this long.
const FRESH: Duration = Duration::from_secs(600);
/// The cloud is waited for this long after the card became short, and after its last answer. The relay asks every 10 s;
/// `keep_free` by default holds what eight cameras of 8 Mb/s record in the meantime.
const REACHABLE: Duration = Duration::from_secs(30);
/// Answers that are remembered; the cloud is asked again for the rest.
const MAX_ANSWERS: usize = 4096;

/// The cloud's answers to ERASE? in this run.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    yes: HashMap<SegmentId, BootTime>,
    no: HashSet<SegmentId>,
    answered: Option<BootTime>,
    /// Since when the card has been short of room.
    short: Option<BootTime>,
}

impl Permissions {
    /// A session begins: what another said, or the same cloud in another state, is not fresh any more.
    pub(crate) fn session_began(&mut self) {
        self.yes.clear();
    }

    pub(crate) fn answered(&mut self, yes: &[SegmentId], no: &[SegmentId], now: BootTime) {
        self.yes.retain(|_, at| now.since(*at) < FRESH);
        if self.yes.len() + self.no.len() > MAX_ANSWERS {
            self.yes.clear();
            // Forgetting a no would let a receipt count again; keep those, they are 16 bytes each.
        }
        self.answered = Some(now);
        for segment in yes {
            self.no.remove(segment);
            self.yes.insert(*segment, now);
        }
        for segment in no {
            self.yes.remove(segment);
            self.no.insert(*segment);
        }
    }

    /// The card has room again.
    pub(crate) fn enough(&mut self) {
        self.short = None;
    }

    /// What to erase next, at most `limit`, all of the most dispensable kind that there is.
    pub(crate) fn choose(
        &mut self,
        catalog: &Catalog,
        now: BootTime,
        limit: usize,
    ) -> Result<Vec<(SegmentId, Cause)>, rusqlite::Error> {
        let fresh = |at: &BootTime| now.since(*at) < FRESH;
        let short = *self.short.get_or_insert(now);
        let heard = self.answered.map_or(short, |at| at.max(short));
        let reachable = now.since(heard) < REACHABLE;
        let uploaded = catalog.uploaded(None, 0, MAX_ANSWERS)?;
        let mut chosen: Vec<_> = uploaded
            .iter()
            .filter(|one| self.yes.get(&one.segment).is_some_and(fresh))
            .map(|one| (one.segment, Cause::Uploaded))
            .take(limit)
            .collect();
        if chosen.is_empty() {
            let mut waiting = uploaded.iter().filter(|one| !self.no.contains(&one.segment)).peekable();
            if reachable && waiting.peek().is_some() {
                return Ok(Vec::new());
            }
            // Alone, a receipt counts only if it says that the cloud could open the file.
            let receipts = waiting.filter(|one| one.opened);
            chosen = receipts.map(|one| (one.segment, Cause::Receipt)).take(limit).collect();
        }
        if chosen.is_empty() {
            chosen =
                catalog.dispensable(true, limit)?.into_iter().map(|segment| (segment, Cause::Background)).collect();
        }
        if chosen.is_empty() {
            // One by one: the last resort takes no more than it must.
            chosen = catalog.dispensable(false, 1)?.into_iter().map(|segment| (segment, Cause::Full)).collect();
        }
        Ok(chosen)
    }
}
