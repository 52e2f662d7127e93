//! What the box keeps of its pairings, and what is left of each change when the power goes or the card fails within it.

use super::messages::{CloudAnswer, RawKey, RawSpki};
use super::state::{Pairings, StateError};
use crate::base::chain::{Signer, SoftwareSigner};
use crate::base::fs::faults::{self, Fault};
use crate::base::ids::{OrganisationId, PairingId};
use crate::base::reason::Coded;
use crate::base::units::WallTime;
use crate::trust::identity::{Generation, Spki};
use crate::trust::secrets::{FileRoot, SecretsFile};
use crate::trust::tls::Pins;
use std::path::PathBuf;

const A: PairingId = PairingId([0xa; 16]);
const B: PairingId = PairingId([0xb; 16]);
const C: PairingId = PairingId([0xc; 16]);
const NEXT: &str = "identity/next";

/// A box's internal storage, opened.
struct Kept {
    dir: tempfile::TempDir,
    secrets: SecretsFile,
    pairings: Pairings,
}

fn spki() -> Vec<u8> {
    SoftwareSigner::generate().public_key().spki()
}

fn answer(pairing: PairingId) -> CloudAnswer {
    let tag = pairing.0[0];
    CloudAnswer {
        version: 1,
        organisation: OrganisationId([tag; 16]),
        name: format!("Town {tag}"),
        sealing_key: [tag; 32],
        recovery_keys: vec![RawKey([tag + 1; 32])],
        receipt_key: spki(),
        issuers: vec![RawSpki(spki())],
        pins_version: 3,
        generation: 5,
        pairing,
        time: WallTime(5),
        relay: None,
    }
}

fn paths(dir: &tempfile::TempDir) -> (PathBuf, PathBuf, PathBuf) {
    let at = |name| dir.path().join(name);
    (at("device-root"), at("secrets"), at("pairing.json"))
}

impl Kept {
    fn new() -> Self {
        Self::open(tempfile::tempdir().expect("a folder"))
    }

    fn open(dir: tempfile::TempDir) -> Self {
        let (root, secrets, pairing) = paths(&dir);
        let root = FileRoot::open(&root).expect("a root");
        let mut secrets = SecretsFile::open(&secrets, &root).expect("secrets open");
        let pairings = Pairings::open(&pairing, &mut secrets).expect("pairings open");
        Self { dir, secrets, pairings }
    }

    /// The process ends here and starts anew.
    fn reopen(self) -> Self {
        Self::open(self.dir)
    }

    fn begin(&mut self, pairing: PairingId) -> Result<(), StateError> {
        self.pairings.begin("cloud.example", answer(pairing), &mut self.secrets)
    }

    fn confirm(&mut self, pairing: PairingId) -> Result<(), StateError> {
        self.pairings.confirm(pairing, &mut self.secrets)
    }

    fn wipe(&mut self, pairing: PairingId) -> Result<(), StateError> {
        self.pairings.wipe(pairing, &mut self.secrets)
    }

    fn paired(pairing: PairingId) -> Self {
        let mut kept = Self::new();
        kept.begin(pairing).expect("kept");
        kept.confirm(pairing).expect("confirmed");
        kept
    }

    /// Current, pending, and whose keys footage is sealed to.
    fn state(&self) -> (Option<PairingId>, Option<PairingId>, Option<[u8; 32]>) {
        let id = |pairing: Option<&super::state::Pairing>| pairing.map(|pairing| pairing.answer.pairing);
        let keys = self.pairings.keys().map(|keys| keys.sealing_key);
        (id(self.pairings.current()), id(self.pairings.pending()), keys)
    }

    fn identities(&self) -> Vec<String> {
        self.secrets.names("identity/").map(str::to_owned).collect()
    }

    fn key(&self, pairing: PairingId) -> Spki {
        self.pairings.identity(pairing, &self.secrets).expect("its identity").spki()
    }

    /// Holds after each start: every pairing has its identity, and nothing else has one but the next pairing.
    #[track_caller]
    fn check_invariants(&self, what: &str) {
        let (current, pending, _) = self.state();
        let mut wanted: Vec<String> =
            [current, pending].into_iter().flatten().map(|id| format!("identity/{id}")).collect();
        wanted.extend(self.identities().into_iter().filter(|name| name == NEXT));
        wanted.sort();
        assert_eq!(self.identities(), wanted, "{what}: identities");
        for id in [current, pending].into_iter().flatten() {
            let next = self.secrets.named(NEXT);
            let own = self.secrets.named(&format!("identity/{id}"));
            assert_ne!(next, own, "{what}: the next pairing would have this one's key");
        }
    }
}

