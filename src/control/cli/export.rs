//! `mvbctl export`: opens sealed segments with a secret key and writes one playable MP4. Works without the daemon.

use super::{Context, Error, Exit};
use crate::base::ids::{CameraId, RecordingId};
use crate::base::reason::Coded;
use crate::play::{Footage, export};
use crate::seal::{RecipientSecret, keyfile};
use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Arguments of `mvbctl export`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvbctl export /media/card --key recovery.key --recording 4f…e1 -o evidence.mp4\n  \
    mvbctl export segment.mvs --key recovery.key -o clip.mp4\nThe key file holds `mvb-secret-1` and 64 hex digits."
)]
pub struct Args {
    /// A card's folder, or one segment file.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// File of a secret key that the footage is sealed to (organisation or recovery).
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Which recording (id); may be left out if there is only one.
    #[arg(long, value_name = "ID", conflicts_with = "camera")]
    pub recording: Option<RecordingId>,
    /// All recordings of this camera (id), one after another.
    #[arg(long, value_name = "ID")]
    pub camera: Option<CameraId>,
    /// The MP4 to write.
    #[arg(short, long, visible_alias = "out", value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the output if it exists.
    #[arg(long)]
    pub force: bool,
}

/// Exports footage.
///
/// # Errors
/// A file cannot be read or written, the key does not open the footage.
pub fn run(args: &Args, context: &Context) -> Result<Exit, Error> {
    if args.output.exists() && !args.force {
        let text = format!("{} exists: choose another name or give --force", args.output.display());
        return Err(Error::Usage(text));
    }
    let secret = secret(&args.key)?;
    let mut footage = footage(args)?;
    let beside = args.output.with_extension("part");
    let write = |source| Error::File { path: beside.clone(), what: "cannot be written", source };
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(&beside).map_err(write)?);
    let bar = bar();
    let result = export(
        &mut footage,
        &[&secret],
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
            return Err(Error::failed("nothing was exported", error));
        }
    };
    out.flush().map_err(write)?;
    out.get_ref().sync_all().map_err(write)?;
    std::fs::rename(&beside, &args.output).map_err(|source| Error::File {
        path: args.output.clone(),
        what: "cannot be written",
        source,
    })?;
    if context.json {
        context.print_json(&report)?;
    } else {
        report.lines(&args.output).iter().for_each(|line| println!("{line}"));
    }
    Ok(if report.is_partial() { Exit::Findings } else { Exit::Ok })
}

fn secret(path: &Path) -> Result<RecipientSecret, Error> {
    let file = |source| Error::File { path: path.to_owned(), what: "the key file cannot be read", source };
    let meta = std::fs::metadata(path).map_err(file)?;
    if meta.mode() & 0o077 != 0 {
        eprintln!("mvbctl: {} can be read by others: chmod 600 it", path.display());
    }
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(file)?);
    keyfile::read_secret(&text).ok_or_else(|| {
        Error::Usage(format!("{} is no secret key file: it holds `mvb-secret-1` and 64 hex digits", path.display()))
    })
}

fn footage(args: &Args) -> Result<Footage, Error> {
    let mut all = Footage::default();
    for path in segments(&args.path)? {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut one = Footage::default();
        match one.add(&name, Box::new(path.clone())) {
            Ok(()) => {}
            // A file that was being created when the power went has no header; `verify` names it.
            Err(error) if args.path.is_dir() => {
                eprintln!("mvbctl: left out: {error} [{}]", error.code());
                continue;
            }
            Err(error) => return Err(Error::failed("the segment cannot be opened", error)),
        }
        let wanted = one.headers().any(|header| {
            args.recording.is_none_or(|recording| header.recording == recording)
                && args.camera.is_none_or(|camera| header.camera == camera)
        });
        if wanted {
            all.append(one);
        }
    }
    if all.is_empty() {
        return Err(Error::Usage(format!(
            "no such footage in {}: see `mvbctl recordings --path`",
            args.path.display()
        )));
    }
    let mut recordings: BTreeMap<RecordingId, CameraId> = BTreeMap::new();
    for header in all.headers() {
        recordings.insert(header.recording, header.camera);
    }
    if recordings.len() > 1 && args.camera.is_none() {
        let list: String = recordings.iter().map(|(id, camera)| format!("\n  {id}  camera {camera}")).collect();
        return Err(Error::Usage(format!("there are several recordings, choose one with --recording:{list}")));
    }
    Ok(all)
}

fn segments(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let folder = path.join("segments");
    let read = |source: io::Error| Error::File { path: folder.clone(), what: "no card: it has no segments", source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "mvs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn bar() -> indicatif::ProgressBar {
    if !io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let bar = indicatif::ProgressBar::new(0);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar
}
