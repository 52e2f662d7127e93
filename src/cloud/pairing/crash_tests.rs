//! The moment between the cloud's commit of a pairing and its reply, with real TLS and a real database.

use super::*;
use crate::base::chain::SoftwareSigner;
use crate::base::units::WallTime;
use crate::cloud::command::Secret;
use crate::cloud::config::Overrides;
use crate::cloud::sessions::Sessions;
use crate::trust::identity::TlsKey;
use crate::trust::pairing::box_side::{self, Facts, PairError};
use crate::trust::tls::{KnownBoxes, Standing};
use std::path::Path;
use std::sync::mpsc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(20);

/// The registry, stopped once between what it stored and what it says.
struct Gate {
    boxes: Boxes,
    stop: Mutex<Option<(oneshot::Sender<()>, mpsc::Receiver<Fate>)>>,
}

/// What becomes of the cloud at that moment.
enum Fate {
    Lives,
    Dies,
}

impl Registry for Gate {
    fn admit(&self, candidate: &Candidate) -> Result<CloudAnswer, Refused> {
        let answer = self.boxes.admit(candidate)?;
        let stop = self.stop.lock().expect("not poisoned").take();
        let Some((committed, fate)) = stop else { return Ok(answer) };
        committed.send(()).expect("awaited");
        match fate.recv_timeout(PATIENCE).expect("told") {
            Fate::Lives => Ok(answer),
            // What a process that is killed here would do next is not done: no answer, nothing kept in memory.
            Fate::Dies => Err(Refused::Unavailable),
        }
    }

    fn alarm(&self, refused: Refused, code_id: [u8; 4], from: IpAddr) {
        self.boxes.alarm(refused, code_id, from);
    }
}

/// A cloud process over a data folder.
struct Cloud {
    pairing: Pairing,
    sessions: Sessions,
    vault: Vault,
    address: SocketAddr,
    tasks: Tasks,
    committed: Option<oneshot::Receiver<()>>,
    fate: mpsc::Sender<Fate>,
}

impl Cloud {
    /// Starts one; with `gated` the first admission stops at its commit.
    async fn start(data: &Path, gated: bool) -> Self {
        let clock = Clock::system(WallTime(0));
        let keys = Keys::load(data).expect("reads");
        let audit = Audit::open(&data.join("audit.log"), keys.audit.clone(), clock.clone()).expect("opens");
        let vault = crate::cloud::vault::empty(data);
        let keys = Arc::new(Mutex::new(keys));
        let config = Config::load(None, Overrides::default()).expect("valid");
        let boxes = Boxes {
            relay_address: config.relay_address.clone(),
            keys: keys.clone(),
            vault: vault.clone(),
            audit,
            clock,
        };
        let ((told, committed), (fate, is_told)) = (oneshot::channel(), mpsc::channel());
        let gate = Gate { boxes, stop: Mutex::new(gated.then_some((told, is_told))) };
        let service = cloud_side::Pairing::new(Arc::new(gate), Counters::default());
        let pairing = Pairing { host: None, service };
        let tasks = Tasks::default();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), &pairing, &keys, tasks.part()).await.expect("binds");
        let address = listener.address();
        tasks.spawn("pairing", listener.run());
        let sessions = Sessions::new(vault.clone());
        Self { pairing, sessions, vault, address, tasks, committed: Some(committed), fate }
    }

    fn code(&self, host: SocketAddr) -> Code {
        self.pairing.create(None, Some(host.to_string())).expect("a code").0.parse().expect("a code")
    }

    /// State and id of every pairing that was ever stored, in order.
    fn rows(&self) -> Vec<(PairingState, PairingId)> {
        let rows = self.vault.with_db(|db| db.pairings()).expect("reads");
        rows.into_iter().map(|row| (row.state, row.pairing)).collect()
    }

    async fn committed(&mut self) {
        let committed = self.committed.take().expect("asked once");
        tokio::time::timeout(PATIENCE, committed).await.expect("in time").expect("committed");
    }

    async fn end(self) {
        assert!(self.tasks.stop(PATIENCE).await);
    }
}

