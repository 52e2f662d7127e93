//! The file as written: values by dotted key with their lines, taken one by one; what is wrong is collected.
//!
//! Belongs here: TOML, lines, suggestions. Does not belong here: what a key means (see [`super::Config`]).

use super::Mistake;
use crate::base::units::ByteCount;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use toml::de::{DeTable, DeValue};

/// Every key that exists.
pub const KEYS: &[&str] = &[
    "box.name",
    "box.serial",
    "storage.path",
    "storage.memory_max_mb",
    "storage.keep_free_mb",
    "seal.local_access",
    "footage.purpose",
    "footage.legal_basis",
    "footage.retention",
    "ingest.udp_ports",
    "ingest.rtsp.listen",
    "ingest.rtsp.public_host",
    "uplink.interface",
    "pairing.on_wrong_certificate",
    "control.socket",
    "metrics.listen",
    "log.level",
];

enum Value {
    Text(String),
    Integer(Option<u64>),
    Other(&'static str),
}

/// Values not yet taken, and mistakes so far.
pub struct Raw {
    values: BTreeMap<String, (usize, Value)>,
    mistakes: Vec<Mistake>,
}

impl Raw {
    /// Reads TOML; unknown keys become mistakes.
    ///
    /// # Errors
    /// The text is no TOML: one mistake with its line.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let table = DeTable::parse(text).map_err(|error| {
            vec![Mistake {
                line: line_of(text, error.span()),
                field: String::new(),
                reason: error.message().to_owned(),
                remedy: "correct the TOML (see config/mvb.toml)".into(),
            }]
        })?;
        let mut raw = Self { values: BTreeMap::new(), mistakes: Vec::new() };
        raw.flatten(text, "", table.get_ref());
        Ok(raw)
    }

    fn flatten(&mut self, text: &str, before: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name =
                if before.is_empty() { key.get_ref().to_string() } else { format!("{before}.{}", key.get_ref()) };
            let line = line_of(text, Some(key.span()));
            let known = KEYS.contains(&name.as_str());
            let value = match value.get_ref() {
                DeValue::Table(inner) if !known => {
                    if inner.is_empty() && !KEYS.iter().any(|key| key.starts_with(&format!("{name}."))) {
                        self.unknown(line, &name);
                    }
                    self.flatten(text, &name, inner);
                    continue;
                }
                DeValue::String(text) => Value::Text(text.to_string()),
                DeValue::Integer(number) => Value::Integer(u64::from_str_radix(number.as_str(), number.radix()).ok()),
                DeValue::Float(_) => Value::Other("a fraction"),
                DeValue::Boolean(_) => Value::Other("true or false"),
                DeValue::Datetime(_) => Value::Other("a date"),
                DeValue::Array(_) => Value::Other("a list"),
                DeValue::Table(_) => Value::Other("a table"),
            };
            if known {
                self.values.insert(name, (line, value));
            } else {
                self.unknown(line, &name);
            }
        }
    }

    fn unknown(&mut self, line: usize, name: &str) {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let remedy = closest(KEYS.iter().copied(), name, 0.8)
            .or_else(|| KEYS.iter().copied().find(|key| last(key) == last(name)))
            .map_or_else(
                || "remove it, or see config/mvb.toml for all keys".to_owned(),
                |key| format!("did you mean `{key}`?"),
            );
        self.mistake(line, name, "unknown key".into(), remedy);
    }

    fn mistake(&mut self, line: usize, field: &str, reason: String, remedy: String) {
        self.mistakes.push(Mistake { line, field: field.to_owned(), reason, remedy });
    }

    /// Whether the key is present.
    #[cfg(test)]
    pub fn holds(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn take_text(&mut self, key: &str) -> Option<(usize, String)> {
        debug_assert!(KEYS.contains(&key), "{key} is not in KEYS");
        match self.values.remove(key)? {
            (line, Value::Text(text)) => Some((line, text)),
            (line, other) => {
                self.mistake(line, key, format!("is {}", other.name()), "write text in quotes".into());
                None
            }
        }
    }

    /// A text of so many bytes.
    pub fn text(&mut self, key: &str, bytes: RangeInclusive<usize>) -> Option<String> {
        let (line, text) = self.take_text(key)?;
        if bytes.contains(&text.len()) && !text.chars().any(char::is_control) {
            return Some(text);
        }
        let remedy = format!("{} to {} bytes, no control characters", bytes.start(), bytes.end());
        self.mistake(line, key, format!("is {} bytes long or holds control characters", text.len()), remedy);
        None
    }

    /// A path that is not empty.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        let (line, text) = self.take_text(key)?;
        if text.is_empty() {
            self.mistake(line, key, "is empty".into(), "name a path, or remove the line for the default".into());
            return None;
        }
        Some(text.into())
    }

    /// A number of MB (2^20 bytes).
    pub fn megabytes(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<ByteCount> {
        debug_assert!(KEYS.contains(&key), "{key} is not in KEYS");
        let (line, value) = self.values.remove(key)?;
        match value {
            Value::Integer(Some(number)) if range.contains(&number) => Some(ByteCount(number << 20)),
            other => {
                let reason = if matches!(other, Value::Integer(_)) {
                    "is out of range".into()
                } else {
                    format!("is {}", other.name())
                };
                self.mistake(line, key, reason, format!("a whole number of MB, {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let (line, text) = self.take_text(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let guess = closest(words.iter().map(|(word, _)| *word), &text, 0.8)
            .map(|word| format!(" (did you mean \"{word}\"?)"))
            .unwrap_or_default();
        self.mistake(line, key, format!("is \"{text}\""), format!("one of {}{guess}", all.join(", ")));
        None
    }

    /// Anything else that is written as text; `expected` says what.
    pub fn parsed<T>(&mut self, key: &str, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let (line, text) = self.take_text(key)?;
        let value = parse(&text);
        if value.is_none() {
            self.mistake(line, key, format!("is \"{text}\""), format!("write {expected}"));
        }
        value
    }

    /// All mistakes, in order of lines.
    ///
    /// # Errors
    /// If there are any.
    pub fn finish(mut self) -> Result<(), Vec<Mistake>> {
        self.mistakes.sort_by_key(|mistake| mistake.line);
        if self.mistakes.is_empty() { Ok(()) } else { Err(self.mistakes) }
    }
}

impl Value {
    const fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "a number",
            Self::Other(name) => name,
        }
    }
}

fn closest<'a>(candidates: impl Iterator<Item = &'a str>, to: &str, least: f64) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(candidate, to), candidate))
        .filter(|(score, _)| *score >= least)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let at = span.map_or(0, |span| span.start).min(text.len());
    text.as_bytes().get(..at).unwrap_or_default().iter().filter(|b| **b == b'\n').count() + 1
}
