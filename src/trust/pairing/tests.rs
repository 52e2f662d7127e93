//! Real exchanges on loopback: each refusal of the specification.

use crate::base::cbor;
use crate::base::chain::{Head, Signer, SoftwareSigner};
use crate::base::ids::{OrganisationId, PairingId};
use crate::base::reason::{Coded, Counters};
use crate::base::tasks::Tasks;
use crate::base::units::WallTime;
use crate::trust::identity::TlsKey;
use crate::trust::pairing::Code;
use crate::trust::pairing::box_side::{self, Facts, PairError};
use crate::trust::pairing::cloud_side::{
    self, Candidate, Pairing, Registry, WINDOW, WRONG_PER_ADDRESS, WRONG_PER_CODE,
};
use crate::trust::pairing::messages::{
    BoxRequest, CloudAnswer, Exporter, Message, Proved, RawSpki, Refused, box_proof, evidence_digest, identity_digest,
};
use crate::trust::tls;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

#[derive(Default)]
struct Memory {
    admitted: Mutex<Vec<Candidate>>,
    alarms: Mutex<Vec<Refused>>,
    /// What happens after storing and before the answer.
    then: Mutex<Option<Then>>,
}

type Then = Box<dyn FnOnce() + Send>;

impl Registry for Memory {
    fn admit(&self, candidate: &Candidate) -> Result<CloudAnswer, Refused> {
        self.admitted.lock().expect("not poisoned").push(candidate.clone());
        let then = self.then.lock().expect("not poisoned").take();
        then.into_iter().for_each(|then| then());
        Ok(CloudAnswer {
            version: 1,
            organisation: OrganisationId([1; 16]),
            name: "Town".into(),
            sealing_key: [2; 32],
            recovery_keys: Vec::new(),
            receipt_key: SoftwareSigner::generate().public_key().spki(),
            issuers: vec![RawSpki(SoftwareSigner::generate().public_key().spki())],
            pins_version: 1,
            generation: 1,
            pairing: PairingId::random(),
            time: WallTime(5),
            relay: None,
        })
    }

    fn alarm(&self, refused: Refused, _: [u8; 4], _: IpAddr) {
        self.alarms.lock().expect("not poisoned").push(refused);
    }
}

struct Cloud {
    addr: SocketAddr,
    pairing: Pairing,
    memory: Arc<Memory>,
    counters: Counters,
    _tasks: Tasks,
}

async fn cloud() -> Cloud {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    let key = TlsKey::generate().expect("a key");
    let config = tls::pairing_server(&key, key.self_signed().expect("a certificate"));
    let memory = Arc::new(Memory::default());
    let counters = Counters::default();
    let pairing = Pairing::new(memory.clone(), counters.clone());
    let tasks = Tasks::default();
    tasks.spawn("serve", cloud_side::serve(listener, config, pairing.clone(), tasks.clone()));
    Cloud { addr, pairing, memory, counters, _tasks: tasks }
}

impl Cloud {
    fn code(&self, serial: Option<&str>) -> Code {
        let code = Code::generate(&self.addr.to_string()).expect("a code");
        self.pairing.desk(|desk| desk.create(code.clone(), serial.map(str::to_owned), Instant::now()));
        code
    }

    async fn try_at(&self, addr: SocketAddr, code: &Code, identity: &TlsKey) -> Result<CloudAnswer, PairError> {
        let evidence = SoftwareSigner::generate();
        let facts = Facts {
            identity,
            evidence: &evidence,
            serial: "S-1".into(),
            journal: Some(Head { seq: 3, hash: crate::base::ids::Digest([9; 32]) }),
            firmware: "1".into(),
        };
        box_side::exchange(code, &facts, TcpStream::connect(addr).await.expect("connects"))
            .await
            .expect("no broken line")
    }

    async fn try_pair(&self, code: &Code, identity: &TlsKey) -> Result<CloudAnswer, PairError> {
        self.try_at(self.addr, code, identity).await
    }
}

fn code_of(result: Result<CloudAnswer, PairError>) -> &'static str {
    result.expect_err("refused").code()
}

#[tokio::test]
async fn a_used_code_gives_its_box_the_same_answer_and_is_refused_to_another() {
    let cloud = cloud().await;
    let code = cloud.code(None);
    let identity = TlsKey::generate().expect("a key");
    let first = cloud.try_pair(&code, &identity).await.expect("paired");
    // The reply was lost: the same key gets the same answer, and is stored once.
    let again = cloud.try_pair(&code, &identity).await.expect("paired");
    assert_eq!(first, again);
    assert_eq!(cloud.memory.admitted.lock().expect("not poisoned").len(), 1);
    let other = TlsKey::generate().expect("a key");
    assert_eq!(code_of(cloud.try_pair(&code, &other).await), "pair-code-used");
    assert_eq!(*cloud.memory.alarms.lock().expect("not poisoned"), [Refused::Used]);
    assert_eq!(cloud.counters.total("pair-code-used"), 1);
}

