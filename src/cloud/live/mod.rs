//! Live pictures from boxes to whoever looks: assembled, opened, put into fragments of MP4, fanned out.
//!
//! Belongs here: one channel per watched camera. Does not belong here: the wire (`relay`), MP4 (`play`), pages. When
//! nobody looks at a camera nothing of it is opened, and [`Hub::wanted`] says so to whoever subscribes.
//!
//! Bounds: each viewer may be `BACKLOG` packets behind; a slower one loses the oldest and goes on at the next key
//! frame. The channel's state is behind one mutex per hub, held for one fragment, never across an await.

pub mod assemble;
mod opener;

pub use assemble::Fragment;
pub use opener::Packet;

use crate::base::ids::{BoxId, CameraId};
use crate::base::reason::{self, Counters};
use crate::base::tasks::Tasks;
use crate::base::units::BootTime;
use crate::cloud::vault::Vault;
use bytes::Bytes;
use opener::Opener;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, watch};

/// Packets that a viewer may be behind: two to four seconds of picture and sound.
const BACKLOG: usize = 256;

/// Fans live footage out; cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    vault: Vault,
    counters: Counters,
    channels: Mutex<BTreeMap<CameraId, Channel>>,
    wanted: watch::Sender<BTreeSet<CameraId>>,
}

struct Channel {
    watchers: usize,
    /// Whose camera it is: the box whose committed footage has it, else the first that sends it under its own signature.
    owner: Option<BoxId>,
    opener: Opener,
    packets: broadcast::Sender<Packet>,
    box_time: Option<(BootTime, Instant)>,
}

impl Channel {
    /// Whether the box may speak for the camera: it is its own, or nobody's yet.
    fn may_be_of(&self, box_id: BoxId) -> bool {
        self.owner.is_none_or(|owner| owner == box_id)
    }
}

/// What a viewer is given next.
#[derive(Debug, Clone)]
pub enum View {
    /// A stable word: `waiting`, `offline`, `cloud-locked`, `codec-unplayable`.
    State(&'static str),
    /// The camera's name.
    Name(String),
    /// A new start: MIME type and initialisation segment.
    Init { mime: String, bytes: Bytes },
    /// One fragment, and how old its picture is now.
    Media { bytes: Bytes, age: Option<Duration> },
}

/// One viewer; dropping it ends the watching.
pub struct Viewer {
    hub: Hub,
    camera: CameraId,
    packets: broadcast::Receiver<Packet>,
    /// Frames before the first key frame are of no use.
    started: bool,
    queued: Option<View>,
}

impl Hub {
    /// A hub that opens with the vault's keyring.
    #[must_use]
    pub fn new(vault: Vault, counters: Counters) -> Self {
        Self(Arc::new(Inner { vault, counters, channels: Mutex::default(), wanted: watch::Sender::default() }))
    }

    /// The cameras that somebody looks at, now and on every change.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<BTreeSet<CameraId>> {
        self.0.wanted.subscribe()
    }

    /// How many viewers there are.
    #[must_use]
    pub fn viewers(&self) -> usize {
        self.channels().values().map(|channel| channel.watchers).sum()
    }

    /// Starts to look at a camera.
    #[must_use]
    pub fn watch(&self, camera: CameraId) -> Viewer {
        let owner = self.owner(camera);
        let (packets, name) = {
            let mut channels = self.channels();
            let channel = channels.entry(camera).or_insert_with(|| Channel {
                watchers: 0,
                owner,
                opener: Opener::default(),
                packets: broadcast::Sender::new(BACKLOG),
                box_time: None,
            });
            channel.watchers += 1;
            // A viewer who joins others missed the META that they saw.
            (channel.packets.subscribe(), channel.opener.name().map(str::to_owned))
        };
        self.0.wanted.send_if_modified(|wanted| wanted.insert(camera));
        let locked = self.0.vault.keyring().is_locked();
        let queued = if locked { Some(View::State("cloud-locked")) } else { name.map(View::Name) };
        Viewer { hub: self.clone(), camera, packets, started: false, queued }
    }

