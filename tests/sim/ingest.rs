//! Every frame that arrived is kept: a scripted camera with all habits of the field against the real server.
//!
//! Pictures are numbered and checked byte by byte on the recorder's side of the server.

use crate::ingest_world::{Clip, FRAME, World, seconds};
use mvb::sim::camera::Carrier;
use std::time::Duration;

const BOTH: [Carrier; 2] = [Carrier::Tcp, Carrier::Udp];
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
        let steps = session.steps();
        assert!(steps.iter().all(|step| *step > 0), "{steps:?}");
        let (first, last) = (&session.units[0], &session.units[64]);
        let media = (last.pts.0 - first.pts.0) as f64 / 90_000.0;
        let box_time = seconds(last.captured, first.captured);
        assert!((media - box_time).abs() < 0.4, "caught up: {caught_up}; media {media} s, box {box_time} s");
        world.stop().await;
    }
}
