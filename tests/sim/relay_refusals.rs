//! Every breach of the relay's protocol ends the connection with its code, and is counted under it: on the cloud by a
//! peer that holds a paired key and says the wrong thing, on the box by a cloud that does.

use crate::relay_world::{Cloud, Ground, Line, Machine, dialer, runtime, until};
use bytes::Bytes;
use mvb::base::chain::{Signed, Signer, SoftwareSigner};
use mvb::base::ids::{BondId, BoxId, CameraId, Digest, OrganisationId, PairingId, RecordingId, SegmentId};
use mvb::base::reason::Counters;
use mvb::base::units::{BootTime, WallTime};
use mvb::cloud::live::Viewer;
use mvb::cloud::vault::PairingState;
use mvb::relay::link::{Class, Control, Dialer, Link};
use mvb::relay::quic::{QuicLink, QuicListener};
use mvb::relay::session::Party;
use mvb::relay::statement::{self, Committed, JournalAck};
use mvb::relay::uplink::StopReason;
use mvb::relay::wire::control::{Blob, Held, Hello, Object, Span, Welcome};
use mvb::relay::wire::{ChunkHead, LiveHead, Message};
use mvb::seal::SegmentSource;
use mvb::trust::identity::{Generation, Spki, TlsKey};
use mvb::trust::tls::{self, KnownBoxes, Pins, Refusals, Standing};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(15);

struct Scene {
    ground: Ground,
    cloud: Cloud,
    machine: Machine,
    pairing: PairingId,
}

impl Scene {
    fn new(keep_free: u64) -> Self {
        let ground = Ground::new();
        let cloud = Cloud::start(&ground, None, None, keep_free);
        let machine = Machine::new(&ground.recipients);
        let pairing = PairingId::random();
        cloud.pair(&machine, pairing, PairingState::Active);
        Self { ground, cloud, machine, pairing }
    }

    fn hello(&self) -> Hello {
        Hello {
            min: 1,
            max: 1,
            features: 0,
            box_id: self.machine.box_id(),
            organisation: self.ground.organisation,
            pairing: self.pairing,
            bond: BondId::random(),
            run: self.machine.run,
            at: BootTime(1),
            journal: None,
            receipts: None,
            firmware: "test".into(),
        }
    }

    async fn dial(&self) -> (QuicLink, Control) {
        dialer(&self.machine.identity, self.ground.pins(), self.cloud.address).dial().await.expect("a link")
    }

    /// Says HELLO and hears WELCOME.
    async fn greeted(&self) -> (QuicLink, Control) {
        let (link, mut control) = self.dial().await;
        say(&mut control, Message::Hello(self.hello())).await;
        assert!(matches!(hear(&mut control).await, Some(Message::Welcome(_))));
        (link, control)
    }

    /// Has a session whose camera somebody looks at, as long as the viewer lives.
    async fn watched(&self, camera: CameraId) -> (QuicLink, Control, Viewer) {
        let viewer = self.cloud.hub.watch(camera);
        let (link, mut control) = self.greeted().await;
        say(&mut control, Message::Cameras { cameras: vec![camera], at: BootTime(1) }).await;
        let asked = async { while !matches!(hear(&mut control).await.expect("goes on"), Message::Subscribe(_)) {} };
        tokio::time::timeout(SOON, asked).await.expect("a subscription");
        (link, control, viewer)
    }

    /// The link ends with the code, which is counted.
    async fn refused(&self, what: &str, link: &QuicLink, code: &str) {
        let before = self.cloud.counters.total(code);
        let said = tokio::time::timeout(SOON, link.closed()).await.unwrap_or_else(|_| panic!("{what}: not closed"));
        assert_eq!(said, code, "{what}");
        let counted = async {
            while self.cloud.counters.total(code) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, counted).await.unwrap_or_else(|_| panic!("{what}: not counted ({before})"));
    }
}

async fn say(control: &mut Control, message: Message) {
    let bytes = message.encode();
    say_raw(control, u32::try_from(bytes.len()).expect("short"), &bytes).await;
}

