//! Between box and cloud: one session per link, live before backlog. Spec: `docs/spec/relay.md`.
//!
//! [`wire`] is what crosses the link. On the box, [`live`] and [`backlog`] are pure: they decide what to send next; the
//! service in [`uplink`] does it over a [`link::Link`]. On the cloud, [`receive`] is one session, which stores through
//! the trait [`receive::Vault`]. QUIC is in [`quic`] alone. The scheduler of several links comes with the bonded uplink:
//! it will choose among links what this version sends over one.
//!
//! Does not belong here: keys and pins (`trust`), files (`store`, the cloud's vault).

pub mod backlog;
pub mod bonds;
mod greet;
pub mod ground;
pub mod link;
pub mod live;
pub mod quic;
pub mod receive;
pub mod report;
pub mod session;
pub mod statement;
pub mod uplink;
pub mod vault;
pub mod wire;
mod work;
