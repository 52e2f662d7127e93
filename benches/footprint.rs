//! The box image's `mvbd` (release, stripped, without `cloud`): size, idle memory, time to accepting a camera.

use crate::daemon::{Daemon, pause};
use crate::machine::{median, resident};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub fn run() -> Result<()> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("box");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--no-default-features", "--bin", "mvbd", "--target-dir"])
        .arg(&target)
        .status()
        .context("cargo runs")?;
    ensure!(built.success(), "mvbd without cloud does not build");
    let mvbd = target.join("release/mvbd");
    let size = std::fs::metadata(&mvbd)?.len();
    let (mut starts, mut idle) = (Vec::new(), 0.0);
    for _ in 0..5 {
        let daemon = Daemon::start(&mvbd.to_string_lossy())?;
        starts.push(daemon.accepting_after.as_secs_f64() * 1000.0);
        pause(Duration::from_secs(3));
        idle = resident(daemon.pid())? as f64 / 1e6;
    }
    let line = serde_json::json!({
        "bench": "footprint",
        "mvbd_mb": size as f64 / 1e6, "mvbd_aim_mb": 12,
        "idle_rss_mb": idle, "idle_rss_aim_mb": 20,
        "accepting_after_ms": median(starts), "accepting_aim_ms": 300,
    });
    println!("{line}");
    Ok(())
}
