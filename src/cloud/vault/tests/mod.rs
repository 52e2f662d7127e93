//! The vault's behaviour: receiving, proving, committing, and what a cut at any step leaves behind.

mod cuts;
mod proof;

use super::*;
use crate::base::chain::{PublicKey, Signed, SoftwareSigner};
use crate::base::ids::{BootId, CameraId, RecordingId};
use crate::base::units::{BootTime, MediaTime, Run, TimeSource, TimeStatement};
use crate::media::{AccessUnit, TrackId, UnitFlags};
use crate::seal::{
    EndReason, JournalEntry, Meta, Prev, RecipientRole, RecipientSecret, Recipients, Sealer, SegmentFlags,
    SegmentStart, journal,
};
use sha2::{Digest as _, Sha256};

/// A box, an organisation and a data folder.
pub(crate) struct World {
    dir: tempfile::TempDir,
    evidence: Arc<SoftwareSigner>,
    receipt: Arc<SoftwareSigner>,
    organisation: OrganisationId,
    secret: Arc<RecipientSecret>,
    clock: Clock,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            dir: tempfile::tempdir().expect("folder"),
            evidence: Arc::new(SoftwareSigner::generate()),
            receipt: Arc::new(SoftwareSigner::generate()),
            organisation: OrganisationId::random(),
            secret: Arc::new(RecipientSecret::generate()),
            clock: Clock::runtime(BootId([1; 16]), BootTime(0), WallTime(1_000_000_000_000)),
        };
        pair(&world);
        world
    }

    fn peer(&self) -> Peer {
        Peer { box_id: self.evidence.public_key().box_id(), pairing: PairingId([9; 16]) }
    }

    pub(crate) fn ours(&self) -> Keyring {
        Keyring::locked([self.secret.public(RecipientRole::Organisation).id()])
    }

    pub(crate) fn unlocked(&self) -> Keyring {
        self.ours().unlocked(vec![self.secret.clone()])
    }

    fn open(&self) -> Vault {
        self.open_with(Disk::default(), self.unlocked())
    }

    fn open_with(&self, disk: Disk, keyring: Keyring) -> Vault {
        let settings = Settings {
            data: self.dir.path().into(),
            organisation: self.organisation,
            keep_free: ByteCount(0),
            erase_after: Duration::from_secs(72 * 3600),
        };
        Vault::open(settings, disk, self.clock.clone(), self.receipt.clone(), keyring, Counters::default())
            .expect("opens")
    }

    /// A segment of some checkpoints; ended by `end`, or cut off after the last checkpoint and a record.
    pub(crate) fn sealed(&self, id: SegmentId, units: u32, fill: u8, end: Option<EndReason>) -> Vec<u8> {
        let secret = self.secret.public(RecipientRole::Organisation);
        let recipients = Recipients::new(self.organisation, vec![secret]).expect("one key");
        let start = SegmentStart {
            segment: id,
            run: Run { boot: BootId([1; 16]), start: 1 },
            at: BootTime(5),
            camera: CameraId([2; 16]),
            recording: RecordingId([3; 16]),
            flags: SegmentFlags::default(),
            meta: Meta {
                organisation: "o".into(),
                box_name: "b".into(),
                camera: "c".into(),
                officer: None,
                purpose: "p".into(),
                legal_basis: "l".into(),
                retention: "r".into(),
                incident: None,
                firmware: "f".into(),
                time: TimeStatement { at: BootTime(5), wall: WallTime(5), source: TimeSource::Unknown, error_ms: 1 },
            },
            params: Vec::new(),
            prev: Prev::First,
        };
        let (mut sealer, mut frames) = Sealer::start(start, &recipients, self.evidence.clone());
        for n in 0..units {
            frames.extend(sealer.unit(&AccessUnit {
                track: TrackId(0),
                pts: MediaTime(i64::from(n) * 3000),
                captured: BootTime(5 + u64::from(n)),
                flags: UnitFlags { key: n == 0, ..UnitFlags::default() },
                data: vec![fill; 700].into(),
            }));
            if n % 4 == 3 {
                frames.push(sealer.checkpoint(BootTime(6 + u64::from(n))));
            }
        }
        if let Some(reason) = end {
            frames.push(sealer.end(reason, BootTime(1000)).0);
        }
        frames.iter().flat_map(|frame| frame.bytes.to_vec()).collect()
    }
}