async fn say_raw(control: &mut Control, len: u32, bytes: &[u8]) {
    let _ = control.1.write_all(&[&len.to_be_bytes()[..], bytes].concat()).await;
}

async fn hear(control: &mut Control) -> Option<Message> {
    let len = control.0.read_u32().await.ok()?;
    let mut bytes = vec![0; len as usize];
    control.0.read_exact(&mut bytes).await.ok()?;
    Message::decode(&bytes).expect("a message")
}

fn live() -> LiveHead {
    LiveHead {
        segment: SegmentId([1; 16]),
        camera: CameraId([2; 16]),
        recording: RecordingId([3; 16]),
        kind: 3,
        track: 0,
        key: true,
        disposable: false,
        video: true,
        number: 0,
        frame: 0,
        frame_len: 4,
        offset: 0,
        len: 4,
        captured: BootTime(1),
    }
}

/// Four bytes that nobody has.
fn object(id: u8) -> Object {
    Object {
        segment: SegmentId([id; 16]),
        size: 4,
        sha256: Digest([1; 32]),
        cut: None,
        class: 3,
        camera: CameraId([1; 16]),
        recording: RecordingId([1; 16]),
    }
}

#[test]
fn a_first_word_that_is_wrong_ends_the_session_with_its_code() {
    let scene = Scene::new(0);
    let hello = scene.hello();
    let other = |change: fn(&mut Hello)| {
        let mut hello = hello.clone();
        change(&mut hello);
        Message::Hello(hello)
    };
    let cases = [
        ("another message", Message::TimeAsk { at: BootTime(1) }, "relay-out-of-order"),
        ("a later version", other(|h| h.min = 2), "relay-version"),
        ("an older version", other(|h| (h.min, h.max) = (0, 0)), "relay-version"),
        ("a long name", other(|h| h.firmware = "x".repeat(65)), "relay-length"),
        ("another box", other(|h| h.box_id = BoxId([9; 32])), "relay-wrong-party"),
        ("another organisation", other(|h| h.organisation = OrganisationId([9; 16])), "relay-wrong-party"),
        ("another pairing", other(|h| h.pairing = PairingId([9; 16])), "relay-wrong-party"),
    ];
    runtime().block_on(async {
        for (what, message, code) in cases {
            let (link, mut control) = scene.dial().await;
            say(&mut control, message).await;
            scene.refused(what, &link, code).await;
        }
        let (link, mut control) = scene.dial().await;
        control.1.shutdown().await.expect("ends the stream");
        scene.refused("an empty control stream", &link, "relay-no-control").await;
    });
    assert!(!scene.cloud.sessions.is_connected(scene.machine.box_id()));
}

#[test]
fn a_wrong_message_ends_the_session_with_its_code() {
    let scene = Scene::new(0);
    let stranger = SoftwareSigner::generate();
    let run = scene.machine.run;
    let entry = Signed::append(mvb::seal::journal::LOG, None, &stranger, run, BootTime(1), 1, vec![0xa0]);
    let encoded = |message: Message| {
        let bytes = message.encode();
        (u32::try_from(bytes.len()).unwrap(), bytes)
    };
    let held = vec![Held(SegmentId([1; 16]), Digest([2; 32])); 257];
    let cases = [
        ("no type", (0, Vec::new()), "relay-length"),
        ("too long", (256 * 1024 + 1, Vec::new()), "relay-length"),
        ("no CBOR", (2, vec![12, 0xff]), "relay-malformed"),
        ("not canonical", (5, vec![12, 0xa1, 0, 0x18, 1]), "relay-malformed"),
        ("unknown and critical", (2, vec![99, 0xa0]), "relay-unknown-type"),
        ("HELLO again", encoded(Message::Hello(scene.hello())), "relay-out-of-order"),
        ("the cloud's words", encoded(Message::Credit { total: 1 }), "relay-out-of-order"),
        ("an answer to no challenge", encoded(Message::Alive { nonce: Digest([1; 32]) }), "relay-out-of-order"),
        (
            "257 cameras",
            encoded(Message::Cameras { cameras: vec![CameraId([1; 16]); 257], at: BootTime(1) }),
            "relay-too-many",
        ),
        ("257 to erase", encoded(Message::EraseAsk { segments: held }), "relay-too-many"),
        ("another's journal", encoded(Message::Journal { entries: vec![Blob(entry.to_frame())] }), "relay-bad-journal"),
        ("half an entry", encoded(Message::Journal { entries: vec![Blob(vec![0, 0, 0, 9])] }), "relay-malformed"),
        ("an object of no size", encoded(Message::Object(Object { size: 0, ..object(1) })), "relay-malformed"),
    ];
    runtime().block_on(async {
        for (what, (len, bytes), code) in cases {
            let (link, mut control) = scene.greeted().await;
            say_raw(&mut control, len, &bytes).await;
            scene.refused(what, &link, code).await;
        }
        // Unknown and not critical: the session goes on.
        let (_link, mut control) = scene.greeted().await;
        say_raw(&mut control, 3, &[200, 1, 2]).await;
        say(&mut control, Message::TimeAsk { at: BootTime(7) }).await;
        say(&mut control, Message::Command { id: 4, name: "later".into(), body: Blob(vec![1]) }).await;
        let (mut time, mut done) = (false, false);
        while !(time && done) {
            match tokio::time::timeout(SOON, hear(&mut control)).await.expect("an answer") {
                Some(Message::Time { at, wall }) => time = at == BootTime(7) && wall > WallTime(0),
                Some(Message::CommandDone { id, code, .. }) => done = id == 4 && code == "unknown-command",
                Some(_) => {}
                None => panic!("the session ended"),
            }
        }
    });
}

