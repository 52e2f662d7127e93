//! Power cut after every operation: unsynced bytes are lost, names that were not synced are undone.

use super::*;
use std::collections::HashMap;
use std::fs;

/// What a power cut takes: writes since the last sync of their file, renames since the last sync of their folder.
#[derive(Default)]
struct Unsynced {
    left: usize,
    writes: HashMap<PathBuf, Vec<(u64, u64)>>,
    renames: Vec<(PathBuf, PathBuf)>,
}

impl Unsynced {
    fn step(&mut self, step: &Step) -> io::Result<()> {
        if self.left == 0 {
            return Err(io::Error::other("power cut"));
        }
        self.left -= 1;
        match step {
            Step::Write { path, offset, len } => self.writes.entry(path.clone()).or_default().push((*offset, *len)),
            Step::Sync { path } => drop(self.writes.remove(path)),
            Step::Rename { from, to } => {
                if let Some(writes) = self.writes.remove(from) {
                    self.writes.insert(to.clone(), writes);
                }
                self.renames.push((from.clone(), to.clone()));
            }
            Step::SyncFolder { path } => self.renames.retain(|(_, to)| to.parent() != Some(path)),
            Step::Truncate { .. } | Step::Commit => {}
        }
        Ok(())
    }

    /// Leaves the folder as a cut might; `torn` says whether unsynced writes are lost or half there.
    fn cut(&self, torn: bool) {
        use std::os::unix::fs::FileExt;
        for (path, writes) in &self.writes {
            let Ok(file) = fs::OpenOptions::new().write(true).open(path) else { continue };
            for (offset, len) in writes {
                let keep = if torn { len / 2 } else { 0 };
                let zeros = vec![0; usize::try_from(len - keep).expect("small")];
                file.write_all_at(&zeros, offset + keep).expect("zeroes");
            }
        }
        if !torn {
            for (from, to) in self.renames.iter().rev() {
                fs::rename(to, from).expect("undoes");
            }
        }
    }
}

/// Runs `act` on fresh copies of a world, cut after 0, 1, 2 … operations, and after each cut checks and finishes.
fn cut_everywhere(world: impl Fn() -> World, act: impl Fn(&World, &Vault) -> bool, after: impl Fn(&World, usize)) {
    for torn in [false, true] {
        let mut left = 0;
        loop {
            let world = world();
            let state = Arc::new(Mutex::new(Unsynced { left, ..Unsynced::default() }));
            let hook = state.clone();
            let disk = Disk::with_hook(Arc::new(move |step: &Step| lock(&hook).step(step)));
            // Opening an existing vault takes no step that a cut could spoil.
            let vault = world.open_with(disk, world.unlocked());
            let done = act(&world, &vault);
            drop(vault);
            lock(&state).cut(torn);
            after(&world, left);
            if done {
                assert!(left > 5, "only {left} operations: the cuts are not where they should be");
                break;
            }
            left += 1;
            assert!(left < 500, "does not end");
        }
    }
}

/// What the database claims is in the files, and every committed file is whole.
fn check_invariants(world: &World, truth: &[(SegmentId, &[u8])]) {
    for file in Reader::open(world.dir.path()).expect("opens").files().expect("lists") {
        let (_, bytes) = truth.iter().find(|(id, _)| *id == file.row.segment).expect("known");
        let on_disk = fs::read(&file.path).expect("the file is there");
        if file.row.state == FileState::Committed {
            assert_eq!(on_disk, *bytes, "committed but not whole");
            assert!(file.path.extension().is_some_and(|ext| ext == "mvs"));
        }
        for range in file.row.have.as_slice() {
            let range = range.start as usize..range.end as usize;
            assert_eq!(on_disk.get(range.clone()), bytes.get(range), "claimed bytes are not there");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_at_any_operation_of_receiving_and_committing_loses_no_promise() {
    let seed = World::new();
    let bytes = seed.sealed(ID, 12, 1, Some(EndReason::Next));
    let offer = object(ID, &bytes, None);
    let evidence = seed.evidence.clone();
    let fresh = || {
        let mut world = World::new();
        world.evidence = evidence.clone();
        world.organisation = seed.organisation;
        world.secret = seed.secret.clone();
        pair(&world);
        world
    };
    let receipt = Mutex::new(None);
    cut_everywhere(
        fresh,
        |world, vault| {
            let run = || -> Result<Answer, VaultError> {
                vault.live(world.peer(), ID, 0, &bytes[..3000])?;
                vault.flush();
                vault.live(world.peer(), ID, 4000, &bytes[4000..5000])?;
                send(vault, world.peer(), &offer, &bytes)
            };
            match run() {
                Ok(Answer::Committed(statement)) => {
                    *lock(&receipt) = Some(statement);
                    true
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => false,
            }
        },
        |world, left| {
            check_invariants(world, &[(ID, &bytes)]);
            let statement = committed(send(&world.open(), world.peer(), &offer, &bytes));
            check_invariants(world, &[(ID, &bytes)]);
            let again = committed(world.open().object(world.peer(), &offer));
            assert_eq!(statement, again, "cut after {left}");
        },
    );
}

#[tokio::test(start_paused = true)]
async fn a_cut_at_any_operation_of_moving_a_tail_keeps_both_ends() {
    let seed = World::new();
    let live = seed.sealed(ID, 12, 1, None);
    let mut scanner = crate::seal::Scanner::new(seed.evidence.public_key());
    scanner.push(&live[..live.len() / 2]);
    let cut = scanner.last().expect("a checkpoint").offset;
    let signer: Arc<dyn Signer> = seed.evidence.clone();
    let run = Run { boot: BootId([8; 16]), start: 2 };
    let end = scanner.recovery_end(EndReason::Crash, Prev::First, run, BootTime(1), &signer).expect("an end").0;
    let card = [&live[..cut as usize], &end].concat();
    let offer = object(ID, &card, Some(cut));
    let fresh = || {
        let mut world = World::new();
        world.evidence = seed.evidence.clone();
        world.organisation = seed.organisation;
        world.secret = seed.secret.clone();
        pair(&world);
        let vault = world.open();
        vault.live(world.peer(), ID, 0, &live).expect("writes");
        vault.flush();
        world
    };
    cut_everywhere(
        fresh,
        |world, vault| matches!(send(vault, world.peer(), &offer, &card), Ok(Answer::Committed(_))),
        |world, left| {
            committed(send(&world.open(), world.peer(), &offer, &card));
            let file = Reader::open(world.dir.path()).expect("opens").files().expect("lists").remove(0);
            assert_eq!(file.bytes().expect("reads"), card, "cut after {left}");
            assert_eq!(file.live_bytes().expect("reads").as_deref(), Some(&live[..]), "cut after {left}");
        },
    );
}
