//! `mvb-cloud pair …`.

use super::{Failure, Global, Outcome, unexpected, utc};
use crate::base::ids::BoxId;
use crate::cloud::command::{Command as Order, Reply};
use crate::cloud::vault::{PairingRow, Reader};
use std::process::ExitCode;

/// Pairings.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a code for `mvbctl pair CODE`: valid 15 minutes, for one box, void when the daemon stops.
    Create {
        /// Only the box with this serial number may use the code.
        #[arg(long)]
        serial: Option<String>,
        /// Host (and port, unless 443) under which boxes reach this cloud [default: boxes.host in the configuration].
        #[arg(long)]
        host: Option<String>,
    },
    /// List boxes and where their pairing stands (works without the daemon).
    List,
    /// End the pairing with a box. Footage stays; the box is told when it connects and wipes its access only.
    Revoke {
        /// Box id, or the first digits of it if they are unique.
        #[arg(value_name = "BOX")]
        box_id: String,
    },
}

pub(super) fn run(global: &Global, command: Command) -> Outcome {
    match command {
        Command::Create { serial, host } => {
            let Reply::Code { code, valid_seconds } = global.ask(Order::PairCreate { serial, host })? else {
                return Err(unexpected());
            };
            if global.json {
                return Global::print_json(&serde_json::json!({ "code": code, "valid_seconds": valid_seconds }));
            }
            println!("{code}");
            eprintln!("Valid {} minutes, for one box. On the box: mvbctl pair {code}", valid_seconds / 60);
            Ok(ExitCode::SUCCESS)
        }
        Command::List => {
            let rows = pairings(global)?;
            if global.json {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| {
                        serde_json::json!({
                            "box": row.box_id, "pairing": row.pairing, "serial": row.serial, "state": row.state,
                            "from": row.from, "to": row.to, "last_contact": row.last_contact,
                            "erase_blocked": row.erase_blocked,
                        })
                    })
                    .collect();
                return Global::print_json(&rows);
            }
            if rows.is_empty() {
                eprintln!("No box is paired: make a code with `mvb-cloud pair create`.");
            }
            for row in rows {
                let last = row.last_contact.map_or_else(|| "never".into(), utc);
                println!(
                    "{}  {:8}  serial {}  paired {}  heard {last}",
                    row.box_id,
                    row.state.as_str(),
                    row.serial,
                    utc(row.from)
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Revoke { box_id } => {
            let box_id = find_box(global, &box_id)?;
            match global.ask(Order::PairRevoke { box_id })? {
                Reply::Done => eprintln!("Revoked. The box is told when it connects; its footage here stays."),
                _ => return Err(unexpected()),
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn pairings(global: &Global) -> Result<Vec<PairingRow>, Failure> {
    let data = global.load()?.data;
    Reader::open(&data).and_then(|vault| Ok(vault.pairings()?)).map_err(|error| Failure::of(&error))
}

/// A box by its id or the unique beginning of it.
pub(super) fn find_box(global: &Global, text: &str) -> Result<BoxId, Failure> {
    let mut found: Vec<BoxId> = pairings(global)?
        .into_iter()
        .map(|row| row.box_id)
        .filter(|id| !text.is_empty() && id.to_string().starts_with(&text.to_lowercase()))
        .collect();
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::new("unknown-box", format!("no box {text:?}: see `mvb-cloud pair list`"))),
        _ => Err(Failure::new("ambiguous-box", format!("{text:?} begins {} box ids: give more digits", found.len()))),
    }
}
