//! Where the passphrase of the organisation key comes from: a file, a systemd credential, or the terminal.
//!
//! Belongs here: reading it once, without echo. Does not belong here: what it opens. It is never taken from an argument
//! or an environment variable, which other processes can read.

use super::Failure;
use crate::cloud::command::Secret;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Name of the systemd credential (`LoadCredential=organisation-passphrase:…`).
pub const CREDENTIAL: &str = "organisation-passphrase";

/// Shortest passphrase that is accepted for a new key. argon2id slows guessing down; it cannot mend `1234`.
pub const MIN_LEN: usize = 8;

/// Longest file that is read as a passphrase.
const MAX_FILE: u64 = 4096;

/// Where to read the passphrase.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Read the passphrase of the organisation key from the first line of this file (else: the systemd credential
    /// organisation-passphrase, else: ask on the terminal).
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl Args {
    /// The passphrase from file or credential; `None` when neither is there.
    pub(super) fn unattended(&self) -> Result<Option<Secret>, Failure> {
        if let Some(path) = &self.passphrase_file {
            return read(path).map(Some);
        }
        let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(CREDENTIAL));
        credential.filter(|path| path.exists()).map(|path| read(&path)).transpose()
    }

    /// The passphrase, asked for on the terminal if it is nowhere else; twice if it is for a new key.
    pub(super) fn obtain(&self, new: bool) -> Result<Option<Secret>, Failure> {
        let secret = match self.unattended()? {
            Some(secret) => secret,
            None if io::stdin().is_terminal() => {
                let secret = ask(if new { "New passphrase for the organisation key: " } else { "Passphrase: " })?;
                if new && ask("Once more: ")?.expose() != secret.expose() {
                    return Err(Failure::new("passphrase-differs", "the two passphrases differ: try again"));
                }
                secret
            }
            None => return Ok(None),
        };
        if new && secret.expose().chars().count() < MIN_LEN {
            let text = format!("the passphrase has fewer than {MIN_LEN} characters: choose a longer one");
            return Err(Failure::new("passphrase-short", text));
        }
        Ok(Some(secret))
    }

    /// Like [`Self::obtain`], but without one there is nothing to do.
    pub(super) fn require(&self) -> Result<Secret, Failure> {
        self.obtain(false)?.ok_or_else(|| {
            Failure::new(
                "passphrase-missing",
                "the organisation key needs its passphrase: run on a terminal or give --passphrase-file FILE",
            )
        })
    }
}

fn read(path: &Path) -> Result<Secret, Failure> {
    let fail =
        |what: String| Failure::new("passphrase-unreadable", format!("passphrase file {}: {what}", path.display()));
    let bytes = crate::base::fs::read_if_exists(path, MAX_FILE)
        .map_err(|error| fail(format!("{error}; it must be a small readable file")))?
        .ok_or_else(|| fail("it does not exist; create it with one line".into()))?;
    let text = String::from_utf8(bytes).map_err(|_| fail("it is not UTF-8 text".into()))?;
    let text = zeroize::Zeroizing::new(text);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() { Err(fail("its first line is empty".into())) } else { Ok(Secret::new(line.to_owned())) }
}

/// Asks on the terminal with echo off.
fn ask(prompt: &str) -> Result<Secret, Failure> {
    let fail = |error: io::Error| Failure::new("terminal", format!("cannot read from the terminal: {error}"));
    let _quiet = Quiet::begin().map_err(fail)?;
    eprint!("{prompt}");
    io::stderr().flush().map_err(fail)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(fail)?;
    eprintln!();
    let len = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(len);
    Ok(Secret::new(line))
}

/// Echo is off while this lives.
struct Quiet(libc::termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        // SAFETY: `tcgetattr` fills the zeroed struct or fails; both calls take a valid pointer and standard input.
        unsafe {
            let mut before: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) != 0 {
                return Err(io::Error::last_os_error());
            }
            let mut quiet = before;
            quiet.c_lflag &= !libc::ECHO;
            if libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &raw const quiet) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(before))
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: restores what `begin` read from the same descriptor.
        unsafe {
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &raw const self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_the_file_is_the_passphrase_and_a_short_new_one_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("pass");
        let args = Args { passphrase_file: Some(path.clone()) };
        assert_eq!(args.obtain(false).expect_err("missing").code, "passphrase-unreadable");
        std::fs::write(&path, "korenblauw huis\nmore\n").expect("writes");
        assert_eq!(args.obtain(true).expect("reads").expect("there").expose(), "korenblauw huis");
        std::fs::write(&path, "short\n").expect("writes");
        assert_eq!(args.obtain(true).expect_err("short").code, "passphrase-short");
    }
}