#[tokio::test]
async fn an_exchange_that_is_given_up_while_it_is_stored_leaves_no_code_for_another_box() {
    let cloud = cloud().await;
    let code = cloud.code(None);
    let identity = TlsKey::generate().expect("a key");
    let (stored, is_stored) = tokio::sync::oneshot::channel();
    let (go, may_go) = std::sync::mpsc::channel();
    *cloud.memory.then.lock().expect("not poisoned") = Some(Box::new(move || {
        stored.send(()).expect("awaited");
        let _ = may_go.recv_timeout(Duration::from_secs(10));
    }));
    let exporter = [3; 32];
    let (pairing, request) = (cloud.pairing.clone(), request(&code, &identity, &exporter));
    let exchange = tokio::spawn(async move { pairing.answer(request, &exporter, [127, 0, 0, 1].into()).await });
    is_stored.await.expect("stored");
    // As its 30 seconds do.
    exchange.abort();
    assert!(exchange.await.expect_err("given up").is_cancelled());
    let other = TlsKey::generate().expect("a key");
    let (refused, ()) = tokio::join!(cloud.try_pair(&code, &other), async { go.send(()).expect("awaited") });
    assert_eq!(code_of(refused), "pair-code-used");
    cloud.try_pair(&code, &identity).await.expect("its own box is answered");
    assert_eq!(cloud.memory.admitted.lock().expect("not poisoned").len(), 1);
}

/// A right request.
fn request(code: &Code, identity: &TlsKey, exporter: &Exporter) -> Proved {
    let evidence = SoftwareSigner::generate();
    let (key, own) = (evidence.public_key(), identity.spki().0);
    let body = cbor::encode(&BoxRequest {
        host: code.host().into(),
        code_id: code.id(),
        evidence: key.spki(),
        evidence_signature: evidence.sign(&evidence_digest(exporter, &own)),
        box_id: key.box_id(),
        serial: "S-1".into(),
        journal: None,
        versions: (1, 1),
        firmware: "1".into(),
        identity_signature: identity.sign(&identity_digest(exporter, &key.spki())),
        identity: own,
    });
    let proof = box_proof(code, exporter, &body);
    Proved { body, proof }
}

#[tokio::test]
async fn wrong_nonces_void_the_code_and_too_many_attempts_block_the_address() {
    let cloud = cloud().await;
    let identity = TlsKey::generate().expect("a key");
    let right = cloud.code(None);
    // The same label with another secret cannot be made; a box that has the label only sends a wrong proof.
    let bound = cloud.code(Some("S-1"));
    for _ in 1..WRONG_PER_CODE {
        assert_eq!(code_of(forged(&cloud, &bound, &identity).await), "pair-wrong-proof");
    }
    assert_eq!(code_of(forged(&cloud, &bound, &identity).await), "pair-code-void");
    assert_eq!(code_of(cloud.try_pair(&bound, &identity).await), "pair-code-void");
    let unknown = Code::generate(&cloud.addr.to_string()).expect("a code");
    for _ in WRONG_PER_CODE..WRONG_PER_ADDRESS {
        assert_eq!(code_of(cloud.try_pair(&unknown, &identity).await), "pair-unknown-code");
    }
    assert_eq!(code_of(cloud.try_pair(&right, &identity).await), "pair-too-many-attempts");
    assert!(cloud.memory.admitted.lock().expect("not poisoned").is_empty());
}

/// A box that knows a code's label but not its secret: the request is proved with another nonce.
async fn forged(cloud: &Cloud, code: &Code, identity: &TlsKey) -> Result<CloudAnswer, PairError> {
    let name = rustls::pki_types::ServerName::try_from(tls::SERVER_NAME).expect("a name");
    let stream = TcpStream::connect(cloud.addr).await.expect("connects");
    let mut stream =
        tokio_rustls::TlsConnector::from(tls::pairing_client()).connect(name, stream).await.expect("handshake");
    let body = request(code, identity, &[0; 32]).body;
    Message::Request(Proved { body, proof: [1; 32] }).write(&mut stream).await.expect("writes");
    match Message::read(&mut stream).await.expect("reads") {
        Message::Refused(refused) => Err(PairError::Refused(refused)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_man_in_the_middle_cannot_carry_proofs_over() {
    let cloud = cloud().await;
    let code = cloud.code(None);
    // He ends TLS on both sides and passes every message on unchanged.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let middle = listener.local_addr().expect("an address");
    let key = TlsKey::generate().expect("a key");
    let acceptor =
        tokio_rustls::TlsAcceptor::from(tls::pairing_server(&key, key.self_signed().expect("a certificate")));
    let to = cloud.addr;
    let relay = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let mut from_box = acceptor.accept(stream).await.expect("handshake");
        let name = rustls::pki_types::ServerName::try_from(tls::SERVER_NAME).expect("a name");
        let stream = TcpStream::connect(to).await.expect("connects");
        let mut to_cloud =
            tokio_rustls::TlsConnector::from(tls::pairing_client()).connect(name, stream).await.expect("handshake");
        let _ = tokio::io::copy_bidirectional(&mut from_box, &mut to_cloud).await;
    });
    let identity = TlsKey::generate().expect("a key");
    assert_eq!(code_of(cloud.try_at(middle, &code, &identity).await), "pair-wrong-proof");
    assert!(cloud.memory.admitted.lock().expect("not poisoned").is_empty());
    relay.abort();
}

#[tokio::test]
async fn a_false_cloud_gets_nothing_kept() {
    // It accepts whatever comes and answers with keys of its own, without knowing the nonce.
    let real = cloud().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    let code = Code::generate(&addr.to_string()).expect("a code");
    let key = TlsKey::generate().expect("a key");
    let acceptor =
        tokio_rustls::TlsAcceptor::from(tls::pairing_server(&key, key.self_signed().expect("a certificate")));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let mut stream = acceptor.accept(stream).await.expect("handshake");
        Message::read(&mut stream).await.expect("a request");
        let answer = Message::Answer(Proved { body: vec![0xa0], proof: [7; 32] });
        answer.write(&mut stream).await.expect("writes");
    });
    let identity = TlsKey::generate().expect("a key");
    assert_eq!(code_of(real.try_at(addr, &code, &identity).await), "pair-not-the-cloud");
}

