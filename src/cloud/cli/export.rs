//! `mvb-cloud export`: a recording, or all of a camera, as one MP4. Works with or without the daemon.
//!
//! With `--passphrase-file`, or when the daemon does not run, the passphrase opens the key here; else the running
//! daemon lends its open key, which is audited there.

use super::{Failure, Global, Outcome, passphrase, unexpected};
use crate::base::ids::{CameraId, RecordingId};
use crate::cloud::command::{Command as Order, Reply};
use crate::cloud::keys::Keys;
use crate::cloud::vault::{Reader, StoredFile};
use crate::play::{Footage, SegmentBytes, export};
use crate::seal::RecipientSecret;
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// What to export, and whereto.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which recording (id).
    #[arg(value_name = "RECORDING", required_unless_present = "camera", conflicts_with = "camera")]
    recording: Option<RecordingId>,
    /// All recordings of this camera (id), one after another.
    #[arg(long, value_name = "ID")]
    camera: Option<CameraId>,
    /// The MP4 to write.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the output if it exists.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    passphrase: passphrase::Args,
}

pub(super) fn run(global: &Global, args: &Args) -> Outcome {
    let data = global.load()?.data;
    if args.out.exists() && !args.force {
        let text = format!("{} exists: choose another name or give --force", args.out.display());
        return Err(Failure::new("export-exists", text));
    }
    let vault = Reader::open(&data).map_err(|error| Failure::of(&error))?;
    let files = chosen(&vault, args)?;
    let secrets = secrets(global, args)?;
    let secrets: Vec<&RecipientSecret> = secrets.iter().map(|secret| &**secret).collect();
    let mut footage = Footage::default();
    let mut tails = 0;
    for file in files {
        let (name, stored) = (file.row.segment.to_string(), Stored::new(file));
        tails += usize::from(stored.tail.is_some());
        if stored.reach > 0 {
            footage.add(name, Box::new(stored)).map_err(|error| Failure::of(&error))?;
        }
    }
    // Written beside and renamed: a failed export leaves nothing that looks like one.
    let beside = args.out.with_extension("part");
    let failed = |source: io::Error| Failure::new("export-write", format!("{}: {source}", beside.display()));
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(&beside).map_err(failed)?);
    let bar = super::footage::progress("bytes");
    let result = export(
        &mut footage,
        &secrets,
        &mut out,
        &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        },
        &|| false,
    );
    bar.finish_and_clear();
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            let _ = std::fs::remove_file(&beside);
            return Err(Failure::of(&error));
        }
    };
    out.flush().map_err(failed)?;
    out.get_ref().sync_all().map_err(failed)?;
    std::fs::rename(&beside, &args.out).map_err(failed)?;
    let done = if report.is_partial() { ExitCode::from(4) } else { ExitCode::SUCCESS };
    if global.json {
        Global::print_json(&serde_json::json!({ "file": args.out, "tails": tails, "report": report }))?;
        return Ok(done);
    }
    report.lines(&args.out).iter().for_each(|line| println!("{line}"));
    if tails > 0 {
        println!(
            "    {} units of {tails} segments came live beyond the cut of the box's own file: shown, not covered by its end",
            report.provisional
        );
    }
    Ok(done)
}

/// A file of the vault, with what came live beyond its cut if there is any.
struct Stored {
    path: PathBuf,
    /// Bytes of `path` that are used.
    reach: u64,
    /// The tail and its length; it follows at `reach`.
    tail: Option<(PathBuf, u64)>,
}

impl Stored {
    fn new(file: StoredFile) -> Self {
        let (whole, beyond) = (file.reach(), file.tail_reach());
        let (path, cut) = (file.path, file.row.tail.as_ref().map(|tail| tail.from));
        match (file.tail, cut) {
            (Some(tail), Some(cut)) if beyond > 0 && cut <= whole => {
                Self { path, reach: cut, tail: Some((tail, beyond)) }
            }
            _ => Self { path, reach: whole, tail: None },
        }
    }
}

impl SegmentBytes for Stored {
    fn size(&self) -> io::Result<u64> {
        Ok(self.reach + self.tail.as_ref().map_or(0, |(_, beyond)| *beyond))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let (path, offset, end) = match &self.tail {
            Some((tail, beyond)) if offset >= self.reach => (tail, offset - self.reach, *beyond),
            _ => (&self.path, offset, self.reach),
        };
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(into.len());
        path.read_at(offset, into.get_mut(..len).unwrap_or_default())
    }

    fn provisional_from(&self) -> Option<u64> {
        self.tail.as_ref().map(|_| self.reach)
    }
}

fn chosen(vault: &Reader, args: &Args) -> Result<Vec<StoredFile>, Failure> {
    let mut files = match (args.recording, args.camera) {
        (Some(recording), _) => vault.recording(recording).map_err(|error| Failure::of(&error))?,
        (None, camera) => {
            let mut files = vault.files().map_err(|error| Failure::of(&error))?;
            files.retain(|file| file.row.origin.map(|origin| origin.camera) == camera && camera.is_some());
            files
        }
    };
    // A second object under the same id is a conflict that `verify` shows; footage is shown once.
    files.retain(|file| file.row.variant == 0);
    if files.is_empty() {
        return Err(Failure::new("export-nothing", "no such footage here: see `mvb-cloud recordings`"));
    }
    Ok(files)
}

fn secrets(global: &Global, args: &Args) -> Result<Vec<Arc<RecipientSecret>>, Failure> {
    if let Some(passphrase) = args.passphrase.unattended()? {
        return unlock(global, &passphrase);
    }
    match global.ask(Order::LendKeys { purpose: format!("export to {}", args.out.display()) }) {
        Ok(Reply::Keys { secrets }) => secrets
            .iter()
            .map(|secret| {
                let raw = HEX.decode(secret.expose().as_bytes()).ok().and_then(|raw| <[u8; 32]>::try_from(raw).ok());
                raw.map(|raw| Arc::new(RecipientSecret::from_bytes(raw))).ok_or_else(unexpected)
            })
            .collect(),
        Ok(_) => Err(unexpected()),
        // Not running, or locked: the passphrase does it here.
        Err(failure) if failure.exit == 3 || failure.code == "cloud-locked" => {
            unlock(global, &args.passphrase.require()?)
        }
        Err(failure) => Err(failure),
    }
}

fn unlock(global: &Global, passphrase: &crate::cloud::command::Secret) -> Result<Vec<Arc<RecipientSecret>>, Failure> {
    let keys = Keys::load(&global.load()?.data).map_err(|error| Failure::of(&error))?;
    let keyring = keys.unlock(passphrase).map_err(|error| Failure::of(&error))?;
    Ok(keyring.secrets().to_vec())
}
