//! Bytes that reach the card per byte recorded: the real recorder on a real ext4 on a loop device.
//!
//! Needs root (loop device, mount). The aims are DESIGN's: 1.05 at 8 × 8 Mb/s, 1.12 at 4 × 2 Mb/s.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use mvb::base::chain::SoftwareSigner;
use mvb::base::clock::Clock;
use mvb::base::ids::{CameraId, OrganisationId};
use mvb::base::reason::Counters;
use mvb::base::tasks::Tasks;
use mvb::base::units::{MediaTime, Run, WallTime};
use mvb::media::{AccessUnit, Codec, Intake, Item, TrackId, TrackParams, UnitFlags};
use mvb::seal::recipients::RecipientRole;
use mvb::seal::{RecipientSecret, Recipients, SealedFrame, Tap};
use mvb::store::{Directory, Limits, Options, Recorder, Settings, Store};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const SECONDS: u64 = 40;
const FPS: u64 = 25;
const GOP: u64 = 50;

pub fn run() -> Result<()> {
    for (cameras, mbps, aim) in [(8, 8, 1.05), (4, 2, 1.12)] {
        let card = Card::new().context("a loop device with ext4 (needs root)")?;
        let before = card.written()?;
        let recorded = record(&card.mount, cameras, mbps)?;
        card.sync()?;
        let written = card.written()? - before;
        let line = serde_json::json!({
            "bench": "write", "cameras": cameras, "mbps": mbps, "seconds": SECONDS,
            "recorded_bytes": recorded, "written_bytes": written,
            "written_over_recorded": written as f64 / recorded as f64, "aim": aim,
        });
        println!("{line}");
    }
    Ok(())
}

struct Deaf;

impl Tap for Deaf {
    fn frame(&self, _: &SealedFrame) {}
}

/// Records synthetic cameras in real time; says how many bytes of segments and journal are on the card then.
fn record(card: &Path, cameras: u64, mbps: u64) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let internal = tempfile::tempdir()?;
        let clock = Clock::system(WallTime(0));
        let opened = Store::open(Options {
            volume: Arc::new(Directory::open(card)?),
            internal: internal.path().to_owned(),
            run: Run { boot: clock.boot(), start: 1 },
            clock: clock.clone(),
            signer: Arc::new(SoftwareSigner::generate()),
            limits: Limits::default(),
        })?;
        let key = RecipientSecret::generate().public(RecipientRole::Organisation);
        let recipients = Recipients::new(OrganisationId::random(), vec![key]).context("a usable key")?;
        let (_settings, settings) = watch::channel(Arc::new(Settings::default()));
        let (_keys, keys) = watch::channel(Some(recipients));
        let (recorder, handle) = Recorder::new(opened.store, settings, keys, Arc::new(Deaf), None, Counters::default());
        let tasks = Tasks::default();
        let recording = tasks.spawn("recorder", recorder.run(tasks.clone()));
        let mut feeds: Vec<_> = (0..cameras)
            .map(|_| {
                let mut feed = handle.open(CameraId::random());
                feed.push(Item::Params(Arc::new(params())));
                feed
            })
            .collect();
        // A key frame is 8 mean frames (scenarios.toml), so the others share what is left of the GOP.
        let mean = mbps * 1_000_000 / 8 / FPS;
        let delta = mean * (GOP - 8) / (GOP - 1);
        let noise = Bytes::from((0..mean * 8).map(|n| (n * 31 % 251) as u8).collect::<Vec<_>>());
        let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / FPS));
        for n in 0..SECONDS * FPS {
            tick.tick().await;
            for (camera, feed) in feeds.iter_mut().enumerate() {
                let key = n == 0 || (n + camera as u64 * 7).is_multiple_of(GOP);
                let size = if key { mean * 8 } else { delta };
                feed.push(Item::Unit(AccessUnit {
                    track: TrackId(0),
                    pts: MediaTime((n * 90_000 / FPS) as i64),
                    captured: clock.boottime(),
                    flags: UnitFlags { key, ..UnitFlags::default() },
                    data: noise.slice(..size as usize),
                }));
            }
        }
        for feed in feeds {
            feed.end("teardown");
        }
        ensure!(tasks.stop(Duration::from_secs(20)).await, "the recorder stops");
        recording.await??;
        let mut bytes = 0;
        for folder in ["segments", "journal"] {
            for file in std::fs::read_dir(card.join(folder))? {
                bytes += file?.metadata()?.len();
            }
        }
        Ok(bytes)
    })
}

fn params() -> TrackParams {
    TrackParams {
        track: TrackId(0),
        codec: Codec::H264,
        timescale: 90_000,
        config: vec![1, 0x42, 0, 0x1f, 0xff, 0xe0, 0],
        width: 1280,
        height: 720,
        channels: 0,
        sample_rate: 0,
    }
}

/// An ext4 of 3 GiB (sparse) on a loop device, gone when dropped.
struct Card {
    mount: PathBuf,
    device: String,
    _dir: tempfile::TempDir,
}

impl Card {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let image = dir.path().join("card.img");
        std::fs::File::create(&image)?.set_len(3 << 30)?;
        // Lazy initialisation would write to the card in the background while we count.
        sh("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &image.to_string_lossy()])?;
        let device = sh("losetup", &["--find", "--show", &image.to_string_lossy()])?.trim().to_owned();
        let mount = dir.path().join("card");
        std::fs::create_dir(&mount)?;
        let card = Self { mount, device, _dir: dir };
        sh("mount", &["-o", "noatime", &card.device, &card.mount.to_string_lossy()])?;
        card.sync()?;
        Ok(card)
    }

    fn sync(&self) -> Result<()> {
        sh("sync", &["-f", &self.mount.to_string_lossy()]).map(drop)
    }

    /// Bytes written to the device so far.
    fn written(&self) -> Result<u64> {
        let name = self.device.rsplit('/').next().context("a device name")?;
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        // Field 7 of the kernel's block layer statistics: sectors of 512 bytes written.
        let sectors: u64 = stat.split_whitespace().nth(6).context("stat has seven fields")?.parse()?;
        Ok(sectors * 512)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = sh("umount", &[&self.mount.to_string_lossy()]);
        let _ = sh("losetup", &["--detach", &self.device]);
    }
}

fn sh(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program).args(args).output().with_context(|| format!("{program} runs"))?;
    ensure!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}
