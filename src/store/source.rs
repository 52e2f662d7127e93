//! The store's handle: finished segments and the journal for the relay, recordings for people.

use crate::base::chain::{Head, Signed};
use crate::base::ids::{Digest, OrganisationId, SegmentId};
use crate::seal::{Receipt, SegmentOffer, SegmentSource};
use crate::store::{Error, RecordingInfo};
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// Handle to the store; cheap to clone. Methods block on the disk: call them off the runtime.
#[derive(Clone)]
pub struct Store(Arc<()>);

impl Store {
    /// All recordings, newest first. `paired` = the organisation that the box is paired with.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn recordings(&self, _paired: Option<OrganisationId>) -> Result<Vec<RecordingInfo>, Error> {
        todo!()
    }

    /// Sets or lifts a hold: a held segment is never erased.
    ///
    /// # Errors
    /// `UnknownSegment`, or the journal cannot be written.
    pub fn hold(&self, _segment: SegmentId, _held: bool) -> Result<(), Error> {
        todo!()
    }

    /// An administrator accepts a card that was rolled back: segments may be erased again.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn accept_card(&self) -> Result<(), Error> {
        todo!()
    }
}

impl SegmentSource for Store {
    fn offers(&self, _organisation: OrganisationId, _limit: usize) -> io::Result<Vec<SegmentOffer>> {
        todo!()
    }
    fn read(&self, _segment: SegmentId, _offset: u64, _len: usize) -> io::Result<Bytes> {
        todo!()
    }
    fn committed(&self, _receipt: &Receipt) -> io::Result<()> {
        todo!()
    }
    fn rejected(&self, _segment: SegmentId, _reason: &str) -> io::Result<()> {
        todo!()
    }
    fn journal(&self, _after: Option<Head>, _limit: usize) -> io::Result<Vec<Signed>> {
        todo!()
    }
    fn journal_head(&self) -> Option<Head> {
        todo!()
    }
    fn journal_acknowledged(&self, _head: Head, _statement: &[u8]) -> io::Result<()> {
        todo!()
    }
    fn on_change(&self, _wake: Box<dyn Fn() + Send + Sync>) {
        todo!()
    }
    fn erase_candidates(&self, _organisation: OrganisationId, _limit: usize) -> io::Result<Vec<(SegmentId, Digest)>> {
        todo!()
    }
    fn erase_answered(&self, _yes: &[SegmentId], _no: &[SegmentId]) -> io::Result<()> {
        todo!()
    }
}
