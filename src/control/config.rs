//! The box's configuration file (TOML): raw as written, then validated into [`Config`] once.
//!
//! Belongs here: keys, defaults, checks. Does not belong here: secrets (see `trust::secrets`; the file only refers to
//! things by name), cameras (see [`super::roster`]). All mistakes are reported at once, each with line, field, reason and
//! remedy; an unknown key is a mistake, because a typing error would otherwise be a silent default.

mod raw;

use crate::base::reason::Coded;
use crate::base::units::ByteCount;
use raw::Raw;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The image's own file.
pub const SHIPPED: &str = "/usr/share/mvb/mvb.toml";
/// Where the box keeps its state when nobody says otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/mvb";
/// The file in the state folder that replaces [`SHIPPED`].
pub const FILE: &str = "mvb.toml";
/// The control socket when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/mvb/mvbd.sock";

/// The validated configuration. Field for field what `config/mvb.toml` documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of the box, at most 256 bytes.
    pub box_name: String,
    /// Serial number; may be empty.
    pub serial: String,
    /// Folder of the card.
    pub storage: PathBuf,
    /// Bound of the recorder's lane.
    pub memory_max: ByteCount,
    /// Free space that is kept on the card.
    pub keep_free: ByteCount,
    /// Whether the box may play its own run.
    pub local_access: LocalAccess,
    /// Defaults of META for cameras that say nothing else.
    pub footage: Footage,
    /// Ports for RTP and RTCP over UDP; the first is even.
    pub udp_ports: RangeInclusive<u16>,
    /// Where cameras push to.
    pub rtsp: SocketAddr,
    /// Host in printed URLs; `None`: that of `rtsp`.
    pub public_host: Option<String>,
    /// Interface to the cloud; `None`: the system's routes.
    pub interface: Option<String>,
    /// What a wrong certificate does.
    pub on_wrong_certificate: OnWrongCertificate,
    /// Control socket; relative to the state folder.
    pub socket: PathBuf,
    /// Loopback address of `/metrics`.
    pub metrics: Option<SocketAddr>,
    /// Log filter.
    pub log: String,
}

/// Facts that are sealed into every recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footage {
    /// Why it is made.
    pub purpose: String,
    /// On what legal basis.
    pub legal_basis: String,
    /// Retention class.
    pub retention: String,
}

/// Whether the box may open footage of its present run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalAccess {
    /// No key for the box exists.
    None,
    /// From keys in memory, until the daemon stops.
    Session,
}

/// What a wrong server certificate does (REQUIREMENTS R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnWrongCertificate {
    /// The link carries nothing until a right handshake.
    Quarantine,
    /// The pairing ends: the reference's strict rule.
    Unpair,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            box_name: "MVB".into(),
            serial: String::new(),
            storage: "/var/lib/mvb/card".into(),
            memory_max: ByteCount(128 << 20),
            keep_free: ByteCount(256 << 20),
            local_access: LocalAccess::None,
            footage: Footage { purpose: "handhaving".into(), legal_basis: String::new(), retention: "default".into() },
            udp_ports: 40000..=40199,
            rtsp: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8554)),
            public_host: None,
            interface: None,
            on_wrong_certificate: OnWrongCertificate::Quarantine,
            socket: DEFAULT_SOCKET.into(),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))),
            log: "info".into(),
        }
    }
}

/// One thing that is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Key with its tables, `storage.path`; empty for the file as a whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: check that it exists and that mvbd may read it", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Everything that is wrong with it.
    #[error("{}", Listed(path, mistakes))]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// In order of lines.
        mistakes: Vec<Mistake>,
    },
}

impl Coded for ConfigError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "config-unreadable",
            Self::Invalid { .. } => "config-invalid",
        }
    }
}

