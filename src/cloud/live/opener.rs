//! One camera's live bytes, opened: fragments in, packets for viewers out. Pure but for the keyring it is given.
//!
//! Belongs here: which segment is being read, its key, the records' order. Does not belong here: MP4 (`play::live`).

use super::assemble::{Assembler, Fragment, Frame};
use crate::base::ids::{BoxId, CameraId, SegmentId};
use crate::base::reason::{Coded, Counters};
use crate::base::units::BootTime;
use crate::cloud::vault::Keyring;
use crate::play::live::{Init, Mux, Muxed};
use crate::seal::frame::{FrameClass, FrameHead};
use crate::seal::{Header, Reader, Record};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// What viewers of a camera are told.
#[derive(Debug, Clone)]
pub enum Packet {
    /// A stable word.
    State(&'static str),
    /// The camera's name.
    Name(String),
    /// One fragment. A key frame carries the initialisation it needs, and whether that differs from the one before.
    Media { init: Option<(Arc<Init>, bool)>, bytes: Bytes, key: bool, captured: BootTime },
}

/// Opens what arrives.
#[derive(Default)]
pub struct Opener {
    assembler: Assembler,
    open: Option<(SegmentId, Reader)>,
    /// The record that comes next if nothing was lost on the way.
    next: u32,
    /// A segment that does not open: its frames are skipped without trying again.
    shut: Option<SegmentId>,
    mux: Mux,
    init: Option<Arc<Init>>,
    name: Option<String>,
    /// Whose camera this is: a header that says otherwise is not opened.
    from: Option<(BoxId, CameraId)>,
}

impl Opener {
    /// The camera's name, once a META record told it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Takes a fragment and says what it leads to.
    pub fn fragment(
        &mut self,
        from: (BoxId, CameraId),
        fragment: &Fragment,
        keys: &Keyring,
        counters: &Counters,
        now: Instant,
    ) -> Vec<Packet> {
        self.from = Some(from);
        self.assembler.push(fragment, now);
        self.poll(keys, counters, now)
    }

    /// What has waited long enough for an earlier frame.
    pub fn poll(&mut self, keys: &Keyring, counters: &Counters, now: Instant) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Some(frame) = self.assembler.poll(now) {
            self.frame(&frame, keys, counters, &mut packets);
        }
        packets
    }

    fn frame(&mut self, frame: &Frame, keys: &Keyring, counters: &Counters, packets: &mut Vec<Packet>) {
        if frame.offset == 0 {
            self.header(frame, keys, counters, packets);
            return;
        }
        if self.shut == Some(frame.segment) {
            return;
        }
        let Some((_, reader)) = self.open.as_mut().filter(|(segment, _)| *segment == frame.segment) else {
            counters.add("live-without-header", 1);
            return;
        };
        if let Some(head) = FrameHead::parse(&frame.bytes).filter(|head| head.class() == FrameClass::Sealed) {
            if head.number != self.next {
                self.mux.lost();
            }
            self.next = head.number.saturating_add(1);
        }
        match reader.frame(&frame.bytes) {
            Ok(None) => {}
            Ok(Some(record)) => self.record(record, packets),
            Err(error) => counters.count(&error),
        }
    }

    fn header(&mut self, frame: &Frame, keys: &Keyring, counters: &Counters, packets: &mut Vec<Packet>) {
        self.open = None;
        self.next = 0;
        self.shut = Some(frame.segment);
        let Ok((header, _)) = Header::decode(&frame.bytes) else {
            counters.add("live-bad-header", 1);
            return;
        };
        if self.from != Some((header.box_id, header.camera)) || header.segment != frame.segment {
            counters.add("live-foreign-header", 1);
            return;
        }
        match keys.open(&header) {
            Some(Ok(key)) => {
                self.open = Some((frame.segment, Reader::new(&frame.bytes, key)));
                self.shut = None;
            }
            None => packets.push(Packet::State("cloud-locked")),
            Some(Err(error)) => {
                counters.add(error.code(), 1);
                packets.push(Packet::State("not-for-us"));
            }
        }
    }

