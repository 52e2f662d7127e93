//! The cloud's configuration file (TOML): raw as written, then validated once.
//!
//! Belongs here: keys, defaults, checks. Does not belong here: secrets (see [`super::keys`]). Every key is optional;
//! unknown keys are refused, because a typing error in a setting would otherwise be a silent default.

use crate::base::reason::Coded;
use crate::base::units::ByteCount;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where data is kept when nobody says otherwise.
pub const DEFAULT_DATA: &str = "/var/lib/mvb-cloud";

/// Port of boxes: QUIC on UDP and pairing on TCP, because networks that let anything out let 443 out.
pub const DEFAULT_PORT: u16 = 443;

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    data: Option<PathBuf>,
    organisation: RawOrganisation,
    boxes: RawBoxes,
    vault: RawVault,
    page: RawPage,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawOrganisation {
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawBoxes {
    host: Option<String>,
    listen: Option<SocketAddr>,
    pairing_listen: Option<SocketAddr>,
    relay_address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawVault {
    keep_free_mb: Option<u64>,
    erase_after_hours: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPage {
    listen: Option<SocketAddr>,
}

/// The validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of everything that the cloud keeps.
    pub data: PathBuf,
    /// Name of the organisation, used at first start.
    pub organisation: Option<String>,
    /// Host (and port, unless 443) that boxes are told in pairing codes.
    pub host: Option<String>,
    /// Address that boxes are told for their sessions, if it is not the host's.
    pub relay_address: Option<String>,
    /// UDP address for sessions of boxes.
    pub listen: SocketAddr,
    /// TCP address for pairing.
    pub pairing_listen: SocketAddr,
    /// Credit ends when fewer bytes than this are free.
    pub keep_free: ByteCount,
    /// Time between a receipt and the permission to erase.
    pub erase_after: Duration,
    /// Loopback address of the local page and metrics; off when `None`.
    pub page: Option<SocketAddr>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: check that it exists and is readable", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The file is not what is documented; the source names line and key.
    #[error("{} is not a valid configuration: correct the line named here", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    /// The page would be reachable from elsewhere, and it has no login.
    #[error("page address {0} is not on this machine: the page has no login, use 127.0.0.1:PORT or [::1]:PORT")]
    PageNotLoopback(SocketAddr),
    /// An organisation's name is shown on screens and stored in every segment.
    #[error("the organisation's name is empty or longer than 256 bytes: set organisation.name")]
    Name,
}

impl Coded for ConfigError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "config-unreadable",
            Self::Parse { .. } => "config-invalid",
            Self::PageNotLoopback(_) => "page-not-loopback",
            Self::Name => "organisation-name",
        }
    }
}

/// What the command line says; it wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--data`
    pub data: Option<PathBuf>,
    /// `--organisation`
    pub organisation: Option<String>,
    /// `--host`
    pub host: Option<String>,
    /// `--relay-address`
    pub relay_address: Option<String>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--pairing-listen`
    pub pairing_listen: Option<SocketAddr>,
    /// `--page`
    pub page: Option<SocketAddr>,
}

impl Config {
    /// Reads `file` (nothing is read when `None`), applies `over` and validates.
    ///
    /// # Errors
    /// Whatever makes it unusable, with the remedy.
    pub fn load(file: Option<&Path>, over: Overrides) -> Result<Self, ConfigError> {
        let raw = match file {
            None => Raw::default(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
                toml::from_str(&text)
                    .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })?
            }
        };
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT));
        let listen = over.listen.or(raw.boxes.listen).unwrap_or(everywhere);
        let config = Self {
            data: over.data.or(raw.data).unwrap_or_else(|| DEFAULT_DATA.into()),
            organisation: over.organisation.or(raw.organisation.name),
            host: over.host.or(raw.boxes.host),
            relay_address: over.relay_address.or(raw.boxes.relay_address),
            listen,
            pairing_listen: over.pairing_listen.or(raw.boxes.pairing_listen).unwrap_or(listen),
            keep_free: ByteCount(raw.vault.keep_free_mb.unwrap_or(1024).saturating_mul(1_000_000)),
            erase_after: Duration::from_secs(raw.vault.erase_after_hours.unwrap_or(72).saturating_mul(3600)),
            page: over.page.or(raw.page.listen),
        };
        if let Some(page) = config.page.filter(|page| !page.ip().is_loopback()) {
            return Err(ConfigError::PageNotLoopback(page));
        }
        if config.organisation.as_ref().is_some_and(|name| name.trim().is_empty() || name.len() > 256) {
            return Err(ConfigError::Name);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("cloud.toml");
        std::fs::write(&path, text).expect("writes");
        Config::load(Some(&path), Overrides::default())
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = load("[vault]\nkeep_free = 3\n").expect_err("unknown key");
        assert_eq!(error.code(), "config-invalid");
        let text = crate::base::reason::chain(&error);
        assert!(text.contains("line 2") && text.contains("keep_free_mb"), "{text}");
    }

    #[test]
    fn the_shipped_file_says_the_defaults_and_its_examples_are_valid() {
        let shipped = include_str!("../../config/mvb-cloud.toml");
        let config = load(shipped).expect("valid");
        let plain = load("").expect("valid");
        assert_eq!(format!("{config:?}"), format!("{plain:?}"));
        let config = load(&shipped.replace("# example: ", "")).expect("the examples are valid");
        assert!(config.page.is_some() && config.host.is_some() && config.organisation.is_some());
    }

    #[test]
    fn the_page_is_off_by_default_and_only_on_loopback() {
        assert!(load("").expect("empty is fine").page.is_none());
        assert!(load("page.listen = \"127.0.0.1:8080\"").expect("loopback").page.is_some());
        assert_eq!(load("page.listen = \"0.0.0.0:8080\"").expect_err("refused").code(), "page-not-loopback");
    }

    #[test]
    fn the_command_line_wins_and_pairing_follows_the_port_of_boxes() {
        let over = Overrides { listen: Some(([127, 0, 0, 1], 9).into()), ..Overrides::default() };
        let config = Config::load(None, over).expect("valid");
        assert_eq!(config.pairing_listen, ([127, 0, 0, 1], 9).into());
        assert_eq!(config.erase_after, Duration::from_secs(72 * 3600));
    }
}