#[test]
fn a_new_pairing_is_pending_and_its_keys_are_used_only_once_it_is_confirmed() {
    let mut kept = Kept::new();
    assert_eq!(kept.state(), (None, None, None));
    let next = kept.pairings.next_identity(&mut kept.secrets).expect("made").spki();
    // A lost reply: the same identity asks again, after a restart too.
    let mut kept = kept.reopen();
    assert_eq!(kept.pairings.next_identity(&mut kept.secrets).expect("kept").spki(), next);
    kept.begin(A).expect("kept");
    let mut kept = kept.reopen();
    assert_eq!(kept.state(), (None, Some(A), None));
    assert_eq!(kept.key(A), next);
    assert_ne!(kept.pairings.next_identity(&mut kept.secrets).expect("another").spki(), next);
    kept.confirm(A).expect("confirmed");
    let kept = kept.reopen();
    assert_eq!(kept.state(), (Some(A), None, Some([0xa; 32])));
    assert_eq!(kept.pairings.keys().expect("its keys").recovery_keys, [[0xb; 32]]);
    kept.check_invariants("paired");
}

#[test]
fn an_older_pairing_stays_until_the_new_one_is_confirmed() {
    let mut kept = Kept::paired(A);
    let old = kept.key(A);
    kept.begin(B).expect("kept");
    let mut kept = kept.reopen();
    assert_eq!(kept.state(), (Some(A), Some(B), Some([0xa; 32])));
    assert_eq!(kept.key(A), old);
    assert_ne!(kept.key(B), old, "each pairing has its own identity");
    // A pending one that is replaced takes its identity along; the older pairing is not touched.
    kept.begin(C).expect("kept");
    let mut kept = kept.reopen();
    assert_eq!(kept.state(), (Some(A), Some(C), Some([0xa; 32])));
    kept.check_invariants("replaced");
    assert_eq!(kept.confirm(B).expect_err("replaced").code(), "pairing-other");
    assert_eq!(kept.confirm(A).expect_err("confirmed before").code(), "pairing-other");
    kept.confirm(C).expect("confirmed");
    let kept = kept.reopen();
    assert_eq!(kept.state(), (Some(C), None, Some([0xc; 32])));
    kept.check_invariants("confirmed");
}

#[test]
fn an_answer_that_is_kept_again_changes_nothing() {
    let mut kept = Kept::new();
    kept.begin(A).expect("kept");
    kept.begin(A).expect("kept again");
    kept.check_invariants("again");
    kept.confirm(A).expect("confirmed");
    let key = kept.key(A);
    kept.begin(A).expect("known");
    let kept = kept.reopen();
    assert_eq!((kept.state(), kept.key(A)), ((Some(A), None, Some([0xa; 32])), key));
}

#[test]
fn a_wipe_takes_identity_and_address_of_one_pairing_and_nothing_else() {
    let mut kept = Kept::paired(A);
    kept.secrets.set_named("camera/1", Some(vec![1])).expect("kept");
    kept.begin(B).expect("kept");
    let (evidence, key) = (kept.secrets.evidence().public_key().box_id(), kept.key(A));
    assert_eq!(kept.wipe(C).expect_err("unknown").code(), "pairing-other");
    kept.wipe(B).expect("wiped");
    let mut kept = kept.reopen();
    assert_eq!((kept.state(), kept.key(A)), ((Some(A), None, Some([0xa; 32])), key));
    kept.wipe(A).expect("wiped");
    let kept = kept.reopen();
    // Whoever sealed to goes on being sealed to: a box whose pairing ended on the road records on.
    assert_eq!(kept.state(), (None, None, Some([0xa; 32])));
    assert_eq!(kept.secrets.evidence().public_key().box_id(), evidence);
    assert_eq!(kept.secrets.named("camera/1"), Some(&[1][..]));
    assert!(kept.identities().is_empty());
    let file = std::fs::read_to_string(paths(&kept.dir).2).expect("reads");
    assert!(!file.contains("cloud.example"), "{file}");
    assert!(matches!(kept.pairings.identity(A, &kept.secrets), Err(StateError::OtherPairing)));
}

