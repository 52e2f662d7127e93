//! The segments of one camera's recordings, in order, as one stream of records.
//!
//! A segment that is still open, was cut or ends in damage is read as far as its records open; what was left out is
//! reported, never silently dropped.

use crate::base::reason::Coded;
use crate::base::units::Run;
use crate::seal::frame::next_frame;
use crate::seal::{Header, OpenError, Reader, RecipientSecret, Record, SegmentKey};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

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
    /// Bytes from here on came live and are no part of the file that the box closed.
    fn provisional_from(&self) -> Option<u64> {
        None
    }
}

/// Opened for each read: a day of footage has more segments than a process may have open files.
impl SegmentBytes for PathBuf {
    fn size(&self) -> io::Result<u64> {
        Ok(std::fs::metadata(self)?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&std::fs::File::open(self)?, into, offset)
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
    /// Where in its bytes the first such thing is.
    pub from: u64,
    /// How many things of this kind: frames, or 1 if everything from there on is left out.
    pub count: u64,
    /// Stable code.
    pub code: &'static str,
}

/// Where a record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Who recorded it, and when.
    pub run: Run,
    /// It was received live and is not in the file that the box closed.
    pub provisional: bool,
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

    /// Boot time counts within one boot; the daemon's start count orders the boots of one box. Boxes come one after
    /// another: their clocks have nothing in common.
    fn sort(&mut self) {
        self.parts.sort_by_key(|part| {
            let header = &part.header;
            (header.box_id, header.run.start, header.at, header.segment)
        });
    }

    /// Gives every record to `each`, in order, with its place; `each` may stop by returning false. `progress` hears the
    /// bytes read so far.
    ///
    /// # Errors
    /// `Io`; `Key` if no segment opens. Damage, and segments that these keys do not open, are no errors: they are in the
    /// list that is returned.
    pub fn read(
        &mut self,
        secrets: &[&RecipientSecret],
        progress: &mut dyn FnMut(u64),
        each: &mut dyn FnMut(Place, Record) -> bool,
    ) -> Result<Vec<LeftOut>, FootageError> {
        self.sort();
        let mut left_out = Vec::new();
        let (mut before, mut opened, mut shut) = (0, false, None);
        for part in &self.parts {
            match part.key(secrets) {
                Ok(key) => {
                    opened = true;
                    let (left, go_on) = part.read(key, &mut |done| progress(before + done), each)?;
                    left_out.extend(left);
                    if !go_on {
                        return Ok(left_out);
                    }
                }
                Err(error) => {
                    left_out.push(LeftOut { segment: part.name.clone(), from: 0, count: 1, code: error.code() });
                    shut.get_or_insert(error);
                }
            }
            before += part.bytes.size().unwrap_or(0);
        }
        match shut {
            Some(error) if !opened => Err(error),
            _ => Ok(left_out),
        }
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

    /// What was left out, and whether `each` wants more.
    fn read(
        &self,
        key: SegmentKey,
        progress: &mut dyn FnMut(u64),
        each: &mut dyn FnMut(Place, Record) -> bool,
    ) -> Result<(Vec<LeftOut>, bool), FootageError> {
        let io = |source| FootageError::Io { name: self.name.clone(), source };
        let provisional_from = self.bytes.provisional_from().unwrap_or(u64::MAX);
        let mut header = vec![0; self.header_len];
        fill(&*self.bytes, 0, &mut header).map_err(io)?;
        let mut reader = Reader::new(&header, key);
        let mut at = self.header_len as u64;
        let mut buf = Vec::new();
        // By code: where first, how often. A frame that does not open costs itself; the structure goes on in clear.
        let mut left: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
        let mut go_on = true;
        'file: loop {
            let held = buf.len();
            buf.resize(held + READ, 0);
            let n = fill(&*self.bytes, at + held as u64, &mut buf[held..]).map_err(io)?;
            buf.truncate(held + n);
            let mut used = 0;
            loop {
                let here = at + used as u64;
                match next_frame(&buf[used..]) {
                    Ok(Some((_, frame))) => {
                        let broken = reader.broken_units();
                        match reader.frame(frame) {
                            Ok(Some(record)) => {
                                go_on =
                                    each(Place { run: self.header.run, provisional: here >= provisional_from }, record);
                            }
                            Ok(None) => {}
                            Err(error) => left.entry(error.code()).or_insert((here, 0)).1 += 1,
                        }
                        if reader.broken_units() > broken {
                            left.entry("unit-incomplete").or_insert((here, 0)).1 += 1;
                        }
                        if !go_on {
                            break 'file;
                        }
                        used += frame.len();
                    }
                    Ok(None) => break,
                    Err(_) => {
                        left.insert("segment-structure", (here, 1));
                        break 'file;
                    }
                }
            }
            at += used as u64;
            buf.drain(..used);
            progress(at);
            if n == 0 {
                // Bytes at the end that are no whole frame: it was being written.
                if !buf.is_empty() {
                    left.insert("segment-truncated", (at, 1));
                }
                break;
            }
        }
        let left =
            left.into_iter().map(|(code, (from, count))| LeftOut { segment: self.name.clone(), from, count, code });
        Ok((left.collect(), go_on))
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