#[test]
fn a_wrong_stream_ends_the_session_with_its_code() {
    let scene = Scene::new(0);
    let long = LiveHead { len: 16 * 1024 + 1, frame_len: 32 * 1024, ..live() };
    let outside = LiveHead { offset: 1, ..live() };
    let far = LiveHead { frame: 1 << 40, ..live() };
    let first = [&LiveHead { len: 2, ..live() }.to_bytes()[..], b"ab"].concat();
    let second = LiveHead { frame: 4, offset: 2, len: 2, ..live() };
    let elsewhere = LiveHead { segment: SegmentId([9; 16]), offset: 2, len: 2, ..live() };
    let mut flags = live().to_bytes().to_vec();
    flags[3] = 8;
    let chunk = ChunkHead { segment: SegmentId([1; 16]), offset: 0, len: 4 };
    let mut reserved = chunk.to_bytes().to_vec();
    reserved[2] = 1;
    let with = |head: &[u8], tail: &[u8]| [head, tail].concat();
    let cases = [
        ("an unknown kind", vec![7], "relay-unknown-type"),
        ("a head cut off", live().to_bytes()[..40].to_vec(), "relay-length"),
        ("a fragment cut off", with(&live().to_bytes(), b"abc"), "relay-length"),
        ("a fragment too long", with(&long.to_bytes(), &[0; 100]), "relay-length"),
        ("a reserved flag", with(&flags, b"abcd"), "relay-malformed"),
        ("outside its frame", with(&outside.to_bytes(), b"abcd"), "relay-outside"),
        ("beyond any file", with(&far.to_bytes(), b"abcd"), "relay-outside"),
        ("two frames", with(&first, &with(&second.to_bytes(), b"cd")), "relay-malformed"),
        ("two segments", with(&first, &with(&elsewhere.to_bytes(), b"cd")), "relay-malformed"),
        ("a chunk behind live", with(&first, &with(&chunk.to_bytes(), b"abcd")), "relay-malformed"),
        ("a chunk cut off", with(&chunk.to_bytes(), b"abc"), "relay-length"),
        ("a reserved byte", with(&reserved, b"abcd"), "relay-malformed"),
        ("a chunk of nothing", with(&ChunkHead { len: 0, ..chunk }.to_bytes(), b""), "relay-length"),
        ("a chunk too long", with(&ChunkHead { len: 65_537, ..chunk }.to_bytes(), b""), "relay-length"),
        ("a chunk of no object", with(&chunk.to_bytes(), b"abcd"), "relay-unasked"),
    ];
    runtime().block_on(async {
        for (what, bytes, code) in cases {
            let (link, _control, _viewer) = scene.watched(live().camera).await;
            let _ = link.send(Class::Live, vec![Bytes::from(bytes)], None).await;
            scene.refused(what, &link, code).await;
        }
        // Of an object that was offered: beyond its end, and more than one chunk on a stream.
        for (what, id, offset, tail, code) in [
            ("beyond the object", 21, 1, &b"abcd"[..], "relay-outside"),
            ("a second chunk", 22, 0, b"abcd+", "relay-length"),
        ] {
            let (link, mut control) = scene.greeted().await;
            while !matches!(hear(&mut control).await, Some(Message::Credit { .. })) {}
            say(&mut control, Message::Object(object(id))).await;
            while !matches!(hear(&mut control).await, Some(Message::Have { .. })) {}
            let head = ChunkHead { segment: SegmentId([id; 16]), offset, len: 4 }.to_bytes();
            let _ = link.send(Class::Backlog, vec![with(&head, tail).into()], None).await;
            scene.refused(what, &link, code).await;
        }
    });
}

