//! Keeps the uplink of the pairing that is wanted: a new pairing or its end replaces it, its keys are read at each dial.
//!
//! Belongs here: joining the agreement with the relay. Does not belong here: when to dial again and what to send
//! (see `relay`), what is kept (see [`super::agreement`]).

use crate::base::chain::PublicKey;
use crate::base::clock::Clock;
use crate::base::ids::{BondId, BoxId, PairingId};
use crate::base::reason::{Coded, Counters, chain};
use crate::base::tasks::Tasks;
use crate::base::units::Run;
use crate::control::config::OnWrongCertificate;
use crate::daemon::agreement::{Agreement, Wanted};
use crate::daemon::gather;
use crate::relay::link::{Control, DialError, Dialer};
use crate::relay::quic::{QuicDialer, QuicLink};
use crate::relay::session::{Keeper, Party};
use crate::relay::uplink::{LiveTap, Status, Uplink};
use crate::store::Store;
use crate::trust::pairing::state::StateError;
use crate::trust::tls::{Pins, Refusals};
use std::io;
use std::sync::Arc;
use tokio::sync::watch;

/// Everything that an uplink stands on, whichever pairing it serves.
#[derive(Clone)]
pub struct Ground {
    /// Who we are paired with, and as whom.
    pub agreement: Arc<Agreement>,
    /// Finished segments and journal.
    pub store: Store,
    /// Frames for viewers.
    pub tap: LiveTap,
    /// The box's clocks.
    pub clock: Clock,
    /// The box.
    pub box_id: BoxId,
    /// This run.
    pub run: Run,
    /// Network interface, or whatever the routes say.
    pub interface: Option<String>,
    /// What a wrong certificate does.
    pub on_wrong_certificate: OnWrongCertificate,
    /// Reasons.
    pub counters: Counters,
}

/// Runs uplinks until told to stop; `status` follows the present one.
pub async fn run(tasks: Tasks, ground: Ground, status: watch::Sender<gather::Link>) {
    let stop = tasks.stopping();
    let mut wanted = ground.agreement.wanted();
    loop {
        let now = wanted.borrow_and_update().clone();
        let part = tasks.part();
        if let Some(now) = now.as_ref() {
            if let Some(party) = party(now, &ground) {
                start(&part, now, party, &ground, &status);
            }
        } else {
            status.send_replace(gather::Link::default());
        }
        let over = tokio::select! {
            () = stop.cancelled() => true,
            changed = wanted.changed() => changed.is_err(),
        };
        part.stopping().cancel();
        if over {
            return;
        }
    }
}

fn start(part: &Tasks, wanted: &Wanted, party: Party, ground: &Ground, status: &watch::Sender<gather::Link>) {
    let dialer = Agreed {
        agreement: ground.agreement.clone(),
        pairing: party.pairing,
        interface: ground.interface.clone(),
        on_wrong_certificate: ground.on_wrong_certificate,
        refusals: Refusals::new(ground.counters.clone()),
    };
    let uplink = Uplink::new(
        dialer,
        party,
        &ground.tap,
        Arc::new(ground.store.clone()),
        ground.clock.clone(),
        ground.agreement.clone(),
        ground.counters.clone(),
    );
    let mut own = uplink.status();
    let (host, status, stop) = (wanted.pairing.host.clone(), status.clone(), part.stopping());
    part.spawn("uplink-status", async move {
        loop {
            let link = shown(&own.borrow_and_update(), &host);
            status.send_replace(link);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = own.changed() => if changed.is_err() { return },
            }
        }
    });
    part.spawn("uplink", uplink.run(part.clone()));
}

fn party(wanted: &Wanted, ground: &Ground) -> Option<Party> {
    let answer = &wanted.pairing.answer;
    let Some(receipt_key) = PublicKey::from_spki(&answer.receipt_key) else {
        // Checked when pairing: only a damaged file gets here.
        tracing::error!("the pairing holds no usable receipt key: pair again");
        return None;
    };
    Some(Party {
        box_id: ground.box_id,
        organisation: answer.organisation,
        pairing: answer.pairing,
        receipt_key,
        bond: BondId::random(),
        run: ground.run,
        firmware: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// The relay's state in the words of the status.
fn shown(status: &Status, host: &str) -> gather::Link {
    let state = match status.reason.as_deref() {
        _ if status.connected => "connected",
        Some("tls-wrong-issuer" | "tls-lower-generation" | "tls-malformed-certificate") => "quarantined",
        Some("relay-tls-rejected") => "rejected",
        _ => "connecting",
    };
    gather::Link {
        state: state.to_owned(),
        reason: status.reason.clone().filter(|_| !status.connected),
        host: Some(host.to_owned()),
        // The tap knows them at any moment; this changes with the link only.
        subscriptions: 0,
    }
}

/// Dials the cloud of one pairing with the keys and pins that are kept now.
struct Agreed {
    agreement: Arc<Agreement>,
    pairing: PairingId,
    interface: Option<String>,
    on_wrong_certificate: OnWrongCertificate,
    refusals: Refusals,
}

impl Dialer for Agreed {
    type Link = QuicLink;

    async fn dial(&self) -> Result<(QuicLink, Control), DialError> {
        let wanted = self.agreement.wanted().borrow().clone();
        let Some(wanted) = wanted.filter(|wanted| wanted.pairing.answer.pairing == self.pairing) else {
            return Err(DialError { code: "pairing-over", message: "the pairing is over".into() });
        };
        let dialer = QuicDialer {
            address: wanted.pairing.relay_address(),
            interface: self.interface.clone(),
            identity: wanted.identity,
            pins: wanted.pairing.pins(),
            refusals: self.refusals.clone(),
        };
        let dialled = dialer.dial().await;
        match &dialled {
            Ok((link, _)) => {
                if let Some(generation) = link.generation() {
                    let (agreement, pairing) = (self.agreement.clone(), self.pairing);
                    self.keep(move || agreement.saw_generation(pairing, generation)).await;
                }
            }
            Err(error)
                if error.code == "tls-wrong-issuer" && self.on_wrong_certificate == OnWrongCertificate::Unpair =>
            {
                tracing::error!("wrong certificate: the pairing ends, as pairing.on_wrong_certificate demands");
                let agreement = self.agreement.clone();
                self.keep(move || agreement.unpair()).await;
            }
            Err(_) => {}
        }
        dialled
    }
}

impl Agreed {
    /// Runs what writes a file off the runtime. A failure is logged: the next session tries again.
    async fn keep(&self, write: impl FnOnce() -> Result<(), StateError> + Send + 'static) {
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::error!(code = error.code(), "{}", chain(&error));
        }
    }
}

impl Keeper for Agreement {
    fn began(&self, pairing: PairingId) -> io::Result<()> {
        self.confirm(pairing).map_err(io::Error::other)
    }

    fn pins(&self, pairing: PairingId, pins: &Pins) -> io::Result<()> {
        self.set_pins(pairing, pins).map_err(io::Error::other)
    }

    fn revoked(&self, pairing: PairingId) -> io::Result<()> {
        Agreement::revoked(self, pairing).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_certificate_is_shown_as_quarantine_and_a_rejection_as_such() {
        let state = |connected, reason: Option<&str>| {
            let status = Status { connected, reason: reason.map(str::to_owned), ..Status::default() };
            shown(&status, "cloud").state
        };
        assert_eq!(state(true, None), "connected");
        assert_eq!(state(false, Some("tls-wrong-issuer")), "quarantined");
        assert_eq!(state(false, Some("relay-tls-rejected")), "rejected");
        assert_eq!(state(false, Some("relay-unreachable")), "connecting");
    }
}
