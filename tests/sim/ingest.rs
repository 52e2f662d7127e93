//! Every frame that arrived is kept: a scripted camera with all habits of the field against the real server.
//!
//! Pictures are numbered and checked byte by byte on the recorder's side of the server.

use crate::ingest_world::{Clip, FRAME, Session, World, seconds};
use mvb::base::ids::random_bytes;
use mvb::sim::camera::Carrier;
use mvb::sim::camera::picture::seen;
use mvb::sim::volume::Seeded;
use std::time::Duration;

const BOTH: [Carrier; 2] = [Carrier::Tcp, Carrier::Udp];
/// RTP ticks.
const HOUR: u32 = 3600 * 90_000;
const LIVE: Duration = Duration::from_millis(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_seconds_of_pre_roll_in_one_second_are_kept_whole() {
    for carrier in BOTH {
        let world = World::new().await;
        let mut camera = world.camera(carrier).await;
        let mut clip = Clip::default();
        clip.send(&mut camera, 750, Duration::from_secs(1) / 750).await;
        clip.send(&mut camera, 5, LIVE).await;
        camera.teardown().await.expect("ends");
        let session = world.ended(0).await;
        assert_eq!(session.ended, Some("teardown"), "{carrier:?}");
        session.holds(0..755);
        assert_eq!(session.steps(), [i64::from(FRAME); 754], "each keeps its distance");
        assert!(session.units.iter().all(|unit| !unit.flags.time_jump));
        let (first, last) = (&session.units[0], &session.units[754]);
        let took = seconds(last.captured, first.captured);
        assert!((0.5..10.0).contains(&took), "none is captured in the future: {took} s");
        assert_eq!(session.track(0).filter(|unit| unit.flags.key).count(), 16);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrap_of_rtp_timestamps_and_sequence_numbers_is_one_step_like_any_other() {
    for carrier in BOTH {
        let world = World::new().await;
        let mut camera = world.camera(carrier).await;
        let mut clip = Clip { timestamp: 0_u32.wrapping_sub(10 * FRAME + 17), ..Clip::default() };
        clip.sender.sequence = 65_500;
        clip.send(&mut camera, 40, Duration::from_millis(5)).await;
        camera.teardown().await.expect("ends");
        let session = world.ended(0).await;
        session.holds(0..40);
        assert_eq!(session.steps(), [i64::from(FRAME); 39], "{carrier:?}");
        assert!(session.units.iter().all(|unit| !unit.flags.time_jump));
        world.stop().await;
    }
}

/// After a freeze a camera's clock either goes on where it stood or has caught up; both end on the box's time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_with_a_frozen_timestamp_are_kept_and_spread_over_the_time_they_took() {
    for caught_up in [false, true] {
        let world = World::new().await;
        let mut camera = world.camera(Carrier::Tcp).await;
        let mut clip = Clip::default();
        clip.send(&mut camera, 5, LIVE).await;
        let frozen = clip.timestamp.wrapping_sub(FRAME);
        for _ in 0..40 {
            tokio::time::sleep(LIVE).await;
            clip.timestamp = frozen;
            camera.send_all(0, &clip.next()).await.expect("sends");
        }
        tokio::time::sleep(LIVE).await;
        clip.timestamp = frozen.wrapping_add(if caught_up { 41 * FRAME } else { FRAME });
        clip.send(&mut camera, 20, LIVE).await;
        camera.teardown().await.expect("ends");
        let session = world.ended(0).await;
        session.holds(0..65);
        let jumps: Vec<usize> = (0..65).filter(|n| session.units[*n].flags.time_jump).collect();
        assert_eq!(jumps, (5..45).collect::<Vec<_>>(), "each frozen one is flagged");
        println!("caught up: {caught_up}");
        on_box_time(&session);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_by_hours_lose_no_picture_and_no_time() {
    for carrier in BOTH {
        let world = World::new().await;
        let mut camera = world.camera(carrier).await;
        let mut clip = Clip::default();
        for jump in [3 * HOUR, 0_u32.wrapping_sub(7 * HOUR), 0_u32.wrapping_sub(HOUR / 600), HOUR / 60, 0] {
            clip.send(&mut camera, 10, LIVE).await;
            tokio::time::sleep(LIVE).await;
            clip.timestamp = clip.timestamp.wrapping_add(jump);
        }
        camera.teardown().await.expect("ends");
        let session = world.ended(0).await;
        session.holds(0..50);
        let jumps: Vec<usize> = (0..50).filter(|n| session.units[*n].flags.time_jump).collect();
        assert_eq!(jumps, [10, 20, 30, 40], "{carrier:?}");
        on_box_time(&session);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encoder_that_starts_again_in_mid_stream_loses_nothing() {
    for carrier in BOTH {
        let world = World::new().await;
        let mut camera = world.camera(carrier).await;
        let mut clip = Clip { timestamp: 5 * 90_000, ..Clip::default() };
        clip.sender.marks = false;
        // SSRC, sequence number and timestamp of each new start; times from zero, ahead by seconds, far away.
        let far = clip.sender.sequence.wrapping_add(20_000);
        for (ssrc, sequence, timestamp) in [(1, 0, 0), (2, 30_000, 8 * 90_000), (3, 7, 0xf000_0000), (3, far, 0)] {
            clip.send(&mut camera, 10, LIVE).await;
            tokio::time::sleep(LIVE).await;
            (clip.sender.ssrc, clip.sender.sequence, clip.timestamp) = (ssrc, sequence, timestamp);
        }
        if carrier == Carrier::Tcp {
            // Nothing overtakes on TCP: a count that steps back a little has started again too.
            clip.send(&mut camera, 10, LIVE).await;
            clip.sender.sequence -= 25;
        }
        clip.send(&mut camera, 10, LIVE).await;
        camera.teardown().await.expect("ends");
        let session = world.ended(0).await;
        session.holds(0..clip.number);
        assert!(session.units[10].flags.time_jump && session.units[20].flags.time_jump, "{carrier:?}");
        on_box_time(&session);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_overtake_each_other_or_come_twice_are_put_in_order() {
    let seed = u64::from_be_bytes(random_bytes::<8>());
    println!("seed {seed:#x}");
    let mut random = Seeded(seed);
    let world = World::new().await;
    let mut camera = world.camera(Carrier::Udp).await;
    let mut clip = Clip { sizes: (20_000, 2500), group: 10, ..Clip::default() };
    clip.sender.aggregates = true;
    let mut line: Vec<Vec<u8>> = (0..100).flat_map(|_| clip.next()).collect();
    // The very first packet is overtaken too; the others by up to five, one in ten comes twice.
    line.swap(0, 2);
    for at in 3..line.len() - 5 {
        let other = at + usize::try_from(random.below(5)).expect("small");
        line.swap(at, other);
    }
    let twice: Vec<Vec<u8>> = line
        .into_iter()
        .flat_map(|packet| std::iter::repeat_n(packet, if random.below(10) == 0 { 2 } else { 1 }))
        .collect();
    for part in twice.chunks(10) {
        camera.send_all(0, part).await.expect("sends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    camera.teardown().await.expect("ends");
    let session = world.ended(0).await;
    session.holds(0..100);
    assert_eq!(session.steps(), [i64::from(FRAME); 99]);
    assert_eq!(world.status().lost, 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_pictures_of_a_megabyte_fit_the_socket() {
    let world = World::new().await;
    let mut camera = world.camera(Carrier::Udp).await;
    let mut clip = Clip { sizes: (1_000_000, 20_000), group: 10, ..Clip::default() };
    clip.send(&mut camera, 60, LIVE).await;
    camera.teardown().await.expect("ends");
    let session = world.ended(0).await;
    session.holds(0..60);
    assert_eq!(session.steps(), [i64::from(FRAME); 59]);
    let keys = session.units.iter().filter(|unit| unit.flags.key && unit.data.len() > 1_000_000).count();
    assert_eq!(keys, 6);
    world.stop().await;
}

/// What is lost on the way is counted and said where it is missing; what arrived of a picture is kept and flagged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_are_lost_are_counted_and_named_and_the_rest_is_kept() {
    let world = World::new().await;
    let mut camera = world.camera(Carrier::Udp).await;
    let mut clip = Clip { sizes: (20_000, 900), group: 10, ..Clip::default() };
    for number in 0..40 {
        let mut packets = clip.next();
        match number {
            // Whole, from the middle, the end, the parameter sets.
            7 => drop(packets.drain(..)),
            10 => drop(packets.drain(5..7)),
            20 => drop(packets.pop()),
            30 => drop(packets.drain(..2)),
            _ => {}
        }
        camera.send_all(0, &packets).await.expect("sends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    camera.teardown().await.expect("ends");
    let session = world.ended(0).await;
    let got: Vec<_> = session.units.iter().map(|unit| seen(&unit.data).expect("a picture's beginning")).collect();
    let numbers: Vec<u32> = got.iter().map(|seen| seen.number).collect();
    assert_eq!(numbers, (0..40).filter(|number| *number != 7).collect::<Vec<_>>());
    let broken: Vec<u32> = got.iter().filter(|seen| !seen.whole).map(|seen| seen.number).collect();
    assert_eq!(broken, [10, 20, 30]);
    let flagged = |flag: fn(&mvb::media::UnitFlags) -> bool| -> Vec<u32> {
        got.iter().zip(&session.units).filter(|(_, unit)| flag(&unit.flags)).map(|(seen, _)| seen.number).collect()
    };
    assert_eq!(flagged(|flags| flags.damaged), [10, 20], "what was lost before 30 may have been its own or not");
    assert_eq!(flagged(|flags| flags.loss_before), [8, 11, 21, 30], "the first unit after each hole");
    assert_eq!(session.losses, 4, "a gap is named before each");
    assert_eq!(world.status().lost, 1 + 2 + 1 + 2);
    assert_eq!(world.status().accepted, 39);
    world.stop().await;
}

/// Media time went on as the box's time did, and never back.
fn on_box_time(session: &Session) {
    assert!(session.steps().iter().all(|step| *step > 0), "{:?}", session.steps());
    let pictures: Vec<_> = session.track(0).collect();
    let (first, last) = (pictures[0], pictures[pictures.len() - 1]);
    let media = (last.pts.0 - first.pts.0) as f64 / 90_000.0;
    let time = seconds(last.captured, first.captured);
    assert!((media - time).abs() < 0.4, "media {media} s, box {time} s");
}
