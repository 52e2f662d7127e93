//! Lays out one segment: header, records, checkpoints, end.
//!
//! One pass over each access unit: its data are copied once into the buffer that becomes the frame, sealed in place and
//! hashed while they are in the cache. Spec: `docs/spec/sealed-segment.md`.

use crate::base::cbor;
use crate::base::chain::Signer;
use crate::base::ids::{CameraId, Digest, OrganisationId, RecordingId, SegmentId};
use crate::base::units::{BootTime, MediaTime, Run};
use crate::media::{AccessUnit, Gap, TrackId, TrackParams};
use crate::seal::frame::{FIRST, FRAME_HEAD, LAST, TAG};
use crate::seal::keys::{Dek, OsRandomness, Randomness, RecordSealer, header_digest};
use crate::seal::record::{Event, MAX_UNIT, UNIT_HEAD, unit_head};
use crate::seal::signed::{self, CkptBody, EndBody};
use crate::seal::{FrameHint, FrameKind, Header, Meta, Recipients, SealedFrame, SegmentFlags, SegmentKey};
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use crate::seal::frame::MAX_PART;
pub use crate::seal::signed::{EndReason, Prev};

/// A segment is ended at the next key frame after this time.
pub const TARGET: std::time::Duration = std::time::Duration::from_secs(10);
/// A segment is ended at any unit after this time …
pub const MAX_TIME: std::time::Duration = std::time::Duration::from_secs(15);
/// … or before this size is passed; the next is then `starts_dependent`.
pub const MAX_SIZE: u64 = 32 * 1024 * 1024;
/// A decoder configuration longer than this is not stored: no codec has one near it.
pub const MAX_CONFIG: usize = 32 * 1024;

/// Everything that a new segment states.
#[derive(Clone)]
pub struct SegmentStart {
    /// Random, new.
    pub segment: SegmentId,
    /// Which run of the box.
    pub run: Run,
    /// Now.
    pub at: BootTime,
    /// Which camera.
    pub camera: CameraId,
    /// Which recording.
    pub recording: RecordingId,
    /// What is unusual.
    pub flags: SegmentFlags,
    /// Sealed facts.
    pub meta: Meta,
    /// Parameters of all tracks known so far.
    pub params: Vec<Arc<TrackParams>>,
    /// What came before.
    pub prev: Prev,
}

/// A segment that was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Which.
    pub segment: SegmentId,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the whole file.
    pub sha256: Digest,
    /// SHA-256 of the END frame, for the next segment's `prev`.
    pub end: Digest,
    /// Sealed records in it.
    pub records: u32,
}

/// An open segment. Every method returns the frames that it laid out, in file order.
pub struct Sealer {
    segment: SegmentId,
    organisation: OrganisationId,
    camera: CameraId,
    recording: RecordingId,
    run: Run,
    prev: Prev,
    records: RecordSealer,
    key: SegmentKey,
    signer: Arc<dyn Signer>,
    hash: Sha256,
    size: u64,
    checkpoints: u32,
    stanzas: Vec<u8>,
    /// Tracks of pictures, for the relay's hints.
    video: BTreeMap<TrackId, bool>,
}

impl Sealer {
    /// Starts a segment: HEADER, CKPT 0, META, PARAMS.
    #[must_use]
    pub fn start(start: SegmentStart, recipients: &Recipients, signer: Arc<dyn Signer>) -> (Self, Vec<SealedFrame>) {
        Self::start_with(start, recipients, signer, &mut OsRandomness)
    }

