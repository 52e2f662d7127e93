//! The drive: no clock, a link that dies and returns, a power cut with unsynced writes lost, and in the end everything is
//! in the cloud, proven, and opens with the organisation's key.

use crate::camera;
use crate::footage;
use crate::world::World;
use serde_json::Value;

/// Packets a second of the camera's file: 25 pictures and 48000/1024 of sound.
const RATE: u64 = 25 + 47;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_with_a_dead_link_a_wrong_clock_and_a_power_cut_loses_at_most_two_seconds() {
    let (first, second) = (camera::file(60), camera::file(9));
    let mut world = World::at(Some(0)).await;
    assert_eq!(world.ask_box(&["status"])["time"]["source"], "floor", "the clock of 1970 is not believed");
    world.pair();
    world.until("the cloud's time is known", 20, |w| {
        (w.ask_box(&["status"])["time"]["source"] == "cloud").then_some(())
    });
    let cameras = [("Bodycam 1", "tcp"), ("Bodycam 2", "udp")].map(|(name, by)| (world.enrol(name), by));
    let push = |file| cameras.each_ref().map(|((_, url), by)| camera::push(file, url, by));
    let mut pushes = push(&first);
    world.until_accepted(5 * RATE);
    world.link.set_up(false);
    world.until_accepted(12 * RATE);
    world.link.set_up(true);
    world.until_accepted(19 * RATE);
    let accepted = cameras.each_ref().map(|((id, _), _)| world.accepted(id));
    world.cut_power();
    for push in &mut pushes {
        camera::end(push);
    }
    world.start_box();
    for mut push in push(&second) {
        assert!(push.wait().expect("waits").success());
    }
    world.until_backlog_is_empty(60);
    world.assert_proven();

    let (sent, sent_after) = (camera::packets(&first), camera::packets(&second));
    for ((id, _), accepted) in cameras.iter().map(|(camera, _)| camera).zip(accepted) {
        let kept = footage::of(&world, id);
        let exported = camera::packets(&world.export(id, &format!("{id}.mp4")));
        let mut before = 0;
        for (stream, video) in [(0, true), (1, false)] {
            let (a, b, kept) = (camera::stream(&sent, stream), camera::stream(&sent_after, stream), kept.hashes(video));
            assert_eq!(camera::stream(&exported, stream), kept, "video {video}: the export holds what was sealed");
            let n = footage::common(&kept, &a);
            assert_eq!(kept[n..], b[..], "video {video}: a beginning of the first file ({n}), then all of the second");
            before += n as u64;
        }
        assert!(before + 2 * RATE >= accepted, "{accepted} accepted before the cut, {before} kept");
        println!("camera {id}: {accepted} accepted before the cut, {before} kept");
        let list = world.ask_box(&["recordings", "--camera", id]);
        let gaps: Vec<&Value> =
            list.as_array().expect("a list").iter().flat_map(|r| r["gaps"].as_array().expect("gaps")).collect();
        let cut = gaps.iter().find(|gap| gap["cause"] == "power-cut").unwrap_or_else(|| panic!("no gap in {list}"));
        let length = cut["to"].as_u64().expect("to").abs_diff(cut["from"].as_u64().expect("from"));
        assert!(length <= 2_000_000, "the reported gap is {length} µs");
    }
}
