//! The segments of one camera's recordings, in order, as one stream of records.
//!
//! A segment that is still open, was cut or ends in damage is read as far as its records open; what was left out is
//! reported, never silently dropped.

use crate::base::reason::Coded;
use crate::base::units::Run;
use crate::seal::frame::{FRAME_HEAD, next_frame};
use crate::seal::{Header, OpenError, Reader, RecipientSecret, Record, SegmentKey};
use std::io;

/// Bytes read at a time.
const READ: usize = 1024 * 1024;
/// Every header ends within this.
const HEADER_REACH: usize = 64 * 1024 + 8;

/// Where the bytes of a segment are.
pub trait SegmentBytes {
    /// Bytes that can be read.
    ///
    /// # Errors
    /// The file's.
    fn size(&self) -> io::Result<u64>;
    /// Reads at an offset; fewer bytes only at the end.
    ///
    /// # Errors
    /// The file's.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

impl SegmentBytes for std::fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, into, offset)
    }
}

impl SegmentBytes for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let n = into.len().min(self.len() - from);
        into[..n].copy_from_slice(&self[from..from + n]);
        Ok(n)
    }
}

/// Why footage cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FootageError {
    /// A file cannot be read.
    #[error("segment {name}: cannot be read")]
    Io {
        /// Its name.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is no sealed segment.
    #[error("{name} is no sealed segment")]
    NotASegment {
        /// Its name.
        name: String,
    },
    /// None of the keys opens it.
    #[error(
        "segment {name} does not open with this key: take the organisation's key or a recovery key it is sealed to"
    )]
    Key {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: OpenError,
    },
}

impl Coded for FootageError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "footage-io",
            Self::NotASegment { .. } => "footage-not-a-segment",
            Self::Key { .. } => "footage-wrong-key",
        }
    }
}

struct Part {
    name: String,
    header: Header,
    header_len: usize,
    bytes: Box<dyn SegmentBytes>,
}

/// What was left out of a segment, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// Name of the segment.
    pub segment: String,
    /// Bytes from here on.
    pub from: u64,
    /// Stable code.
    pub code: &'static str,
}

/// Segments that were opened, in order of time.
#[derive(Default)]
pub struct Footage {
    parts: Vec<Part>,
}

impl Footage {
    /// Adds a segment; its place follows from its header.
    ///
    /// # Errors
    /// `Io`, `NotASegment`.
    pub fn add(&mut self, name: impl Into<String>, bytes: Box<dyn SegmentBytes>) -> Result<(), FootageError> {
        let name = name.into();
        let mut start = vec![0; HEADER_REACH];
        let n = fill(&*bytes, 0, &mut start).map_err(|source| FootageError::Io { name: name.clone(), source })?;
        let Ok((header, header_len)) = Header::decode(&start[..n]) else {
            return Err(FootageError::NotASegment { name });
        };
        self.parts.push(Part { name, header, header_len, bytes });
        Ok(())
    }

    /// Adds the segments of another footage.
    pub fn append(&mut self, other: Self) {
        self.parts.extend(other.parts);
    }

    /// Headers of the segments, in order.
    pub fn headers(&mut self) -> impl Iterator<Item = &Header> {
        self.sort();
        self.parts.iter().map(|part| &part.header)
    }

    /// Number of segments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.parts.iter().filter_map(|part| part.bytes.size().ok()).sum()
    }

    /// Boot time counts within one boot; the daemon's start count orders boots of one box.
    fn sort(&mut self) {
        let run = |run: &Run| run.start;
        self.parts.sort_by_key(|part| (run(&part.header.run), part.header.at, part.header.segment));
    }

    /// Gives every record to `each`, in order, with the run that recorded it; `each` may stop by returning false.
    /// `progress` hears the bytes read so far.
    ///
    /// # Errors
    /// `Io`, `Key`. Damage is no error: it is in the list that is returned.
    pub fn read(
        &mut self,
        secrets: &[&RecipientSecret],
        progress: &mut dyn FnMut(u64),
        each: &mut dyn FnMut(Run, Record) -> bool,
    ) -> Result<Vec<LeftOut>, FootageError> {
        self.sort();
        let mut left_out = Vec::new();
        let mut before = 0;
        for part in &self.parts {
            let mut go_on = true;
            let left = part.read(secrets, &mut |done| progress(before + done), &mut |record| {
                go_on = each(part.header.run, record);
                go_on
            })?;
            left_out.extend(left);
            if !go_on {
                break;
            }
            before += part.bytes.size().unwrap_or(0);
        }
        Ok(left_out)
    }
}

impl Part {
    fn key(&self, secrets: &[&RecipientSecret]) -> Result<SegmentKey, FootageError> {
        let mut last = OpenError::NoStanza;
        for secret in secrets {
            match SegmentKey::unwrap(&self.header, secret) {
                Ok(key) => return Ok(key),
                // The most telling reason wins: a stanza that is there and does not open.
                Err(OpenError::NoStanza) => {}
                Err(other) => last = other,
            }
        }
        Err(FootageError::Key { name: self.name.clone(), source: last })
    }

    fn read(
        &self,
        secrets: &[&RecipientSecret],
        progress: &mut dyn FnMut(u64),
        each: &mut dyn FnMut(Record) -> bool,
    ) -> Result<Option<LeftOut>, FootageError> {
        let io = |source| FootageError::Io { name: self.name.clone(), source };
        let key = self.key(secrets)?;
        let mut header = vec![0; self.header_len];
        fill(&*self.bytes, 0, &mut header).map_err(io)?;
        let mut reader = Reader::new(&header, key);
        let left = |from, code| Ok(Some(LeftOut { segment: self.name.clone(), from, code }));
        let mut at = self.header_len as u64;
        let mut buf = Vec::new();
        loop {
            let held = buf.len();
            buf.resize(held + READ, 0);
            let n = fill(&*self.bytes, at + held as u64, &mut buf[held..]).map_err(io)?;
            buf.truncate(held + n);
            let mut used = 0;
            loop {
                match next_frame(&buf[used..]) {
                    Ok(Some((_, frame))) => {
                        match reader.frame(frame) {
                            Ok(Some(record)) => {
                                if !each(record) {
                                    return Ok(None);
                                }
                            }
                            Ok(None) => {}
                            Err(error) => return left(at + used as u64, error.code()),
                        }
                        used += frame.len();
                    }
                    Ok(None) => break,
                    Err(_) => return left(at + used as u64, "segment-structure"),
                }
            }
            at += used as u64;
            buf.drain(..used);
            progress(at);
            if n == 0 {
                // A few bytes at the end are a frame that was being written.
                return if buf.len() > FRAME_HEAD { left(at, "segment-truncated") } else { Ok(None) };
            }
        }
    }
}

fn fill(bytes: &dyn SegmentBytes, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match bytes.read_at(offset + filled as u64, &mut into[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}
