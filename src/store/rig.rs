//! A recorder and a writer without thread and task, stepped by hand (feature `sim`): for tests that need every
//! operation in one known order, and for benches.

use crate::base::ids::{CameraId, SegmentId};
use crate::base::reason::Counters;
use crate::base::units::TimeStatement;
use crate::media::Item;
use crate::seal::{Receipt, Recipients, SegmentOffer, SegmentSource, Tap};
use crate::store::lane::Op;
use crate::store::recording::Core;
use crate::store::writer::Writer;
use crate::store::{CameraStatus, Error, Opened, Options, Settings, recovery};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// See the module.
pub struct Rig {
    /// What opening found; its store reads, but must not be asked to change anything (nobody would answer).
    pub opened: Opened,
    /// Counters of the recorder.
    pub counters: Counters,
    core: Core,
    writer: Writer,
    ops: Receiver<Op>,
}

impl Rig {
    /// Opens a store as [`crate::store::Store::open`] does.
    ///
    /// # Errors
    /// As there.
    pub fn open(
        options: Options,
        settings: Arc<Settings>,
        recipients: Option<Recipients>,
        tap: Arc<dyn Tap>,
    ) -> Result<Self, Error> {
        let (opened, writer, ops) = recovery::open(options)?;
        let counters = opened.store.counters();
        let store = &opened.store;
        let core = Core::new(store.stand(), store.lane().clone(), tap, counters.clone(), settings, recipients);
        Ok(Self { opened, counters, core, writer, ops })
    }

    /// A session of a camera starts.
    pub fn session(&mut self, camera: CameraId, session: u64) {
        self.core.session(camera, session);
    }

    /// An item of the camera's session.
    pub fn item(&mut self, camera: CameraId, item: &Item, now: TimeStatement) {
        self.core.item(camera, item, now);
    }

    /// The session ends.
    pub fn ended(&mut self, camera: CameraId, session: u64, reason: &str, now: TimeStatement) {
        self.core.ended(camera, session, reason, now);
    }

    /// An event of a camera.
    pub fn event(&mut self, camera: CameraId, now: TimeStatement) {
        self.core.event(camera, now);
    }

    /// New recipients.
    pub fn set_recipients(&mut self, recipients: Option<Recipients>, now: TimeStatement) {
        self.core.set_recipients(recipients, now);
    }

    /// The half-second tick.
    pub fn tick(&mut self, second: bool, now: TimeStatement) {
        self.core.tick(second, now);
    }

    /// The writer does all that waits; not calling it is a card that stalls.
    pub fn drain(&mut self) {
        while let Ok(op) = self.ops.try_recv() {
            self.writer.apply(op);
        }
    }

    /// Cameras as they are.
    #[must_use]
    pub fn cameras(&self, now: TimeStatement) -> Vec<CameraStatus> {
        self.core.status(now.at)
    }

    /// Why the card takes nothing, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<&'static str> {
        self.opened.store.lane().trouble()
    }

    /// What the relay would be offered.
    ///
    /// # Panics
    /// If the catalog cannot be read.
    #[must_use]
    pub fn offers(&self, recipients: &Recipients) -> Vec<SegmentOffer> {
        self.opened.store.offers(recipients.organisation, usize::MAX >> 1).expect("the catalog reads")
    }

    /// The cloud committed a segment, and its receipt says `opened` or not.
    ///
    /// # Errors
    /// As [`SegmentSource::committed`].
    pub fn commit(&mut self, offer: &SegmentOffer, opened: bool) -> Result<(), Error> {
        let (segment, size, sha256) = (offer.segment, offer.size, offer.sha256);
        self.writer.receipt(&Receipt { segment, size, sha256, opened, statement: b"a signed receipt".to_vec() })
    }

    /// The cloud answers ERASE?.
    pub fn erase_answered(&mut self, yes: &[SegmentId], no: &[SegmentId], now: TimeStatement) {
        self.writer.permissions.answered(yes, no, now.at);
    }

    /// Sets or lifts a hold.
    pub fn hold(&mut self, segment: SegmentId, held: bool) {
        let entry = crate::seal::JournalEntry::Held { segment, held };
        let at = self.writer.clock.boottime();
        self.writer.apply(Op::Journal(entry, at));
    }

    /// Compares a file with the journal, as after REJECTED.
    ///
    /// # Errors
    /// As [`SegmentSource::rejected`].
    pub fn compare(&mut self, segment: SegmentId) -> Result<bool, Error> {
        self.writer.compare(segment)
    }

    /// Ends everything in order; true if all is durable.
    pub fn shut_down(&mut self, now: TimeStatement) -> bool {
        self.core.shut_down(now);
        self.drain();
        self.writer.finish()
    }
}
