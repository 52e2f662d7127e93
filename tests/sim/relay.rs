//! Box and cloud over loopback QUIC: everything arrives once and unchanged, whoever falls over in between.

use crate::relay_world::{Cloud, Ground, Line, Machine, dialer, pause, seed, until};
use bytes::Bytes;
use mvb::base::chain::{Head, Signed};
use mvb::base::ids::{BondId, CameraId, Digest, OrganisationId, PairingId, SegmentId};
use mvb::cloud::vault::disk::{Hook, Step};
use mvb::cloud::vault::{FileState, PairingState};
use mvb::relay::session::Party;
use mvb::relay::statement::{self, Committed, JournalAck};
use mvb::relay::uplink::StopReason;
use mvb::seal::{JournalEntry, Receipt, SegmentOffer, SegmentSource};
use mvb::sim::volume::Seeded;
use mvb::store::Store;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The store, with receipts counted; storing one can be made to fail.
struct Watched {
    store: Store,
    receipts: Mutex<BTreeMap<SegmentId, Vec<Vec<u8>>>>,
    fail: AtomicBool,
    reads: AtomicU64,
    /// Time that each piece takes, one after another: a card that is slow enough to be killed in the middle.
    pace: Mutex<Duration>,
}

impl Watched {
    fn new(store: &Store) -> Arc<Self> {
        let (receipts, fail) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { store: store.clone(), receipts, fail, reads: AtomicU64::new(0), pace: Mutex::default() })
    }
}

impl SegmentSource for Watched {
    fn offers(&self, organisation: OrganisationId, limit: usize) -> io::Result<Vec<SegmentOffer>> {
        self.store.offers(organisation, limit)
    }
    fn read(&self, segment: SegmentId, offset: u64, len: usize) -> io::Result<Bytes> {
        self.reads.fetch_add(len as u64, Ordering::Relaxed);
        let pace = self.pace.lock().expect("no panic holds it");
        pause(*pace);
        drop(pace);
        self.store.read(segment, offset, len)
    }
    fn committed(&self, receipt: &Receipt) -> io::Result<()> {
        self.receipts
            .lock()
            .expect("no panic holds it")
            .entry(receipt.segment)
            .or_default()
            .push(receipt.statement.clone());
        if self.fail.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("the box fell over before it stored the receipt"));
        }
        self.store.committed(receipt)
    }
    fn rejected(&self, segment: SegmentId, reason: &str) -> io::Result<()> {
        self.store.rejected(segment, reason)
    }
    fn journal(&self, after: Option<Head>, limit: usize) -> io::Result<Vec<Signed>> {
        self.store.journal(after, limit)
    }
    fn journal_head(&self) -> Option<Head> {
        self.store.journal_head()
    }
    fn journal_acknowledged(&self, head: Head, statement: &[u8]) -> io::Result<()> {
        self.store.journal_acknowledged(head, statement)
    }
    fn on_change(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.store.on_change(wake);
    }
}

fn check(machine: &Machine, cloud: &Cloud, ground: &Ground, all: &[SegmentId]) {
    let left = machine.uncommitted();
    assert!(all.iter().all(|segment| !left.contains(segment)), "the box has a receipt for everything");
    for segment in all {
        let rows = cloud.rows(machine.box_id(), *segment);
        assert_eq!(rows.len(), 1, "one object per segment");
        assert_eq!(rows[0].state, FileState::Committed);
        assert!(rows[0].opened, "the organisation's key opens it");
        assert!(machine.card_bytes(*segment) == cloud.committed_bytes(machine.box_id(), *segment), "unchanged");
        let receipt = cloud.vault.with_db(|db| db.receipt(rows[0].id)).expect("reads").expect("a receipt");
        let said: Committed = statement::open(statement::COMMITTED, &receipt, &ground.receipt_key).expect("signed");
        assert_eq!((said.segment, said.box_id, said.opened), (*segment, machine.box_id(), true));
    }
}