#[test]
fn a_chunk_beyond_the_credit_ends_the_session() {
    let scene = Scene::new(u64::MAX);
    runtime().block_on(async {
        let (link, mut control) = scene.greeted().await;
        let credit = tokio::time::timeout(SOON, hear(&mut control)).await.expect("credit");
        assert_eq!(credit, Some(Message::Credit { total: 0 }));
        let segment = SegmentId([1; 16]);
        say(&mut control, Message::Object(object(1))).await;
        while !matches!(hear(&mut control).await.expect("an answer"), Message::Have { .. }) {}
        let head = ChunkHead { segment, offset: 0, len: 4 }.to_bytes();
        let _ = link.send(Class::Backlog, vec![[&head[..], b"abcd"].concat().into()], None).await;
        scene.refused("no credit", &link, "relay-unasked").await;
    });
}

#[test]
fn another_key_cannot_join_a_bond() {
    let scene = Scene::new(0);
    let other = Machine::new(&scene.ground.recipients);
    let pairing = PairingId::random();
    scene.cloud.pair(&other, pairing, PairingState::Active);
    runtime().block_on(async {
        let (_first, mut control) = scene.dial().await;
        let hello = scene.hello();
        say(&mut control, Message::Hello(hello.clone())).await;
        assert!(matches!(hear(&mut control).await, Some(Message::Welcome(_))));
        let (link, mut second) =
            dialer(&other.identity, scene.ground.pins(), scene.cloud.address).dial().await.expect("a link");
        say(&mut second, Message::Hello(Hello { box_id: other.box_id(), pairing, ..hello })).await;
        scene.refused("a foreign bond", &link, "relay-foreign-bond").await;
        say(&mut control, Message::TimeAsk { at: BootTime(7) }).await;
        while !matches!(hear(&mut control).await.expect("goes on"), Message::Time { .. }) {}
    });
}

#[test]
fn noise_never_does_more_than_end_the_session() {
    let scene = Scene::new(0);
    let mut dice = mvb::sim::volume::Seeded(crate::relay_world::seed());
    runtime().block_on(async {
        for _ in 0..60 {
            let (link, mut control) = scene.greeted().await;
            let mut bytes = Message::Object(Object { cut: Some(2), ..object(1) }).encode();
            let at = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
            bytes[at] ^= 1 << dice.below(8);
            say_raw(&mut control, u32::try_from(bytes.len()).unwrap(), &bytes).await;
            let mut piece = [&live().to_bytes()[..], b"abcd"].concat();
            let at = usize::try_from(dice.below(piece.len() as u64)).unwrap();
            piece[at] ^= 1 << dice.below(8);
            let _ = tokio::time::timeout(SOON, link.send(Class::Live, vec![piece.into()], None)).await.expect("ends");
            link.close("done");
        }
        // It still serves.
        let _ = scene.greeted().await;
    });
    assert_eq!(scene.cloud.counters.total("internal"), 0, "no worker fell over");
}

/// A cloud that says what the test wants.
struct Odd {
    listener: QuicListener,
    receipt: SoftwareSigner,
    pins: Pins,
}

