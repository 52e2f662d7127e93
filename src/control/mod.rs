//! What people and programs may ask of the box: configuration, enrolled cameras, commands, status.
//!
//! `control` validates and routes; it owns none of the services that it speaks for. Belongs here: configuration (raw →
//! validated), the roster of cameras, the command set on the unix socket, the status that everything is shown from, and
//! `mvbctl` in [`cli`]. Does not belong here: boot order and supervision (see `daemon`), pages (see `web`).

pub mod cli;
pub mod command;
pub mod config;
pub mod pairing;
pub mod recipients;
pub mod roster;
pub mod socket;
pub mod status;

pub use command::{Command, Refusal, Reply};
pub use config::Config;
pub use roster::Roster;
pub use status::Status;