    /// As [`Self::start`], with the DEK and the encapsulation from the given source: only test vectors are repeatable.
    #[must_use]
    pub fn start_with(
        start: SegmentStart,
        recipients: &Recipients,
        signer: Arc<dyn Signer>,
        randomness: &mut dyn Randomness,
    ) -> (Self, Vec<SealedFrame>) {
        let organisation = recipients.organisation;
        let dek = Dek::random(randomness);
        let header = Header {
            segment: start.segment,
            organisation,
            box_id: signer.public_key().box_id(),
            run: start.run,
            at: start.at,
            camera: start.camera,
            recording: start.recording,
            flags: start.flags,
            // `Recipients::new` has refused keys that nothing can be sealed to.
            stanzas: recipients
                .keys
                .iter()
                .filter_map(|to| super::recipients::seal_dek(&dek, to, organisation, start.segment, randomness))
                .collect(),
            commit: dek.commitment(start.segment),
        };
        let bytes = header.encode();
        let mut sealer = Self {
            segment: start.segment,
            organisation,
            camera: start.camera,
            recording: start.recording,
            run: start.run,
            prev: start.prev,
            records: RecordSealer::new(&dek, &header_digest(&bytes)),
            key: SegmentKey::own(dek),
            signer,
            hash: Sha256::new(),
            size: 0,
            checkpoints: 0,
            stanzas: signed::marks(&header.stanzas),
            video: BTreeMap::new(),
        };
        sealer.hash.update(&bytes);
        let at = start.at;
        let mut frames = vec![sealer.frame(FrameKind::Header, 0, hint(at), bytes.into()), sealer.checkpoint(at)];
        frames.push(sealer.record(FrameKind::Meta, &start.meta.bounded(), hint(at)));
        for params in &start.params {
            frames.push(sealer.params(params, at));
        }
        (sealer, frames)
    }

    /// Seals one access unit, in parts of at most [`MAX_PART`]. Data beyond [`MAX_UNIT`], which ingest does not let
    /// through, are cut off and the unit is marked damaged.
    pub fn unit(&mut self, unit: &AccessUnit) -> Vec<SealedFrame> {
        let mut head = unit_head(unit);
        let data = unit.data.get(..MAX_UNIT).unwrap_or(&unit.data);
        if data.len() < unit.data.len() {
            head[1] |= 1 << 3;
        }
        let mut buffer = BytesMut::zeroed(sealed_len(data.len()));
        let video = self.video.get(&unit.track).copied().unwrap_or(false);
        let mut frames = Vec::with_capacity(parts(data.len()));
        let mut rest = data;
        let mut lead: &[u8] = &head;
        loop {
            let (now, later) = rest.split_at(rest.len().min(MAX_PART - lead.len()));
            let (first, last) = (!lead.is_empty(), later.is_empty());
            let mut frame = buffer.split_to(FRAME_HEAD + lead.len() + now.len() + TAG);
            let (place, text) = frame[FRAME_HEAD..].split_at_mut(lead.len());
            place.copy_from_slice(lead);
            text[..now.len()].copy_from_slice(now);
            let flags = if first { FIRST } else { 0 } | if last { LAST } else { 0 };
            let number = self.records.seal(FrameKind::Unit as u8, flags, &mut frame);
            self.hash.update(&frame);
            let hint = FrameHint {
                track: Some(unit.track),
                key: unit.flags.key && first,
                disposable: unit.flags.disposable,
                video,
                captured: unit.captured,
                pts: unit.pts,
                first,
                last,
            };
            frames.push(self.frame(FrameKind::Unit, number, hint, frame.freeze()));
            if last {
                return frames;
            }
            rest = later;
            lead = &[];
        }
    }

    /// Seals new or changed parameters.
    pub fn params(&mut self, params: &TrackParams, at: BootTime) -> SealedFrame {
        self.video.insert(params.track, params.codec.is_video());
        let hint = FrameHint { track: Some(params.track), video: params.codec.is_video(), ..hint(at) };
        if params.config.len() > MAX_CONFIG {
            return self.record(FrameKind::Params, &TrackParams { config: Vec::new(), ..params.clone() }, hint);
        }
        self.record(FrameKind::Params, params, hint)
    }