struct Everybody;

impl KnownBoxes for Everybody {
    fn standing(&self, _: &Spki) -> Standing {
        Standing::Known
    }
}

impl Odd {
    fn new(runtime: &tokio::runtime::Runtime) -> Self {
        let _inside = runtime.enter();
        let (issuer, serving) = (TlsKey::generate().expect("a key"), TlsKey::generate().expect("a key"));
        let certificate = issuer.issue(&serving, Generation(1)).expect("signs");
        let config = tls::cloud_server(&serving, certificate, Arc::new(Everybody), Refusals::new(Counters::default()));
        let listener = QuicListener::bind(([127, 0, 0, 1], 0).into(), config).expect("binds");
        let pins = Pins { issuers: vec![issuer.spki()], version: 1, generation: Generation(1) };
        Self { listener, receipt: SoftwareSigner::generate(), pins }
    }

    async fn accept(&self) -> (QuicLink, Control, Hello) {
        let attempt = tokio::time::timeout(SOON, self.listener.accept()).await.expect("comes").expect("open");
        let link = attempt.finish().await.expect("a link");
        let mut control = link.accept_control().await.expect("a control stream");
        let Some(Message::Hello(hello)) = hear(&mut control).await else { panic!("HELLO first") };
        (link, control, hello)
    }

    async fn welcome(&self) -> (QuicLink, Control, Hello) {
        let (link, mut control, hello) = self.accept().await;
        say(&mut control, welcome(&hello)).await;
        (link, control, hello)
    }
}

fn welcome(hello: &Hello) -> Message {
    Message::Welcome(Welcome {
        version: 1,
        features: 0,
        organisation: hello.organisation,
        time: WallTime(5),
        journal: None,
        receipts: None,
    })
}

fn line(odd: &Odd, ground: &Ground, machine: &Machine, pairing: PairingId) -> Line {
    let address = odd.listener.address().expect("bound");
    let party = Party {
        box_id: machine.box_id(),
        organisation: ground.organisation,
        pairing,
        receipt_key: odd.receipt.public_key(),
        bond: BondId::random(),
        run: machine.run,
        firmware: "test".into(),
    };
    Line::with(dialer(&machine.identity, odd.pins.clone(), address), party, machine, Arc::new(machine.store.clone()))
}

#[test]
fn a_box_leaves_a_cloud_that_breaks_the_protocol() {
    let ground = Ground::new();
    let machine = Machine::new(&ground.recipients);
    machine.record(1, 4, 5_000);
    let offer = machine.store.offers(ground.organisation, 1).unwrap().remove(0);
    let pairing = PairingId::random();
    let runtime = runtime();
    let odd = Odd::new(&runtime);
    let head = machine.store.journal_head().expect("a head");
    let committed = |sha256, key: &SoftwareSigner| {
        let said = Committed {
            organisation: ground.organisation,
            box_id: machine.box_id(),
            pairing,
            segment: offer.segment,
            size: offer.size,
            sha256,
            durability: 1,
            opened: true,
            number: 1,
            at: WallTime(5),
        };
        Message::Committed { statement: Blob(statement::sign(statement::COMMITTED, &said, key)) }
    };
    let ack = JournalAck { organisation: ground.organisation, box_id: BoxId([9; 32]), head, at: WallTime(5) };
    let ack = Message::JournalAck { statement: Blob(statement::sign(statement::JOURNAL_ACK, &ack, &odd.receipt)) };
    let greeting = |version, organisation| {
        let (features, time) = (0, WallTime(5));
        Message::Welcome(Welcome { version, features, organisation, time, journal: None, receipts: None })
    };
    let foreign = OrganisationId([9; 16]);
    // What is said instead of WELCOME, or after WELCOME and the first OBJECT.
    let cases = [
        (false, "no WELCOME", Message::Credit { total: 1 }, "relay-out-of-order"),
        (false, "another version", greeting(2, ground.organisation), "relay-version"),
        (false, "another organisation", greeting(1, foreign), "relay-wrong-party"),
        (true, "another's receipt", committed(offer.sha256, &SoftwareSigner::generate()), "relay-bad-statement"),
        (true, "a receipt for other bytes", committed(Digest([1; 32]), &odd.receipt), "relay-bad-statement"),
        (true, "another box's journal", ack, "relay-bad-statement"),
        (true, "257 ranges", Message::Have { segment: offer.segment, ranges: vec![Span(0, 1); 257] }, "relay-too-many"),
        (true, "the box's words", Message::TimeAsk { at: BootTime(1) }, "relay-out-of-order"),
    ];
    for (greeted, what, message, code) in cases {
        // A line of its own each time: after a failure it waits before it comes again.
        let line = line(&odd, &ground, &machine, pairing);
        let before = machine.counters.total(code);
        runtime.block_on(async {
            let (link, mut control, hello) = odd.accept().await;
            if greeted {
                say(&mut control, welcome(&hello)).await;
                while !matches!(hear(&mut control).await.expect(what), Message::Object(_)) {}
            }
            say(&mut control, message).await;
            let said = tokio::time::timeout(SOON, link.closed()).await.unwrap_or_else(|_| panic!("{what}: not closed"));
            assert_eq!(said, code, "{what}");
        });
        until(what, || machine.counters.total(code) == before + 1);
        drop(line);
        let began = machine.told.began.lock().unwrap().len();
        assert_eq!(began > 0, greeted, "{what}: only WELCOME confirms a pairing");
    }
    assert!(machine.store.offers(ground.organisation, 1).unwrap().contains(&offer), "no receipt was taken");
}

