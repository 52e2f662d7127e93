//! The rules. The table is that of docs/architecture.md; change both together.

use crate::source::{UsedPath, code_only, paths, without_tests};
use std::collections::BTreeSet;
use std::fmt;

/// Codes of all rules.
pub const RULES: &[&str] = &[
    "room-may-not-use",
    "unknown-room",
    "super-leaves-room",
    "confined-crate",
    "banned-call",
    "no-header",
    "file-too-long",
    "binary-too-long",
];

/// Room → rooms that it may use, with everything that those may use. `web/kit` is a room of its own inside `web`.
const TABLE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("media", &["base"]),
    ("ingest", &["media"]),
    ("seal", &["media"]),
    ("play", &["seal"]),
    ("store", &["seal"]),
    ("bond", &["base"]),
    ("relay", &["bond", "seal", "trust"]),
    ("trust", &["base"]),
    ("system", &["base"]),
    ("control", &["ingest", "play", "store", "relay", "system"]),
    ("web/kit", &["base", "trust"]),
    ("web", &["control", "play", "trust", "web/kit"]),
    ("daemon", &["control", "web"]),
    ("cloud", &["relay", "play", "trust", "web/kit"]),
    // Fakes stand in for anything; no room names them outside its tests.
    ("sim", &["daemon", "cloud"]),
    ("bin", &["daemon", "cloud"]),
];

/// Crate (as named in code) → where it may be used, and why it is confined.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("rustls", &["src/trust/"], "every TLS configuration has one constructor"),
    ("tokio_rustls", &["src/trust/"], "every TLS configuration has one constructor"),
    ("rcgen", &["src/trust/"], "certificates are made in one place"),
    ("quinn", &["src/relay/quic", "src/sim/"], "the relay speaks to `Link`; QUIC is one implementation of it"),
    ("zbus", &["src/system/"], "D-Bus stays behind the backends"),
    ("aes_gcm", &["src/seal/", "src/trust/secrets"], "who encrypts is read in two places"),
    ("aes", &["src/seal/", "src/trust/secrets"], "who encrypts is read in two places"),
    ("cbc", &["src/seal/", "src/trust/secrets"], "who encrypts is read in two places"),
    ("chacha20poly1305", &["src/seal/", "src/trust/secrets"], "who encrypts is read in two places"),
    ("hpke", &["src/seal/"], "segment keys are wrapped in one place"),
    ("axum", &["src/web/", "src/cloud/"], "pages and API only"),
    ("rusqlite", &["src/store/", "src/cloud/"], "only the two catalogs are databases"),
    ("sd_notify", &["src/daemon/"], "one voice to systemd"),
    ("clap", &["src/control/", "src/cloud/", "src/daemon/cli"], "arguments are read at the edge"),
    ("anyhow", &["src/bin/"], "a room's errors are typed"),
];

/// End of a path → where it is allowed, and what to do instead.
const BANNED: &[(&[&str], &[&str], &str)] = &[
    (&["tokio", "spawn"], &["src/base/tasks.rs"], "spawn through base::tasks::Tasks"),
    (&["thread", "sleep"], &[], "wait on tokio's clock or for a condition"),
    (&["SystemTime", "now"], &["src/base/clock.rs"], "ask base::clock"),
];

/// Macros that no shipped code holds.
const BANNED_MACROS: &[&str] = &["todo!", "unimplemented!", "dbg!"];

const LONGEST_FILE: usize = 600;
const LONGEST_BINARY: usize = 60;

/// One broken rule.
#[derive(Debug)]
pub struct Violation {
    pub rule: &'static str,
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.what)
    }
}

