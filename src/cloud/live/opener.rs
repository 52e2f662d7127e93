//! One camera's live bytes, opened: fragments in, packets for viewers out. Pure but for the keyring it is given.
//!
//! Belongs here: which segment is being read, its key, the records' order. Does not belong here: MP4 (`play::live`).

use super::assemble::{Assembler, Fragment, Frame};
use super::mux::{Mux, Muxed};
use crate::base::ids::SegmentId;
use crate::base::reason::{Coded, Counters};
use crate::base::units::BootTime;
use crate::cloud::vault::Keyring;
use crate::seal::{Header, Reader, Record};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// Where a player starts: MIME type and initialisation segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Init {
    /// For Media Source Extensions, with codecs.
    pub mime: String,
    /// `ftyp` and `moov`.
    pub bytes: Bytes,
}

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
    /// A segment that does not open: its frames are skipped without trying again.
    shut: Option<SegmentId>,
    mux: Mux,
    init: Option<Arc<Init>>,
    name: Option<String>,
}

impl Opener {
    /// Takes a fragment and says what it leads to.
    pub fn fragment(&mut self, fragment: &Fragment, keys: &Keyring, counters: &Counters, now: Instant) -> Vec<Packet> {
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
        match reader.frame(&frame.bytes) {
            Ok(None) => {}
            Ok(Some(record)) => self.record(record, packets),
            Err(error) => counters.count(&error),
        }
    }

    fn header(&mut self, frame: &Frame, keys: &Keyring, counters: &Counters, packets: &mut Vec<Packet>) {
        self.open = None;
        self.shut = Some(frame.segment);
        let Ok((header, _)) = Header::decode(&frame.bytes) else {
            counters.add("live-bad-header", 1);
            return;
        };
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