    fn record(&mut self, record: Record, packets: &mut Vec<Packet>) {
        if let Record::Meta(meta) = &record
            && self.name.as_ref() != Some(&meta.camera)
        {
            self.name = Some(meta.camera.clone());
            packets.push(Packet::Name(meta.camera.clone()));
        }
        for muxed in self.mux.record(record) {
            match muxed {
                Muxed::Unplayable => packets.push(Packet::State("codec-unplayable")),
                Muxed::Init(init) => self.init = Some(Arc::new(init)),
                Muxed::Fragment { bytes, key, captured, new_init } => {
                    let init = self.init.clone().filter(|_| key).map(|init| (init, new_init));
                    packets.push(Packet::Media { init, bytes, key, captured });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::vault::tests::World;
    use crate::seal::frame::FRAME_HEAD;

    /// A segment's bytes as the relay would bring them: 300 bytes at a time.
    fn fragments(segment: SegmentId, bytes: &[u8]) -> Vec<Fragment> {
        let (_, mut end) = Header::decode(bytes).expect("a header");
        let (mut at, mut list) = (0, Vec::new());
        while at < bytes.len() {
            for (n, piece) in bytes[at..end].chunks(300).enumerate() {
                list.push(Fragment {
                    segment,
                    frame: at as u64,
                    frame_len: u32::try_from(end - at).expect("small"),
                    offset: u32::try_from(n * 300).expect("small"),
                    bytes: Bytes::copy_from_slice(piece),
                });
            }
            at = end;
            let Some(head) = bytes.get(at..at + FRAME_HEAD).and_then(FrameHead::parse) else { break };
            end = at + usize::try_from(head.frame_len()).expect("small");
        }
        list
    }

    #[tokio::test]
    async fn sealed_fragments_are_opened_with_the_organisations_key_and_only_with_it() {
        let world = World::new();
        let id = SegmentId([7; 16]);
        let file = world.sealed(id, 8, 1, None);
        let (header, _) = Header::decode(&file).expect("a header");
        let from = (header.box_id, header.camera);
        let mut list = fragments(id, &file);
        // Disorder within a frame must not matter.
        list.reverse();
        let feed = |keys: &Keyring, skip: usize| {
            let (mut opener, counters, now) = (Opener::default(), Counters::default(), Instant::now());
            let mut packets = Vec::new();
            for (_, fragment) in list.iter().enumerate().filter(|(n, _)| *n != skip) {
                packets.extend(opener.fragment(from, fragment, keys, &counters, now));
            }
            packets.extend(opener.poll(keys, &counters, now + super::super::assemble::HOLD));
            (packets, counters, opener)
        };
        let (packets, counters, opener) = feed(&world.unlocked(), usize::MAX);
        assert!(matches!(packets.as_slice(), [Packet::Name(name)] if name == "c"), "{packets:?}");
        assert!(counters.snapshot().is_empty(), "{counters:?}");
        assert_eq!(opener.assembler.dropped(), 0);
        let (packets, _, _) = feed(&world.ours(), usize::MAX);
        assert!(matches!(packets.as_slice(), [Packet::State("cloud-locked")]), "{packets:?}");
        let (packets, counters, _) = feed(&World::new().unlocked(), usize::MAX);
        assert!(matches!(packets.as_slice(), [Packet::State("not-for-us")]), "{packets:?}");
        assert_eq!(counters.total("open-no-stanza"), 1);
        // Another box's word for this camera, or this box's for another camera, is not opened.
        for from in [(BoxId([9; 32]), header.camera), (header.box_id, CameraId([9; 16]))] {
            let (mut opener, counters, now) = (Opener::default(), Counters::default(), Instant::now());
            let keys = world.unlocked();
            let said: Vec<_> =
                list.iter().rev().flat_map(|piece| opener.fragment(from, piece, &keys, &counters, now)).collect();
            assert!(said.is_empty() && counters.total("live-foreign-header") == 1, "{said:?} {counters:?}");
        }
        // A lost fragment costs its frame, not the rest.
        let (packets, counters, opener) = feed(&world.unlocked(), 3);
        assert!(matches!(packets.as_slice(), [Packet::Name(_)]), "{packets:?}");
        assert!(counters.snapshot().is_empty() && opener.assembler.dropped() == 1, "{counters:?}");
    }
}
