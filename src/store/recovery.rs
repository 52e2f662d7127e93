//! Opens a store: reads the journal, recovers what a power cut or a crash left open, and says what it found.
//!
//! The numbered steps are in the `//!` of [`crate::store`]. Runs before anything is recorded, on whoever's thread.

use crate::base::chain::{Head, PublicKey, Signer};
use crate::base::clock::Clock;
use crate::base::ids::{CameraId, RecordingId, SegmentId, random_bytes};
use crate::base::reason::Counters;
use crate::base::units::{ByteCount, Run};
use crate::media::Gap;
use crate::seal::header::{HEADER_PREFIX, MAX_HEADER};
use crate::seal::{Header, JournalEntry};
use crate::store::catalog::Catalog;
use crate::store::internal::{CardId, Heads, Receipts};
use crate::store::journal::{self, Journal, Position};
use crate::store::lane::{Lane, Op};
use crate::store::salvage::Desk;
use crate::store::source::Shared;
use crate::store::volume::{read_all, write_all_at};
use crate::store::writer::{self, Parts, Writer};
use crate::store::{Error, Limits, SEGMENTS, Store, Volume, segment_of, segment_path};
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use tracing::{info, warn};

const CARD_ID: &str = "card.id";
/// A file of which this much holds no header is unreadable.
const HEADER_AT_MOST: usize = MAX_HEADER + HEADER_PREFIX;

/// Everything that the store stands on.
pub struct Options {
    /// The card.
    pub volume: Arc<dyn Volume>,
    /// Folder on internal storage; made if missing.
    pub internal: PathBuf,
    /// This run of the box; `start` has been counted up durably before.
    pub run: Run,
    /// The box's clocks.
    pub clock: Clock,
    /// The evidence key.
    pub signer: Arc<dyn Signer>,
    /// Memory and card.
    pub limits: Limits,
}

/// What the recorder needs to know of what the store stands on.
#[derive(Clone)]
pub(crate) struct Stand {
    pub(crate) run: Run,
    pub(crate) clock: Clock,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) limits: Limits,
}

/// An opened store and what opening it found.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Segments that the run before left open.
    pub recovered: Vec<Recovered>,
    /// Files that are none of ours to touch.
    pub strays: Vec<Stray>,
    /// Stable codes: `card-rolled-back`, `catalog-rebuilt` …
    pub alarms: Vec<&'static str>,
}

/// A segment that recovery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which.
    pub segment: SegmentId,
    /// Its camera.
    pub camera: CameraId,
    /// Its recording.
    pub recording: RecordingId,
    /// Bytes that were cut off.
    pub lost: ByteCount,
    /// What may be missing; `to` is the bound. `None` when it was complete but for the journal.
    pub gap: Option<Gap>,
}

/// A segment file that the journal does not account for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Its name on the card.
    pub name: String,
    /// `replayed`, `foreign` or `unreadable`.
    pub code: &'static str,
}

impl Store {
    /// Opens and recovers. Blocks on the disk.
    ///
    /// # Errors
    /// The card or internal storage cannot be used at all; damage inside is handled and reported instead.
    pub fn open(options: Options) -> Result<Opened, Error> {
        let (opened, writer, ops) = open(options)?;
        // A thread and no task: it blocks on the card for its whole life, and must outlive the runtime's shutdown until
        // everything is durable. It ends with the recorder, or with the last handle.
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer::run(writer, &ops))
            .map_err(|source| Error::Internal { action: "start the writer", source })?;
        Ok(opened)
    }
}

pub(crate) fn card(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Card { action, path, source }
}

pub(crate) fn catalog(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Catalog { action, source }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self::Card { action: "read", path: journal::FOLDER.to_owned(), source }
    }
}