#[test]
fn what_was_recorded_arrives_unchanged_with_its_journal_and_the_clouds_time() {
    let ground = Ground::new();
    let cloud = Cloud::start(&ground, None, None, 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Pending);
    let all = machine.record(3, 8, 100_000);
    let line = Line::start(&machine, &ground, cloud.address, pairing, Arc::new(machine.store.clone()));
    until("all receipts", || machine.uncommitted().is_empty());
    check(&machine, &cloud, &ground, &all);
    assert_eq!(machine.told.began.lock().unwrap().as_slice(), [pairing], "the pairing is confirmed once per session");
    let row = cloud.sessions.pairing_of(&machine.identity.spki()).expect("known");
    assert_eq!(row.state, PairingState::Active);
    until("an acknowledged journal", || {
        let entries = machine.store.journal(None, 1000).unwrap();
        entries.iter().any(|signed| {
            let Ok(Some(JournalEntry::Acknowledged { head, statement })) =
                JournalEntry::decode(signed.entry.kind, &signed.entry.body)
            else {
                return false;
            };
            let said: JournalAck =
                statement::open(statement::JOURNAL_ACK, &statement, &ground.receipt_key).expect("signed");
            said.head == head
                && cloud.vault.with_db(|db| db.journal_hash(machine.box_id(), head.seq)).unwrap() == Some(head.hash)
        })
    });
    assert!(machine.clock.floor().0 > 0, "the cloud's time was heard");
    assert!(line.status.borrow().connected);
    assert_eq!(cloud.counters.snapshot().keys().filter(|code| code.starts_with("relay-")).count(), 0);
}

#[test]
fn live_comes_only_when_somebody_looks_and_before_the_backlog() {
    let ground = Ground::new();
    let cloud = Cloud::start(&ground, None, None, 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Active);
    let camera = CameraId::random();
    let mut feed = machine.feed(camera);
    for number in 0..25 {
        machine.push(feed.as_mut(), number, 5_000);
    }
    let line = Line::start(&machine, &ground, cloud.address, pairing, Arc::new(machine.store.clone()));
    until("a session", || line.status.borrow().connected && cloud.sessions.is_connected(machine.box_id()));
    until("the camera is known", || cloud.sessions.cameras().iter().any(|(known, _)| *known == camera));
    let live = || -> i64 {
        let rows = cloud.vault.with_db(|db| db.segments()).unwrap();
        rows.iter().map(|row| i64::try_from(row.live_bytes).unwrap()).sum()
    };
    for number in 25..35 {
        machine.push(feed.as_mut(), number, 5_000);
    }
    machine.record(20, 10, 200_000);
    until("all but the open one", || machine.uncommitted().is_empty());
    assert_eq!(live(), 0, "nobody looks");
    line.kill();

    machine.record(20, 10, 200_000);
    let viewer = cloud.hub.watch(camera);
    let line = Line::start(&machine, &ground, cloud.address, pairing, Arc::new(machine.store.clone()));
    let mut number = 35;
    until("live footage", || {
        machine.push(feed.as_mut(), number, 5_000);
        number += 1;
        live() > 0
    });
    assert!(!machine.uncommitted().is_empty(), "live came before forty megabytes of backlog were through");
    drop(viewer);
    until("nobody looks any more", || machine.tap.subscriptions() == 0);
    // Another session of the camera takes over, which ends the segment.
    let mut second = machine.feed(camera);
    machine.push(second.as_mut(), 0, 5_000);
    until("what was seen live is committed", || {
        let rows = cloud.vault.with_db(|db| db.segments()).unwrap();
        rows.iter().any(|row| row.live_bytes > 0 && row.state == FileState::Committed)
    });
    drop(line);
    let rows = cloud.vault.with_db(|db| db.segments()).unwrap();
    let watched = rows.iter().find(|row| row.live_bytes > 0 && row.state == FileState::Committed).expect("was live");
    assert!(machine.card_bytes(watched.segment) == cloud.committed_bytes(machine.box_id(), watched.segment));
}

