//! Vectors of pairing and relay: `tests/vectors/agreed.json`, checked here and by `tests/verifier/agreed.py`.
//!
//! `MVB_WRITE_VECTORS=1` writes the file. A change there is a change of a protocol: spec, vectors and version.

use crate::manifest::python;
use data_encoding::HEXLOWER as HEX;
use mvb::base::chain::{Head, Signer, SoftwareSigner};
use mvb::base::ids::{BondId, BootId, BoxId, CameraId, Digest, OrganisationId, PairingId, RecordingId, SegmentId};
use mvb::base::units::{BootTime, Run, WallTime};
use mvb::relay::statement::{self, Committed, JournalAck};
use mvb::relay::wire::control::{Blob, Held, Hello, Message, Object, Span, Subscribe, Welcome};
use mvb::relay::wire::{ChunkHead, LiveHead};
use mvb::trust::pairing::Code;
use mvb::trust::pairing::messages::{BoxRequest, box_proof, cloud_proof, evidence_digest, identity_digest};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/agreed.json")
}

fn pairing() -> Value {
    let nonce = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99";
    let code = Code::with_nonce("Cloud.Example.nl:8443", nonce).expect("a host");
    let evidence = SoftwareSigner::from_bytes(&[7; 32]).expect("a scalar");
    let own = SoftwareSigner::from_bytes(&[8; 32]).expect("a scalar");
    let identity = own.public_key().spki();
    let exporter = [9; 32];
    let request = mvb::base::cbor::encode(&BoxRequest {
        host: code.host().to_owned(),
        code_id: code.id(),
        identity: identity.clone(),
        evidence: evidence.public_key().spki(),
        evidence_signature: evidence.sign(&evidence_digest(&exporter, &identity)),
        box_id: evidence.public_key().box_id(),
        serial: "S-1".into(),
        journal: Some(Head { seq: 5, hash: Digest([6; 32]) }),
        versions: (1, 1),
        firmware: "0.1.0".into(),
        identity_signature: own.sign(&identity_digest(&exporter, &evidence.public_key().spki())),
    });
    let answer = [0xa0];
    json!({
        "host": "Cloud.Example.nl:8443",
        "nonce": HEX.encode(&nonce),
        "code": code.reveal(),
        "id": HEX.encode(&code.id()),
        "box_key": HEX.encode(&*code.box_key()),
        "cloud_key": HEX.encode(&*code.cloud_key()),
        "exporter": HEX.encode(&exporter),
        "request": HEX.encode(&request),
        "request_proof": HEX.encode(&box_proof(&code, &exporter, &request)),
        "answer": HEX.encode(&answer),
        "answer_proof": HEX.encode(&cloud_proof(&code, &exporter, &request, &answer)),
    })
}

fn messages() -> Vec<(&'static str, Message)> {
    let (camera, recording, segment) = (CameraId([1; 16]), RecordingId([2; 16]), SegmentId([3; 16]));
    let (organisation, pairing) = (OrganisationId([4; 16]), PairingId([5; 16]));
    let head = Some(Head { seq: 300, hash: Digest([6; 32]) });
    vec![
        (
            "hello",
            Message::Hello(Hello {
                min: 1,
                max: 1,
                features: 0,
                box_id: BoxId([7; 32]),
                organisation,
                pairing,
                bond: BondId([8; 16]),
                run: Run { boot: BootId([9; 16]), start: 70_000 },
                at: BootTime(5_000_000_000),
                journal: head,
                receipts: None,
                firmware: "0.1.0".into(),
            }),
        ),
        (
            "welcome",
            Message::Welcome(Welcome {
                version: 1,
                features: 0,
                organisation,
                time: WallTime(1_795_780_000_000),
                journal: None,
                receipts: Some(24),
            }),
        ),
        ("time_ask", Message::TimeAsk { at: BootTime(23) }),
        ("time", Message::Time { at: BootTime(23), wall: WallTime(-1) }),
        ("pins", Message::Pins { issuers: vec![Blob(vec![1, 2]), Blob(vec![3])], version: 2, generation: 256 }),
        ("pins_stored", Message::PinsStored { version: 2 }),
        ("revoke", Message::Revoke { pairing }),
        ("revoked", Message::Revoked { pairing }),
        ("journal", Message::Journal { entries: vec![Blob(vec![0; 3])] }),
        ("journal_ack", Message::JournalAck { statement: Blob(vec![1]) }),
        ("journal_after", Message::JournalAfter { head }),
        ("credit", Message::Credit { total: 33_554_432 }),
        ("command", Message::Command { id: 1, name: "x".into(), body: Blob(vec![]) }),
        ("command_done", Message::CommandDone { id: 1, code: "unknown-command".into(), body: Blob(vec![]) }),
        (
            "subscribe",
            Message::Subscribe(Subscribe {
                id: 7,
                camera,
                tracks: vec![0, 1],
                max_latency_ms: 0,
                priority: 1,
                user: "control room".into(),
                purpose: "incident".into(),
            }),
        ),
        ("unsubscribe", Message::Unsubscribe { id: 7 }),
        (
            "object",
            Message::Object(Object {
                segment,
                size: 1_000_000,
                sha256: Digest([10; 32]),
                cut: Some(900_000),
                class: 3,
                camera,
                recording,
            }),
        ),
        ("have", Message::Have { segment, ranges: vec![Span(0, 10), Span(65_536, 131_072)] }),
        ("committed", Message::Committed { statement: Blob(vec![2]) }),
        ("rejected", Message::Rejected { segment, reason: "segment-flipped".into() }),
        ("erase_ask", Message::EraseAsk { segments: vec![Held(segment, Digest([10; 32]))] }),
        ("erase", Message::Erase { yes: vec![segment], no: vec![], unknown: vec![segment] }),
        ("challenge", Message::Challenge { nonce: Digest([11; 32]) }),
        ("alive", Message::Alive { nonce: Digest([11; 32]) }),
        ("cameras", Message::Cameras { cameras: vec![camera], at: BootTime(24) }),
    ]
}