fn set(version: u64, generation: u64, keys: usize) -> Pins {
    let issuers = (0..keys).map(|_| Spki(spki())).collect();
    Pins { issuers, version, generation: Generation(generation) }
}

#[test]
fn pins_replace_the_set_only_if_they_are_usable_and_not_older() {
    let mut kept = Kept::paired(A);
    let before = kept.pairings.current().expect("paired").pins();
    let mut unusable = set(9, 9, 2);
    unusable.issuers[1] = Spki(vec![1, 2, 3]);
    for (what, pins) in [("older", set(2, 9, 2)), ("none", set(9, 9, 0)), ("many", set(9, 9, 5)), ("bad", unusable)] {
        assert_eq!(kept.pairings.set_pins(A, &pins).expect_err(what).code(), "pairing-pins", "{what}");
        assert_eq!(kept.pairings.current().expect("paired").pins(), before, "{what}");
    }
    assert_eq!(kept.pairings.set_pins(B, &set(9, 9, 1)).expect_err("unknown").code(), "pairing-other");
    // The same version again is a lost acknowledgement; the generation never falls.
    for (version, generation, lowest) in [(3, 1, 5), (4, 8, 8), (4, 2, 8)] {
        let pins = set(version, generation, 2);
        kept.pairings.set_pins(A, &pins).expect("replaced");
        kept = kept.reopen();
        let now = kept.pairings.current().expect("paired").pins();
        assert_eq!((now.issuers, now.version, now.generation), (pins.issuers, version, Generation(lowest)));
    }
    kept.pairings.saw_generation(A, Generation(7)).expect("nothing to keep");
    kept.pairings.saw_generation(A, Generation(11)).expect("kept");
    let kept = kept.reopen();
    assert_eq!(kept.pairings.current().expect("paired").generation, Generation(11));
}

#[test]
fn pins_of_a_pending_pairing_leave_the_older_one_alone() {
    let mut kept = Kept::paired(A);
    kept.begin(B).expect("kept");
    let before = kept.pairings.current().expect("paired").pins();
    let pins = set(4, 6, 4);
    kept.pairings.set_pins(B, &pins).expect("replaced");
    let kept = kept.reopen();
    assert_eq!(kept.pairings.current().expect("paired").pins(), before);
    assert_eq!(kept.pairings.pending().expect("pending").pins(), pins);
}

#[test]
fn a_damaged_file_is_told_and_never_replaced() {
    let kept = Kept::paired(A);
    let Kept { dir, mut secrets, .. } = kept;
    let path = paths(&dir).2;
    let half = &std::fs::read(&path).expect("reads")[..100];
    std::fs::write(&path, half).expect("writes");
    let error = Pairings::open(&path, &mut secrets).err().expect("damaged");
    assert_eq!(error.code(), "pairing-damaged");
    assert_eq!(std::fs::read(&path).expect("reads"), half);
    assert!(secrets.named(&format!("identity/{A}")).is_some(), "its key stays");
}

type Change = fn(&mut Kept) -> Result<(), StateError>;
type State = (Option<PairingId>, Option<PairingId>, Option<[u8; 32]>);