/// Makes the vault know the world's box.
fn pair(world: &World) {
    let vault = world.open();
    let key: PublicKey = world.evidence.public_key();
    let row = PairingRow {
        pairing: world.peer().pairing,
        box_id: key.box_id(),
        evidence: key,
        identity: vec![1, 2, 3],
        serial: "S1".into(),
        state: PairingState::Active,
        from: WallTime(1),
        to: None,
        last_contact: None,
        erase_blocked: None,
    };
    vault.with_db(|db| db.insert_pairing(&row)).expect("pairs");
}

fn object(segment: SegmentId, bytes: &[u8], cut: Option<u64>) -> Object {
    Object { segment, size: bytes.len() as u64, sha256: Digest(Sha256::digest(bytes).into()), cut }
}

/// Sends what the vault does not have, in pieces; the last answer.
fn send(vault: &Vault, peer: Peer, object: &Object, bytes: &[u8]) -> Result<Answer, VaultError> {
    let mut answer = vault.object(peer, object)?;
    for _ in 0..4 {
        let Answer::Have(have) = &answer else { return Ok(answer) };
        let mut last = None;
        for hole in have.missing(&(0..object.size)) {
            let mut at = hole.start;
            while at < hole.end {
                let end = (at + 1000).min(hole.end);
                last = vault.chunk(peer, object.segment, at, &bytes[at as usize..end as usize])?;
                at = end;
            }
        }
        answer = match last {
            Some(answer) => answer,
            None => vault.object(peer, object)?,
        };
    }
    Ok(answer)
}

fn committed(answer: Result<Answer, VaultError>) -> Vec<u8> {
    match answer.expect("no error") {
        Answer::Committed(statement) => statement,
        other => panic!("not committed: {other:?}"),
    }
}

fn alarms(vault: &Vault) -> Vec<String> {
    vault.with_db(Db::alarms).expect("reads").into_iter().map(|alarm| alarm.code).collect()
}

const ID: SegmentId = SegmentId([7; 16]);