/// Everything that is wrong with a file. `file` = its path from the package's root, `src/…`.
pub fn check(file: &str, text: &str) -> Vec<Violation> {
    let mut out = Vec::new();
    let mut add = |rule, line, what: String| out.push(Violation { rule, file: file.to_owned(), line, what });

    if !text.starts_with("//!") {
        add("no-header", 1, "begins without `//!`".into());
    }
    let whole = code_only(text);
    // A test module in a file of its own.
    let tests_only = file.ends_with("/tests.rs") || file.contains("/tests/");
    let shipped = if tests_only { "" } else { without_tests(&whole) };
    let lines = shipped.lines().count();
    if file.starts_with("src/bin/") && lines >= LONGEST_BINARY {
        add("binary-too-long", lines, format!("{lines} lines; a binary stays under {LONGEST_BINARY}"));
    } else if lines > LONGEST_FILE {
        add("file-too-long", lines, format!("{lines} lines without tests; split by concern at {LONGEST_FILE}"));
    }

    let room = room_of(file);
    let may_use = room.and_then(reach);
    let mut said = BTreeSet::new();
    for UsedPath { line, segments } in paths(shipped) {
        let named: Vec<&str> = segments.iter().map(String::as_str).collect();
        if let Some(target) = target_room(file, &named) {
            match (room, &may_use) {
                _ if target == "super" => {
                    add("super-leaves-room", line, format!("`{}`: name other rooms by `crate::`", segments.join("::")));
                }
                (Some(room), Some(may_use)) => {
                    if reach(&target).is_none() {
                        add("unknown-room", line, format!("`{target}` is not in the table"));
                    } else if target != room && !may_use.contains(target.as_str()) && said.insert(target.clone()) {
                        add("room-may-not-use", line, format!("`{room}` may not use `{target}`"));
                    }
                }
                _ => {}
            }
        }
        for (name, places, why) in CONFINED {
            if named.first() == Some(name) && !places.iter().any(|place| file.starts_with(place)) {
                add("confined-crate", line, format!("`{name}` belongs to {}: {why}", places.join(", ")));
            }
        }
        for (end, places, instead) in BANNED {
            if named.windows(end.len()).any(|part| part == *end) && !places.contains(&file) {
                add("banned-call", line, format!("`{}`: {instead}", end.join("::")));
            }
        }
    }
    for (index, line) in shipped.lines().enumerate() {
        for name in BANNED_MACROS {
            if line.find(name).is_some_and(|at| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')) {
                add("banned-call", index + 1, format!("`{name}` in shipped code"));
            }
        }
    }
    if room.is_some() && may_use.is_none() {
        add("unknown-room", 1, format!("`{}` is not in the table", room.unwrap_or_default()));
    }
    out
}

/// The room of a file; `None` for `src/lib.rs`, which only names rooms.
fn room_of(file: &str) -> Option<&str> {
    if file.starts_with("src/web/kit") {
        return Some("web/kit");
    }
    file.strip_prefix("src/")?.split_once('/').map(|(room, _)| room)
}

/// The room that a path leads to, `super` if it climbs out of its room, `None` if it stays or leaves the crate.
fn target_room(file: &str, path: &[&str]) -> Option<String> {
    let inside = match path {
        ["crate" | "mvb", rest @ ..] => rest,
        ["super", ..] => {
            let climbed = path.iter().take_while(|segment| **segment == "super").count();
            return (climbed >= depth(file)).then(|| "super".to_owned());
        }
        _ => return None,
    };
    match inside {
        ["web", "kit", ..] => Some("web/kit".to_owned()),
        // Names that `lib.rs` itself holds are not rooms.
        [room, ..] if room.chars().all(|c| c.is_ascii_lowercase() || c == '_') => Some((*room).to_owned()),
        _ => None,
    }
}

/// How many `super::` lead from a file's module to the crate's root.
fn depth(file: &str) -> usize {
    let parts = file.trim_start_matches("src/").trim_end_matches(".rs").split('/');
    parts.filter(|part| *part != "mod" && *part != "lib").count()
}

/// All rooms that a room may use, or `None` if the table does not know it.
fn reach(room: &str) -> Option<BTreeSet<&'static str>> {
    let (_, direct) = TABLE.iter().find(|(name, _)| *name == room)?;
    let mut all = BTreeSet::new();
    for next in *direct {
        all.insert(*next);
        all.extend(reach(next)?);
    }
    Some(all)
}