fn relay() -> Value {
    let key = SoftwareSigner::from_bytes(&[12; 32]).expect("a scalar");
    let committed = Committed {
        organisation: OrganisationId([4; 16]),
        box_id: BoxId([7; 32]),
        pairing: PairingId([5; 16]),
        segment: SegmentId([3; 16]),
        size: 1_000_000,
        sha256: Digest([10; 32]),
        durability: 1,
        opened: true,
        number: 24,
        at: WallTime(1_795_780_000_000),
    };
    let ack = JournalAck {
        organisation: OrganisationId([4; 16]),
        box_id: BoxId([7; 32]),
        head: Head { seq: 300, hash: Digest([6; 32]) },
        at: WallTime(1_795_780_000_000),
    };
    let live = LiveHead {
        segment: SegmentId([3; 16]),
        camera: CameraId([1; 16]),
        recording: RecordingId([2; 16]),
        kind: 3,
        track: 0,
        key: true,
        disposable: false,
        video: true,
        number: 70_000,
        frame: 5_000_000_000,
        frame_len: 65_564,
        offset: 16_384,
        len: 16_384,
        captured: BootTime(5_000_000_000),
    };
    let chunk = ChunkHead { segment: SegmentId([3; 16]), offset: 65_536, len: 65_536 };
    let messages: serde_json::Map<String, Value> =
        messages().into_iter().map(|(name, message)| (name.to_owned(), HEX.encode(&message.encode()).into())).collect();
    json!({
        "messages": messages,
        "live_head": HEX.encode(&live.to_bytes()),
        "chunk_head": HEX.encode(&chunk.to_bytes()),
        "receipt_key": HEX.encode(&key.public_key().spki()),
        "committed": HEX.encode(&statement::sign(statement::COMMITTED, &committed, &key)),
        "journal_ack": HEX.encode(&statement::sign(statement::JOURNAL_ACK, &ack, &key)),
    })
}

#[test]
fn pairing_and_relay_say_the_same_bytes_for_ever() {
    let mut text = serde_json::to_string_pretty(&json!({ "pairing": pairing(), "relay": relay() })).expect("is JSON");
    text.push('\n');
    if std::env::var_os("MVB_WRITE_VECTORS").is_some() {
        std::fs::write(path(), &text).expect("writes");
    }
    let committed = std::fs::read_to_string(path()).expect("reads");
    assert!(committed == text, "agreed.json differs: run with MVB_WRITE_VECTORS=1 after a change of the protocol");
    for (name, message) in messages() {
        assert_eq!(Message::decode(&message.clone().encode()), Ok(Some(message)), "{name}");
    }
}

#[test]
fn an_independent_reader_agrees_on_pairing_and_relay() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verifier/agreed.py");
    let output = Command::new(python()).arg(script).arg(path()).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
