//! `mvbctl recipients`: keys that footage is sealed to, and new recovery keys.

use super::{Context, Error, Exit};
use crate::base::ids::KeyId;
use crate::control::Command;
use crate::control::recipients::{self, Listed};
use crate::seal::{RecipientRole, RecipientSecret, keyfile};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Arguments of `mvbctl recipients`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvbctl recipients add recovery.pub\n  mvbctl recipients list\n  mvbctl recipients \
    remove 1f0c…9a\nThe public key file holds `mvb-recipient-1 recovery` and 64 hex digits."
)]
pub struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a recovery key, away from the box: FILE is the secret, FILE.pub what boxes and cloud are given.
    Generate {
        /// Where to write the secret key; keep it offline.
        file: PathBuf,
    },
    /// Seal new segments to one more recovery key.
    Add {
        /// Its public key file.
        file: PathBuf,
        /// What to call it (default: the file's name).
        #[arg(long)]
        name: Option<String>,
    },
    /// List all keys.
    List,
    /// Stop sealing to an added key; old segments keep their stanza.
    Remove {
        /// Its id, from `recipients list`.
        key: KeyId,
    },
}

/// Writes both halves; an existing file is not replaced, because it may be the only copy of a key.
fn generate(file: &Path, context: &Context) -> Result<(), Error> {
    let secret = RecipientSecret::generate();
    let public = secret.public(RecipientRole::Recovery);
    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    let public_file = PathBuf::from(public_file);
    write_new(file, keyfile::secret_text(&secret).as_bytes(), 0o600)?;
    write_new(&public_file, keyfile::public_text(&public).as_bytes(), 0o644)?;
    if context.json {
        return context.print_json(&serde_json::json!({ "key": public.id(), "secret": file, "public": public_file }));
    }
    println!("Key {}: keep {} offline, give {} to boxes or cloud.", public.id(), file.display(), public_file.display());
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let failed =
        |source| Error::File { path: path.to_owned(), what: "cannot be made (an existing key is kept)", source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

/// Does it.
///
/// # Errors
/// The file cannot be read; the daemon does not answer or refuses.
pub fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    match args.command {
        What::Generate { file } => generate(&file, context)?,
        What::Add { file, name } => {
            let public = std::fs::read_to_string(&file).map_err(|source| Error::File {
                path: file.clone(),
                what: "the public key cannot be read",
                source,
            })?;
            let name = name
                .or_else(|| file.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
                .unwrap_or_else(|| "recovery".into());
            let added: Listed = context.ask(Command::Recipients(recipients::Command::Add { public, name }))?;
            if context.json {
                context.print_json(&added)?;
            } else {
                println!("New segments are sealed to {} ({}) too.", added.key, added.origin);
            }
        }
        What::List => {
            let keys: Vec<Listed> = context.ask(Command::Recipients(recipients::Command::List))?;
            if context.json {
                context.print_json(&keys)?;
            } else if keys.is_empty() {
                println!("No key: nothing is recorded until the box is paired or a recovery key is added.");
            }
            for key in keys.iter().filter(|_| !context.json) {
                println!("{}  {:12}  {}", key.key, key.role, key.origin);
            }
        }
        What::Remove { key } => {
            context.ask::<()>(Command::Recipients(recipients::Command::Remove { key }))?;
            context.done("New segments are no longer sealed to it; old ones still are.")?;
        }
    }
    Ok(Exit::Ok)
}
