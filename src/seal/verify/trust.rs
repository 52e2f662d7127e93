//! What verification trusts: evidence keys exported by the cloud, and the cloud's last acknowledged journal head.
//!
//! Both are text files that a person can read. Spec: "Keys file", "Head file". Nothing inside a store is trusted.

use crate::base::chain::{Head, PublicKey};
use crate::base::ids::{BoxId, Digest};
use crate::base::reason::Coded;
use crate::base::units::WallTime;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One evidence key of one box, kept by the cloud for ever: a line of the keys file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxKey {
    /// Which box.
    pub box_id: BoxId,
    /// Its evidence key.
    pub key: PublicKey,
    /// First paired at, cloud time.
    pub from: WallTime,
    /// Revoked or replaced at; `None` while in use.
    pub to: Option<WallTime>,
}

/// Evidence keys by box.
#[derive(Debug, Clone, Default)]
pub struct Keys(BTreeMap<BoxId, BoxKey>);

/// The journal's head as the cloud last acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadFile {
    /// Whose journal.
    #[serde(rename = "box")]
    pub box_id: BoxId,
    /// Sequence number of its last acknowledged entry.
    pub seq: u64,
    /// That entry's link hash.
    pub hash: Digest,
    /// The signed JOURNAL_ACK (docs/spec/relay.md), base64: proof for third parties, not checked here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
}

/// Why a keys file or head file is refused.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A line is not what the spec says.
    #[error("line {line}: not a key of a box as `mvb-cloud keys export` writes it")]
    Line {
        /// Counted from 1.
        line: usize,
        #[source]
        source: serde_json::Error,
    },
    /// The key is no P-256 SubjectPublicKeyInfo in base64.
    #[error("line {line}: the key cannot be read")]
    Key {
        /// Counted from 1.
        line: usize,
    },
    /// The box id is not the key's hash: the line was altered.
    #[error("line {line}: the box id is not the hash of its key")]
    BoxId {
        /// Counted from 1.
        line: usize,
    },
    /// No key at all.
    #[error("the file holds no key")]
    Empty,
    /// The head file is not what the spec says.
    #[error("not a journal head as the cloud writes it")]
    Head(#[source] serde_json::Error),
}

impl Coded for TrustError {
    fn code(&self) -> &'static str {
        match self {
            Self::Line { .. } => "keys-line",
            Self::Key { .. } => "keys-key",
            Self::BoxId { .. } => "keys-box-id",
            Self::Empty => "keys-empty",
            Self::Head(_) => "head-malformed",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(rename = "box")]
    box_id: BoxId,
    key: String,
    from: WallTime,
    to: Option<WallTime>,
}

impl Keys {
    /// Reads a keys file: one JSON object a line; empty lines are skipped.
    ///
    /// # Errors
    /// The first line that is wrong; a file without a key.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let mut keys = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|source| TrustError::Line { line, source })?;
            // Of another kind, which a later version writes.
            if !object.contains_key("box") {
                continue;
            }
            let Line { box_id, key, from, to } =
                serde_json::from_value(object.into()).map_err(|source| TrustError::Line { line, source })?;
            let key = BASE64
                .decode(key.as_bytes())
                .ok()
                .and_then(|der| PublicKey::from_spki(&der))
                .ok_or(TrustError::Key { line })?;
            if key.box_id() != box_id {
                return Err(TrustError::BoxId { line });
            }
            keys.insert(box_id, BoxKey { box_id, key, from, to });
        }
        if keys.is_empty() { Err(TrustError::Empty) } else { Ok(Self(keys)) }
    }

    /// From keys at hand.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = BoxKey>) -> Self {
        Self(keys.into_iter().map(|key| (key.box_id, key)).collect())
    }

    /// The keys file.
    ///
    /// # Panics
    /// Never: the lines hold nothing that JSON cannot.
    #[must_use]
    pub fn to_text(&self) -> String {
        let lines = self.0.values().map(|key| {
            let line = Line { box_id: key.box_id, key: BASE64.encode(&key.key.spki()), from: key.from, to: key.to };
            serde_json::to_string(&line).expect("texts and numbers are JSON") + "\n"
        });
        lines.collect()
    }

    /// A box's evidence key.
    #[must_use]
    pub fn of(&self, box_id: BoxId) -> Option<&PublicKey> {
        self.0.get(&box_id).map(|key| &key.key)
    }

    /// Some key of the file, to look at bytes whose header cannot be read.
    pub(crate) fn any(&self) -> Option<&PublicKey> {
        self.0.values().next().map(|key| &key.key)
    }
}

impl HeadFile {
    /// Reads a head file: one JSON object.
    ///
    /// # Errors
    /// `Head`.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        serde_json::from_str(text).map_err(TrustError::Head)
    }

    /// The file's text.
    ///
    /// # Panics
    /// Never: the object holds nothing that JSON cannot.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON") + "\n"
    }

    /// As the chain has it.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::chain::{Signer, SoftwareSigner};

    #[test]
    fn a_keys_file_survives_and_an_altered_one_is_refused() {
        let key = SoftwareSigner::generate().public_key();
        let keys = Keys::new([BoxKey { box_id: key.box_id(), key: key.clone(), from: WallTime(1), to: None }]);
        let text = keys.to_text();
        assert_eq!(Keys::parse(&text).expect("reads").of(key.box_id()), Some(&key));
        let other = SoftwareSigner::generate().public_key().box_id().to_string();
        let altered = text.replace(&key.box_id().to_string(), &other);
        assert!(matches!(Keys::parse(&altered), Err(TrustError::BoxId { line: 1 })));
        assert!(matches!(Keys::parse("\n{\"box\":1}\n"), Err(TrustError::Line { line: 2, .. })));
        assert!(matches!(Keys::parse("\n[]\n"), Err(TrustError::Line { line: 2, .. })));
        let later = format!("{{\"receipt\":\"…\"}}\n{text}");
        assert_eq!(Keys::parse(&later).expect("reads").of(key.box_id()), Some(&key), "a line of a later version");
        assert!(matches!(Keys::parse(""), Err(TrustError::Empty)));
    }
}