/// What it is, from where, the change, the state before and after.
type Case = (&'static str, fn() -> Kept, Change, State, State);

/// Every change that writes.
fn changes() -> Vec<Case> {
    let (a, c) = (Some([0xa; 32]), Some([0xc; 32]));
    fn both() -> Kept {
        let mut kept = Kept::paired(A);
        kept.begin(C).expect("kept");
        kept
    }
    fn paired() -> Kept {
        Kept::paired(A)
    }
    vec![
        ("first pairing", Kept::new, |kept| kept.begin(A), (None, None, None), (None, Some(A), None)),
        ("second pairing", paired, |kept| kept.begin(B), (Some(A), None, a), (Some(A), Some(B), a)),
        ("other pending", both, |kept| kept.begin(B), (Some(A), Some(C), a), (Some(A), Some(B), a)),
        ("confirm", both, |kept| kept.confirm(C), (Some(A), Some(C), a), (Some(C), None, c)),
        ("wipe pending", both, |kept| kept.wipe(C), (Some(A), Some(C), a), (Some(A), None, a)),
        ("wipe current", both, |kept| kept.wipe(A), (Some(A), Some(C), a), (None, Some(C), a)),
    ]
}

#[test]
fn a_power_cut_between_any_two_operations_leaves_the_old_or_the_new_state() {
    for (what, start, change, old, new) in changes() {
        let mut cuts = 0;
        loop {
            let mut kept = start();
            let (keys, evidence) = (kept.identities(), kept.secrets.evidence().to_bytes());
            let (done, reached) = faults::with(cuts, Fault::Cut, || change(&mut kept));
            let mut kept = kept.reopen();
            let at = format!("{what}, cut after {cuts} operations");
            let state = kept.state();
            assert!(state == old || state == new, "{at}: {state:?}");
            // What the caller was told is so.
            assert!(done.is_err() || state == new, "{at}: promised and lost");
            kept.check_invariants(&at);
            assert_eq!(kept.secrets.evidence().to_bytes(), evidence, "{at}");
            if !reached {
                assert!(done.is_ok() && state == new, "{at}: uncut");
                break;
            }
            // Nothing was half done that the same change cannot finish.
            if state == old {
                change(&mut kept).expect(&at);
            }
            let kept = kept.reopen();
            assert_eq!(kept.state(), new, "{at}: finished later");
            kept.check_invariants(&at);
            assert!(keys.len() <= 3, "{at}");
            cuts += 1;
        }
        assert!(cuts >= 10, "{what}: {cuts} operations, at least two files of five expected");
    }
}

#[test]
fn an_identity_survives_a_cut_between_asking_and_keeping() {
    // The cloud bound the code to this key: with another one the code would be used up.
    for cuts in 0..40 {
        let mut kept = Kept::new();
        let asked = kept.pairings.next_identity(&mut kept.secrets).expect("made").spki();
        let (_, reached) = faults::with(cuts, Fault::Cut, || kept.begin(A));
        let mut kept = kept.reopen();
        let has = match kept.state().1 {
            Some(pending) => kept.key(pending),
            None => kept.pairings.next_identity(&mut kept.secrets).expect("kept").spki(),
        };
        assert_eq!(has, asked, "cut after {cuts}");
        if !reached {
            return;
        }
    }
    panic!("no end");
}

#[test]
fn one_error_of_the_storage_leaves_memory_as_it_is_on_storage() {
    for (what, start, change, old, new) in changes() {
        let mut after = 0;
        loop {
            let mut kept = start();
            let (done, reached) = faults::with(after, Fault::Once, || change(&mut kept));
            let at = format!("{what}, error after {after} operations");
            // No restart: the same process tries again and must not believe that it was done.
            assert_eq!(kept.state(), if done.is_ok() { new } else { old }, "{at}");
            if done.is_err() {
                change(&mut kept).expect(&at);
            }
            assert_eq!(kept.state(), new, "{at}: again");
            let kept = kept.reopen();
            assert_eq!(kept.state(), new, "{at}: on storage");
            kept.check_invariants(&at);
            if !reached {
                break;
            }
            after += 1;
        }
    }
}

#[test]
fn pins_and_generation_are_on_storage_when_they_are_acknowledged() {
    for (what, change) in [
        ("pins", (|kept| kept.pairings.set_pins(A, &set(4, 9, 2))) as Change),
        ("generation", |kept| kept.pairings.saw_generation(A, Generation(9))),
    ] {
        for fault in [Fault::Cut, Fault::Once] {
            let mut after = 0;
            loop {
                let mut kept = Kept::paired(A);
                let before = kept.pairings.current().expect("paired").pins();
                let (done, reached) = faults::with(after, fault, || change(&mut kept));
                let at = format!("{what}, {fault:?} after {after}");
                let memory = kept.pairings.current().expect("paired").pins();
                assert_eq!(memory == before, done.is_err(), "{at}: memory");
                let kept = kept.reopen();
                let stored = kept.pairings.current().expect("paired").pins();
                // After the rename the new set may be there though it was not promised.
                assert!(stored == memory || (done.is_err() && stored.generation == Generation(9)), "{at}: storage");
                if !reached {
                    assert_eq!(stored.generation, Generation(9), "{at}");
                    break;
                }
                after += 1;
            }
        }
    }
}
