//! Opens sealed footage with a key: reading recordings, exporting them as MP4, live fragments for browsers.
//!
//! Belongs here: the order of segments, what is playable, progress. Does not belong here: the layout of segments and the
//! cipher (`seal`), where keys come from, files and databases (callers give bytes).

pub mod export;
pub mod footage;
pub mod live;

pub use export::{Report, export};
pub use footage::{Footage, FootageError, LeftOut, SegmentBytes};
