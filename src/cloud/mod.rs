//! The cloud: pairing service, sessions of boxes, vault, commands, local page.
//!
//! | module | what it does |
//! |---|---|
//! | [`app`] | the assembly, in the order of start and stop |
//! | [`cli`] | `mvb-cloud`'s words |
//! | [`config`] | configuration file and command line, validated |
//! | [`keys`] | the organisation's identity and keys in the data folder |
//! | [`vault`] | sealed segments, their proof and their receipts: directory and SQLite |
//! | [`verify`] | proves the whole vault with public keys only |
//! | [`recordings`] | files grouped into recordings |
//! | [`pairing`] | codes, boxes stored as pending |
//! | [`sessions`] | who is connected, who may connect |
//! | [`live`], [`page`] | opened live footage, and the page that shows it |
//! | [`audit`] | who did what, signed and chained |
//! | [`command`], [`socket`], [`service`] | what the running daemon can be told, the way to tell it, what it does |
//!
//! Belongs here: everything of the organisation's side. Does not belong here: protocols (`relay`, `trust`), formats
//! (`seal`), opening footage (`play`). One process serves one organisation.

pub mod app;
pub mod audit;
pub mod boxes;
pub mod cli;
pub mod command;
pub mod config;
pub mod keys;
pub mod live;
pub mod page;
pub mod pairing;
pub mod recordings;
pub mod service;
pub mod sessions;
pub mod socket;
pub mod vault;
pub mod verify;
