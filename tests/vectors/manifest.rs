//! The committed vectors: made anew and compared byte for byte, and judged by an independent verifier in Python.
//!
//! `MVB_WRITE_VECTORS=1` writes `tests/vectors/data`. A change there is a change of the format: spec, vectors and version.

use crate::world::{self, JOURNAL, organisation_key, world};
use crate::{lone, tamper};
use mvb::base::ids::SegmentId;
use mvb::seal::{Scanner, header::Header, verify};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/data")
}

/// Last valid checkpoint and whether a valid END was seen, with the key of the box that the header names.
fn state(bytes: &[u8]) -> Value {
    let key = Header::decode(bytes).ok().and_then(|(header, _)| world::keys().of(header.box_id).cloned());
    let Some(key) = key else { return json!({ "ckpt": null, "ended": false }) };
    let mut scanner = Scanner::new(key);
    scanner.push(bytes);
    let scan = scanner.finish();
    json!({ "ckpt": scan.last.map(|point| point.number), "ended": scan.end.is_some() })
}

fn make() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let base = world().store;
    for (name, bytes) in &base.segments {
        files.insert(format!("store/segments/{name}"), bytes.clone());
    }
    files.insert(format!("store/journal/{JOURNAL}"), base.journals[JOURNAL].clone());
    files.insert("keys.jsonl".into(), world::keys().to_text().into_bytes());
    files.insert("head.json".into(), base.head.as_ref().expect("has one").to_text().into_bytes());

    let mut singles = Vec::new();
    for case in lone::cases() {
        let file = format!("files/{}.mvs", case.name);
        let (opens, units) = lone::open(&case.bytes);
        singles.push(json!({
            "name": case.name,
            "file": file,
            "clean": case.codes.is_empty(),
            "codes": case.codes,
            "notes": case.notes,
            "state": state(&case.bytes),
            "opens": opens,
            "units": (opens == "ok").then_some(units),
        }));
        files.insert(file, case.bytes);
    }

    let mut stores = vec![json!({
        "name": "clean",
        "replace": {}, "remove": [], "head": true, "clean": true, "codes": [],
        "states": base.segments.iter().map(|(name, bytes)| (name.clone(), state(bytes))).collect::<BTreeMap<_, _>>(),
    })];
    for case in tamper::cases() {
        let mut replace = BTreeMap::new();
        let mut remove = Vec::new();
        let mut one = |path: String, old: Option<&Vec<u8>>, new: Option<&Vec<u8>>| match (old, new) {
            (old, Some(new)) if old != Some(new) => {
                // The same bytes are kept once.
                let known = files.iter().find(|(_, bytes)| *bytes == new).map(|(file, _)| file.clone());
                let file = known.unwrap_or_else(|| format!("tampered/{}/{path}", case.name));
                files.entry(file.clone()).or_insert_with(|| new.clone());
                replace.insert(path, file);
            }
            (Some(_), None) => remove.push(path),
            _ => {}
        };
        for name in base.segments.keys().chain(case.store.segments.keys()) {
            one(format!("segments/{name}"), base.segments.get(name), case.store.segments.get(name));
        }
        for name in base.journals.keys().chain(case.store.journals.keys()) {
            one(format!("journal/{name}"), base.journals.get(name), case.store.journals.get(name));
        }
        remove.dedup();
        stores.push(json!({
            "name": case.name,
            "replace": replace, "remove": remove, "head": case.store.head.is_some(),
            "clean": case.codes.is_empty(), "codes": case.codes,
            "states": case.store.segments.iter().map(|(name, bytes)| (name.clone(), state(bytes))).collect::<BTreeMap<_, _>>(),
        }));
    }
    let manifest = json!({
        "organisation_key": data_encoding::HEXLOWER.encode(organisation_key().to_bytes().as_slice()),
        "files": singles,
        "stores": stores,
    });
    let text = serde_json::to_string_pretty(&manifest).expect("is JSON") + "\n";
    files.insert("manifest.json".into(), text.into_bytes());
    files
}

fn listed(folder: &Path, prefix: &str, out: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("the vectors are there").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() { listed(&entry.path(), &format!("{name}/"), out) } else { out.push(name) }
    }
}

#[test]
fn the_committed_vectors_are_made_again_byte_for_byte() {
    let files = make();
    let folder = folder();
    if std::env::var_os("MVB_WRITE_VECTORS").is_some() {
        let _ = std::fs::remove_dir_all(&folder);
        for (name, bytes) in &files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("makes the folder");
            std::fs::write(path, bytes).expect("writes");
        }
    }
    let total: usize = files.values().map(Vec::len).sum();
    assert!(total < 500_000, "{total} bytes of vectors");
    let mut there = Vec::new();
    listed(&folder, "", &mut there);
    there.sort();
    assert_eq!(
        there,
        files.keys().cloned().collect::<Vec<_>>(),
        "run with MVB_WRITE_VECTORS=1 after a change of the format"
    );
    for (name, bytes) in &files {
        let committed = std::fs::read(folder.join(name)).expect("reads");
        assert!(committed == *bytes, "{name} differs: run with MVB_WRITE_VECTORS=1 after a change of the format");
    }
}

/// An interpreter with the `cryptography` package.
pub fn python() -> String {
    let wanted = std::env::var("MVB_PYTHON").ok();
    let candidates = wanted.into_iter().chain(["/usr/bin/python3".into(), "python3".into()]);
    let works = |python: &String| {
        Command::new(python).args(["-c", "import cryptography"]).output().is_ok_and(|output| output.status.success())
    };
    candidates.into_iter().find(works).expect(
        "no Python 3 with `cryptography`: install the Debian package python3-cryptography, or name an interpreter in \
         MVB_PYTHON",
    )
}

#[test]
fn an_independent_verifier_comes_to_the_same_verdicts() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verifier/verify.py");
    let output = Command::new(python()).arg(script).arg("vectors").arg(folder()).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let verdicts: Value = serde_json::from_slice(&output.stdout).expect("prints JSON");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(folder().join("manifest.json")).expect("reads")).expect("is JSON");
    let mut wrong = Vec::new();
    for (kind, fields) in [("files", &["clean", "state", "opens", "units"][..]), ("stores", &["clean", "states"][..])] {
        for expected in manifest[kind].as_array().expect("a list") {
            let name = expected["name"].as_str().expect("a name");
            for field in fields {
                let (got, expected) = (&verdicts[kind][name][*field], &expected[*field]);
                if got != expected {
                    wrong.push(format!("{kind} {name}: {field} is {got}, not {expected}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_segment_is_named_after_its_id() {
    let base = world().store;
    for (name, bytes) in &base.segments {
        let (header, _) = Header::decode(bytes).expect("a header");
        assert_eq!(name.strip_suffix(".mvs").and_then(|stem| stem.parse::<SegmentId>().ok()), Some(header.segment));
    }
    assert!(verify::Keys::parse(&world::keys().to_text()).is_ok());
}
