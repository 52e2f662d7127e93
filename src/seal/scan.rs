//! Walks a segment's clear structure without any content key: for recovery, verification and receiving.
//!
//! A signature covers every byte before it, so the first that fails bounds the damage from above and the last that held
//! bounds it from below. What happened in between is told by `diagnosis` from the clear heads; it explains, the
//! signatures prove. Spec: `docs/spec/sealed-segment.md`, "Verification of one file".

mod diagnosis;
mod found;

pub use found::{Ended, Fault, Point, Scan};

use crate::base::chain::{PublicKey, Signer};
use crate::base::ids::Digest;
use crate::base::units::{BootTime, Run};
use crate::seal::frame::{FIRST, FRAME_HEAD, FrameClass, FrameHead, FrameKind, LAST, MAX_BODY, MAX_SEGMENT};
use crate::seal::header::{HEADER_PREFIX, Header, HeaderError, MAX_HEADER};
use crate::seal::signed::{self, CkptBody, EndBody, SIGNATURE};
use crate::seal::{EndReason, Finished, Prev};
use diagnosis::{Clue, Diagnosis};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// A frame by its place and the hash of its body, to recognise it elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Print {
    pub(crate) kind: u8,
    pub(crate) offset: u64,
    pub(crate) body: Digest,
}

/// Longest signed frame for which a single flipped bit is looked for.
const MAX_REPAIR: usize = 320;

#[derive(Debug, Clone, Copy)]
enum State {
    /// Magic and length.
    Prefix,
    /// The rest of the header.
    Header,
    /// A frame's head.
    Head,
    /// A body that is hashed and passed by.
    Passing { head: FrameHead, left: u64 },
    /// A body that is read.
    Signed { head: FrameHead },
    /// After END.
    Over,
    /// The structure is lost; bytes are only counted.
    Lost,
}

/// Walks bytes in file order.
pub struct Scanner {
    key: PublicKey,
    state: State,
    /// Bytes of an unfinished piece, and how many it needs.
    piece: Vec<u8>,
    want: usize,
    hash: Sha256,
    /// Hashed bytes; `piece` comes on top.
    size: u64,
    header: Option<Header>,
    header_bytes: Vec<u8>,
    records: u32,
    checkpoints: u32,
    in_unit: bool,
    unknown: bool,
    last: Option<(Point, Sha256)>,
    end: Option<Ended>,
    end_frame: Vec<u8>,
    /// The first bytes after END.
    beyond: Vec<u8>,
    diagnosis: Option<Diagnosis>,
    prints: Option<(Vec<Print>, Sha256)>,
}

impl Scanner {
    /// Signatures are checked with `key`, the evidence key of the box that the header names.
    #[must_use]
    pub fn new(key: PublicKey) -> Self {
        Self {
            key,
            state: State::Prefix,
            piece: Vec::new(),
            want: HEADER_PREFIX,
            hash: Sha256::new(),
            size: 0,
            header: None,
            header_bytes: Vec::new(),
            records: 0,
            checkpoints: 0,
            in_unit: false,
            unknown: false,
            last: None,
            end: None,
            end_frame: Vec::new(),
            beyond: Vec::new(),
            diagnosis: None,
            prints: None,
        }
    }

    /// Also keeps the hash of each body: for the second look at a damaged store.
    pub(crate) fn with_prints(mut self) -> Self {
        self.prints = Some((Vec::new(), Sha256::new()));
        self
    }

    pub(crate) fn prints(&self) -> &[Print] {
        self.prints.as_ref().map_or(&[], |(prints, _)| prints)
    }

