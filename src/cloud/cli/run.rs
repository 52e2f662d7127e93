//! `mvb-cloud run`: the daemon.

use super::{Failure, Global, Outcome, passphrase};
use crate::cloud::app::App;
use crate::cloud::boxes::MAX_LINKS;
use crate::cloud::config::Overrides;
use crate::cloud::keys::Keys;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the organisation; needed at the first start, fixed afterwards.
    #[arg(long, value_name = "NAME")]
    organisation: Option<String>,
    /// Host (and port, unless 443) under which boxes reach this cloud; it goes into pairing codes.
    #[arg(long)]
    host: Option<String>,
    /// Address that boxes are told for their sessions, if it is not the host's.
    #[arg(long, value_name = "HOST:PORT")]
    relay_address: Option<String>,
    /// UDP address for sessions of boxes [default: 0.0.0.0:443].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// TCP address for pairing [default: as --listen].
    #[arg(long, value_name = "ADDRESS")]
    pairing_listen: Option<SocketAddr>,
    /// Show the local live page on this loopback address, for example 127.0.0.1:8080. It has no login.
    #[arg(long, value_name = "ADDRESS")]
    page: Option<SocketAddr>,
    #[command(flatten)]
    passphrase: passphrase::Args,
}

pub(super) fn run(global: &Global, args: Args) -> Outcome {
    let config = global.load_with(Overrides {
        data: None,
        organisation: args.organisation,
        host: args.host,
        relay_address: args.relay_address,
        listen: args.listen,
        pairing_listen: args.pairing_listen,
        page: args.page,
    })?;
    // A new organisation key needs its passphrase; a daemon that restarts at night starts locked rather than not at all.
    let passphrase =
        if Keys::exist(&config.data) { args.passphrase.unattended()? } else { args.passphrase.obtain(true)? };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Each session has two workers for its life; the rest is for everything else that blocks.
        .max_blocking_threads(2 * MAX_LINKS + 64)
        .build()
        .map_err(|error| Failure::new("runtime", format!("cannot start worker threads: {error}")))?;
    runtime.block_on(async {
        let app = App::load(config, passphrase).await.map_err(|error| Failure::of(&error))?;
        app.run().await.map_err(|error| Failure::of(&error))
    })?;
    Ok(ExitCode::SUCCESS)
}
