//! The rules of the source tree, as tests: who may use whom (docs/architecture.md), which crates are confined to which
//! room, what is banned, how long a file may be. Each rule has a fixture in `tests/layering/fixtures` that must fire it.

#[path = "layering/rules.rs"]
mod rules;
#[path = "layering/source.rs"]
mod source;

use rules::{RULES, Violation, check};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder").map(|entry| entry.expect("a readable entry")) {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, into);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn the_source_tree_keeps_every_rule() {
    let mut files = Vec::new();
    files_below(&root().join("src"), &mut files);
    files.sort();
    assert!(files.len() > 10, "only {} files found: is src/ where it was?", files.len());
    let mut found: Vec<Violation> = Vec::new();
    for path in files {
        let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        found.extend(check(&name, &fs::read_to_string(&path).expect("a text file")));
    }
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} violations:\n{}", shown.len(), shown.join("\n"));
}

/// Every fixture says in its first two lines under which path it is judged and which rule must fire; a third line may
/// ask for its last line to be repeated (for the rules about length).
#[test]
fn every_rule_fires_on_its_fixture_and_only_that_rule() {
    let mut seen = Vec::new();
    let folder = root().join("tests/layering/fixtures");
    for entry in fs::read_dir(folder).expect("fixtures").map(|entry| entry.expect("a readable entry")) {
        let text = fs::read_to_string(entry.path()).expect("a text file");
        let directive = |word: &str| {
            let start = format!("// {word}: ");
            text.lines().find_map(|line| line.strip_prefix(start.as_str()).map(str::to_owned))
        };
        let (path, rule) = (directive("path").expect("// path:"), directive("fires").expect("// fires:"));
        let mut source: String =
            text.lines().filter(|line| !line.starts_with("// ")).map(|line| format!("{line}\n")).collect();
        if let Some(times) = directive("repeat") {
            let last = source.lines().last().expect("a last line").to_owned() + "\n";
            source += &last.repeat(times.parse().expect("a number"));
        }
        let fired: Vec<&str> = check(&path, &source).iter().map(|violation| violation.rule).collect();
        assert_eq!(fired, [rule.as_str()], "{}", entry.path().display());
        seen.push(rule);
    }
    for rule in RULES {
        assert!(seen.iter().any(|fired| fired == rule), "the rule {rule} has no fixture");
    }
}

#[test]
fn what_is_allowed_does_not_fire() {
    for (path, text) in [
        (
            "src/store/source.rs",
            "//! x\nuse crate::base::ids::Digest;\nuse crate::{media::Gap, seal::{Tap, Header}};\n",
        ),
        ("src/relay/quic.rs", "//! x\nuse quinn::crypto::rustls::QuicServerConfig;\nuse crate::trust::tls;\n"),
        ("src/cloud/page.rs", "//! x\nuse axum::Router;\nuse crate::web::kit::login;\n"),
        ("src/seal/open.rs", "//! A reader: see [`crate::store`].\nconst HELP: &str = \"crate::cloud\";\n"),
        ("src/trust/pairing/tests.rs", "//! x\nuse crate::sim::frames;\nfn f() { tokio::spawn(async {}); }\n"),
        (
            "src/play/mp4.rs",
            "//! x\n#[cfg(all(test, feature = \"sim\"))]\nmod tests {\n    use crate::sim::frames;\n}\n",
        ),
        ("src/play/mod.rs", "//! x\n#[cfg(test)]\nmod tests {\n    use crate::sim::frames;\n}\n"),
    ] {
        let found = check(path, text);
        assert!(found.is_empty(), "{path}: {}", found[0]);
    }
}