    /// The next bytes of the file, any number.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.state {
                State::Over | State::Lost => {
                    self.after(bytes);
                    return;
                }
                State::Passing { head, left } => {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (taken, rest) = bytes.split_at(now);
                    self.feed(taken);
                    self.print(taken);
                    bytes = rest;
                    let left = left - now as u64;
                    self.state = State::Passing { head, left };
                    if left == 0 {
                        self.print_done(head.kind, head.frame_len());
                        self.next_head();
                    }
                }
                _ => {
                    let (taken, rest) = bytes.split_at((self.want - self.piece.len()).min(bytes.len()));
                    self.piece.extend_from_slice(taken);
                    bytes = rest;
                    if self.piece.len() == self.want {
                        let piece = std::mem::take(&mut self.piece);
                        self.whole(piece);
                    }
                }
            }
        }
    }

    /// The header, once it is whole and well formed.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// The header's bytes as stored, for [`crate::seal::Reader::new`]; empty until it is whole and well formed.
    #[must_use]
    pub fn header_bytes(&self) -> &[u8] {
        if self.header.is_some() { &self.header_bytes } else { &[] }
    }

    /// The last valid checkpoint so far.
    #[must_use]
    pub fn last(&self) -> Option<Point> {
        self.last.as_ref().map(|(point, _)| *point)
    }

    /// The end, if it came and is valid.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.end
    }

    /// Whether something is wrong already.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        self.diagnosis.is_some()
    }

    /// The END that recovery appends at `last().offset`, after everything beyond was truncated. `None` without a valid
    /// checkpoint. `run` = the recovering run.
    #[must_use]
    pub fn recovery_end(
        &self,
        reason: EndReason,
        prev: Prev,
        run: Run,
        at: BootTime,
        signer: &Arc<dyn Signer>,
    ) -> Option<(Vec<u8>, Finished)> {
        let (point, hash) = self.last.as_ref()?;
        let segment = self.header.as_ref()?.segment;
        let body = EndBody { reason, records: point.records, checkpoints: point.number + 1, prev, run, at };
        let mut hash = hash.clone();
        let frame = signed::sign(FrameKind::End, 0, segment, &body, &mut hash, signer.as_ref());
        let finished = Finished {
            segment,
            size: point.offset + frame.len() as u64,
            sha256: Digest(hash.finalize().into()),
            end: Digest(Sha256::digest(&frame).into()),
            records: point.records,
        };
        Some((frame, finished))
    }

    /// The verdict.
    #[must_use]
    pub fn finish(mut self) -> Scan {
        let inside = match self.state {
            State::Prefix | State::Header => Some(FrameKind::Header as u8),
            State::Passing { head, .. } | State::Signed { head } => Some(head.kind),
            State::Head => self.piece.first().copied(),
            State::Over | State::Lost => None,
        };
        if matches!(self.state, State::Lost) {
            // The last bytes may hold a frame that is shorter than what the search waits for.
            self.beyond.resize(self.beyond.len() + MAX_REPAIR, 0);
            self.look_beyond();
        }
        let structured = !matches!(self.state, State::Lost);
        let rest = std::mem::take(&mut self.piece);
        self.feed(&rest);
        if self.last.is_none() && self.diagnosis.is_none() {
            // A header that no signature covers says nothing; what stops before CKPT 0 is as good as no file.
            self.fault(Clue::Code("header-truncated"), false);
        } else if self.unknown && self.end.is_none() {
            // No signature followed that could say whether the box wrote it.
            self.fault(Clue::Lost("record-flipped"), false);
        }
        let size = self.size;
        Scan {
            fault: self.diagnosis.take().map(|diagnosis| diagnosis.finish(size)),
            last: self.last(),
            header: self.header,
            end: self.end,
            end_frame: (!self.end_frame.is_empty()).then(|| Digest(Sha256::digest(&self.end_frame).into())),
            size,
            sha256: Digest(self.hash.finalize().into()),
            partial: inside.is_some(),
            inside,
            records: self.records,
            structured,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        if self.size > MAX_SEGMENT && self.diagnosis.is_none() {
            self.fault(Clue::Code("segment-too-long"), true);
            self.state = State::Lost;
        }
    }

    fn print(&mut self, bytes: &[u8]) {
        if let Some((_, hash)) = &mut self.prints {
            hash.update(bytes);
        }
    }

    fn print_done(&mut self, kind: u8, frame: u64) {
        if let Some((prints, hash)) = &mut self.prints {
            let body = Digest(std::mem::take(hash).finalize().into());
            prints.push(Print { kind, offset: self.size - frame, body });
        }
    }

    fn next_head(&mut self) {
        if !matches!(self.state, State::Lost) {
            self.state = State::Head;
            self.want = FRAME_HEAD;
        }
    }

    /// Notes what is wrong; the first one counts, later ones only help to name it.
    fn fault(&mut self, clue: Clue, proven: bool) {
        let at = self.last().map_or(0, |point| point.offset);
        let size = self.size;
        self.diagnosis.get_or_insert_with(|| Diagnosis::new(at)).add(clue, proven, size);
    }

    fn lose(&mut self, clue: Clue, proven: bool) {
        self.fault(clue, proven);
        self.state = State::Lost;
    }

    fn whole(&mut self, piece: Vec<u8>) {
        match self.state {
            State::Prefix => self.prefix(piece),
            State::Header => self.whole_header(piece),
            State::Head => self.head(&piece),
            State::Signed { head } => self.signed(head, &piece),
            State::Passing { .. } | State::Over | State::Lost => self.feed(&piece),
        }
    }

    fn prefix(&mut self, piece: Vec<u8>) {
        self.feed(&piece);
        let code = match Header::decode(&piece) {
            Err(HeaderError::Truncated) => {
                let length = piece.get(4..).and_then(<[u8]>::first_chunk::<4>).map_or(0, |l| u32::from_be_bytes(*l));
                self.want = usize::try_from(length).unwrap_or(MAX_HEADER).min(MAX_HEADER);
                self.header_bytes = piece;
                self.state = State::Header;
                return;
            }
            // CKPT 0 where the header should be.
            _ if piece.first_chunk() == Some(&[FrameKind::Checkpoint as u8, 0, 0, 0, 0, 0, 0, 0]) => "header-dropped",
            _ => "header-flipped",
        };
        self.lose(Clue::Code(code), true);
    }

    fn whole_header(&mut self, piece: Vec<u8>) {
        self.feed(&piece);
        self.header_bytes.extend_from_slice(&piece);
        match Header::decode(&self.header_bytes) {
            Ok((header, _)) if header.box_id == self.key.box_id() => {
                self.header = Some(header);
                self.next_head();
            }
            Ok((header, _)) => {
                self.header = Some(header);
                self.lose(Clue::Code("header-foreign"), true);
            }
            Err(HeaderError::Version { .. }) => self.lose(Clue::Code("unknown-version"), true),
            Err(_) => self.lose(Clue::Code("header-flipped"), true),
        }
    }

    fn head(&mut self, piece: &[u8]) {
        let Some(head) = FrameHead::parse(piece).or_else(|| self.unknown_type(piece)) else {
            self.feed(piece);
            let magic = piece.starts_with(self.header_bytes.get(..HEADER_PREFIX).unwrap_or(b"MVS1"));
            let code = if magic && self.last.is_none() { "header-duplicated" } else { "record-flipped" };
            return self.lose(Clue::Lost(code), false);
        };
        match head.class() {
            FrameClass::Checkpoint | FrameClass::End => {
                // The signature's digest needs the state before the body, so the head is hashed with it.
                self.piece = piece.to_vec();
                self.want = usize::try_from(head.frame_len()).unwrap_or(MAX_BODY);
                self.state = State::Signed { head };
                return;
            }
            FrameClass::Sealed => self.sealed(head),
            FrameClass::Skipped | FrameClass::Refused => {}
        }
        self.feed(piece);
        self.state = State::Passing { head, left: u64::from(head.length) };
        if head.length == 0 {
            self.print_done(head.kind, FRAME_HEAD as u64);
            self.next_head();
        }
    }

    /// A frame of a type that must not be skipped, but whose head is otherwise sound: walked over, so that the next
    /// signature says whether the box wrote it.
    fn unknown_type(&mut self, piece: &[u8]) -> Option<FrameHead> {
        let head = FrameHead::lenient(piece).filter(|head| head.class() == FrameClass::Refused)?;
        self.unknown = true;
        Some(head)
    }

    fn sealed(&mut self, head: FrameHead) {
        if self.checkpoints == 0 && self.last.is_none() {
            self.fault(Clue::Code("ckpt-dropped"), true);
        }
        if let Some(diagnosis) = &mut self.diagnosis {
            diagnosis.add(Clue::Record { number: head.number, expected: self.records }, false, self.size);
        } else if head.number != self.records {
            self.fault(Clue::Record { number: head.number, expected: self.records }, false);
        } else if head.flags != FIRST | LAST || self.in_unit {
            let starts = head.is_first();
            if starts == self.in_unit || head.kind != FrameKind::Unit as u8 {
                self.fault(Clue::Lost("record-flipped"), false);
            }
        }
        self.in_unit = head.kind == FrameKind::Unit as u8 && !head.is_last();
        self.records = head.number.saturating_add(1);
    }

    fn signed(&mut self, head: FrameHead, frame: &[u8]) {
        let start = self.size;
        let before = self.hash.clone();
        self.feed(frame);
        self.print(frame.get(FRAME_HEAD..).unwrap_or_default());
        self.print_done(head.kind, head.frame_len());
        self.next_head();
        if head.class() == FrameClass::End {
            self.ends(&before, start, frame);
        } else {
            self.check(&head, &before, start, frame);
        }
    }

    fn check(&mut self, head: &FrameHead, before: &Sha256, start: u64, frame: &[u8]) {
        let expected = self.checkpoints;
        let body = frame.get(FRAME_HEAD..).unwrap_or_default();
        let parsed = signed::parse::<CkptBody>(body).filter(|(ckpt, _)| ckpt.number == head.number);
        let Some(header) = &self.header else { return };
        let valid = self.diagnosis.is_none()
            && parsed.as_ref().is_some_and(|(ckpt, _)| {
                (ckpt.number, ckpt.records, ckpt.run) == (expected, self.records, header.run)
                    && ckpt.stanzas.as_ref() == (expected == 0).then(|| signed::marks(&header.stanzas)).as_ref()
            })
            && !self.in_unit
            && self.verifies(FrameKind::Checkpoint, before, frame);
        if valid && self.unknown {
            return self.lose(Clue::Code("unknown-type"), true);
        }
        if let (true, Some((ckpt, _))) = (valid, parsed.as_ref()) {
            let point =
                Point { number: expected, records: ckpt.records, offset: self.size, at: ckpt.at, run: ckpt.run };
            self.last = Some((point, self.hash.clone()));
            self.checkpoints = expected.saturating_add(1);
            return;
        }
        let stanzas = parsed.as_ref().and_then(|(ckpt, _)| {
            (head.number == 0 && expected == 0)
                .then(|| diagnosis::stanzas(&header.stanzas, ckpt.stanzas.as_deref().unwrap_or_default()))
        });
        let first = self.diagnosis.as_ref().is_none_or(|diagnosis| !diagnosis.has_signed());
        let repaired = first && self.repairs(FrameKind::Checkpoint, before, frame);
        let clue = Clue::Ckpt {
            number: parsed.as_ref().map(|(ckpt, _)| ckpt.number),
            records: parsed.map_or(0, |(ckpt, _)| ckpt.records),
            expected,
            counted: self.records,
            adjacent: self.last().is_some_and(|point| point.offset == start),
            repaired,
            stanzas,
        };
        self.fault(clue, true);
    }

    fn ends(&mut self, before: &Sha256, start: u64, frame: &[u8]) {
        self.state = State::Over;
        let body = frame.get(FRAME_HEAD..).unwrap_or_default();
        let parsed = signed::parse::<EndBody>(body);
        let Some(header) = &self.header else { return };
        let by_box = self.diagnosis.is_none() && self.last.is_some() && self.verifies(FrameKind::End, before, frame);
        let adjacent = self.last().is_some_and(|point| point.offset == start);
        let consistent = parsed.as_ref().is_some_and(|(end, _)| {
            let run_fits = if end.reason.is_recovery() {
                end.run.start > header.run.start && adjacent
            } else {
                end.run == header.run
            };
            (end.records, end.checkpoints) == (self.records, self.checkpoints) && run_fits && !self.in_unit
        });
        if by_box && self.unknown {
            return self.lose(Clue::Code("unknown-type"), true);
        }
        self.end_frame = frame.to_vec();
        match parsed {
            Some((end, _)) if by_box && consistent => {
                let finished = Finished {
                    segment: header.segment,
                    size: self.size,
                    sha256: Digest(self.hash.clone().finalize().into()),
                    end: Digest(Sha256::digest(frame).into()),
                    records: end.records,
                };
                self.end = Some(Ended { reason: end.reason, prev: end.prev, run: end.run, at: end.at, finished });
            }
            // Signed, and yet against the rules: the box itself, or its key in other hands.
            Some(_) if by_box => self.fault(Clue::Code("end-inconsistent"), true),
            parsed => {
                let first = self.diagnosis.as_ref().is_none_or(|diagnosis| !diagnosis.has_signed());
                let repaired = first && self.repairs(FrameKind::End, before, frame);
                let said = parsed.map(|(end, _)| (end.records, end.checkpoints));
                let counted = (self.records, self.checkpoints);
                self.fault(Clue::End { said, counted, adjacent, repaired }, true);
            }
        }
    }

    /// Bytes after END, or after the structure was lost.
    fn after(&mut self, bytes: &[u8]) {
        if let (State::Over, Some(end)) = (self.state, self.end) {
            // Enough to tell a second END from anything else.
            let room = (self.end_frame.len() + 1).saturating_sub(self.beyond.len());
            self.beyond.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            let size = self.size + bytes.len() as u64;
            let code = if self.beyond == self.end_frame { "end-duplicated" } else { "end-followed" };
            let mut diagnosis = Diagnosis::new(end.finished.size);
            diagnosis.add(Clue::Code(code), true, size);
            self.diagnosis = Some(diagnosis);
        }
        self.feed(bytes);
        if matches!(self.state, State::Lost) {
            self.beyond.extend_from_slice(bytes);
            self.look_beyond();
        }
    }

    /// Looks for signed frames after the structure was lost: torn bytes hold few of them, altered files many.
    fn look_beyond(&mut self) {
        let Some(run) = self.header.as_ref().map(|header| header.run) else { return };
        let mut at = 0;
        while let Some(rest) = self.beyond.get(at..).filter(|rest| rest.len() >= MAX_REPAIR) {
            if let Some(end) = signed_by(rest, run) {
                self.fault(Clue::Later { end }, false);
            }
            at += 1;
        }
        self.beyond.drain(..at);
    }

    fn verifies(&self, kind: FrameKind, before: &Sha256, frame: &[u8]) -> bool {
        let Some(header) = &self.header else { return false };
        let Some((said, signature)) = frame.split_last_chunk::<SIGNATURE>() else { return false };
        let file = Digest(before.clone().chain_update(said).finalize().into());
        self.key.verifies(&signed::digest(kind, header.segment, &file), signature)
    }

    /// Whether the frame verifies with one bit changed: then that bit rotted, and what the frame covers is untouched.
    fn repairs(&self, kind: FrameKind, before: &Sha256, frame: &[u8]) -> bool {
        // A CKPT or END of ours is shorter; the bound keeps a hostile file from costing seconds.
        if frame.len() > MAX_REPAIR {
            return false;
        }
        let mut candidate = frame.to_vec();
        (0..frame.len() * 8).any(|bit| {
            let mask = 1 << (bit % 8);
            let Some(byte) = candidate.get_mut(bit / 8) else { return false };
            *byte ^= mask;
            let repaired = self.verifies(kind, before, &candidate);
            if let Some(byte) = candidate.get_mut(bit / 8) {
                *byte ^= mask;
            }
            repaired
        })
    }
}

/// Whether the bytes begin with a CKPT (false) or END (true) that names the run; nothing is proven by it.
fn signed_by(bytes: &[u8], run: Run) -> Option<bool> {
    let head =
        FrameHead::parse(bytes).filter(|head| matches!(head.class(), FrameClass::Checkpoint | FrameClass::End))?;
    let body = bytes.get(FRAME_HEAD..usize::try_from(head.frame_len()).ok()?)?;
    if head.class() == FrameClass::End {
        return signed::parse::<EndBody>(body).map(|_| true);
    }
    signed::parse::<CkptBody>(body).filter(|(ckpt, _)| (ckpt.run, ckpt.number) == (run, head.number)).map(|_| false)
}