#[test]
fn what_was_sent_before_a_disconnect_is_not_sent_again() {
    let ground = Ground::new();
    let cloud = Cloud::start(&ground, None, None, 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Active);
    let all = machine.record(4, 40, 200_000);
    let size: u64 = all.iter().map(|segment| machine.card_bytes(*segment).len() as u64).sum();
    let source = Watched::new(&machine.store);
    let line = Line::start(&machine, &ground, cloud.address, pairing, source.clone());
    until("half of it", || source.reads.load(Ordering::Relaxed) > size / 2);
    line.kill();
    let line = Line::start(&machine, &ground, cloud.address, pairing, source.clone());
    until("all receipts", || machine.uncommitted().is_empty());
    check(&machine, &cloud, &ground, &all);
    let sent = source.reads.load(Ordering::Relaxed);
    assert!(sent < size + size / 2, "{sent} bytes were sent for {size}");
    drop(line);
}

#[test]
fn whoever_is_killed_twenty_times_nothing_is_lost_and_everything_is_committed_once() {
    let mut dice = Seeded(seed());
    let ground = Ground::new();
    let mut cloud = Cloud::start(&ground, None, None, 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Active);
    let source = Watched::new(&machine.store);
    *source.pace.lock().unwrap() = Duration::from_millis(8);
    let mut all = machine.record(20, 12, 150_000);
    let mut line = Line::start(&machine, &ground, cloud.address, pairing, source.clone());
    for round in 0..20 {
        if round % 7 == 6 {
            all = machine.record(4, 12, 150_000);
        }
        pause(Duration::from_millis(20 + dice.below(300)));
        if dice.below(4) == 0 {
            println!("round {round}: the cloud, {} to go", machine.uncommitted().len());
            let address = cloud.address;
            cloud.kill();
            cloud = Cloud::start(&ground, Some(address), None, 0);
            // A box that hears nothing notices after ten seconds; not every round has to wait for that.
            line.kill();
        } else {
            println!("round {round}: the box, {} to go", machine.uncommitted().len());
            line.kill();
        }
        line = Line::start(&machine, &ground, cloud.address, pairing, source.clone());
    }
    until("all receipts", || machine.uncommitted().is_empty());
    assert_eq!(all.len(), 28);
    check(&machine, &cloud, &ground, &all);
    assert_eq!(source.receipts.lock().unwrap().len(), 28);
    for (segment, statements) in source.receipts.lock().unwrap().iter() {
        assert!(
            statements.iter().all(|statement| *statement == statements[0]),
            "{segment}: one receipt, again if asked"
        );
    }
    drop(line);
}

#[test]
fn a_receipt_that_the_box_lost_is_given_again() {
    let ground = Ground::new();
    let cloud = Cloud::start(&ground, None, None, 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Active);
    let all = machine.record(1, 8, 50_000);
    let source = Watched::new(&machine.store);
    source.fail.store(true, Ordering::Relaxed);
    let line = Line::start(&machine, &ground, cloud.address, pairing, source.clone());
    until("all receipts", || machine.uncommitted().is_empty());
    check(&machine, &cloud, &ground, &all);
    let receipts = source.receipts.lock().unwrap();
    let statements = &receipts[&all[0]];
    assert_eq!(statements.len(), 2);
    assert_eq!(statements[0], statements[1], "the same number, not another receipt");
    assert_eq!(cloud.counters.total("committed"), 1);
    drop(line);
}

/// Everything under `from`, as it is now.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("reads");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

