//! `mvbctl pair`, `mvbctl pair status`, `mvbctl unpair`.

use super::{Context, Error, Exit};
use crate::control::Command;
use crate::control::pairing;
use crate::control::status::Pairing;
use std::io::{IsTerminal, Write};

/// Arguments of `mvbctl pair`.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  mvbctl pair cloud.example.nl/K7QM-2F9A-8XTP-3WJD-5C\n  mvbctl pair status\nThe code comes \
                  from `mvb-cloud pair create`, is valid for 15 minutes and for one box."
)]
pub struct Args {
    /// Code as the cloud shows it.
    code: Option<String>,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// With whom the box is paired.
    Status,
}

/// Arguments of `mvbctl unpair`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Unpairing wipes the box's identity and the cloud's address. Footage stays, and goes on being \
    sealed to the same keys until a new pairing replaces them.")]
pub struct UnpairArgs {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Pairs, or says with whom.
///
/// # Errors
/// The daemon does not answer or refuses.
pub fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    let (command, asked) = match args.code {
        Some(code) => (pairing::Command::Pair { code }, true),
        None => (pairing::Command::Status, false),
    };
    let pairing: Pairing = context.ask(Command::Pairing(command))?;
    if context.json {
        context.print_json(&pairing)?;
    } else {
        println!("{}", text(&pairing, asked));
    }
    Ok(Exit::Ok)
}

/// Unpairs after a question.
///
/// # Errors
/// The daemon does not answer or refuses.
pub fn unpair(args: &UnpairArgs, context: &Context) -> Result<Exit, Error> {
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            return Err(Error::Usage("unpairing asks first: give --yes when there is no terminal".into()));
        }
        eprint!("End the pairing? The box then sends nothing to the cloud. [y/N] ");
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if read.is_err() || !answer.trim().eq_ignore_ascii_case("y") {
            eprintln!("Nothing changed.");
            return Ok(Exit::Failed);
        }
    }
    context.ask::<serde_json::Value>(Command::Pairing(pairing::Command::Unpair))?;
    context.done("Unpaired. Footage stays and is sealed to the same keys as before.")?;
    Ok(Exit::Ok)
}

fn text(pairing: &Pairing, asked: bool) -> String {
    let with = match (&pairing.organisation_name, &pairing.host) {
        (Some(name), Some(host)) => format!(" with {name} at {host}"),
        (None, Some(host)) => format!(" with {host}"),
        _ => String::new(),
    };
    match pairing.state.as_str() {
        "unpaired" => "Not paired: `mvbctl pair CODE` with a code from the cloud.".to_owned(),
        "pending" if asked => {
            format!("Pairing{with} is agreed; it holds from the first session (`mvbctl pair status`).")
        }
        state => format!(
            "{}{}{with}.",
            state.get(..1).unwrap_or_default().to_uppercase(),
            state.get(1..).unwrap_or_default()
        ),
    }
}