    /// Seals a statement that something is missing.
    pub fn gap(&mut self, gap: &Gap) -> SealedFrame {
        self.record(FrameKind::Gap, gap, hint(gap.to))
    }

    /// Seals something that happened. Text beyond 256 bytes and data beyond 1024 are cut off.
    pub fn event(&mut self, event: &Event) -> SealedFrame {
        let mut event = event.clone();
        event.text.iter_mut().for_each(super::header::cut);
        event.data.iter_mut().for_each(|data| data.truncate(1024));
        self.record(FrameKind::Event, &event, hint(event.at))
    }

    /// Signs everything so far.
    pub fn checkpoint(&mut self, at: BootTime) -> SealedFrame {
        let number = self.checkpoints;
        self.checkpoints += 1;
        let stanzas = (number == 0).then(|| std::mem::take(&mut self.stanzas));
        let body = CkptBody { number, records: self.records.records(), run: self.run, at, stanzas };
        let frame =
            signed::sign(FrameKind::Checkpoint, number, self.segment, &body, &mut self.hash, self.signer.as_ref());
        self.frame(FrameKind::Checkpoint, number, hint(at), frame.into())
    }

    /// Ends the segment.
    #[must_use]
    pub fn end(mut self, reason: EndReason, at: BootTime) -> (SealedFrame, Finished) {
        let records = self.records.records();
        let body = EndBody { reason, records, checkpoints: self.checkpoints, prev: self.prev, run: self.run, at };
        let frame = signed::sign(FrameKind::End, 0, self.segment, &body, &mut self.hash, self.signer.as_ref());
        let end = Digest(Sha256::digest(&frame).into());
        let frame = self.frame(FrameKind::End, 0, hint(at), frame.into());
        let sha256 = Digest(self.hash.finalize().into());
        (frame, Finished { segment: self.segment, size: self.size, sha256, end, records })
    }

    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that `unit` would add.
    #[must_use]
    pub fn size_of(unit: &AccessUnit) -> u64 {
        sealed_len(unit.data.len().min(MAX_UNIT)) as u64
    }

    /// The file's id.
    #[must_use]
    pub fn segment(&self) -> SegmentId {
        self.segment
    }

    /// Sealed records so far.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records.records()
    }

    /// The key to this segment, for `seal.local_access = session`: kept in RAM, gone with the process.
    #[must_use]
    pub fn local_key(&self) -> SegmentKey {
        self.key.clone()
    }

    fn record(&mut self, kind: FrameKind, body: &impl minicbor::Encode<()>, hint: FrameHint) -> SealedFrame {
        let text = cbor::encode(body);
        let mut frame = BytesMut::zeroed(FRAME_HEAD + text.len() + TAG);
        frame[FRAME_HEAD..FRAME_HEAD + text.len()].copy_from_slice(&text);
        let number = self.records.seal(kind as u8, FIRST | LAST, &mut frame);
        self.hash.update(&frame);
        self.frame(kind, number, hint, frame.freeze())
    }

    fn frame(&mut self, kind: FrameKind, number: u32, hint: FrameHint, bytes: Bytes) -> SealedFrame {
        let offset = self.size;
        self.size += bytes.len() as u64;
        SealedFrame {
            segment: self.segment,
            organisation: self.organisation,
            camera: self.camera,
            recording: self.recording,
            kind,
            number,
            offset,
            bytes,
            hint,
        }
    }
}

/// Parts of an access unit with so many bytes of data.
fn parts(data: usize) -> usize {
    (UNIT_HEAD + data).div_ceil(MAX_PART)
}

/// Bytes of all frames of an access unit.
fn sealed_len(data: usize) -> usize {
    UNIT_HEAD + data + parts(data) * (FRAME_HEAD + TAG)
}

fn hint(captured: BootTime) -> FrameHint {
    FrameHint {
        track: None,
        key: false,
        disposable: false,
        video: false,
        captured,
        pts: MediaTime(0),
        first: true,
        last: true,
    }
}
