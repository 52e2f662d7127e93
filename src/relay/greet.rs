//! The first words of a session, on the box: HELLO, then WELCOME or REVOKE. Spec: `docs/spec/relay.md`, "Session".

use super::ground::{Ended, Party, Shared};
use super::link::Link;
use super::wire::control::{Hello, Message, Welcome};
use super::wire::io::{read_one, write};
use super::wire::{VERSION, Violation};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// HELLO to WELCOME.
pub(super) const GREETING: Duration = Duration::from_secs(10);

/// Says HELLO; the pairing is confirmed, durably, when it returns WELCOME.
///
/// # Errors
/// How the session ended instead.
pub(super) async fn greet<L: Link>(
    link: &L,
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    party: &Party,
    shared: &Shared,
    stop: &CancellationToken,
) -> Result<Welcome, Ended> {
    let hello = Message::Hello(Hello {
        min: VERSION,
        max: VERSION,
        features: 0,
        box_id: party.box_id,
        organisation: party.organisation,
        pairing: party.pairing,
        bond: party.bond,
        run: party.run,
        at: shared.clock.boottime(),
        journal: shared.source.journal_head(),
        receipts: None,
        firmware: party.firmware.clone(),
    });
    let greeting = async {
        write(writer, hello).await.map_err(|error| Ended::Link(error.to_string()))?;
        read(reader).await
    };
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Ended::Stopped),
        greeted = tokio::time::timeout(GREETING, greeting) => match greeted {
            Err(_) => return Err(Ended::Link("relay-greeting-timeout".into())),
            Ok(Err(ended)) => return Err(or_reason(link, ended).await),
            Ok(Ok(message)) => message,
        },
    };
    let welcome = match first {
        Message::Welcome(welcome) => welcome,
        Message::Revoke { pairing } if pairing == party.pairing => {
            let keeper = shared.keeper.clone();
            if !stored(move || keeper.revoked(pairing)).await {
                return Err(Ended::Link("revoke-not-stored".into()));
            }
            let _ = write(writer, Message::Revoked { pairing }).await;
            // The cloud closes once it has heard; it asks again if this was lost.
            let _ = tokio::time::timeout(GREETING, link.closed()).await;
            return Err(Ended::Revoked);
        }
        _ => return Err(Ended::Violation(Violation::OutOfOrder)),
    };
    if let Err(violation) = check(&welcome, party) {
        return Err(Ended::Violation(violation));
    }
    let keeper = shared.keeper.clone();
    let pairing = party.pairing;
    if !stored(move || keeper.began(pairing)).await {
        return Err(Ended::Link("pairing-not-stored".into()));
    }
    let source = shared.source.clone();
    let (organisation, known) = (party.organisation, welcome.journal);
    if !stored(move || source.session_began(organisation, known)).await {
        return Err(Ended::Link("store-stopped".into()));
    }
    Ok(welcome)
}

/// Runs `work` off the runtime; false if it failed.
async fn stored(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> bool {
    matches!(tokio::task::spawn_blocking(work).await, Ok(Ok(())))
}

fn check(welcome: &Welcome, party: &Party) -> Result<(), Violation> {
    if welcome.version != VERSION {
        return Err(Violation::Version);
    }
    if welcome.organisation == party.organisation { Ok(()) } else { Err(Violation::WrongParty) }
}

/// A broken stream says little; the link's own reason says why.
pub(super) async fn or_reason<L: Link>(link: &L, ended: Ended) -> Ended {
    match ended {
        Ended::Link(_) => match tokio::time::timeout(Duration::from_millis(200), link.closed()).await {
            Ok(reason) => Ended::Link(reason),
            Err(_) => ended,
        },
        other => other,
    }
}

async fn read(reader: &mut (impl AsyncRead + Unpin)) -> Result<Message, Ended> {
    loop {
        match read_one(reader).await {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {}
            Err(Ok(())) => return Err(Ended::Link("relay-control-ended".into())),
            Err(Err(violation)) => return Err(Ended::Violation(violation)),
        }
    }
}