#[test]
fn a_cloud_restored_from_yesterdays_backup_is_given_again_what_it_forgot() {
    let ground = Ground::new();
    let cloud = Cloud::start(&ground, None, None, 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Active);
    let address = cloud.address;
    drop(cloud);
    let backup = tempfile::tempdir().expect("a folder");
    copy(ground.folder.path(), backup.path());

    let cloud = Cloud::start(&ground, Some(address), None, 0);
    let all = machine.record(3, 4, 5_000);
    let line = Line::start(&machine, &ground, address, pairing, Arc::new(machine.store.clone()));
    until("all is committed", || machine.uncommitted().is_empty());
    drop(cloud);
    for entry in std::fs::read_dir(ground.folder.path()).expect("lists") {
        let path = entry.expect("reads").path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("removes");
    }
    copy(backup.path(), ground.folder.path());
    let cloud = Cloud::start(&ground, Some(address), None, 0);
    assert!(cloud.rows(machine.box_id(), all[0]).is_empty(), "it has forgotten");
    until("the receipts are withdrawn", || machine.store.counters().total("receipt-withdrawn") == all.len() as u64);
    until("all is there again", || {
        all.iter().all(|id| cloud.rows(machine.box_id(), *id).iter().any(|row| row.state == FileState::Committed))
    });
    until("new receipts", || machine.uncommitted().is_empty());
    drop(line);
    check(&machine, &cloud, &ground, &all);
}

#[test]
fn a_cloud_that_falls_over_before_its_commit_says_yes_only_afterwards() {
    let ground = Ground::new();
    let renamed = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(AtomicU64::new(0));
    let (seen, count) = (renamed.clone(), failed.clone());
    let hook: Hook = Arc::new(move |step| {
        if matches!(step, Step::Rename { .. }) {
            seen.store(true, Ordering::Relaxed);
        }
        if *step == Step::Commit && seen.load(Ordering::Relaxed) && count.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(io::Error::other("power"));
        }
        Ok(())
    });
    let cloud = Cloud::start(&ground, None, Some(hook), 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Active);
    let all = machine.record(1, 8, 50_000);
    let source = Watched::new(&machine.store);
    let line = Line::start(&machine, &ground, cloud.address, pairing, source.clone());
    until("all receipts", || machine.uncommitted().is_empty());
    assert!(failed.load(Ordering::Relaxed) > 0, "the commit failed once");
    assert_eq!(cloud.counters.total("vault-io"), 1, "the session ended for it");
    assert_eq!(source.receipts.lock().unwrap()[&all[0]].len(), 1);
    check(&machine, &cloud, &ground, &all);
    drop(line);
}

#[test]
fn a_full_cloud_gives_no_credit_and_takes_no_backlog() {
    let ground = Ground::new();
    let cloud = Cloud::start(&ground, None, None, u64::MAX);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Active);
    machine.record(1, 8, 50_000);
    let source = Watched::new(&machine.store);
    let line = Line::start(&machine, &ground, cloud.address, pairing, source.clone());
    until("the journal still goes", || cloud.vault.with_db(|db| db.journal_head(machine.box_id())).unwrap().is_some());
    assert_eq!(source.reads.load(Ordering::Relaxed), 0);
    assert!(line.status.borrow().connected);
    assert_eq!(cloud.counters.total("relay-unasked"), 0);
    let address = cloud.address;
    cloud.kill();
    line.kill();
    let cloud = Cloud::start(&ground, Some(address), None, 0);
    let line = Line::start(&machine, &ground, cloud.address, pairing, source);
    until("all receipts", || machine.uncommitted().is_empty());
    drop(line);
}