#[tokio::test]
async fn expired_foreign_and_forgotten_codes_are_refused() {
    let cloud = cloud().await;
    let identity = TlsKey::generate().expect("a key");
    let old = Code::generate(&cloud.addr.to_string()).expect("a code");
    let past = Instant::now().checked_sub(WINDOW).expect("the machine is up for 15 minutes");
    cloud.pairing.desk(|desk| desk.create(old.clone(), None, past));
    assert_eq!(code_of(cloud.try_pair(&old, &identity).await), "pair-expired");
    let other = cloud.code(Some("S-2"));
    assert_eq!(code_of(cloud.try_pair(&other, &identity).await), "pair-wrong-serial");
    // A cloud that was restarted has no codes.
    let forgotten = Code::generate(&cloud.addr.to_string()).expect("a code");
    assert_eq!(code_of(cloud.try_pair(&forgotten, &identity).await), "pair-unknown-code");
}

#[tokio::test]
async fn garbage_is_answered_with_a_reason_or_dropped() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cloud = cloud().await;
    for bytes in [&[0, 0, 0, 1, 9][..], &[0xff; 64], &[0, 0, 0, 3, 1, 0xa0, 0], &[0, 0, 0, 0]] {
        let name = rustls::pki_types::ServerName::try_from(tls::SERVER_NAME).expect("a name");
        let stream = TcpStream::connect(cloud.addr).await.expect("connects");
        let mut stream =
            tokio_rustls::TlsConnector::from(tls::pairing_client()).connect(name, stream).await.expect("handshake");
        stream.write_all(bytes).await.expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("reads");
        assert_eq!(answer, [0, 0, 0, 4, 3, 0xa1, 0, 8], "{bytes:02x?}");
    }
    assert_eq!(cloud.counters.total("pair-malformed"), 4);
}

#[test]
fn a_box_must_hold_both_keys_that_it_names() {
    use crate::trust::pairing::cloud_side::{Desk, Verdict};
    let code = Code::with_nonce("cloud.example", [1; 10]).expect("a host");
    let now = Instant::now();
    let mut desk = Desk::default();
    desk.create(code.clone(), None, now);
    let (evidence, identity, other) =
        (SoftwareSigner::generate(), SoftwareSigner::generate(), SoftwareSigner::generate());
    let exporter = [3; 32];
    let mut judge = |by: &SoftwareSigner, signed: [u8; 32]| {
        let (own, spki) = (identity.public_key().spki(), evidence.public_key().spki());
        let body = cbor::encode(&BoxRequest {
            host: code.host().into(),
            code_id: code.id(),
            evidence_signature: evidence.sign(&evidence_digest(&exporter, &own)),
            identity_signature: by.sign(&identity_digest(&signed, &spki)),
            identity: own,
            evidence: spki,
            box_id: evidence.public_key().box_id(),
            serial: "S-1".into(),
            journal: None,
            versions: (1, 1),
            firmware: "1".into(),
        });
        let proof = box_proof(&code, &exporter, &body);
        let from = IpAddr::from([127, 0, 0, 1]);
        desk.judge(&Proved { body, proof }, &exporter, from, now).map(|verdict| matches!(verdict, Verdict::Admit(_)))
    };
    let refused = |judged: Result<bool, Refused>| judged.expect_err("refused").code();
    assert_eq!(refused(judge(&other, exporter)), "pair-bad-evidence", "an identity that it does not hold");
    assert_eq!(refused(judge(&identity, [4; 32])), "pair-bad-evidence", "a signature from another session");
    assert_eq!(judge(&identity, exporter), Ok(true));
}
