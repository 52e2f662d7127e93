//! A real `mvbd` for benches: its own folder, a recovery key, no pairing.

use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The daemon; killed when dropped.
pub struct Daemon {
    dir: tempfile::TempDir,
    child: Child,
    mvbctl: &'static str,
    /// From start to the first answer of the RTSP port.
    pub accepting_after: Duration,
}

impl Daemon {
    /// Starts a daemon binary and waits until cameras can connect.
    pub fn start(mvbd: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("card"))?;
        let (rtsp, udp) = (free_port()?, 42_000);
        let card = dir.path().join("card");
        let config = format!(
            "[storage]\npath = \"{}\"\n[ingest]\nudp_ports = \"{udp}-{}\"\n[ingest.rtsp]\nlisten = \
             \"127.0.0.1:{rtsp}\"\n[control]\nsocket = \"mvbd.sock\"\n[metrics]\nlisten = \"\"\n",
            card.display(),
            udp + 99
        );
        std::fs::write(dir.path().join("mvb.toml"), config)?;
        let log = std::fs::File::create(dir.path().join("mvbd.log"))?;
        let began = Instant::now();
        let child = Command::new(mvbd)
            .args(["--config", "mvb.toml", "--state", "state"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut daemon = Self { dir, child, mvbctl: env!("CARGO_BIN_EXE_mvbctl"), accepting_after: Duration::ZERO };
        while std::net::TcpStream::connect(("127.0.0.1", rtsp)).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(20), "mvbd does not listen");
            if let Some(status) = daemon.child.try_wait()? {
                bail!("mvbd ended with {status}: {}", std::fs::read_to_string(daemon.path().join("mvbd.log"))?);
            }
            pause(Duration::from_millis(2));
        }
        daemon.accepting_after = began.elapsed();
        Ok(daemon)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Seals to a new recovery key: without one nothing is recorded.
    pub fn add_key(&self) -> Result<()> {
        use mvb::seal::{RecipientRole, RecipientSecret, keyfile};
        let public = RecipientSecret::generate().public(RecipientRole::Recovery);
        let path = self.path().join("recovery.pub");
        std::fs::write(&path, keyfile::public_text(&public))?;
        self.ask(&["recipients", "add", &path.to_string_lossy()]).map(drop)
    }

    /// Enrols a camera; its URL with user and password.
    pub fn enrol(&self, name: &str) -> Result<String> {
        let enrolled = self.ask(&["camera", "add", name])?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("a text");
        let (user, password) = (text(&enrolled["camera"]["user"])?, text(&enrolled["password"])?);
        Ok(text(&enrolled["url"])?.replace("rtsp://", &format!("rtsp://{user}:{password}@")))
    }

    pub fn ask(&self, args: &[&str]) -> Result<serde_json::Value> {
        let out = Command::new(self.mvbctl)
            .current_dir(self.path())
            .args(["--socket", "state/mvbd.sock", "--json"])
            .args(args)
            .output()?;
        ensure!(out.status.success(), "mvbctl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice(&out.stdout)?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A bench measures wall time, so it waits on it.
#[allow(clippy::disallowed_methods)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
