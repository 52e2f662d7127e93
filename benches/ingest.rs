//! Eight cameras of 8 Mb/s, received by real RTSP, recorded and sealed, beside eight `ffmpeg -rtsp_flags listen -c copy`
//! that write plain files, in the same run with the same pushers.

use crate::daemon::{Daemon, free_port, pause};
use crate::machine::{cpu_seconds, resident};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CAMERAS: usize = 8;
/// Start-up is not measured: the first seconds hold handshakes and the first segments.
const SETTLE: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(20);
const FILE_SECONDS: u32 = 32;

pub fn run() -> Result<()> {
    let file = camera_file()?;
    let (mvb_cpu, mvb_rss) = with_mvbd(&file)?;
    let (peer_cpu, peer_rss) = with_ffmpeg(&file)?;
    let camera_seconds = CAMERAS as f64 * WINDOW.as_secs_f64();
    let line = serde_json::json!({
        "bench": "ingest", "cameras": CAMERAS, "mbps": 8, "seconds": WINDOW.as_secs(),
        "mvbd_cpu_s_per_camera_s": mvb_cpu / camera_seconds, "mvbd_rss_mb": mvb_rss as f64 / 1e6,
        "ffmpeg_cpu_s_per_camera_s": peer_cpu / camera_seconds, "ffmpeg_rss_mb": peer_rss as f64 / 1e6,
        "cpu_over_ffmpeg": mvb_cpu / peer_cpu, "aim": 1.0, "at_most": 1.3,
    });
    println!("{line}");
    Ok(())
}

fn with_mvbd(file: &Path) -> Result<(f64, u64)> {
    let daemon = Daemon::start(env!("CARGO_BIN_EXE_mvbd"))?;
    daemon.add_key()?;
    let urls = (0..CAMERAS).map(|n| daemon.enrol(&format!("Camera {n}"))).collect::<Result<Vec<_>>>()?;
    let _pushers = urls.iter().map(|url| push(file, url)).collect::<Result<Vec<_>>>()?;
    pause(SETTLE);
    let before = cpu_seconds(daemon.pid())?;
    pause(WINDOW);
    let used = cpu_seconds(daemon.pid())? - before;
    let status = daemon.ask(&["status"])?;
    let recording = status["cameras"].as_array().context("cameras")?.iter().filter(|c| c["state"] == "recording");
    ensure!(recording.count() == CAMERAS, "all cameras record: {status}");
    Ok((used, resident(daemon.pid())?))
}

fn with_ffmpeg(file: &Path) -> Result<(f64, u64)> {
    let dir = tempfile::tempdir()?;
    let mut receivers = Vec::new();
    let mut urls = Vec::new();
    for n in 0..CAMERAS {
        let url = format!("rtsp://127.0.0.1:{}/camera", free_port()?);
        let child = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-rtsp_flags", "listen", "-i", &url, "-c", "copy"])
            .arg(dir.path().join(format!("{n}.mp4")))
            .stdin(Stdio::null())
            .spawn()
            .context("ffmpeg runs")?;
        receivers.push(Killed(child));
        urls.push(url);
    }
    pause(Duration::from_secs(1));
    let _pushers = urls.iter().map(|url| push(file, url)).collect::<Result<Vec<_>>>()?;
    pause(SETTLE);
    let total = || receivers.iter().map(|each| cpu_seconds(each.0.id())).sum::<Result<f64>>();
    let before = total()?;
    pause(WINDOW);
    let used = total()? - before;
    let memory = receivers.iter().map(|each| resident(each.0.id())).sum::<Result<u64>>()?;
    Ok((used, memory))
}

fn push(file: &Path, url: &str) -> Result<Killed> {
    let child = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-re", "-i"])
        .arg(file)
        .args(["-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", url])
        .stdin(Stdio::null())
        .spawn()
        .context("ffmpeg runs")?;
    Ok(Killed(child))
}

/// A moving picture of 8 Mb/s, made once.
fn camera_file() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-8mbps.mp4");
    if !path.exists() {
        let beside = path.with_extension("new.mp4");
        let began = Instant::now();
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25"])
            .args(["-vf", "noise=alls=20:allf=t", "-t", &FILE_SECONDS.to_string(), "-c:v", "libx264"])
            .args(["-preset", "ultrafast", "-tune", "zerolatency", "-g", "50", "-pix_fmt", "yuv420p"])
            .args(["-b:v", "8M", "-minrate", "8M", "-maxrate", "8M", "-bufsize", "4M"])
            .arg(&beside)
            .status()
            .context("ffmpeg runs")?;
        ensure!(done.success(), "ffmpeg makes the camera file");
        std::fs::rename(&beside, &path)?;
        eprintln!("made the camera file in {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(path)
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
