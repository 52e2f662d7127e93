//! A box and a cloud as two real processes in a folder of their own, with a link between them that can be cut.
//!
//! The box runs on [`mvb::sim::power`]'s card, so that `kill -9` is a power cut: what was not synced is gone.

use crate::link::Link;
use serde_json::Value;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct World {
    pub dir: tempfile::TempDir,
    pub link: Link,
    cloud_port: u16,
    pub rtsp: u16,
    udp: u16,
    pub page: u16,
    cloud: Option<Child>,
    bbox: Option<Child>,
    /// The present cloud's folder.
    cloud_folder: &'static str,
    /// What the box's wall clock shows at start, milliseconds since 1970; the real time if `None`.
    wall: Option<i64>,
    /// Which boot it is, and this machine's boot time then, microseconds.
    boot: (u8, u64),
    /// Lines for the box's `[storage]`, and whether the card loses what was not synced.
    pub storage: String,
    pub power: bool,
    /// More arguments and settings for `mvb-cloud run`.
    pub cloud_config: Option<String>,
}

impl World {
    /// Starts a cloud and an unpaired box.
    pub async fn new() -> Self {
        Self::at(None).await
    }

    /// As [`Self::new`], with a wall clock of the test's choice at the box.
    pub async fn at(wall: Option<i64>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for folder in ["box", "card"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        let cloud_port = free_port();
        let link = Link::to(SocketAddr::from(([127, 0, 0, 1], cloud_port))).await;
        let mut world = Self {
            dir,
            link,
            cloud_port,
            rtsp: free_port(),
            udp: free_udp(32),
            page: free_port(),
            cloud: None,
            bbox: None,
            cloud_folder: "cloud",
            wall,
            boot: (1, boottime()),
            storage: String::new(),
            power: true,
            cloud_config: None,
        };
        world.write("cloud.pass", "only for tests\n");
        world.start_cloud();
        world.start_box();
        world
    }

    fn configure_box(&self) {
        let (rtsp, udp, storage) = (self.rtsp, self.udp, &self.storage);
        let (card, last) = (self.path("card"), udp + 31);
        self.write(
            "box/mvb.toml",
            &format!(
                "[box]\nname = \"Test car\"\nserial = \"T-1\"\n[storage]\npath = \"{}\"\n{storage}\n[ingest]\nudp_ports \
                 = \"{udp}-{last}\"\n[ingest.rtsp]\nlisten = \"127.0.0.1:{rtsp}\"\n[control]\nsocket = \
                 \"mvbd.sock\"\n[metrics]\nlisten = \"\"\n",
                card.display(),
            ),
        );
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::write(&path, text).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
    }

    pub fn start_cloud(&mut self) {
        assert!(self.cloud.is_none(), "one cloud at a time");
        let address = format!("127.0.0.1:{}", self.cloud_port);
        // Boxes are told the link's address for their sessions; pairing itself goes straight.
        let mut command = self.spawn("mvb-cloud", env!("CARGO_BIN_EXE_mvb-cloud"));
        if let Some(config) = &self.cloud_config {
            self.write("cloud.toml", config);
            command.args(["--config", "cloud.toml"]);
        }
        command
            .args(["--data", self.cloud_folder, "run", "--organisation", self.cloud_folder])
            .args(["--host", &address, "--listen", &address, "--relay-address", &self.link.addr().to_string()])
            .args(["--page", &format!("127.0.0.1:{}", self.page), "--passphrase-file", "cloud.pass"]);
        self.cloud = Some(command.spawn().expect("mvb-cloud starts"));
        self.until("the cloud answers", 30, |w| w.try_cloud(&["status"]).ok());
    }

    pub fn start_box(&mut self) {
        assert!(self.bbox.is_none(), "one box at a time");
        self.configure_box();
        let (boot, booted) = self.boot;
        let child = self
            .spawn("mvbd", env!("CARGO_BIN_EXE_mvbd-sim"))
            .args(["--config", "box/mvb.toml", "--state", "box"])
            .env("MVB_SIM_CARD", if self.power { "power" } else { "plain" })
            .env("MVB_SIM_WALL", self.wall.map(|wall| wall.to_string()).unwrap_or_default())
            .env("MVB_SIM_BOOT", format!("{boot:032x}"))
            .env("MVB_SIM_BOOTED", booted.to_string())
            .spawn()
            .expect("mvbd starts");
        self.bbox = Some(child);
        self.until("the box answers", 30, |w| w.try_box(&["status"]).ok());
    }

    fn spawn(&self, log: &str, program: &str) -> Command {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{log}.log"))).expect("log");
        let mut command = Command::new(program);
        command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()));
        command
    }

    /// The box loses power: no warning, unsynced writes are gone, the next start is another boot.
    pub fn cut_power(&mut self) {
        self.kill_box();
        self.boot = (self.boot.0 + 1, boottime());
    }

    /// Another organisation's cloud takes the place of the present one, or that one returns.
    pub fn change_cloud(&mut self, folder: &'static str) {
        self.stop_cloud();
        self.cloud_folder = folder;
        self.start_cloud();
    }

    pub fn cloud_data(&self) -> PathBuf {
        self.path(self.cloud_folder)
    }

    /// The daemon dies; the machine goes on.
    pub fn kill_box(&mut self) {
        kill(self.bbox.take());
    }

    pub fn kill_cloud(&mut self) {
        kill(self.cloud.take());
    }

    /// Ordered shutdown; the exit code must be 0.
    pub fn stop_box(&mut self) {
        stop(self.bbox.take(), "mvbd");
    }

    pub fn stop_cloud(&mut self) {
        stop(self.cloud.take(), "mvb-cloud");
    }

    pub fn try_box(&self, args: &[&str]) -> Result<Value, String> {
        json(self.mvbctl(args))
    }

    /// `mvbctl … --json` against the box.
    pub fn ask_box(&self, args: &[&str]) -> Value {
        self.try_box(args).unwrap_or_else(|error| panic!("mvbctl {args:?}: {error}\n{}", self.logs()))
    }

    pub fn mvbctl(&self, args: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_mvbctl"))
            .current_dir(self.dir.path())
            .args(["--socket", "box/mvbd.sock", "--json"])
            .args(args)
            .output()
            .expect("mvbctl runs")
    }

    pub fn try_cloud(&self, args: &[&str]) -> Result<Value, String> {
        json(self.mvb_cloud(args))
    }

    /// `mvb-cloud … --json`.
    pub fn ask_cloud(&self, args: &[&str]) -> Value {
        self.try_cloud(args).unwrap_or_else(|error| panic!("mvb-cloud {args:?}: {error}\n{}", self.logs()))
    }

    pub fn mvb_cloud(&self, args: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_mvb-cloud"))
            .current_dir(self.dir.path())
            .args(["--data", self.cloud_folder])
            .args(args)
            .arg("--json")
            .output()
            .expect("mvb-cloud runs")
    }

    /// Pairs with a real code and waits for the first pinned session.
    pub fn pair(&self) {
        let code = self.ask_cloud(&["pair", "create"])["code"].as_str().expect("a code").to_owned();
        self.ask_box(&["pair", &code]);
        self.until("the box is paired", 30, |w| (w.ask_box(&["pair", "status"])["state"] == "paired").then_some(()));
    }

    /// Enrols a camera: its id and its URL with user and password.
    pub fn enrol(&self, name: &str) -> (String, String) {
        self.enrol_worn(name, "A. de Boer")
    }

    /// As [`Self::enrol`], with the name of who wears it.
    pub fn enrol_worn(&self, name: &str, officer: &str) -> (String, String) {
        let enrolled = self.ask_box(&["camera", "add", name, "--officer", officer]);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let (user, password) = (text(&enrolled["camera"]["user"]), text(&enrolled["password"]));
        let url = text(&enrolled["url"]).replace("rtsp://", &format!("rtsp://{user}:{password}@"));
        (text(&enrolled["camera"]["id"]), url)
    }

    /// Waits until no camera streams and the cloud has committed everything that was ever closed.
    pub fn until_backlog_is_empty(&self, seconds: u64) {
        self.until("the backlog is empty", seconds, |w| {
            let status = w.try_box(&["status"]).ok()?;
            let idle = status["cameras"].as_array()?.iter().all(|c| c["connected"] == false && c["state"] == "idle");
            // The status follows within a second; the list is made when it is asked for.
            let list = w.try_box(&["recordings"]).ok()?;
            let mut segments = list.as_array()?.iter().flat_map(|r| r["segments"].as_array().into_iter().flatten());
            (idle && segments.all(|s| s["state"] == "uploaded")).then_some(())
        });
    }

    /// The cloud's export of all footage of a camera.
    pub fn export(&self, camera: &str, out: &str) -> PathBuf {
        let done = self.mvb_cloud(&["export", "--camera", camera, "--out", out, "--passphrase-file", "cloud.pass"]);
        assert!(done.status.success(), "export: {}\n{}", String::from_utf8_lossy(&done.stderr), self.logs());
        self.path(out)
    }

    /// Access units that the box accepted from a camera in this run.
    pub fn accepted(&self, camera: &str) -> u64 {
        let status = self.ask_box(&["status"]);
        let cameras = status["cameras"].as_array().expect("cameras");
        cameras.iter().find(|c| c["id"] == camera).expect("enrolled")["accepted"].as_u64().expect("a count")
    }

    /// Waits until every enrolled camera has delivered so many access units in this run.
    pub fn until_accepted(&self, units: u64) {
        self.until("the cameras deliver", 60, |w| {
            let status = w.try_box(&["status"]).ok()?;
            let cameras = status["cameras"].as_array()?;
            cameras.iter().all(|c| c["accepted"].as_u64().is_some_and(|n| n >= units)).then_some(())
        });
    }

    /// Card (box stopped for it and started again) and vault verify with public keys, and hold nothing that was altered.
    pub fn assert_proven(&mut self) {
        let id = self.ask_box(&["status"])["box_id"].as_str().expect("an id").to_owned();
        let vault = self.mvb_cloud(&["verify"]);
        assert_eq!(vault.status.code(), Some(0), "{}", String::from_utf8_lossy(&vault.stdout));
        self.stop_box();
        let card = self.verify_card(&id);
        assert_eq!(card.status.code(), Some(0), "{}", String::from_utf8_lossy(&card.stdout));
        self.start_box();
    }

    /// `mvbctl verify` of the card with the cloud's keys and head.
    pub fn verify_card(&self, id: &str) -> std::process::Output {
        for args in [&["keys", "export", "--out", "keys.json"][..], &["head", "export", id, "--out", "head.json"]] {
            let done = self.mvb_cloud(args);
            assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        self.mvbctl(&["verify", "card", "--keys", "keys.json", "--head", "head.json"])
    }

    /// Polls until `check` yields; a deadline that passes is a failure with both logs.
    pub fn until<T>(&self, what: &str, seconds: u64, check: impl Fn(&Self) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(value) = check(self) {
                return value;
            }
            assert!(Instant::now() < end, "{what}: not within {seconds} s\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The last lines of both logs, for messages.
    pub fn logs(&self) -> String {
        ["mvbd", "mvb-cloud"]
            .map(|name| {
                let text = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                format!("--- {name}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
            })
            .join("\n")
    }

    pub fn box_pid(&self) -> u32 {
        self.bbox.as_ref().expect("the box runs").id()
    }

    pub fn card(&self) -> PathBuf {
        self.path("card")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        kill(self.bbox.take());
        kill(self.cloud.take());
    }
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn stop(child: Option<Child>, name: &str) {
    let mut child = child.unwrap_or_else(|| panic!("{name} runs"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signals");
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(status) = child.try_wait().expect("waits") {
            assert!(status.success(), "{name} ended with {status}");
            return;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("{name} does not stop");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn json(output: std::process::Output) -> Result<Value, String> {
    // 4: it worked and found something to say, for example that no key is there yet.
    if !matches!(output.status.code(), Some(0 | 4)) {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// This machine's boot time, microseconds.
fn boottime() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("a clock");
    u64::try_from(Duration::from(now).as_micros()).expect("small")
}

/// A port that is free for TCP and UDP.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = tcp.local_addr().expect("an address").port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The first of `count` free UDP ports, even. Starts at a place of this process's own, so that tests do not collide.
fn free_udp(count: u16) -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 200).expect("small") * 100;
    loop {
        let first = base + NEXT.fetch_add(count, Ordering::SeqCst) % 20_000;
        let held: Vec<_> = (first..first + count).map(|port| UdpSocket::bind(("127.0.0.1", port))).collect();
        if held.iter().all(Result::is_ok) {
            return first;
        }
    }
}

/// Whether `needle` occurs anywhere in the files below `folder`.
pub fn found_in(folder: &Path, needle: &[u8]) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).expect("lists") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if let Some(found) = found_in(&path, needle) {
                return Some(found);
            }
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(needle.len()).any(|window| window == needle) {
                return Some(path);
            }
        }
    }
    None
}
