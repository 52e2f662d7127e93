//! Beginnings and ends of a camera's session: the last picture is kept however it ends.

use crate::ingest_world::{Clip, FRAME, Known, Session, World};
use mvb::sim::camera::picture::sound;
use mvb::sim::camera::rtp::{Sender, report};
use mvb::sim::camera::{Camera, Carrier, Hash, Refused};
use std::time::Duration;

const LIVE: Duration = Duration::from_millis(40);
const QUICK: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_that_joins_in_mid_group_is_kept_from_its_first_picture() {
    for (carrier, sets) in [(Carrier::Tcp, true), (Carrier::Udp, true), (Carrier::Tcp, false)] {
        let world = World::new().await;
        let mut script = world.script(carrier);
        script.sets = sets;
        let mut camera = Camera::publish(script).await.expect("publishes");
        // Number 43 of a group of 50; the rest of the group comes before the first key picture.
        let mut clip = Clip { number: 43, ..Clip::default() };
        clip.send(&mut camera, 6, QUICK).await;
        let before = world.until("the first pictures", 0, |session| session.units.len() >= 6).await;
        assert_eq!(before.params, usize::from(sets), "what decodes them is known only if it was described");
        clip.send(&mut camera, 10, QUICK).await;
        camera.teardown().await.expect("ends");
        let session = world.ended(0).await;
        session.holds(43..59);
        assert_eq!(session.params, 1, "told once");
        let keys: Vec<usize> = (0..16).filter(|n| session.units[*n].flags.key).collect();
        assert_eq!(keys, [7], "none that is not is said to be a start");
        world.stop().await;
    }
}

/// However the connection ends, pictures that were sent are kept, the last one too, whose end nothing marked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_picture_of_a_camera_that_vanishes_is_kept() {
    for (carrier, reset) in [(Carrier::Tcp, false), (Carrier::Tcp, true), (Carrier::Udp, false), (Carrier::Udp, true)] {
        let world = World::new().await;
        let mut camera = world.camera(carrier).await;
        let mut clip = Clip { sizes: (5000, 700), ..Clip::default() };
        clip.sender.marks = false;
        clip.send(&mut camera, 47, QUICK).await;
        // While the server answers one after the other, the connection is gone: pictures are behind the requests.
        camera.chatter(1000).await.expect("asks");
        clip.send(&mut camera, 20, Duration::ZERO).await;
        camera.vanish(reset).await.expect("vanishes");
        let session = world.ended(0).await;
        println!("{carrier:?}, reset: {reset}: {:?}", session.ended);
        assert!(matches!(session.ended, Some("closed" | "reset")), "{:?}", session.ended);
        session.holds(0..67);
        assert_eq!(world.status().accepted, 67);
        world.gone().await;
        world.stop().await;
    }
}

