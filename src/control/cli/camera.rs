//! `mvbctl camera`: enrol, list, remove, new password.

use super::{Context, Error, Exit};
use crate::control::Command;
use crate::control::roster::{self, Camera, Digests, Enrolled, Priority};

/// Arguments of `mvbctl camera`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvbctl camera add \"Bodycam 12\" --officer \"J. de Vries\"\n  mvbctl camera list\n  \
    mvbctl camera passwd \"Bodycam 12\"\n  mvbctl camera remove \"Bodycam 12\""
)]
pub struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Enrol a camera; its URL, user and password are shown once.
    Add {
        /// A name that no other camera has.
        name: String,
        /// Who wears it.
        #[arg(long)]
        officer: Option<String>,
        /// Digest that the camera can do; most can MD5 only.
        #[arg(long, value_enum, default_value = "md5")]
        digest: Digests,
        /// Its place in the backlog.
        #[arg(long, value_enum, default_value = "normal")]
        priority: Priority,
    },
    /// List enrolled cameras.
    List,
    /// End an enrolment: the camera is cut off, its footage stays.
    Remove {
        /// Name or id.
        camera: String,
    },
    /// Give a camera a new password; the old one ends at once.
    Passwd {
        /// Name or id.
        camera: String,
    },
}

/// Does it.
///
/// # Errors
/// The daemon does not answer or refuses.
pub fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    match args.command {
        What::Add { name, officer, digest, priority } => {
            enrolled(context, roster::Command::Add { name, officer, digest, priority })?;
        }
        What::Passwd { camera } => enrolled(context, roster::Command::Password { camera })?,
        What::Remove { camera } => {
            context.ask::<()>(Command::Camera(roster::Command::Remove { camera: camera.clone() }))?;
            context.done(&format!("Removed {camera}; its footage stays."))?;
        }
        What::List => {
            let cameras: Vec<Camera> = context.ask(Command::Camera(roster::Command::List))?;
            if context.json {
                context.print_json(&cameras)?;
            } else if cameras.is_empty() {
                println!("No camera is enrolled: `mvbctl camera add NAME`");
            }
            for camera in cameras.iter().filter(|_| !context.json) {
                let officer = camera.officer.as_ref().map(|officer| format!(", worn by {officer}")).unwrap_or_default();
                println!("{}  /{}  {}{officer}", camera.id, camera.path, camera.name);
            }
        }
    }
    Ok(Exit::Ok)
}

fn enrolled(context: &Context, command: roster::Command) -> Result<(), Error> {
    let enrolled: Enrolled = context.ask(Command::Camera(command))?;
    if context.json {
        return context.print_json(&enrolled);
    }
    println!("Enter this in the camera {:?}; the password is not shown again:\n", enrolled.camera.name);
    println!("  URL       {}", enrolled.url);
    println!("  User      {}", enrolled.camera.user);
    println!("  Password  {}", enrolled.password);
    Ok(())
}
