//! Names what happened between the last signature that held and the first that failed, from numbers in clear heads.
//!
//! The clues are themselves unsigned: whoever alters a file can mislead the name, never the verdict. What cannot be told
//! apart is listed in the spec, "Limits of naming".

use super::Fault;
use crate::seal::frame::FRAME_HEAD;
use crate::seal::header::Stanza;

/// Something that does not fit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Clue {
    /// It is named already.
    Code(&'static str),
    /// The structure is lost here; the name holds if nothing before explains it.
    Lost(&'static str),
    /// A sealed record's number.
    Record { number: u32, expected: u32 },
    /// A checkpoint that does not hold; `number` is `None` if it cannot even be read.
    Ckpt {
        number: Option<u32>,
        records: u32,
        expected: u32,
        counted: u32,
        /// Nothing lies between it and the checkpoint before.
        adjacent: bool,
        repaired: bool,
        stanzas: Option<&'static str>,
    },
    /// After the structure was lost: a frame that was signed once.
    Later { end: bool },
    /// An END that does not hold: (records, checkpoints) as it says and as counted.
    End { said: Option<(u32, u32)>, counted: (u32, u32), adjacent: bool, repaired: bool },
}

/// A checkpoint that needs what follows to be explained.
#[derive(Debug, Clone, Copy)]
enum Pending {
    /// It has the right number, but another count of records.
    Count { said: u32 },
    /// Its number is too high.
    Early { expected: u32, number: u32, count_differs: bool, replaced: bool },
}

#[derive(Debug)]
pub(super) struct Diagnosis {
    at: u64,
    until: Option<u64>,
    code: Option<&'static str>,
    proven: bool,
    /// Record numbers from the first irregular one on, at most three.
    window: Vec<u32>,
    expected: u32,
    missing_came: bool,
    pending: Option<Pending>,
    signed: u32,
    ended: bool,
}

impl Diagnosis {
    pub(super) fn new(at: u64) -> Self {
        Self {
            at,
            until: None,
            code: None,
            proven: false,
            window: Vec::new(),
            expected: 0,
            missing_came: false,
            pending: None,
            signed: 0,
            ended: false,
        }
    }

    /// Whether a signature has failed already.
    pub(super) fn has_signed(&self) -> bool {
        self.signed > 0
    }

    /// Takes in what was seen; `size` = first byte after it.
    pub(super) fn add(&mut self, clue: Clue, proven: bool, size: u64) {
        self.proven |= proven;
        self.ended |= matches!(clue, Clue::End { .. } | Clue::Later { end: true });
        if matches!(clue, Clue::Ckpt { .. } | Clue::End { .. } | Clue::Later { .. }) {
            self.signed += 1;
            self.until.get_or_insert(size);
        }
        // A signature that failed and then no frame at all: the length of that CKPT does not fit.
        let lost_at_once = matches!(clue, Clue::Lost(_)) && self.until.map(|end| end + FRAME_HEAD as u64) == Some(size);
        if self.code == Some("record-flipped") && lost_at_once {
            self.code = Some("ckpt-flipped");
        }
        if self.code.is_some() {
            return;
        }
        self.code = match clue {
            Clue::Code(code) | Clue::Lost(code) if self.is_fresh() => Some(code),
            Clue::Code(_) | Clue::Lost(_) => None,
            Clue::Later { .. } => None,
            Clue::Record { number, expected } => self.record(number, expected),
            Clue::Ckpt { .. } if !self.window.is_empty() => None,
            Clue::Ckpt { number, records, expected, counted, adjacent, repaired, stanzas } => match self.pending {
                Some(Pending::Count { said }) => Some(if records > said { "record-dropped" } else { "ckpt-flipped" }),
                Some(Pending::Early { .. }) => self.after_early(number),
                None => match number {
                    _ if repaired => Some("ckpt-flipped"),
                    _ if stanzas.is_some() => stanzas,
                    None => Some("ckpt-flipped"),
                    Some(number) if number == expected && records != counted => {
                        self.pending = Some(Pending::Count { said: records });
                        None
                    }
                    Some(number) if number == expected => {
                        Some(if adjacent { "ckpt-flipped" } else { "record-flipped" })
                    }
                    Some(number) if number < expected && adjacent && number + 1 == expected => Some("ckpt-duplicated"),
                    Some(number) if number < expected => Some("ckpt-replayed"),
                    Some(number) => {
                        let count_differs = records != counted;
                        self.pending = Some(Pending::Early { expected, number, count_differs, replaced: false });
                        None
                    }
                },
            },
            Clue::End { .. } if !self.window.is_empty() => None,
            Clue::End { said, counted, adjacent, repaired } => match (self.pending, said) {
                (Some(Pending::Count { said: before }), Some((records, _))) => {
                    Some(if records >= before { "record-dropped" } else { "ckpt-flipped" })
                }
                (Some(_), _) => None,
                _ if repaired => Some("end-flipped"),
                (None, Some((records, _))) if records > counted.0 => Some("record-dropped"),
                (None, Some((_, checkpoints))) if checkpoints > counted.1 => Some("ckpt-dropped"),
                (None, Some(said)) if said == counted && !adjacent => Some("record-flipped"),
                (None, _) => Some("end-flipped"),
            },
        };
    }

    pub(super) fn finish(self, size: u64) -> Fault {
        let code = self.code.unwrap_or_else(|| self.by_window());
        let Self { signed, ended, .. } = self;
        Fault { at: self.at, until: self.until.unwrap_or(size), code, proven: self.proven, signed, ended }
    }

    fn is_fresh(&self) -> bool {
        self.window.is_empty() && self.pending.is_none()
    }

    fn record(&mut self, number: u32, expected: u32) -> Option<&'static str> {
        if let Some(Pending::Count { said }) = self.pending {
            return Some(if number == said { "record-dropped" } else { "ckpt-flipped" });
        }
        if self.window.is_empty() {
            if number == expected {
                return None;
            }
            self.expected = expected;
        }
        self.missing_came |= !self.window.is_empty() && number == self.expected;
        if self.window.len() < 3 {
            self.window.push(number);
        }
        None
    }

    fn after_early(&mut self, next: Option<u32>) -> Option<&'static str> {
        let Some(Pending::Early { expected, number, count_differs, replaced }) = &mut self.pending else { return None };
        let next = next?;
        if next == *expected {
            return Some("ckpt-swapped");
        }
        if *replaced || next == *expected + 1 {
            *replaced = true;
            return None;
        }
        (next == number.saturating_add(1)).then_some(if *count_differs { "record-dropped" } else { "ckpt-dropped" })
    }

    fn by_window(&self) -> &'static str {
        let Some(&first) = self.window.first() else {
            return match self.pending {
                Some(Pending::Early { replaced: true, .. }) => "ckpt-replayed",
                Some(Pending::Early { count_differs: false, .. }) => "ckpt-dropped",
                Some(Pending::Early { .. } | Pending::Count { .. }) => "record-dropped",
                None => "record-flipped",
            };
        };
        let second = self.window.get(1).copied();
        let replaced = second == self.expected.checked_add(1);
        if first < self.expected {
            match first.checked_add(1) {
                _ if replaced => "record-replayed",
                Some(next) if next == self.expected => "record-duplicated",
                _ => "record-replayed",
            }
        } else if self.missing_came {
            "record-swapped"
        } else if replaced {
            "record-flipped"
        } else {
            "record-dropped"
        }
    }
}

