//! `mvbctl verify`: proves footage with public keys only and says in words what was done to it.

use super::{Context, Error, Exit};
use crate::seal::verify::{self, Evidence, HeadFile, Keys, Report};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Arguments of `mvbctl verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvbctl verify /mnt/card/mvb --keys boxes.keys --head head.json\n  \
    mvbctl verify segment.mvs --keys boxes.keys\nThe keys come from `mvb-cloud keys export`; nothing inside a segment is a \
    trust anchor.\nExit code 4: the footage is not what the box wrote.")]
pub struct Args {
    /// A store's folder (with its journal), or one segment file.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Evidence keys of the boxes, from `mvb-cloud keys export`.
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// The cloud's last acknowledged journal head: shows also a missing tail and a rolled back card.
    #[arg(long, value_name = "FILE")]
    pub head: Option<PathBuf>,
}

/// Verifies footage; [`Exit::Findings`] if it is not what the box wrote.
///
/// # Errors
/// A file cannot be read, or the keys or head file is not one.
pub fn run(args: &Args, context: &Context) -> Result<Exit, Error> {
    let text = read_text(&args.keys)?;
    let keys = Keys::parse(&text).map_err(|source| Error::failed(format!("read {}", args.keys.display()), source))?;
    let head = match &args.head {
        Some(path) => {
            let head = HeadFile::parse(&read_text(path)?);
            Some(head.map_err(|source| Error::failed(format!("read {}", path.display()), source))?)
        }
        None => None,
    };
    let failed = |source| Error::File { path: args.path.clone(), what: "cannot be verified", source };
    let report = if args.path.is_dir() {
        verify::store(&Folder { root: args.path.clone() }, &keys, head.as_ref()).map_err(failed)?
    } else {
        let name = args.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut file = File::open(&args.path).map_err(failed)?;
        verify::file(&name, &mut file, &keys).map_err(failed)?
    };
    show(&report, context.json, args);
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Findings })
}

fn read_text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        what: "cannot be read",
        source,
    })
}

fn show(report: &Report, json: bool, args: &Args) {
    if json {
        println!("{}", serde_json::json!({ "clean": report.is_clean(), "report": report }));
        return;
    }
    for note in &report.notes {
        println!("note     {:<22} {}: {}", note.code, note.file.as_deref().unwrap_or("-"), note.text);
    }
    for finding in &report.findings {
        println!("FINDING  {:<22} {}: {}", finding.code, finding.file.as_deref().unwrap_or("-"), finding.text);
    }
    println!(
        "{} segments, {} complete as the box closed them; {} journal entries signed; {}",
        report.segments,
        report.complete,
        report.entries,
        match report.findings.len() {
            0 => "nothing was altered or removed".to_owned(),
            n => format!("{n} findings"),
        }
    );
    if args.path.is_dir() && args.head.is_none() {
        println!("Without --head a missing end of the journal, or a card set back as a whole, cannot be seen.");
    }
}

/// A card's folder, or a folder that holds only segment files.
struct Folder {
    root: PathBuf,
}

impl Folder {
    fn segments_folder(&self) -> PathBuf {
        let folder = self.root.join("segments");
        if folder.is_dir() { folder } else { self.root.clone() }
    }

    fn names(folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }
}

impl Evidence for Folder {
    fn segments(&self) -> io::Result<Vec<String>> {
        let folder = self.segments_folder();
        let mut names = Self::names(&folder)?;
        if folder == self.root {
            names.retain(|name| name.ends_with(".mvs"));
        }
        Ok(names)
    }

    fn segment(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(File::open(self.segments_folder().join(name))?))
    }

    fn journals(&self) -> io::Result<Vec<String>> {
        match Self::names(&self.root.join("journal")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names,
        }
    }

    fn journal(&self, name: &str) -> io::Result<Vec<u8>> {
        // The store rolls its files at 1 MiB; more than 64 MiB is none of its.
        let mut bytes = Vec::new();
        File::open(self.root.join("journal").join(name))?.take(64 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