#[test]
fn a_box_answers_challenges_keeps_pins_and_wipes_when_revoked() {
    let ground = Ground::new();
    let machine = Machine::new(&ground.recipients);
    let pairing = PairingId::random();
    let runtime = runtime();
    let odd = Odd::new(&runtime);
    let line = line(&odd, &ground, &machine, pairing);
    runtime.block_on(async {
        let (link, mut control, _) = odd.welcome().await;
        let nonce = Digest([8; 32]);
        say(&mut control, Message::Challenge { nonce }).await;
        while hear(&mut control).await.expect("goes on") != (Message::Alive { nonce }) {}
        let issuers = vec![Blob(odd.pins.issuers[0].0.clone())];
        say(&mut control, Message::Pins { issuers, version: 7, generation: 3 }).await;
        while hear(&mut control).await.expect("goes on") != (Message::PinsStored { version: 7 }) {}
        assert_eq!(machine.told.pins.lock().unwrap()[0].generation, Generation(3), "stored before it is said");
        say(&mut control, Message::Revoke { pairing: PairingId([9; 16]) }).await;
        assert_eq!(tokio::time::timeout(SOON, link.closed()).await.expect("closes"), "relay-out-of-order");

        let (link, mut control, _) = odd.welcome().await;
        say(&mut control, Message::Revoke { pairing }).await;
        while hear(&mut control).await.expect("goes on") != (Message::Revoked { pairing }) {}
        assert_eq!(machine.told.revoked.lock().unwrap().as_slice(), [pairing], "wiped before it is said");
        link.close("revoked");
    });
    assert_eq!(line.ended(), StopReason::Revoked);
    until("nobody looks", || machine.tap.subscriptions() == 0);
}

#[test]
fn words_of_the_cloud_that_nobody_asked_for_change_nothing() {
    let ground = Ground::new();
    let machine = Machine::new(&ground.recipients);
    let finished = machine.record(1, 4, 5_000);
    let runtime = runtime();
    let odd = Odd::new(&runtime);
    let line = line(&odd, &ground, &machine, PairingId::random());
    let head = machine.store.journal_head().expect("a head");
    let ack = JournalAck { organisation: ground.organisation, box_id: machine.box_id(), head, at: WallTime(5) };
    let ack = Message::JournalAck { statement: Blob(statement::sign(statement::JOURNAL_ACK, &ack, &odd.receipt)) };
    runtime.block_on(async {
        let (_link, mut control, hello) = odd.accept().await;
        // The cloud has all of the journal: the box has nothing to send.
        let Message::Welcome(greeting) = welcome(&hello) else { panic!("a WELCOME") };
        say(&mut control, Message::Welcome(Welcome { journal: hello.journal, ..greeting })).await;
        for _ in 0..200 {
            say(&mut control, ack.clone()).await;
            say(&mut control, Message::Rejected { segment: SegmentId([9; 16]), reason: "no".into() }).await;
            say(&mut control, Message::Erase { yes: vec![finished[0]], no: vec![], unknown: vec![finished[0]] }).await;
        }
        say(&mut control, Message::Challenge { nonce: Digest([8; 32]) }).await;
        while hear(&mut control).await.expect("goes on") != (Message::Alive { nonce: Digest([8; 32]) }) {}
    });
    assert_eq!(machine.store.journal_head(), Some(head), "nothing was journaled");
    assert_eq!(machine.counters.total("relay-unasked-answer"), 600);
    assert_eq!(machine.store.counters().total("segment-rejected"), 0);
    drop(line);
}