/// All of [`Store::open`] but the thread.
pub(crate) fn open(options: Options) -> Result<(Opened, Writer, Receiver<Op>), Error> {
    let Options { volume, internal, run, clock, signer, limits } = options;
    let key = signer.public_key();
    let mut alarms = Vec::new();
    std::fs::create_dir_all(&internal).map_err(|source| Error::Internal { action: "make the folder", source })?;
    for folder in [SEGMENTS, journal::FOLDER] {
        volume.make_folder(folder).map_err(card("make", folder))?;
    }
    let card_id = card_id(volume.as_ref())?;
    let heads = Heads::load(&internal).map_err(|source| Error::Internal { action: "read the head", source })?;
    let (receipts, kept) =
        Receipts::open(&internal).map_err(|source| Error::Internal { action: "read receipts", source })?;

    // 1. The journal, as far as the card has it.
    let path = internal.join("catalog.db");
    let (mut catalog_db, walk) = caught_up(&path, volume.as_ref(), &key, card_id, &mut alarms)?;
    catalog_db.transaction(|db| db.set_receipts(&kept)).map_err(catalog("read receipts"))?;
    if walk.holes > 0 {
        alarms.push("journal-hole");
    }
    if !walk.foreign.is_empty() {
        alarms.push("journal-foreign");
    }

    // 2. Does it reach what internal storage knows?
    let reached = walk.position.as_ref().map(|position| position.head);
    let known = heads.as_ref().and_then(|heads| heads.card(card_id));
    let expected = match (known, reached) {
        (Some(known), _) => Some(known.head),
        // A card that we do not know, with a journal of ours: it must reach the last head, or it was rolled back and
        // has lost its name.
        (None, Some(_)) => heads.as_ref().and_then(|heads| heads.head),
        (None, None) => None,
    };
    let rolled_back = match expected {
        None => false,
        Some(head) => {
            reached.is_none_or(|reached| reached.seq < head.seq)
                || journal::at(volume.as_ref(), &key, head.seq)? != Some(head)
        }
    };
    let frozen = rolled_back || known.is_some_and(|known| known.frozen);
    let mut heads = heads.unwrap_or_default();
    let (journal, elsewhere) = continue_journal(volume.as_ref(), &signer, run, &walk, heads.head, rolled_back)?;
    let mut desk = Desk { volume: volume.as_ref(), key: &key, signer: &signer, run, clock: &clock, journal };
    if elsewhere {
        desk.append(&JournalEntry::Card { card: card_id, reached });
    }
    if rolled_back {
        warn!("the card does not reach the journal's head: it was rolled back; nothing on it is touched");
        desk.append(&JournalEntry::Alarm { code: "card-rolled-back".into() });
    }
    if frozen {
        alarms.push("card-rolled-back");
    }

    // 3. and 4. Segments.
    let files = volume.list(SEGMENTS).map_err(card("list", SEGMENTS))?;
    let last_run = catalog_db.last_run().map_err(catalog("find the last run"))?;
    let whole = walk.holes == 0 && !rolled_back;
    let (recovered, strays, clean) = match last_run {
        Some(last) if !rolled_back => desk.recover(&catalog_db, last, &files, whole)?,
        _ => (Vec::new(), desk.strays(&catalog_db, None, &files)?.strays, last_run.is_none()),
    };

    // 5. This run starts.
    desk.append(&JournalEntry::RunStarted { clean, time: clock.statement() });
    desk.settle()?;
    let mut journal = desk.journal;
    let durable = journal.synced();
    catalog_db
        .transaction(|db| {
            for (signed, _) in &durable {
                db.apply(signed, &|segment| header(volume.as_ref(), segment))?;
            }
            durable.last().map_or(Ok(()), |(_, position)| db.set_position(position, card_id))
        })
        .map_err(catalog("project the journal"))?;
    let head = durable.last().map(|(_, position)| position.head);
    if let Some(head) = head {
        heads.reached(card_id, head, frozen);
        heads.save(&internal).map_err(|source| Error::Internal { action: "keep the head", source })?;
    }
    let there: HashSet<SegmentId> = files.iter().filter_map(|file| segment_of(&file.name)).collect();
    if catalog_db.set_present(&there).map_err(catalog("compare with the card"))? > 0 {
        alarms.push("segments-absent");
    }
    if !strays.is_empty() {
        alarms.push("segments-stray");
    }

    let least = Limits::LANE_LEAST.0.min(limits.memory_max.0);
    let (lane, ops) = Lane::new(ByteCount(least), clock.boottime());
    let lane = Arc::new(lane);
    let shared = Arc::new(Shared::default());
    if let Some(head) = head {
        shared.set_head(head);
    }
    if let Ok(space) = volume.space() {
        shared.set_space(space, space.free < limits.keep_free.0);
    }
    count(&shared.counters, &recovered, &strays);
    alarms.iter().for_each(|code| shared.raise(code));
    let reader = Catalog::reader(&path).map_err(catalog("open for reading"))?;
    let stand = Stand { run, clock: clock.clone(), signer: signer.clone(), limits };
    let store = Store::new(volume.clone(), stand, lane.clone(), shared.clone(), reader);
    let writer = Writer::new(Parts {
        volume,
        internal,
        clock,
        lane,
        shared,
        journal,
        catalog: catalog_db,
        receipts,
        heads,
        card: card_id,
        frozen,
        keep_free: limits.keep_free,
    });
    Ok((Opened { store, recovered, strays, alarms }, writer, ops))
}

fn count(counters: &Counters, recovered: &[Recovered], strays: &[Stray]) {
    counters.add("segment-recovered", recovered.len() as u64);
    strays.iter().for_each(|stray| counters.add(stray.code, 1));
}

