//! `mvb-cloud verify` over a vault that was received, and what it says of one that was altered.

use super::*;
use crate::cloud::verify;

/// A vault with one committed segment and its journal; a second one that the box has closed and not sent.
fn received(world: &World) -> PathBuf {
    let (vault, peer) = (world.open(), world.peer());
    let bytes = world.sealed(ID, 12, 1, Some(EndReason::Next));
    let offer = object(ID, &bytes, None);
    let late = world.sealed(SegmentId([8; 16]), 12, 1, Some(EndReason::Next));
    let mut head = None;
    let mut log = Vec::new();
    let recipients = vec![world.secret.public(RecipientRole::Organisation).id()];
    let mut said = vec![
        JournalEntry::RunStarted {
            clean: true,
            time: TimeStatement { at: BootTime(1), wall: WallTime(5), source: TimeSource::Unknown, error_ms: 1 },
        },
        JournalEntry::Recipients { organisation: world.organisation, keys: recipients },
    ];
    for (id, bytes) in [(ID, &bytes), (SegmentId([8; 16]), &late)] {
        let mut scanner = crate::seal::Scanner::new(world.evidence.public_key());
        scanner.push(bytes);
        let finished = scanner.finish().end.expect("an end").finished;
        said.push(JournalEntry::Opened {
            segment: id,
            organisation: world.organisation,
            camera: CameraId([2; 16]),
            recording: RecordingId([3; 16]),
            prev: Prev::First,
            background: false,
        });
        said.push(JournalEntry::Closed {
            segment: id,
            size: finished.size,
            sha256: finished.sha256,
            end: finished.end,
            reason: EndReason::Next,
            cut: None,
        });
    }
    for entry in said {
        let (kind, body) = entry.encode();
        let run = Run { boot: BootId([1; 16]), start: 1 };
        let entry = Signed::append(journal::LOG, head, &*world.evidence, run, BootTime(1), kind, body);
        head = Some(entry.head(journal::LOG));
        log.push(entry);
    }
    assert!(matches!(vault.journal(peer, &log).expect("takes"), JournalAnswer::Kept(_)));
    committed(send(&vault, peer, &offer, &bytes));
    folder(world.dir.path(), peer.box_id).join(format!("{ID}.mvs"))
}

fn verdict(world: &World) -> verify::Verdict {
    verify::vault(&Reader::open(world.dir.path()).expect("opens"), &mut |_, _| {}).expect("judges")
}

#[tokio::test(start_paused = true)]
async fn a_vault_as_received_is_clean_and_the_backlog_is_no_loss() {
    let world = World::new();
    received(&world);
    let verdict = verdict(&world);
    assert_eq!(verdict.findings, [], "{verdict:?}");
    assert_eq!((verdict.files, verdict.entries, verdict.elsewhere), (1, 6, 1));
}

#[tokio::test(start_paused = true)]
async fn a_flipped_a_cut_and_a_missing_file_are_named() {
    let codes = |change: &dyn Fn(&Path)| {
        let world = World::new();
        change(&received(&world));
        verdict(&world).findings.into_iter().map(|named| named.finding.code).collect::<Vec<_>>()
    };
    let flipped = codes(&|path| {
        let mut bytes = std::fs::read(path).expect("reads");
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).expect("writes");
    });
    assert_eq!(flipped, ["record-flipped"]);
    let cut = codes(&|path| {
        let bytes = std::fs::read(path).expect("reads");
        std::fs::write(path, &bytes[..bytes.len() / 2]).expect("writes");
    });
    assert!(!cut.is_empty());
    assert_eq!(codes(&|path| std::fs::remove_file(path).expect("removes")), ["vault-file-missing"]);
}