/// How the first connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Before the cloud has written its reply.
    BeforeReply,
    /// The reply is on its way and does not arrive.
    ReplyLost,
}

/// The line between box and cloud: the first connection is cut when told, the others are whole.
struct Line {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    cut: Option<oneshot::Sender<()>>,
    is_cut: Option<oneshot::Receiver<()>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Line {
    async fn new(cloud: SocketAddr, how: Cut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let to = Arc::new(Mutex::new(cloud));
        let ((cut, told), (done, is_cut)) = (oneshot::channel(), oneshot::channel());
        let target = to.clone();
        let tasks = crate::base::tasks::Tasks::default();
        let inner = tasks.clone();
        let serving = tasks.spawn("line", async move {
            let mut first = Some((told, done));
            while let Ok((mut near, _)) = listener.accept().await {
                let target = *target.lock().expect("not poisoned");
                let Ok(mut far) = TcpStream::connect(target).await else { continue };
                let Some((told, done)) = first.take() else {
                    inner.spawn("carried", async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
                    continue;
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => panic!("ended before it was cut"),
                    _ = told => {}
                }
                if how == Cut::BeforeReply {
                    drop((near, far));
                    done.send(()).expect("awaited");
                    continue;
                }
                // Nothing more goes to the box; what the cloud writes is swallowed until it has closed.
                done.send(()).expect("awaited");
                let mut swallowed = Vec::new();
                tokio::time::timeout(PATIENCE, far.read_to_end(&mut swallowed)).await.expect("ends").expect("reads");
                // A refusal is a tenth of it.
                assert!(swallowed.len() > 300, "an answer was sent: {} bytes", swallowed.len());
            }
        });
        Self { address, to, cut: Some(cut), is_cut: Some(is_cut), serving }
    }

    async fn cut(&mut self) {
        self.cut.take().expect("once").send(()).expect("a connection stands");
        self.is_cut.take().expect("once").await.expect("cut");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Machine {
    identity: TlsKey,
    evidence: SoftwareSigner,
}

impl Machine {
    fn new() -> Self {
        Self { identity: TlsKey::generate().expect("a key"), evidence: SoftwareSigner::generate() }
    }

    fn facts(&self) -> Facts<'_> {
        let (identity, evidence) = (&self.identity, &self.evidence);
        Facts { identity, evidence, serial: "S1".into(), journal: None, firmware: "test".into() }
    }

    async fn pair(&self, code: &Code) -> Result<CloudAnswer, PairError> {
        tokio::time::timeout(PATIENCE, box_side::pair(code, &self.facts())).await.expect("in time")
    }

    /// The code of the refusal.
    async fn refused(&self, code: &Code) -> &'static str {
        self.pair(code).await.expect_err("refused").code()
    }
}

fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    let passphrase = Secret::new("korenblauw huis".into());
    Keys::create(dir.path(), Some("Town"), Some(&passphrase), WallTime(5)).expect("creates");
    dir
}

/// One exchange that ends between the cloud's commit and its reply, whose fate is still open then.
async fn reply_lost(cloud: &mut Cloud, line: &mut Line, machine: &Machine, code: &Code) {
    let facts = machine.facts();
    let address = line.address;
    let exchange = async { box_side::exchange(code, &facts, TcpStream::connect(address).await?).await };
    let (broken, ()) = tokio::join!(exchange, async {
        cloud.committed().await;
        line.cut().await;
    });
    assert!(broken.is_err(), "no reply came");
}

#[tokio::test]
async fn a_reply_that_is_lost_after_the_commit_is_asked_for_again_by_the_same_box_only() {
    for how in [Cut::BeforeReply, Cut::ReplyLost] {
        let data = data();
        let mut cloud = Cloud::start(data.path(), true).await;
        let mut line = Line::new(cloud.address, how).await;
        let code = cloud.code(line.address);
        let (machine, other) = (Machine::new(), Machine::new());
        // The box tries again by itself.
        let (paired, stored) = tokio::join!(machine.pair(&code), async {
            cloud.committed().await;
            let stored = cloud.rows();
            line.cut().await;
            cloud.fate.send(Fate::Lives).expect("awaited");
            stored
        });
        let answer = paired.expect("paired");
        assert_eq!(stored, [(PairingState::Pending, answer.pairing)], "{how:?}: what was committed is what it has");
        // And once more, as a box does that was switched off before it kept the answer.
        assert_eq!(machine.pair(&code).await.expect("again"), answer, "{how:?}");
        assert_eq!(cloud.rows(), stored, "{how:?}: stored once");
        assert_eq!(cloud.sessions.standing(&machine.identity.spki()), Standing::Known, "{how:?}");
        assert_eq!(other.refused(&code).await, "pair-code-used", "{how:?}");
        assert_eq!(cloud.rows(), stored, "{how:?}: nothing stored of it");
        assert_eq!(cloud.sessions.standing(&other.identity.spki()), Standing::Unknown, "{how:?}");
        assert_eq!(cloud.vault.with_db(Database::alarms).expect("reads").len(), 1, "{how:?}");
        cloud.end().await;
    }
}

#[tokio::test]
async fn another_box_cannot_use_the_code_while_the_reply_is_lost() {
    let data = data();
    let mut cloud = Cloud::start(data.path(), true).await;
    let mut line = Line::new(cloud.address, Cut::BeforeReply).await;
    let code = cloud.code(line.address);
    let (machine, other) = (Machine::new(), Machine::new());
    reply_lost(&mut cloud, &mut line, &machine, &code).await;
    // It asks before the first admission has ended.
    let release = async { cloud.fate.send(Fate::Lives).expect("awaited") };
    let (refused, ()) = tokio::join!(other.refused(&code), release);
    assert_eq!(refused, "pair-code-used");
    let answer = machine.pair(&code).await.expect("paired");
    assert_eq!(cloud.rows(), [(PairingState::Pending, answer.pairing)]);
    cloud.end().await;
}

#[tokio::test]
async fn a_cloud_that_is_killed_between_commit_and_reply_pairs_the_box_with_the_next_code() {
    let data = data();
    let mut cloud = Cloud::start(data.path(), true).await;
    let mut line = Line::new(cloud.address, Cut::BeforeReply).await;
    let code = cloud.code(line.address);
    let (machine, other) = (Machine::new(), Machine::new());
    reply_lost(&mut cloud, &mut line, &machine, &code).await;
    let stored = cloud.rows();
    assert!(matches!(stored[..], [(PairingState::Pending, _)]), "{stored:?}");
    cloud.fate.send(Fate::Dies).expect("awaited");
    cloud.end().await;

    // Another process over the same folder. Codes were in memory only: the old one is void for everybody.
    let cloud = Cloud::start(data.path(), false).await;
    *line.to.lock().expect("not poisoned") = cloud.address;
    assert_eq!(cloud.rows(), stored, "the commit was durable");
    assert_eq!(machine.refused(&code).await, "pair-unknown-code");
    assert_eq!(other.refused(&code).await, "pair-unknown-code");
    assert_eq!(cloud.rows(), stored);
    // The same identity with a new code: what the dead process stored is over, one pairing is left.
    let next = cloud.code(line.address);
    let answer = machine.pair(&next).await.expect("paired");
    assert_eq!(cloud.rows(), [(PairingState::Revoked, stored[0].1), (PairingState::Pending, answer.pairing)]);
    let row = cloud.sessions.pairing_of(&machine.identity.spki()).expect("known");
    assert_eq!((row.pairing, cloud.sessions.standing(&machine.identity.spki())), (answer.pairing, Standing::Known));
    assert_eq!(machine.pair(&next).await.expect("again"), answer);
    assert_eq!(other.refused(&next).await, "pair-code-used");
    cloud.end().await;
}
