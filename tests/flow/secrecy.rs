//! What is promised secret is found nowhere: not on the card, not in the catalog, the journal or the vault.

use crate::camera;
use crate::footage;
use crate::world::{World, found_in};
use hkdf::Hkdf;
use mvb::seal::{Header, RecipientRole, RecipientSecret};
use sha2::Sha256;
use std::collections::BTreeSet;
use std::path::Path;

const PICTURE: &str = "PICTURE-5d19eaa7e7fb8ae91a0b30d028a3bfa3215703df516e29a9d815c191";
const NAME: &str = "NAME-f1a52ae7952ac4ce56bc627fe6e9d892aa056e1ae2bd72edf243a3342f8";
const OFFICER: &str = "OFFICER-a2600db58a9f1062f174dad45f456910c623a247aff29ac512c9f9d3";
const SOUND: &[u8; 64] = b"SOUND-c577b25cb1d0d807a618f1d25b592dbece111a4df2be8d7810bf44a83a";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canaries_are_found_in_opened_footage_and_nowhere_else() {
    let mut world = World::new().await;
    world.pair();
    let (id, url) = world.enrol_worn(NAME, OFFICER);
    let video = with_canary(&world);
    let sound = world.path("sound.ul");
    std::fs::write(&sound, SOUND.repeat(8000 * 5 / SOUND.len())).expect("writes");
    let mut push = camera::push_pictures_and_ulaw(&video, &sound, &url);
    assert!(push.wait().expect("waits").success());
    world.until_backlog_is_empty(30);
    world.stop_box();
    world.stop_cloud();

    let kept = footage::of(&world, &id);
    let opened =
        |needle: &[u8]| kept.units.iter().any(|unit| unit.data.windows(needle.len()).any(|window| window == needle));
    assert!(opened(PICTURE.as_bytes()), "the canary in the picture was recorded");
    assert!(opened(&SOUND[..48]), "the canary in the sound was recorded");
    assert!(kept.metas.iter().any(|meta| format!("{meta:?}").contains(NAME)), "the name was recorded");
    assert!(kept.metas.iter().any(|meta| format!("{meta:?}").contains(OFFICER)), "the officer was recorded");

    // A cut-off canary is one too.
    for canary in [PICTURE.as_bytes(), NAME.as_bytes(), OFFICER.as_bytes(), SOUND] {
        for needle in [&canary[8..40], &canary[24..56]] {
            for folder in [world.card(), world.path("box/store"), world.path("cloud")] {
                assert_eq!(found_in(&folder, needle), None, "{}", String::from_utf8_lossy(canary));
            }
        }
    }
    // The search can find: the vault's own folder names are looked for in the same way.
    let header = &kept.headers[0];
    assert!(found_in(&world.card(), header.segment.as_bytes()).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_the_box_keeps_opens_a_segment_and_the_organisations_key_does() {
    let mut world = World::new().await;
    world.pair();
    let (id, url) = world.enrol("Bodycam");
    let mut push = camera::push(&camera::file(3), &url, "tcp");
    assert!(push.wait().expect("waits").success());
    world.until_backlog_is_empty(30);
    // The same box after a restart: memory is gone.
    world.stop_box();
    world.start_box();
    world.stop_box();

    let kept = footage::of(&world, &id);
    assert!(!kept.units.is_empty(), "the organisation's key opens it");
    let ours = footage::keyring(&world.cloud_data());
    for header in &kept.headers {
        assert!(ours.foreign(header).is_empty(), "a segment is sealed to the organisation and nobody else");
    }
    let stanzas: BTreeSet<_> = kept.headers.iter().flat_map(|h| h.stanzas.iter().map(|s| s.key)).collect();
    let mut tried = 0;
    for bytes in all_files(&world.path("box")).into_iter().chain(all_files(&world.card())) {
        let mut texts = vec![bytes.clone()];
        texts.extend(hex_runs(&bytes));
        for text in texts {
            for window in text.windows(32) {
                let key: [u8; 32] = window.try_into().expect("32 bytes");
                tried += 1;
                assert!(!kept.headers.iter().any(|header| commits_to(header, &key)), "a segment's key is on the box");
                // The recipient's public key takes a scalar multiplication: only where keys would stand.
                if text.len() <= 4096 {
                    let id = RecipientSecret::from_bytes(key).public(RecipientRole::Organisation).id();
                    assert!(!stanzas.contains(&id), "a recipient's secret is on the box");
                }
            }
        }
    }
    assert!(tried > 10_000, "only {tried} places were tried");
}

/// Whether a data key is the segment's, by the commitment of the specification.
fn commits_to(header: &Header, key: &[u8; 32]) -> bool {
    let mut commit = [0; 32];
    Hkdf::<Sha256>::new(Some(header.segment.as_bytes()), key).expand(b"mvs1 commit", &mut commit).expect("32 bytes");
    commit == header.commit.0
}

fn all_files(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("lists") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(all_files(&path));
        } else if path.is_file() {
            // Sealed bodies are noise; keys would stand in heads and in small files.
            let mut bytes = std::fs::read(&path).expect("reads");
            bytes.truncate(64 * 1024);
            found.push(bytes);
        }
    }
    found
}

/// Runs of at least 64 hexadecimal digits, decoded.
fn hex_runs(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes
        .split(|byte| !byte.is_ascii_hexdigit())
        .filter(|run| run.len() >= 64)
        .filter_map(|run| data_encoding::HEXLOWER_PERMISSIVE.decode(&run[..run.len() & !1]).ok())
        .collect()
}

/// A film whose every picture carries the canary in an SEI message.
fn with_canary(world: &World) -> std::path::PathBuf {
    let path = world.path("canary.mp4");
    let done = std::process::Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-i"])
        .arg(camera::file(5))
        .args(["-an", "-c", "copy", "-bsf:v"])
        .arg(format!("h264_metadata=sei_user_data=086f3693-b7b3-4f2c-9653-21492feee5b8+{PICTURE}"))
        .arg(&path)
        .status()
        .expect("ffmpeg runs");
    assert!(done.success());
    path
}