#[test]
fn bytes_that_differ_from_the_journal_are_refused_and_the_segment_stays() {
    struct Bent(Store);
    impl SegmentSource for Bent {
        fn offers(&self, organisation: OrganisationId, limit: usize) -> io::Result<Vec<SegmentOffer>> {
            let mut offers = self.0.offers(organisation, limit)?;
            offers.iter_mut().for_each(|offer| offer.sha256 = Digest([7; 32]));
            Ok(offers)
        }
        fn read(&self, segment: SegmentId, offset: u64, len: usize) -> io::Result<Bytes> {
            self.0.read(segment, offset, len)
        }
        fn committed(&self, _: &Receipt) -> io::Result<()> {
            panic!("nothing was committed")
        }
        fn rejected(&self, segment: SegmentId, reason: &str) -> io::Result<()> {
            self.0.rejected(segment, reason)
        }
        fn journal(&self, after: Option<Head>, limit: usize) -> io::Result<Vec<Signed>> {
            self.0.journal(after, limit)
        }
        fn journal_head(&self) -> Option<Head> {
            self.0.journal_head()
        }
        fn journal_acknowledged(&self, head: Head, statement: &[u8]) -> io::Result<()> {
            self.0.journal_acknowledged(head, statement)
        }
        fn on_change(&self, wake: Box<dyn Fn() + Send + Sync>) {
            self.0.on_change(wake);
        }
    }
    let ground = Ground::new();
    let cloud = Cloud::start(&ground, None, None, 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Active);
    let all = machine.record(1, 8, 50_000);
    let line = Line::start(&machine, &ground, cloud.address, pairing, Arc::new(Bent(machine.store.clone())));
    until("refused", || machine.counters.total("backlog-rejected") == 1);
    assert_eq!(cloud.counters.total("object-digest"), 2, "asked once more, then refused");
    assert_eq!(cloud.rows(machine.box_id(), all[0])[0].state, FileState::Rejected);
    until("compared", || machine.store.counters().total("segment-rejected") == 1);
    assert!(!machine.card_bytes(all[0]).is_empty(), "nothing is erased");
    drop(line);
}

#[test]
fn a_revoked_box_is_told_so_and_nothing_else() {
    let ground = Ground::new();
    let cloud = Cloud::start(&ground, None, None, 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Revoking);
    let all = machine.record(1, 4, 5_000);
    let line = Line::start(&machine, &ground, cloud.address, pairing, Arc::new(machine.store.clone()));
    assert_eq!(line.ended(), StopReason::Revoked);
    assert_eq!(machine.told.revoked.lock().unwrap().as_slice(), [pairing]);
    assert!(machine.told.began.lock().unwrap().is_empty());
    assert!(cloud.rows(machine.box_id(), all[0]).is_empty(), "nothing was taken");
    let row = cloud.sessions.pairing_of(&machine.identity.spki()).expect("known");
    assert_eq!(row.state, PairingState::Revoked);
    // From then on the key is nobody's.
    let line = Line::start(&machine, &ground, cloud.address, pairing, Arc::new(machine.store.clone()));
    until("refused in TLS", || {
        matches!(line.status.borrow().reason.as_deref(), Some("relay-tls-rejected" | "relay-control-ended"))
            || cloud.counters.total("tls-unknown-box") > 0
    });
    assert!(machine.told.began.lock().unwrap().is_empty());
}

#[test]
fn two_runs_of_one_box_that_both_answer_raise_the_alarm() {
    let ground = Ground::new();
    let cloud = Cloud::start(&ground, None, None, 0);
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    cloud.pair(&machine, pairing, PairingState::Active);
    let party = |start| Party {
        box_id: machine.box_id(),
        organisation: ground.organisation,
        pairing,
        receipt_key: ground.receipt_key.clone(),
        bond: BondId::random(),
        run: mvb::base::units::Run { start, ..machine.run },
        firmware: "test".into(),
    };
    let dial = || dialer(&machine.identity, ground.pins(), cloud.address);
    let line = |start| Line::with(dial(), party(start), &machine, Arc::new(machine.store.clone()));
    let began = |sessions| until("a session", || machine.told.began.lock().unwrap().len() == sessions);
    let first = line(1);
    began(1);
    // The old process is dead: no alarm.
    first.kill();
    let second = line(2);
    began(2);
    assert_eq!(cloud.counters.total("clone"), 0);
    // This one lives.
    let third = line(3);
    until("the alarm", || cloud.counters.total("clone") > 0);
    drop((second, third));
}
