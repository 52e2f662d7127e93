//! Stable reason codes and their counters.
//!
//! Every stop, drop, skip and refusal has a code: lower-case words joined by `-`, the same in logs, status, metrics,
//! specs and tests. Nothing parses `Display`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Something that a person or a machine is told by a stable code.
pub trait Coded {
    /// The stable code, for example `bad-signature`.
    fn code(&self) -> &'static str;
}

/// Counts per reason code, shared by cloning. Shown in status and as `mvb_reason_total{code=…}` in metrics.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Counters {
    /// Counts one occurrence.
    pub fn count(&self, what: &impl Coded) {
        self.add(what.code(), 1);
    }

    /// Counts `n` occurrences of a code.
    pub fn add(&self, code: &'static str, n: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += n;
    }

    /// All counts so far.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One count.
    #[must_use]
    pub fn total(&self, code: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(code).copied().unwrap_or(0)
    }
}

/// An error and all its sources in one line, `outer: inner: innermost`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
