//! Opened records of one camera into fragments of MP4: the seam to `play`.
//!
//! Belongs here: which tracks a browser gets, and when it must start anew. Does not belong here: boxes of MP4. As long as
//! the room `play` has no fragmenter, every camera is answered `codec-unplayable`: said, not left blank.

use super::opener::Init;
use crate::base::units::BootTime;
use crate::seal::Record;
use bytes::Bytes;

/// What records lead to.
#[derive(Debug)]
#[allow(dead_code)] // two of them come with `play`'s fragmenter
pub enum Muxed {
    /// No track of the camera can be played in a browser.
    Unplayable,
    /// A new initialisation segment; fragments after it need it.
    Init(Init),
    /// One fragment.
    Fragment {
        /// `moof` and `mdat`.
        bytes: Bytes,
        /// A player can start here.
        key: bool,
        /// When its first picture was captured.
        captured: BootTime,
        /// The initialisation changed since the last key fragment.
        new_init: bool,
    },
}

/// Makes fragments of one camera's records, in order.
#[derive(Debug, Default)]
pub struct Mux {
    said: bool,
}

impl Mux {
    /// The next record.
    pub fn record(&mut self, record: Record) -> Vec<Muxed> {
        match record {
            Record::Params(_) if !std::mem::replace(&mut self.said, true) => vec![Muxed::Unplayable],
            _ => Vec::new(),
        }
    }
}