/// What happened to the stanzas, if CKPT 0's list `said` (8 bytes each) is what they were; `header-flipped` if they are
/// as listed.
pub(super) fn stanzas(have: &[Stanza], said: &[u8]) -> &'static str {
    let (said, rest) = said.as_chunks::<8>();
    if said.is_empty() || !rest.is_empty() {
        return "header-flipped";
    }
    let marks: Vec<[u8; 8]> = have.iter().map(Stanza::mark).collect();
    if marks == said {
        return "header-flipped";
    }
    let sorted = |marks: &[[u8; 8]]| {
        let mut marks = marks.to_vec();
        marks.sort_unstable();
        marks
    };
    let (mine, theirs) = (sorted(&marks), sorted(said));
    if mine == theirs {
        return "stanza-swapped";
    }
    let repeated = mine.iter().zip(mine.iter().skip(1)).any(|(a, b)| a == b);
    let strange = have.iter().zip(&marks).find(|(_, mark)| !said.contains(mark)).map(|(stanza, _)| stanza);
    match marks.len().cmp(&said.len()) {
        std::cmp::Ordering::Less => "stanza-dropped",
        std::cmp::Ordering::Greater if repeated => "stanza-duplicated",
        std::cmp::Ordering::Greater => "stanza-foreign",
        std::cmp::Ordering::Equal if repeated => "stanza-replayed",
        std::cmp::Ordering::Equal => match strange {
            Some(stanza) if stanza.kind == 1 && (stanza.enc.len(), stanza.ct.len()) != (32, 48) => "stanza-truncated",
            _ => "stanza-flipped",
        },
    }
}