#[tokio::test(start_paused = true)]
async fn live_bytes_in_any_order_are_not_asked_for_again_and_the_file_is_the_cards() {
    let world = World::new();
    let (vault, peer) = (world.open(), world.peer());
    let bytes = world.sealed(ID, 20, 1, Some(EndReason::Next));
    let half = bytes.len() / 2;
    for start in (0..half).step_by(500).rev() {
        vault.live(peer, ID, start as u64, &bytes[start..(start + 500).min(half)]).expect("writes");
    }
    let offer = object(ID, &bytes, None);
    let Answer::Have(have) = vault.object(peer, &offer).expect("answers") else { panic!("not whole") };
    assert_eq!((have.prefix(), have.len()), (half as u64, half as u64));
    committed(send(&vault, peer, &offer, &bytes));
    let files = Reader::open(world.dir.path()).expect("opens").files().expect("lists");
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].bytes().expect("reads"), bytes);
    assert!(files[0].row.opened && files[0].path.extension().is_some_and(|ext| ext == "mvs"));
    assert_eq!((files[0].row.live_bytes, files[0].row.units), (half as u64, 20));
    assert_eq!(alarms(&vault), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_same_object_is_answered_with_the_same_receipt_also_after_a_restart() {
    let world = World::new();
    let peer = world.peer();
    let bytes = world.sealed(ID, 5, 1, Some(EndReason::Next));
    let offer = object(ID, &bytes, None);
    let first = committed(send(&world.open(), peer, &offer, &bytes));
    let again = committed(world.open().object(peer, &offer));
    assert_eq!(first, again);
    let vault = world.open();
    assert!(vault.chunk(peer, ID, 0, &bytes[..10]).expect("late chunk").is_none());
    vault.live(peer, ID, 0, &bytes[..10]).expect("late live");
    assert_eq!(vault.counters().total("live-after-commit"), 1);
}

#[tokio::test(start_paused = true)]
async fn have_names_only_ranges_that_were_synced() {
    let world = World::new();
    let peer = world.peer();
    let bytes = world.sealed(ID, 20, 1, None);
    {
        let vault = world.open();
        vault.live(peer, ID, 0, &bytes[..1000]).expect("writes");
        vault.flush();
        vault.live(peer, ID, 1000, &bytes[1000..2000]).expect("writes");
    }
    let files = Reader::open(world.dir.path()).expect("opens").files().expect("lists");
    assert_eq!(files[0].row.have.prefix(), 1000, "the second write was never flushed");
}

#[tokio::test(start_paused = true)]
async fn bytes_beyond_the_cut_are_kept_beside_and_the_cards_object_is_committed() {
    let world = World::new();
    let (vault, peer) = (world.open(), world.peer());
    // What went out live before the power cut.
    let live = world.sealed(ID, 20, 1, None);
    vault.live(peer, ID, 0, &live).expect("writes");
    vault.flush();
    // What recovery made of the card: up to the second checkpoint, then its own END.
    let mut scanner = crate::seal::Scanner::new(world.evidence.public_key());
    scanner.push(&live[..live.len() / 2]);
    let point = scanner.last().expect("a checkpoint");
    let signer: Arc<dyn Signer> = world.evidence.clone();
    let run = Run { boot: BootId([8; 16]), start: 2 };
    let end = scanner.recovery_end(EndReason::PowerCut, Prev::First, run, BootTime(1), &signer);
    let (end, _) = end.expect("an end");
    let cut = point.offset;
    let card = [&live[..cut as usize], &end].concat();
    let offer = object(ID, &card, Some(cut));
    let Answer::Have(have) = vault.object(peer, &offer).expect("answers") else { panic!("END is missing") };
    assert_eq!((have.prefix(), have.len()), (cut, cut));
    committed(send(&vault, peer, &offer, &card));
    let files = Reader::open(world.dir.path()).expect("opens").files().expect("lists");
    assert_eq!(files[0].bytes().expect("reads"), card);
    assert_eq!(files[0].live_bytes().expect("reads").expect("has a tail"), live);
    let tail = files[0].row.tail.clone().expect("has a tail");
    assert_eq!((tail.from, tail.ckpt), (cut, Some(5)), "signed to the last checkpoint that came live");
    vault.live(peer, ID, 0, &live).expect("late");
    assert_eq!(files[0].bytes().expect("reads"), card);
}

#[tokio::test(start_paused = true)]
async fn another_file_with_the_same_id_is_kept_beside_and_alarmed() {
    let world = World::new();
    let (vault, peer) = (world.open(), world.peer());
    let one = world.sealed(ID, 5, 1, Some(EndReason::Next));
    let two = world.sealed(ID, 6, 2, Some(EndReason::Next));
    committed(send(&vault, peer, &object(ID, &one, None), &one));
    committed(send(&vault, peer, &object(ID, &two, None), &two));
    let files = Reader::open(world.dir.path()).expect("opens").files().expect("lists");
    let held: Vec<_> = files.iter().map(|file| file.bytes().expect("reads")).collect();
    assert_eq!(held, [one, two]);
    assert_eq!(alarms(&vault), [SEGMENT_CONFLICT]);
    for n in 3..20 {
        let more = world.sealed(ID, n + 4, 3, Some(EndReason::Next));
        let answer = send(&vault, peer, &object(ID, &more, None), &more).expect("answers");
        assert_eq!(matches!(answer, Answer::Rejected(_)), n > 4, "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_live_bytes_are_asked_for_once_more_and_a_wrong_file_is_refused() {
    let world = World::new();
    let (vault, peer) = (world.open(), world.peer());
    let bytes = world.sealed(ID, 20, 1, Some(EndReason::Next));
    let mut wrong = bytes.clone();
    let at = bytes.len() - 300;
    wrong[at] ^= 1;
    vault.live(peer, ID, 0, &wrong).expect("writes");
    let offer = object(ID, &bytes, None);
    let Answer::Have(have) = vault.object(peer, &offer).expect("answers") else { panic!("must not verify") };
    assert!(have.prefix() > 0 && have.prefix() <= at as u64, "what a checkpoint proves stays: {have:?}");
    committed(send(&vault, peer, &offer, &bytes));

    let other = SegmentId([8; 16]);
    let bytes = world.sealed(other, 20, 1, Some(EndReason::Next));
    let mut wrong = bytes.clone();
    wrong[at] ^= 1;
    let offer = object(other, &wrong, None);
    let answer = send(&vault, peer, &offer, &wrong).expect("answers");
    assert!(matches!(&answer, Answer::Rejected(_)), "{answer:?}");
    assert_eq!(vault.object(peer, &offer).expect("answers"), answer);
    assert_eq!(alarms(&vault), [SEGMENT_REJECTED]);
}

#[tokio::test(start_paused = true)]
async fn bytes_below_a_verified_checkpoint_are_never_replaced() {
    let world = World::new();
    let (vault, peer) = (world.open(), world.peer());
    let bytes = world.sealed(ID, 20, 1, Some(EndReason::Next));
    vault.live(peer, ID, 0, &bytes[..bytes.len() - 10]).expect("writes");
    let offer = object(ID, &bytes, None);
    vault.object(peer, &offer).expect("answers");
    vault.chunk(peer, ID, 100, &[0xee; 200]).expect("dropped");
    assert_eq!(vault.counters().total("bytes-differ"), 200);
    committed(send(&vault, peer, &offer, &bytes));
}

#[tokio::test(start_paused = true)]
async fn impossible_offers_and_chunks_are_refused() {
    let world = World::new();
    let (vault, peer) = (world.open(), world.peer());
    let bytes = world.sealed(ID, 5, 1, Some(EndReason::Next));
    let code = |result: Result<Answer, VaultError>| result.expect_err("refused").code();
    let offer = object(ID, &bytes, None);
    assert_eq!(code(vault.object(peer, &Object { size: MAX_FILE + 1, ..offer })), "bad-offer");
    assert_eq!(code(vault.object(peer, &Object { size: 0, ..offer })), "bad-offer");
    assert_eq!(code(vault.object(peer, &Object { cut: Some(offer.size), ..offer })), "bad-offer");
    assert_eq!(vault.chunk(peer, ID, 0, &bytes).expect_err("not offered").code(), "chunk-not-offered");
    vault.object(peer, &offer).expect("answers");
    assert_eq!(vault.chunk(peer, ID, offer.size, &[0]).expect_err("outside").code(), "bytes-outside-object");
    assert_eq!(vault.live(peer, ID, MAX_FILE, &[0]).expect_err("outside").code(), "bytes-outside-object");
    let stranger = Peer { box_id: BoxId([0; 32]), ..peer };
    assert_eq!(vault.live(stranger, SegmentId([1; 16]), 0, &[0]).expect_err("unknown").code(), "unknown-box");
    // Another organisation's footage and another box's.
    let mut elsewhere = World::new();
    elsewhere.evidence = world.evidence.clone();
    let foreign = elsewhere.sealed(SegmentId([2; 16]), 5, 1, Some(EndReason::Next));
    let answer = send(&vault, peer, &object(SegmentId([2; 16]), &foreign, None), &foreign).expect("answers");
    assert_eq!(answer, Answer::Rejected("object-other-organisation".into()));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_ours_is_alarmed() {
    let world = World::new();
    let vault = world.open_with(Disk::default(), Keyring::locked([]));
    let bytes = world.sealed(ID, 5, 1, Some(EndReason::Next));
    committed(send(&vault, world.peer(), &object(ID, &bytes, None), &bytes));
    assert_eq!(alarms(&vault), [RECIPIENT_FOREIGN]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_erased_before_it_opened_and_waited_nor_by_a_cloud_that_has_forgotten() {
    let world = World::new();
    let peer = world.peer();
    let vault = world.open_with(Disk::default(), world.ours());
    let bytes = world.sealed(ID, 5, 1, Some(EndReason::Next));
    let offer = object(ID, &bytes, None);
    let locked = committed(send(&vault, peer, &offer, &bytes));
    let ask = |vault: &Vault| vault.may_erase(peer.box_id, &[(ID, offer.sha256)]).expect("answers");
    tokio::time::advance(Duration::from_secs(73 * 3600)).await;
    assert_eq!(ask(&vault), [MayErase::No], "not opened");
    vault.set_keyring(world.unlocked());
    assert!(vault.open_earlier(0, 10).expect("opens").is_some());
    assert_eq!(vault.open_earlier(1, 10).expect("opens"), None);
    assert_eq!(ask(&vault), [MayErase::Yes]);
    assert_ne!(committed(vault.object(peer, &offer)), locked, "a new receipt says opened");
    assert_eq!(vault.may_erase(peer.box_id, &[(ID, Digest([0; 32]))]).expect("answers"), [MayErase::Unknown]);
    // Yesterday's backup: the database knows nothing of it, or the file is not there.
    let file = folder(world.dir.path(), peer.box_id).join(format!("{ID}.mvs"));
    std::fs::rename(&file, file.with_extension("gone")).expect("renames");
    assert_eq!(ask(&vault), [MayErase::Unknown]);
    let empty = World::new();
    assert_eq!(ask(&empty.open()), [MayErase::Unknown]);
    // A receipt that is younger than 72 hours.
    let young = World::new();
    let vault = young.open();
    let bytes = young.sealed(ID, 5, 1, Some(EndReason::Next));
    let offer = object(ID, &bytes, None);
    committed(send(&vault, young.peer(), &offer, &bytes));
    let ask = || vault.may_erase(young.peer().box_id, &[(ID, offer.sha256)]).expect("answers");
    assert_eq!(ask(), [MayErase::No]);
    tokio::time::advance(Duration::from_secs(73 * 3600)).await;
    assert_eq!(ask(), [MayErase::Yes]);
}

#[tokio::test(start_paused = true)]
async fn credit_ends_when_the_disk_is_nearly_full() {
    let world = World::new();
    let mut vault = world.open();
    assert!(vault.credit() > 0);
    Arc::get_mut(&mut vault.0).expect("alone").settings.keep_free = ByteCount(u64::MAX);
    assert_eq!(vault.credit(), 0);
    vault.live(world.peer(), ID, 0, &[1]).expect("dropped");
    assert_eq!(vault.counters().total("vault-full"), 1);
}

fn entries(world: &World, n: u8, fill: u8) -> Vec<Signed> {
    let mut head = None;
    (0..n)
        .map(|i| {
            let (kind, body) = JournalEntry::Alarm { code: format!("test-{fill}-{i}") }.encode();
            let run = Run { boot: BootId([1; 16]), start: 1 };
            let entry = Signed::append(journal::LOG, head, &*world.evidence, run, BootTime(1), kind, body);
            head = Some(entry.head(journal::LOG));
            entry
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_does_not_extend_the_clouds_stops_erasure_until_somebody_decides() {
    let world = World::new();
    let (vault, peer) = (world.open(), world.peer());
    let log = entries(&world, 6, 0);
    let head = log[3].head(journal::LOG);
    assert_eq!(vault.journal(peer, &log[..4]).expect("takes"), JournalAnswer::Kept(head));
    assert_eq!(vault.journal(peer, &log[1..4]).expect("again"), JournalAnswer::Kept(head));
    assert_eq!(vault.journal(peer, &log[5..]).expect("hole"), JournalAnswer::SendAfter(Some(head)));
    assert!(vault.check_head(peer, Some(head)).expect("checks"));
    let stranger = entries(&World::new(), 5, 0);
    assert_eq!(vault.journal(peer, &stranger[4..]).expect("foreign"), JournalAnswer::Refused("chain-foreign"));
    assert_eq!(vault.with_db(|db| db.erase_blocked(peer.box_id)).expect("reads"), None);

    let clone = entries(&world, 6, 1);
    assert_eq!(vault.journal(peer, &clone[3..]).expect("fork"), JournalAnswer::Forked);
    let blocked = || vault.with_db(|db| db.erase_blocked(peer.box_id)).expect("reads");
    assert_eq!(blocked().as_deref(), Some(JOURNAL_FORK));
    let alarm = vault.with_db(Db::alarms).expect("reads").into_iter().find(|a| a.code == JOURNAL_FORK).expect("raised");
    vault.with_db(|db| db.clear_alarm(alarm.id, "uid:0", WallTime(5))).expect("clears");
    assert_eq!(blocked(), None);
    // The administrator accepted it: the other history is taken from its beginning; the old one stays in the database.
    let head = clone[5].head(journal::LOG);
    assert_eq!(vault.journal(peer, &clone).expect("takes"), JournalAnswer::Kept(head));
    assert!(!vault.check_head(peer, Some(clone[2].head(journal::LOG))).expect("rolled back"));
}

#[tokio::test(start_paused = true)]
async fn the_backlog_is_what_the_journal_closed_and_a_lost_segment_is_alarmed() {
    let world = World::new();
    let (vault, peer) = (world.open(), world.peer());
    let bytes = world.sealed(ID, 5, 1, Some(EndReason::Next));
    let offer = object(ID, &bytes, None);
    let lost = SegmentId([8; 16]);
    let opened = |segment| JournalEntry::Opened {
        segment,
        organisation: world.organisation,
        camera: CameraId([2; 16]),
        recording: RecordingId([3; 16]),
        prev: Prev::First,
        background: false,
    };
    let closed = |segment| JournalEntry::Closed {
        segment,
        size: offer.size,
        sha256: offer.sha256,
        end: Digest([0; 32]),
        reason: EndReason::Next,
        cut: None,
    };
    let said =
        [opened(ID), closed(ID), opened(lost), closed(lost), JournalEntry::Destroyed { segment: lost, cause: 1 }];
    let mut head = None;
    let log: Vec<Signed> = said
        .iter()
        .map(|entry| {
            let (kind, body) = entry.encode();
            let run = Run { boot: BootId([1; 16]), start: 1 };
            let entry = Signed::append(journal::LOG, head, &*world.evidence, run, BootTime(1), kind, body);
            head = Some(entry.head(journal::LOG));
            entry
        })
        .collect();
    vault.journal(peer, &log[..4]).expect("takes");
    let backlog = || vault.with_db(|db| db.backlog(peer.box_id)).expect("counts");
    assert_eq!(backlog(), 2);
    vault.journal(peer, &log[4..]).expect("takes");
    assert_eq!(alarms(&vault), [DESTROYED_UNCOMMITTED]);
    committed(send(&vault, peer, &offer, &bytes));
    assert_eq!(backlog(), 0);
}

#[tokio::test]
async fn a_journal_that_goes_on_behind_another_card_is_kept_and_the_hole_is_said() {
    let world = World::new();
    pair(&world);
    let (vault, peer) = (world.open(), world.peer());
    let mut before = entries(&world, 4, 1);
    let reached = before[1].head(journal::LOG);
    let (kind, body) = JournalEntry::Card { card: [1; 16], reached: Some(reached) }.encode();
    let head = before[3].head(journal::LOG);
    let card = Signed::append(journal::LOG, Some(head), &*world.evidence, before[0].entry.run, BootTime(9), kind, body);
    let (kind, body) = JournalEntry::Alarm { code: "test".into() }.encode();
    let other =
        Signed::append(journal::LOG, Some(head), &*world.evidence, before[0].entry.run, BootTime(9), kind, body);
    before.truncate(2);
    assert_eq!(vault.journal(peer, &before).expect("kept"), JournalAnswer::Kept(reached));
    assert_eq!(vault.journal(peer, &[other]).expect("asked"), JournalAnswer::SendAfter(Some(reached)), "no card entry");
    assert_eq!(
        vault.journal(peer, std::slice::from_ref(&card)).expect("kept"),
        JournalAnswer::Kept(card.head(journal::LOG))
    );
    assert!(alarms(&vault).contains(&"journal-elsewhere".to_owned()), "{:?}", alarms(&vault));
}

fn part_file(world: &World) -> PathBuf {
    folder(world.dir.path(), world.peer().box_id).join(format!("{ID}.part"))
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_ends_at_a_checkpoint_cannot_take_signed_bytes_away() {
    let world = World::new();
    let (vault, peer) = (world.open(), world.peer());
    let bytes = world.sealed(ID, 20, 1, Some(EndReason::Next));
    let mut scanner = crate::seal::Scanner::new(world.evidence.public_key());
    scanner.push(&bytes[..bytes.len() - 300]);
    let proven = scanner.last().expect("a checkpoint").offset;
    let live = &bytes[..usize::try_from(proven).expect("small")];
    vault.live(peer, ID, 0, live).expect("writes");
    let forged = Object { segment: ID, size: proven, sha256: Digest([7; 32]), cut: None };
    let answer = vault.object(peer, &forged).expect("answers");
    assert!(matches!(answer, Answer::Rejected(_)), "{answer:?}");
    let _ = vault.chunk(peer, ID, 0, &vec![0xee; live.len()]);
    vault.flush();
    assert!(std::fs::read(part_file(&world)).expect("there") == live, "the signed live copy is as it came");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_holds_less_than_the_database_says_is_asked_for_again() {
    let world = World::new();
    let peer = world.peer();
    let bytes = world.sealed(ID, 20, 1, Some(EndReason::Next));
    let vault = world.open();
    vault.live(peer, ID, 0, &bytes[..bytes.len() - 10]).expect("writes");
    vault.flush();
    drop(vault);
    std::fs::OpenOptions::new().write(true).open(part_file(&world)).expect("opens").set_len(500).expect("cuts");
    let vault = world.open();
    let offer = object(ID, &bytes, None);
    let Answer::Have(have) = vault.object(peer, &offer).expect("no error") else { panic!("not complete") };
    assert!(have.end() <= 500, "{have:?}");
    assert!(alarms(&vault).contains(&FILE_SHORT.to_owned()));
    committed(send(&vault, peer, &offer, &bytes));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_a_crash_left_behind_the_end_are_not_committed() {
    use std::io::Write;
    let world = World::new();
    let peer = world.peer();
    let bytes = world.sealed(ID, 20, 1, Some(EndReason::Next));
    let offer = object(ID, &bytes, None);
    let vault = world.open();
    vault.object(peer, &offer).expect("answers");
    vault.chunk(peer, ID, 0, &bytes[..100]).expect("writes");
    vault.flush();
    drop(vault);
    let mut file = std::fs::OpenOptions::new().write(true).open(part_file(&world)).expect("opens");
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offer.size)).expect("seeks");
    file.write_all(b"live bytes that were never claimed").expect("writes");
    let vault = world.open();
    committed(send(&vault, peer, &offer, &bytes));
    assert!(std::fs::read(part_file(&world).with_extension("mvs")).expect("there") == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_refused_file_may_be_offered_once_more_after_a_restart() {
    let world = World::new();
    let peer = world.peer();
    let bytes = world.sealed(ID, 20, 1, Some(EndReason::Next));
    let mut wrong = bytes.clone();
    wrong[bytes.len() - 300] ^= 1;
    let offer = object(ID, &bytes, None);
    let vault = world.open();
    let answer = send(&vault, peer, &offer, &wrong).expect("answers");
    assert!(matches!(answer, Answer::Rejected(_)), "{answer:?}");
    assert_eq!(vault.object(peer, &offer).expect("answers"), answer);
    drop(vault);
    committed(send(&world.open(), peer, &offer, &bytes));
}