#[test]
fn a_revoked_box_keeps_no_link_and_cannot_undo_it() {
    let scene = Scene::new(0);
    let box_id = scene.machine.box_id();
    let revoke = || {
        let set =
            |db: &mvb::cloud::vault::Database| db.set_pairing_state(scene.pairing, PairingState::Revoking, WallTime(9));
        scene.cloud.vault.with_db(set).expect("stores");
    };
    runtime().block_on(async {
        let (session, _control) = scene.greeted().await;
        let (silent, mut control) = scene.dial().await;
        let (late, mut words) = scene.dial().await;
        // HELLO comes after the state has changed: nothing but REVOKE, and the state stays.
        revoke();
        say(&mut words, Message::Hello(scene.hello())).await;
        let told = tokio::time::timeout(SOON, hear(&mut words)).await.expect("an answer");
        assert_eq!(told, Some(Message::Revoke { pairing: scene.pairing }));
        let state = || scene.cloud.sessions.pairing_of(&scene.machine.identity.spki()).expect("known").state;
        assert_eq!(state(), PairingState::Revoking);
        scene.cloud.sessions.close(box_id);
        for (what, link) in [("the session", &session), ("the silent one", &silent), ("the late one", &late)] {
            tokio::time::timeout(Duration::from_secs(5), link.closed())
                .await
                .unwrap_or_else(|_| panic!("{what} stays"));
        }
        say(&mut control, Message::Hello(scene.hello())).await;
        assert_eq!(state(), PairingState::Revoking);
        assert!(!scene.cloud.sessions.is_connected(box_id));
    });
}

#[test]
fn links_that_say_nothing_make_room_and_words_of_later_versions_are_skipped_before_hello() {
    let scene = Scene::new(0);
    runtime().block_on(async {
        let (first, _a) = scene.dial().await;
        let mut held = vec![scene.dial().await];
        held.push(scene.dial().await);
        tokio::time::timeout(Duration::from_secs(5), first.closed()).await.expect("the oldest silent one goes");
        let (_link, mut control) = held.pop().expect("two");
        say_raw(&mut control, 2, &[200, 0xa0]).await;
        say(&mut control, Message::Hello(scene.hello())).await;
        assert!(matches!(hear(&mut control).await, Some(Message::Welcome(_))));
    });
}

#[test]
fn live_that_nobody_asked_for_is_neither_kept_nor_a_violation() {
    let scene = Scene::new(0);
    runtime().block_on(async {
        let (link, mut control, _viewer) = scene.watched(CameraId([7; 16])).await;
        let piece = Bytes::from([&live().to_bytes()[..], b"abcd"].concat());
        link.send(Class::Live, vec![piece], None).await.expect("sent");
        let dropped = async {
            while scene.cloud.counters.total("live-unsubscribed") == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, dropped).await.expect("counted");
        say(&mut control, Message::TimeAsk { at: BootTime(7) }).await;
        let goes_on = async { while !matches!(hear(&mut control).await.expect("goes on"), Message::Time { .. }) {} };
        tokio::time::timeout(SOON, goes_on).await.expect("an answer");
    });
    assert!(scene.cloud.rows(scene.machine.box_id(), live().segment).is_empty(), "nothing was stored");
}