struct Listed<'a>(&'a Path, &'a [Mistake]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Mistake { line, field, reason, remedy }) in self.1.iter().enumerate() {
            let lead = if index == 0 { "" } else { "\n" };
            let colon = if field.is_empty() { "" } else { ": " };
            write!(f, "{lead}{}:{line}: {field}{colon}{reason}; {remedy}", self.0.display())?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads `file`, or without one the state folder's file, else the shipped file, else takes the defaults.
    ///
    /// # Errors
    /// Everything that makes the file unusable.
    pub fn load(file: Option<&Path>, state: &Path) -> Result<Self, ConfigError> {
        let own = state.join(FILE);
        let path = match file {
            Some(path) => path.to_owned(),
            None if own.exists() => own,
            None if Path::new(SHIPPED).exists() => SHIPPED.into(),
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        Self::parse(&text).map_err(|mistakes| ConfigError::Invalid { path, mistakes })
    }

    /// Parses and validates.
    ///
    /// # Errors
    /// Every mistake, in order of lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let default = Self::default();
        let mut raw = Raw::parse(text)?;
        let config = Self {
            box_name: raw.text("box.name", 1..=256).unwrap_or(default.box_name),
            serial: raw.text("box.serial", 0..=64).unwrap_or(default.serial),
            storage: raw.path("storage.path").unwrap_or(default.storage),
            memory_max: raw.megabytes("storage.memory_max_mb", 16..=4096).unwrap_or(default.memory_max),
            keep_free: raw.megabytes("storage.keep_free_mb", 16..=1 << 40).unwrap_or(default.keep_free),
            local_access: raw
                .choice("seal.local_access", &[("none", LocalAccess::None), ("session", LocalAccess::Session)])
                .unwrap_or(default.local_access),
            footage: Footage {
                purpose: raw.text("footage.purpose", 0..=256).unwrap_or(default.footage.purpose),
                legal_basis: raw.text("footage.legal_basis", 0..=256).unwrap_or(default.footage.legal_basis),
                retention: raw.text("footage.retention", 0..=256).unwrap_or(default.footage.retention),
            },
            udp_ports: raw
                .parsed("ingest.udp_ports", "an even port, `-`, a last port: \"40000-40199\"", ports)
                .unwrap_or(default.udp_ports),
            rtsp: raw
                .parsed("ingest.rtsp.listen", "ADDRESS:PORT, for example \"0.0.0.0:8554\"", |text| text.parse().ok())
                .unwrap_or(default.rtsp),
            public_host: raw.text("ingest.rtsp.public_host", 0..=253).filter(|text| !text.is_empty()),
            // IFNAMSIZ is 16 with the closing zero.
            interface: raw.text("uplink.interface", 0..=15).filter(|text| !text.is_empty()),
            on_wrong_certificate: raw
                .choice(
                    "pairing.on_wrong_certificate",
                    &[("quarantine", OnWrongCertificate::Quarantine), ("unpair", OnWrongCertificate::Unpair)],
                )
                .unwrap_or(default.on_wrong_certificate),
            socket: raw.path("control.socket").unwrap_or(default.socket),
            metrics: raw
                .parsed(
                    "metrics.listen",
                    "an address of this machine only, \"127.0.0.1:PORT\" (it has no login), or \"\" for none",
                    loopback,
                )
                .unwrap_or(default.metrics),
            log: raw
                .parsed("log.level", "for example \"info\" or \"info,mvb::ingest=debug\"", |text| {
                    text.parse::<tracing_subscriber::filter::Targets>().ok().map(|_| text.to_owned())
                })
                .unwrap_or(default.log),
        };
        raw.finish().map(|()| config)
    }
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first >= 1024 && first % 2 == 0 && last >= first.checked_add(3)?).then_some(first..=last)
}

#[allow(clippy::option_option)] // outer: valid or not; inner: on or off
fn loopback(text: &str) -> Option<Option<SocketAddr>> {
    if text.is_empty() {
        return Some(None);
    }
    text.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED_TEXT: &str = include_str!("../../config/mvb.toml");

    #[test]
    fn the_shipped_file_holds_every_key_with_its_default() {
        assert_eq!(Config::parse(SHIPPED_TEXT), Ok(Config::default()));
        let uncommented: String = SHIPPED_TEXT
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.starts_with(' ') => setting,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(Config::parse(&uncommented), Ok(Config::default()));
        let raw = Raw::parse(&uncommented).expect("valid");
        for key in raw::KEYS {
            assert!(raw.holds(key), "{key} is not in config/mvb.toml");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_a_suggestion() {
        let mistakes = Config::parse("[storage]\n\nmemory_max = 3\n").expect_err("refused");
        assert_eq!((mistakes[0].line, mistakes[0].field.as_str()), (3, "storage.memory_max"));
        assert!(mistakes[0].remedy.contains("storage.memory_max_mb"), "{}", mistakes[0].remedy);
        let mistakes = Config::parse("[strage]\npath = \"/x\"\n").expect_err("refused");
        assert!(mistakes[0].remedy.contains("storage.path"), "{}", mistakes[0].remedy);
    }

    #[test]
    fn all_mistakes_come_at_once_in_order_of_lines() {
        let text = "[box]\nname = 7\n[metrics]\nlisten = \"0.0.0.0:1\"\n[ingest]\nudp_ports = \"4001-4002\"\n\
                    [storage]\nmemory_max_mb = 1\n[seal]\nlocal_access = \"sesion\"\n";
        let mistakes = Config::parse(text).expect_err("refused");
        let lines: Vec<usize> = mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [2, 4, 6, 8, 10]);
        assert!(mistakes[4].remedy.contains("did you mean \"session\""), "{}", mistakes[4].remedy);
    }

    #[test]
    fn a_file_that_is_no_toml_names_the_line() {
        let mistakes = Config::parse("[box]\nname = = 3\n").expect_err("refused");
        assert_eq!(mistakes[0].line, 2);
    }

    #[test]
    fn a_missing_file_is_an_error_only_if_it_was_asked_for() {
        let dir = tempfile::tempdir().expect("folder");
        assert_eq!(Config::load(None, dir.path()).expect("defaults"), Config::default());
        let error = Config::load(Some(&dir.path().join("no.toml")), dir.path()).expect_err("asked for");
        assert_eq!(error.code(), "config-unreadable");
    }
}
