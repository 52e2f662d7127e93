//! Real publishers against the RTSP server: every packet of a fixed file arrives, the last one too.

use md5::{Digest, Md5};
use mvb::base::clock::Clock;
use mvb::base::ids::CameraId;
use mvb::base::reason::Counters;
use mvb::base::tasks::Tasks;
use mvb::base::units::WallTime;
use mvb::ingest::digest::{Algorithm, ha1};
use mvb::ingest::{Camera, Cameras, Config, Server};
use mvb::media::{Feed, Intake, Item};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Track and MD5 of a unit.
type Arrived = (u8, String);

/// What arrived, in order, and why each session ended.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<(Vec<Arrived>, Vec<&'static str>)>>);

impl Intake for Collected {
    fn open(&self, _: CameraId) -> Box<dyn Feed> {
        Box::new(self.clone())
    }
}

impl Feed for Collected {
    fn push(&mut self, item: Item) {
        if let Item::Unit(unit) = item {
            assert!(!unit.flags.damaged && !unit.flags.loss_before, "loopback loses nothing");
            let hash = data_encoding::HEXLOWER.encode(&Md5::digest(&unit.data));
            self.0.lock().expect("not poisoned").0.push((unit.track.0, hash));
        }
    }

    fn end(self: Box<Self>, reason: &'static str) {
        self.0.lock().expect("not poisoned").1.push(reason);
    }
}

struct Ingest {
    url: String,
    collected: Collected,
    tasks: Tasks,
}

async fn ingest() -> Ingest {
    let camera = Camera {
        id: CameraId([1; 16]),
        path: "cam".into(),
        user: "u".into(),
        md5: Some(ha1(Algorithm::Md5, "u", "p")),
        sha256: Some(ha1(Algorithm::Sha256, "u", "p")),
    };
    let (_keep, cameras) = watch::channel(Arc::new(Cameras(vec![camera])));
    let collected = Collected::default();
    let config = Config { listen: ([127, 0, 0, 1], 0).into(), udp_ports: 47_000..=47_031 };
    let clock = Clock::system(WallTime(0));
    let server = Server::bind(config, cameras, Arc::new(collected.clone()), clock, Counters::default());
    let server = server.await.expect("binds");
    let url = format!("rtsp://u:p@{}/cam", server.address());
    let tasks = Tasks::default();
    let running = tasks.clone();
    tasks.spawn("server", async move {
        let _keep = _keep;
        server.run(running).await
    });
    Ingest { url, collected, tasks }
}

impl Ingest {
    /// Runs a publisher to its end and waits for the end of its session.
    async fn publish(&self, mut publisher: Command) -> (Vec<Arrived>, &'static str) {
        let child = publisher.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("starts");
        let mut child = Ended(child);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let state = self.collected.0.lock().expect("not poisoned").clone();
            if let Some(reason) = state.1.last() {
                return (state.0, reason);
            }
            assert!(tokio::time::Instant::now() < deadline, "the session does not end");
            if let Ok(Some(status)) = child.0.try_wait() {
                assert!(status.success(), "the publisher failed: {status}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Six seconds of picture and sound, made once.
fn file() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ingest-6.mp4");
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().expect("not poisoned");
    if !path.exists() {
        let beside = path.with_extension("new.mp4");
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"])
            .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", "6", "-c:v", "libx264"])
            .args(["-preset", "veryfast", "-tune", "zerolatency", "-g", "50", "-pix_fmt", "yuv420p"])
            .args(["-c:a", "aac", "-b:a", "64k", "-ac", "1", "-use_editlist", "0"])
            .arg(&beside)
            .status()
            .expect("ffmpeg runs");
        assert!(done.success());
        std::fs::rename(&beside, &path).expect("renames");
    }
    path
}

/// MD5 of each packet of a stream, as ffmpeg states it.
fn packets(stream: &str) -> Vec<String> {
    let out = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-ignore_editlist", "1", "-i"])
        .arg(file())
        .args(["-map", &format!("0:{stream}"), "-c", "copy", "-f", "framemd5", "-"])
        .output()
        .expect("ffmpeg runs");
    let text = String::from_utf8(out.stdout).expect("text");
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| line.rsplit(',').next().map(|hash| hash.trim().to_owned())).collect()
}

fn of(units: &[Arrived], track: u8) -> Vec<String> {
    units.iter().filter(|(t, _)| *t == track).map(|(_, hash)| hash.clone()).collect()
}

fn ffmpeg(url: &str, transport: &str, sound: &[&str]) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-re", "-i"]).arg(file());
    command.args(["-c", "copy", "-f", "rtsp", "-rtsp_transport", transport]).args(sound).arg(url);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_packet_of_ffmpeg_arrives_over_tcp_and_udp() {
    let (video, audio) = (packets("v"), packets("a"));
    assert_eq!(video.len(), 150);
    for transport in ["tcp", "udp"] {
        // ffmpeg's AAC-hbr packetiser keeps its last, unfilled packet to itself; LATM sends one unit a packet.
        let ingest = ingest().await;
        let (units, reason) = ingest.publish(ffmpeg(&ingest.url, transport, &["-rtpflags", "latm"])).await;
        assert_eq!(reason, "teardown");
        assert_eq!(of(&units, 0), video, "{transport}");
        assert_eq!(of(&units, 1), audio, "{transport}");
        ingest.tasks.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aac_hbr_of_ffmpeg_arrives_as_far_as_ffmpeg_sends_it() {
    let ingest = ingest().await;
    let (units, _) = ingest.publish(ffmpeg(&ingest.url, "tcp", &[])).await;
    assert_eq!(of(&units, 0), packets("v"));
    let (got, all) = (of(&units, 1), packets("a"));
    assert!(all.len() - got.len() < 8, "{} of {}: at most one packet of units is kept back", got.len(), all.len());
    assert_eq!(got[..], all[..got.len()]);
    ingest.tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_picture_and_sound_of_gstreamer_arrives() {
    let ingest = ingest().await;
    let mut gst = Command::new("gst-launch-1.0");
    let url = &ingest.url;
    let pipeline = format!(
        "filesrc location={} ! qtdemux name=d  d.video_0 ! queue ! h264parse ! identity sync=true ! s.sink_0  \
         d.audio_0 ! queue ! aacparse ! s.sink_1  rtspclientsink name=s location={url} protocols=tcp latency=0",
        file().display()
    );
    gst.args(["-q"]).args(pipeline.split_ascii_whitespace());
    let (units, reason) = ingest.publish(gst).await;
    assert!(["teardown", "bye", "closed", "reset"].contains(&reason), "{reason}");
    let tracks: Vec<u8> = (0..2).collect();
    let mut counts: Vec<usize> = tracks.iter().map(|track| of(&units, *track).len()).collect();
    counts.sort_unstable();
    let mut expected = vec![packets("v").len(), packets("a").len()];
    expected.sort_unstable();
    assert_eq!(counts, expected, "pictures and sounds, the last ones too");
    ingest.tasks.stop(Duration::from_secs(5)).await;
}
