//! What is on a card, read without the daemon: from its journal and headers alone, and changing nothing.
//!
//! Nothing is proven here (`mvbctl verify` does that with the evidence key), and nothing is known of what was uploaded:
//! the receipts are on the box's internal storage.

use crate::base::ids::SegmentId;
use crate::store::catalog::Catalog;
use crate::store::{Error, RecordingInfo, SEGMENTS, Volume, journal, recovery, segment_of};
use std::collections::HashSet;

/// The recordings on a card, newest first.
///
/// # Errors
/// The card cannot be read, or holds no store.
pub fn list(volume: &dyn Volume) -> Result<Vec<RecordingInfo>, Error> {
    let catalog = |source| Error::Catalog { action: "list a card", source };
    let card = |source| Error::Card { action: "list", path: SEGMENTS.to_owned(), source };
    let files = volume.list(SEGMENTS).map_err(card)?;
    let mut db = Catalog::in_memory().map_err(catalog)?;
    journal::walk::<Error>(volume, None, None, |signed, _| {
        db.apply(signed, &|segment| recovery::header(volume, segment)).map_err(catalog)
    })?;
    let there: HashSet<SegmentId> = files.iter().filter_map(|file| segment_of(&file.name)).collect();
    db.set_present(&there).map_err(catalog)?;
    db.recordings(None).map_err(catalog)
}