/// The card's name, made and synced if it has none.
fn card_id(volume: &dyn Volume) -> Result<CardId, Error> {
    let there = match read_all(volume, CARD_ID, 64) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(card("read", CARD_ID)(error)),
    };
    let id = there.as_deref().and_then(|text| {
        data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim_ascii()).ok().and_then(|id| CardId::try_from(id).ok())
    });
    if let Some(id) = id {
        return Ok(id);
    }
    let id: CardId = random_bytes();
    if there.is_none() {
        volume.create(CARD_ID).map_err(card("make", CARD_ID))?;
    }
    let text = data_encoding::HEXLOWER_PERMISSIVE.encode(&id) + "\n";
    write_all_at(volume, CARD_ID, 0, text.as_bytes()).map_err(card("write", CARD_ID))?;
    volume.sync(CARD_ID).map_err(card("sync", CARD_ID))?;
    volume.release(CARD_ID);
    Ok(id)
}

/// The catalog with everything that the card's journal says; rebuilt if it cannot be trusted.
fn caught_up(
    path: &std::path::Path,
    volume: &dyn Volume,
    key: &PublicKey,
    card_id: CardId,
    alarms: &mut Vec<&'static str>,
) -> Result<(Catalog, journal::Walk), Error> {
    let existing = path.exists();
    if let Some(mut db) = Catalog::open(path) {
        let at = db.position().map_err(catalog("read the position"))?;
        // Another card's files: all of them are read, and projecting twice changes nothing.
        let after = at.as_ref().filter(|(_, card)| *card == card_id).map(|(position, _)| position.clone());
        let walk = project(&mut db, volume, key, after.as_ref(), card_id)?;
        if !walk.lost_start {
            return Ok((db, walk));
        }
        // Ahead of the card: either the catalog outlived a journal that was lost, or the card was rolled back. What the
        // catalog knows beyond the card is kept in neither case: it says what is on the card.
        let walk = project(&mut db, volume, key, None, card_id)?;
        return Ok((db, walk));
    }
    if existing {
        warn!("the catalog cannot be used; it is rebuilt from the journal");
        alarms.push("catalog-rebuilt");
    }
    let mut db = Catalog::create(path).map_err(catalog("create"))?;
    let walk = project(&mut db, volume, key, None, card_id)?;
    Ok((db, walk))
}

fn project(
    db: &mut Catalog,
    volume: &dyn Volume,
    key: &PublicKey,
    after: Option<&Position>,
    card_id: CardId,
) -> Result<journal::Walk, Error> {
    let mut failed = None;
    let walk = db.transaction(|db| {
        let walk = journal::walk::<Error>(volume, Some(key), after, |signed, _| {
            db.apply(signed, &|segment| header(volume, segment)).map_err(catalog("project the journal"))
        });
        match walk {
            Ok(walk) => {
                if let Some(position) = &walk.position {
                    db.set_position(position, card_id)?;
                }
                Ok(Some(walk))
            }
            Err(error) => {
                failed = Some(error);
                Ok(None)
            }
        }
    });
    match (walk.map_err(catalog("project the journal"))?, failed) {
        (Some(walk), _) => Ok(walk),
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::Stopped),
    }
}

/// The growing end of the journal; true if it does not follow what this card holds, and has to say so.
fn continue_journal(
    volume: &dyn Volume,
    signer: &Arc<dyn Signer>,
    run: Run,
    walk: &journal::Walk,
    known: Option<Head>,
    rolled_back: bool,
) -> Result<(Journal, bool), Error> {
    let files = journal::files(volume).map_err(card("list", journal::FOLDER))?;
    let mut taken: Vec<_> = files.into_iter().map(|(_, file)| file).collect();
    if !rolled_back {
        for blank in &walk.blank {
            let path = format!("{}/{blank}", journal::FOLDER);
            volume.truncate(&path, 0).map_err(card("cut", &path))?;
            taken.retain(|file| file.name != *blank);
        }
        if let Some(position) = &walk.position {
            let path = format!("{}/{}", journal::FOLDER, position.file);
            if volume.size(&path).map_err(card("measure", &path))? > position.end {
                info!(file = position.file, at = position.end, "the journal's torn tail is cut");
                volume.truncate(&path, position.end).map_err(card("cut", &path))?;
                // Or a cut of this very recovery could leave new entries behind the old tail.
                volume.sync(&path).map_err(card("sync", &path))?;
            }
        }
    }
    let reached = walk.position.as_ref().map(|position| position.head);
    let ahead = known.is_some_and(|known| reached.is_none_or(|reached| reached.seq < known.seq));
    match &walk.position {
        Some(position) if !rolled_back && !ahead => Ok((Journal::resume(signer.clone(), run, position), false)),
        // Another card was in use since, or this one was rolled back: a new file goes on from the last head of all.
        _ => Ok((Journal::begin(signer.clone(), run, known, &taken), known.is_some())),
    }
}

/// The header of a segment's file, if it is one; proven by nothing.
pub(crate) fn header(volume: &dyn Volume, segment: SegmentId) -> Option<Header> {
    let mut bytes = vec![0; HEADER_AT_MOST];
    let n = volume.read_at(&segment_path(segment), 0, &mut bytes).ok()?;
    Header::decode(bytes.get(..n)?).ok().map(|(header, _)| header).filter(|header| header.segment == segment)
}
