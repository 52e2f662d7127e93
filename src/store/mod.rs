//! The store: writes sealed segments to the card, keeps the journal, recovers after a cut, and gives the backlog out.
//!
//! Belongs here: files, their order of durability, the catalog, retention. Does not belong here: the layout of a
//! segment or the meaning of a journal entry (see [`crate::seal`], `docs/spec/sealed-segment.md`), cards and partitions
//! (room `system`), the network (room `relay`). `store` inserts no byte into a segment file.
//!
//! # Files
//!
//! | where | what |
//! |---|---|
//! | card `segments/<segment id>.mvs` | one sealed segment each, append-only |
//! | card `journal/<first seq>.mvj` | frames of the journal (`base::chain`), rolled at 1 MiB; a run of entries without holes |
//! | card `card.id` | 16 random bytes as hex: which card this is |
//! | internal `journal.head` | journal head, and the head that each known card reached; replaced whole |
//! | internal `catalog.db` | SQLite projection of the journal; rebuilt when missing, corrupt, older or newer |
//! | internal `receipts.log` | the cloud's receipts, appended and synced before the catalog knows them |
//!
//! # Order of writing (one lane, one writer, in this order)
//!
//! 1. A segment starts: `opened` is appended to the journal, the file is created, HEADER and CKPT 0 follow.
//! 2. Frames wait in memory for at most 0.5 s and are then appended in one write per segment.
//! 3. Once a second `seal` puts a CKPT into every open segment; all frames are appended; **one `syncfs`** makes segments
//!    and journal durable for all cameras. Bytes leave the lane only now: an I/O error before it loses nothing, the
//!    same bytes are written again at the same offsets.
//! 4. A segment ends: END is appended like any frame. After the next group sync END is durable, and only then `closed`
//!    is appended to the journal, to become durable with the group sync after that.
//! 5. After each group sync: the journal's durable head goes to `journal.head` (at once if an entry is new and 5 s have
//!    passed, in any case within 10 s), the durable entries go to the catalog, the relay is woken.
//! 6. A segment is erased: `destroyed` is durable in the journal, then the file is unlinked.
//! 7. A receipt: appended to `receipts.log` and synced, then the catalog.
//!
//! # Recovery (before anything is written)
//!
//! 1. Read the journal after the catalog's position; cut a torn tail to the last whole valid entry.
//! 2. If the journal does not reach the head in `journal.head`: `card-rolled-back`. Nothing is truncated, nothing is
//!    erased until an administrator accepts the card; recording goes on in a new journal file that follows the internal
//!    head and starts with the signed alarm.
//! 3. Else each segment of the journal's last run without `closed`: a valid END → `closed`. Otherwise truncate to the
//!    last valid CKPT, append END{power-cut | crash}, sync, `closed` with `cut`, `gap` with the bound of the loss. A file
//!    without any valid CKPT held nothing that was promised: `gap`, `destroyed`, unlink.
//! 4. A file of that run which the journal does not know (its `opened` was lost with the power) is `adopted`, then as 3.
//!    Any other unknown file is left alone and reported: `replayed`, `foreign` or `unreadable`.
//! 5. Only then `run started` is appended and synced. A recovery that is itself cut is simply done again.

mod append;
mod catalog;
mod erase;
pub mod error;
mod internal;
mod journal;
mod lane;
mod listing;
pub mod recorder;
mod recording;
pub mod recovery;
#[cfg(feature = "sim")]
pub mod rig;
mod salvage;
pub mod settings;
pub mod source;
pub mod status;
pub mod volume;
mod writer;

pub use error::Error;
pub use listing::list;
pub use recorder::{Preview, Recorder, RecorderHandle};
pub use recovery::{Opened, Options, Recovered, Stray};
pub use settings::{CameraSettings, Limits, Policy, Settings};
pub use source::Store;
pub use status::{CameraStatus, RecordingInfo, SegmentInfo, SegmentState, State, Status};
pub use volume::{Directory, FileInfo, Space, Volume};

/// Folder of the segment files on the card.
const SEGMENTS: &str = "segments";

/// Where a segment's file is.
#[must_use]
pub fn segment_path(segment: crate::base::ids::SegmentId) -> String {
    format!("{SEGMENTS}/{segment}.mvs")
}

/// The segment that a file's name says it is.
fn segment_of(name: &str) -> Option<crate::base::ids::SegmentId> {
    name.strip_suffix(".mvs")?.parse().ok()
}
