//! Processes that die at any moment.

use crate::camera;
use crate::footage;
use crate::world::World;
use mvb::sim::volume::Seeded;
use std::time::Duration;

const ROUNDS: usize = 24;
const RATE: u64 = 25 + 47;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn box_and_cloud_may_die_at_any_moment() {
    let seed = std::env::var("MVB_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64);
    println!("MVB_SEED={seed}");
    let mut random = Seeded(seed);
    let file = camera::file(60);
    let mut world = World::new().await;
    world.pair();
    let (id, url) = world.enrol("Bodycam");
    let mut push = camera::push(&file, &url, "tcp");
    // What each session of the camera had delivered when the box died.
    let mut sessions = Vec::new();
    let mut cloud_deaths = 0;
    for round in 0..ROUNDS {
        std::thread::sleep(Duration::from_millis(100 + random.below(2400)));
        if random.below(2) == 0 {
            world.kill_cloud();
            std::thread::sleep(Duration::from_millis(random.below(500)));
            world.start_cloud();
            cloud_deaths += 1;
            assert!(push.try_wait().expect("waits").is_none(), "round {round}: a dead cloud ends no camera");
        } else {
            sessions.push(world.accepted(&id));
            world.kill_box();
            camera::end(&mut push);
            // What the process wrote is there, or only what it synced: a crash of the daemon, and one of the machine that
            // shows the same boot afterwards.
            world.power = random.below(2) == 0;
            world.start_box();
            push = camera::push(&file, &url, "tcp");
        }
    }
    world.until_accepted(2 * RATE);
    sessions.push(world.accepted(&id));
    // In order: nothing of the last session may be missing.
    let last = world.accepted(&id);
    world.stop_box();
    camera::end(&mut push);
    world.start_box();
    world.until_backlog_is_empty(60);
    world.assert_proven();
    println!("{} deaths of the box, {cloud_deaths} of the cloud", sessions.len() - 1);

    let sent = camera::packets(&file);
    let kept = footage::of(&world, &id);
    // Each session sent the file from its beginning, so that each is a run that starts with the file's first packet.
    let runs = |video: bool| {
        let (sent, kept) = (camera::stream(&sent, u32::from(!video)), kept.hashes(video));
        let mut runs = Vec::new();
        let mut rest = &kept[..];
        while !rest.is_empty() {
            let n = footage::common(rest, &sent);
            assert!(n > 0, "video {video}: packet {} is not the file's first", kept.len() - rest.len());
            runs.push(n as u64);
            rest = &rest[n..];
        }
        runs
    };
    let (video, sound) = (runs(true), runs(false));
    println!("accepted {sessions:?}, kept pictures {video:?}, sound {sound:?}");
    let kept: u64 = video.iter().chain(&sound).sum();
    let accepted: u64 = sessions.iter().sum();
    let deaths = sessions.len() as u64 - 1;
    assert!(kept + deaths * 2 * RATE >= accepted, "{kept} kept of {accepted}");
    if video.len() == sound.len() {
        let runs: Vec<u64> = video.iter().zip(&sound).map(|(video, sound)| video + sound).collect();
        assert!(each_lost_little(&sessions, &runs), "some death cost more than two seconds");
    }
    let ended = video.last().expect("a run") + sound.last().expect("a run");
    assert!(ended >= last, "an ordered end keeps everything: {ended} of {last}");
}

/// Whether the runs that were kept are those of the sessions in order, each at most two seconds short; of a session that was
/// shorter nothing needs to be there. A count was taken a moment before the death, so that a little more may be kept.
fn each_lost_little(sessions: &[u64], runs: &[u64]) -> bool {
    let Some((accepted, sessions)) = sessions.split_first() else { return runs.is_empty() };
    let absent = *accepted <= 2 * RATE && each_lost_little(sessions, runs);
    let there = |(kept, runs): (&u64, &[u64])| {
        kept + 2 * RATE >= *accepted && *kept <= accepted + 2 * RATE && each_lost_little(sessions, runs)
    };
    absent || runs.split_first().is_some_and(there)
}
