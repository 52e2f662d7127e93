//! The hard moments that need whole processes.

use crate::camera;
use crate::footage;
use crate::viewer::Viewer;
use crate::world::World;
use std::path::{Path, PathBuf};

const RATE: u64 = 25 + 47;

fn stream_whole(url: &str, file: &Path) {
    assert!(camera::push(file, url, "tcp").wait().expect("waits").success(), "the camera was cut off");
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(done.success());
}

/// Segment files on the card.
fn segments(world: &World) -> Vec<PathBuf> {
    let list = std::fs::read_dir(world.card().join("segments")).expect("a card");
    let mut files: Vec<PathBuf> = list.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn alarm_is_raised(world: &World, code: &str) -> bool {
    let status = world.ask_box(&["status"]);
    status["alarms"].as_array().expect("alarms").iter().any(|alarm| alarm == code)
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_while_a_viewer_is_ahead_of_the_card_keeps_the_tail_and_commits() {
    let mut world = World::new().await;
    world.pair();
    let (id, url) = world.enrol("Bodycam");
    let file = camera::file(30);
    let viewer = Viewer::open(world.page, &id);
    let mut push = camera::push(&file, &url, "tcp");
    world.until("the viewer sees pictures", 20, |_| (viewer.fragments() > 100).then_some(()));
    world.cut_power();
    camera::end(&mut push);
    world.start_box();
    world.until_backlog_is_empty(30);

    let list = world.ask_cloud(&["recordings"]);
    let recording = &list[0];
    assert_eq!(recording["rejected"], 0, "{list}");
    assert_eq!(recording["partial"], 0, "{list}");
    assert!(recording["tails"].as_u64().expect("a count") >= 1, "{list}\n{}", world.logs());
    let data = world.cloud_data();
    let stored = footage::files(&data, &id);
    let tail = stored.iter().find(|file| file.tail.is_some()).expect("a file with a tail");
    // The tail holds pictures that the card lost, and they go on where the card's end.
    let keys = footage::keyring(&data);
    let mut card = footage::Footage::default();
    footage::open(&tail.bytes().expect("readable"), &keys, &mut card);
    let seen = tail.live_bytes().expect("readable").expect("without a hole");
    assert!(seen.len() as u64 > tail.row.cut.expect("cut"), "the tail is empty");
    let sent = camera::packets(&file);
    let kept = card.hashes(true);
    // On a slow machine the cut may come in the second segment.
    let there = camera::stream(&sent, 0).windows(kept.len()).any(|run| run == kept);
    assert!(!kept.is_empty() && there, "{} pictures that are not a run of the camera's", kept.len());
    world.assert_proven();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_restored_from_yesterdays_backup_is_given_again_what_it_forgot_before_anything_is_erased() {
    let mut world = World::new().await;
    world.stop_cloud();
    // Erasing is allowed as soon as the cloud says yes: only its memory is tested here.
    world.cloud_config = Some("[vault]\nerase_after_hours = 0\n".into());
    world.start_cloud();
    world.pair();
    let (id, url) = world.enrol("Bodycam");
    world.stop_cloud();
    copy(&world.cloud_data(), &world.path("yesterday"));
    world.start_cloud();
    stream_whole(&url, &camera::file(3));
    world.until_backlog_is_empty(30);
    world.stop_box();
    world.stop_cloud();
    let before = segments(&world);
    assert!(!before.is_empty());
    std::fs::remove_dir_all(world.cloud_data()).expect("removes");
    copy(&world.path("yesterday"), &world.cloud_data());
    let data = world.cloud_data();
    let held = || footage::files(&data, &id).iter().filter(|file| file.row.committed_at.is_some()).count();
    assert_eq!(held(), 0, "it has forgotten");
    world.start_cloud();
    // The card never has enough room now: whatever may be erased is.
    world.storage = "keep_free_mb = 100000000".into();
    world.start_box();
    world.until("uploaded footage is erased", 90, |w| {
        let gone = segments(w).len() < before.len();
        assert!(!gone || held() == before.len(), "erased before the cloud has it again\n{}", w.logs());
        segments(w).is_empty().then_some(())
    });
    world.assert_proven();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_backlog_waits_for_its_own_organisation() {
    let mut world = World::new().await;
    world.pair();
    let (id, url) = world.enrol("Bodycam");
    let (first, second) = (camera::file(3), camera::file(4));
    world.link.set_up(false);
    stream_whole(&url, &first);
    world.ask_box(&["unpair", "--yes"]);
    world.change_cloud("cloud2");
    world.link.set_up(true);
    world.pair();
    stream_whole(&url, &second);
    world.until("the new organisation has its footage", 30, |w| {
        let status = w.ask_box(&["status"]);
        let (all, other) = (&status["uplink"]["backlog_segments"], &status["uplink"]["other_organisation_segments"]);
        (other.as_u64() > Some(0)
            && status["cameras"][0]["state"] == "idle"
            && !w.ask_cloud(&["recordings"]).as_array()?.is_empty()
            && (all == other || all == 0))
            .then_some(())
    });
    footage::assert_whole(&footage::of(&world, &id), &second);

    world.ask_box(&["unpair", "--yes"]);
    world.change_cloud("cloud");
    world.pair();
    world.until("the old organisation has its footage", 40, |w| {
        (!footage::files(&w.cloud_data(), &id).is_empty()
            && w.ask_cloud(&["recordings"])[0]["partial"] == 0
            && w.ask_cloud(&["recordings"])[0]["committed"].as_u64() > Some(0))
        .then_some(())
    });
    footage::assert_whole(&footage::of(&world, &id), &first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_was_set_back_is_named_and_nothing_on_it_changes() {
    let mut world = World::new().await;
    world.pair();
    let (_, url) = world.enrol("Bodycam");
    let id = world.ask_box(&["status"])["box_id"].as_str().expect("an id").to_owned();
    stream_whole(&url, &camera::file(3));
    world.until_backlog_is_empty(30);
    world.stop_box();
    copy(&world.card(), &world.path("old-card"));
    world.start_box();
    stream_whole(&url, &camera::file(4));
    world.until_backlog_is_empty(30);
    world.stop_box();
    std::fs::remove_dir_all(world.card()).expect("removes");
    copy(&world.path("old-card"), &world.card());
    let before = segments(&world);
    let verified = world.verify_card(&id);
    assert_eq!(verified.status.code(), Some(4), "{}", said(&verified));
    world.start_box();
    assert!(alarm_is_raised(&world, "card-rolled-back"), "{}", world.logs());
    let sizes = |files: &[PathBuf]| -> Vec<u64> { files.iter().map(|f| f.metadata().expect("there").len()).collect() };
    assert_eq!(segments(&world)[..before.len()], before[..]);
    assert_eq!(sizes(&before), sizes(&segments(&world)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bit_rot_on_the_card_is_found_by_the_cloud_and_marked_by_the_box() {
    let mut world = World::new().await;
    world.pair();
    let (_, url) = world.enrol("Bodycam");
    let id = world.ask_box(&["status"])["box_id"].as_str().expect("an id").to_owned();
    world.link.set_up(false);
    stream_whole(&url, &camera::file(3));
    world.until("the segment is closed", 20, |w| {
        (w.ask_box(&["status"])["uplink"]["backlog_segments"] == 1).then_some(())
    });
    world.stop_box();
    let file = &segments(&world)[0];
    let mut bytes = std::fs::read(file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(file, &bytes).expect("writes");
    world.start_box();
    world.link.set_up(true);
    world.until("the box marks the file", 60, |w| {
        let list = w.ask_box(&["recordings"]);
        (list[0]["segments"][0]["state"] == "damaged").then_some(())
    });
    let reasons = &world.ask_cloud(&["recordings"])[0];
    assert_eq!(reasons["committed"], 0, "{reasons}");
    world.stop_box();
    let verified = world.verify_card(&id);
    assert_eq!(verified.status.code(), Some(4), "{}", said(&verified));
    assert!(file.exists(), "a damaged file is never erased by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_end_was_cut_off_is_no_legal_cut() {
    let mut world = World::new().await;
    world.pair();
    let (_, url) = world.enrol("Bodycam");
    let id = world.ask_box(&["status"])["box_id"].as_str().expect("an id").to_owned();
    world.link.set_up(false);
    stream_whole(&url, &camera::file(3));
    world.until("the segment is closed", 20, |w| {
        (w.ask_box(&["status"])["uplink"]["backlog_segments"] == 1).then_some(())
    });
    world.stop_box();
    let file = &segments(&world)[0];
    let size = file.metadata().expect("there").len();
    std::fs::OpenOptions::new().write(true).open(file).expect("opens").set_len(size - 60).expect("cuts");
    world.start_box();
    assert_eq!(file.metadata().expect("there").len(), size - 60, "recovery does not touch a file that was closed");
    world.stop_box();
    world.link.set_up(true);
    world.start_box();
    world.until("the box marks the file", 60, |w| {
        let list = w.ask_box(&["recordings"]);
        (list[0]["segments"][0]["state"] == "damaged").then_some(())
    });
    world.stop_box();
    let verified = world.verify_card(&id);
    assert_eq!(verified.status.code(), Some(4), "{}", said(&verified));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_shutdown_in_mid_stream_loses_nothing_that_was_accepted() {
    let mut world = World::new().await;
    world.pair();
    let (id, url) = world.enrol("Bodycam");
    let file = camera::file(30);
    let mut push = camera::push(&file, &url, "tcp");
    world.until_accepted(3 * RATE);
    let accepted = world.accepted(&id);
    world.stop_box();
    camera::end(&mut push);
    world.start_box();
    world.until_backlog_is_empty(30);
    let kept = footage::of(&world, &id);
    assert!(kept.units.len() as u64 >= accepted, "{} of {accepted}", kept.units.len());
    world.assert_proven();
}