/// Power is cut: no end of the connection arrives at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_that_falls_silent_ends_after_ten_seconds_with_its_last_picture() {
    let world = World::new().await;
    let mut camera = world.camera(Carrier::Udp).await;
    let mut clip = Clip::default();
    clip.sender.marks = false;
    clip.send(&mut camera, 20, QUICK).await;
    let session = world.ended(0).await;
    assert_eq!(session.ended, Some("media-timeout"));
    session.holds(0..20);
    assert_eq!(world.counters.total("media-timeout"), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_session_takes_over_when_the_older_has_delivered_all_that_it_had() {
    for carrier in [Carrier::Tcp, Carrier::Udp] {
        let world = World::new().await;
        let mut old = world.camera(carrier).await;
        let mut clip = Clip { sizes: (5000, 700), ..Clip::default() };
        clip.sender.marks = false;
        clip.send(&mut old, 30, QUICK).await;
        let mut new = Camera::connect(world.script(carrier)).await.expect("connects");
        new.announce().await.expect("announces");
        // Lies in the socket behind requests, or waits for its end, when the new session begins.
        old.chatter(1000).await.expect("asks");
        clip.send(&mut old, 10, Duration::ZERO).await;
        let sent = clip.number;
        let goes_on = async {
            // The old one does not notice and sends on.
            for _ in 0..50 {
                if old.send_all(0, &clip.next()).await.is_err() {
                    break;
                }
                tokio::time::sleep(QUICK).await;
            }
        };
        let mut again = Clip { number: 1000, ..Clip::default() };
        let takes_over = async {
            new.record().await.expect("records");
            again.send(&mut new, 50, QUICK).await;
        };
        tokio::join!(takes_over, goes_on);
        let first = world.ended(0).await;
        assert_eq!(first.ended, Some("superseded"), "{carrier:?}");
        let kept = u32::try_from(first.pictures().len()).expect("few");
        assert!(kept >= sent, "{kept} of {sent} pictures that were sent before");
        first.holds(0..kept);
        new.teardown().await.expect("ends");
        world.ended(1).await.holds(1000..1050);
        assert!(old.closed().await, "the old connection is closed");
        assert_eq!(world.status().sessions, 2);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_digest_is_spoken_with_those_who_are_enrolled_for_it_and_no_other() {
    for known in [Known::Md5, Known::Sha256, Known::Both] {
        let world = World::with(known).await;
        for hash in [Hash::Md5, Hash::Sha256] {
            let can = known == Known::Both || (known == Known::Md5) == (hash == Hash::Md5);
            let mut script = world.script(Carrier::Tcp);
            script.hash = hash;
            let before = world.sessions().len();
            match Camera::publish(script.clone()).await {
                Ok(mut camera) => {
                    assert!(can, "{hash:?} with {known:?}");
                    Clip::default().send(&mut camera, 3, QUICK).await;
                    camera.teardown().await.expect("ends, authenticated too");
                    world.ended(before).await.holds(0..3);
                }
                Err(refused) => {
                    assert!(!can && matches!(refused, Refused::NoChallenge), "{hash:?}, {known:?}: {refused:?}")
                }
            }
            let wrong = world.counters.total("rtsp-wrong-login");
            for (user, password) in [("u", "q"), ("v", "p")] {
                let mut script = script.clone();
                (script.user, script.password) = (user.into(), password.into());
                let refused = Camera::publish(script).await.err().expect("refused");
                assert!(matches!(refused, Refused::Status(401) | Refused::NoChallenge), "{refused:?}");
            }
            let counted = if can { 2 } else { 0 };
            assert_eq!(world.counters.total("rtsp-wrong-login"), wrong + counted);
        }
        assert!(world.sessions().iter().all(|session| session.ended == Some("teardown")));
        world.stop().await;
    }
}

/// Sound, reports, a pause and keep-alives in one session, as a bodycam does in an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_and_sounds_of_one_instant_fall_on_one_instant() {
    for carrier in [Carrier::Tcp, Carrier::Udp] {
        let world = World::new().await;
        let mut script = world.script(carrier);
        script.sound = true;
        let mut camera = Camera::publish(script).await.expect("publishes");
        let mut clip = Clip { timestamp: 77_000, ..Clip::default() };
        let mut sender = Sender::new(97, 9, 65_530);
        let ntp = 0xe800_0000_0000_0000_u64;
        camera.control(0, &report(clip.sender.ssrc, ntp, 77_000, false)).await.expect("reports");
        camera.control(1, &report(9, ntp, 5_000_000, false)).await.expect("reports");
        tokio::time::sleep(LIVE).await;
        let mut sounds = 0;
        for turn in 0..60 {
            let mut packets = clip.next();
            if turn == 30 {
                // The second half of a picture comes after PAUSE, as datagrams do.
                let late = packets.split_off(1);
                camera.send_all(0, &packets).await.expect("sends");
                camera.pause().await.expect("pauses");
                packets = late;
            }
            camera.send_all(0, &packets).await.expect("sends");
            // Sound is sent in twos, each 1024 ticks of 48 kHz; it lags its picture by what it takes to fill a packet.
            let units = [sound(sounds, 300), sound(sounds + 1, 200)];
            let at = 5_000_000 + sounds * 1024;
            camera.send(1, &sender.sounds(&units, at)).await.expect("sends");
            sounds += 2;
            if turn == 30 {
                camera.record().await.expect("goes on");
                camera.chatter(1).await.expect("asks");
            }
            tokio::time::sleep(LIVE).await;
        }
        camera.control(0, &report(clip.sender.ssrc, ntp, 77_000, true)).await.expect("leaves");
        camera.control(1, &report(9, ntp, 5_000_000, true)).await.expect("leaves");
        let session = world.ended(0).await;
        assert_eq!(session.ended, Some("bye"), "{carrier:?}");
        session.holds(0..60);
        assert_eq!(session.sounds(), (0..sounds).collect::<Vec<_>>());
        assert_eq!(session.steps(), [i64::from(FRAME); 59]);
        let start =
            |session: &Session, track, scale: f64| session.track(track).next().expect("one").pts.0 as f64 / scale;
        let apart = start(&session, 0, 90_000.0) - start(&session, 1, 48_000.0);
        assert!(apart.abs() < 0.001, "picture and sound of one instant are {apart} s apart");
        world.stop().await;
    }
}