    /// Whose camera this is, as far as committed footage says.
    fn owner(&self, camera: CameraId) -> Option<BoxId> {
        match self.0.vault.with_db(|db| db.camera_owner(camera)) {
            Ok(owner) => owner,
            Err(error) => {
                tracing::error!(error = reason::chain(&error), "looking a camera up");
                None
            }
        }
    }

    /// Whether somebody looks at that camera of that box.
    #[must_use]
    pub fn is_watched(&self, box_id: BoxId, camera: CameraId) -> bool {
        self.channels().get(&camera).is_some_and(|channel| channel.may_be_of(box_id))
    }

    /// A live fragment of a box's camera arrived. What a box says of another's camera is dropped and counted.
    pub fn fragment(&self, box_id: BoxId, camera: CameraId, fragment: &Fragment) {
        let mut channels = self.channels();
        let Some(channel) = channels.get_mut(&camera) else { return };
        if *channel.owner.get_or_insert(box_id) != box_id {
            self.0.counters.add("live-foreign-camera", 1);
            return;
        }
        let keyring = self.0.vault.keyring();
        let from = (box_id, camera);
        for packet in channel.opener.fragment(from, fragment, &keyring, &self.0.counters, Instant::now()) {
            // No receiver: the last viewer just left.
            let _ = channel.packets.send(packet);
        }
    }

    /// Gives up frames that others have waited for long enough; runs while the cloud does.
    pub async fn run(self, tasks: Tasks) {
        let stop = tasks.stopping();
        let mut tick = tokio::time::interval(assemble::HOLD / 3);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
            }
            let keyring = self.0.vault.keyring();
            for channel in self.channels().values_mut() {
                for packet in channel.opener.poll(&keyring, &self.0.counters, Instant::now()) {
                    let _ = channel.packets.send(packet);
                }
            }
        }
    }

    /// What a box says about its boot time, for the age of pictures.
    pub fn box_time(&self, box_id: BoxId, camera: CameraId, now: BootTime) {
        if let Some(channel) = self.channels().get_mut(&camera).filter(|channel| channel.may_be_of(box_id)) {
            channel.box_time = Some((now, Instant::now()));
        }
    }

    /// Tells the viewers of a camera that something is the matter.
    pub fn state(&self, box_id: BoxId, camera: CameraId, word: &'static str) {
        if let Some(channel) = self.channels().get(&camera).filter(|channel| channel.owner == Some(box_id)) {
            let _ = channel.packets.send(Packet::State(word));
        }
    }

    fn age(&self, camera: CameraId, captured: BootTime) -> Option<Duration> {
        let (boot, at) = self.channels().get(&camera)?.box_time?;
        Some(boot.plus(at.elapsed()).since(captured))
    }

    fn channels(&self) -> MutexGuard<'_, BTreeMap<CameraId, Channel>> {
        self.0.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Viewer {
    /// What comes next; `None` when the hub ends. Cancel-safe.
    pub async fn next(&mut self) -> Option<View> {
        loop {
            if let Some(queued) = self.queued.take() {
                return Some(queued);
            }
            match self.packets.recv().await {
                Ok(Packet::State(word)) => return Some(View::State(word)),
                Ok(Packet::Name(name)) => return Some(View::Name(name)),
                Ok(Packet::Media { init, bytes, key, captured }) => {
                    if !self.started && !key {
                        continue;
                    }
                    let media = View::Media { bytes, age: self.hub.age(self.camera, captured) };
                    match init {
                        // A key frame carries its initialisation; it is passed on only where it changes something.
                        Some((init, changed)) if !self.started || changed => {
                            self.started = true;
                            self.queued = Some(media);
                            return Some(View::Init { mime: init.mime.clone(), bytes: init.bytes.clone() });
                        }
                        _ => return Some(media),
                    }
                }
                Err(broadcast::error::RecvError::Lagged(n)) => {
                    self.hub.0.counters.add("viewer-too-slow", n);
                    self.started = false;
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut channels = self.hub.channels();
        let Some(channel) = channels.get_mut(&self.camera) else { return };
        channel.watchers -= 1;
        if channel.watchers == 0 {
            channels.remove(&self.camera);
            drop(channels);
            self.hub.0.wanted.send_if_modified(|wanted| wanted.remove(&self.camera));
        }
    }
}
