//! The cloud: pairing service, sessions of boxes, vault, commands, local page.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | configuration file and command line, validated |
//! | [`vault`] | sealed segments, their proof and their receipts: directory and SQLite |
//! | [`audit`] | who did what, signed and chained |
//! | [`command`], [`socket`] | what the running daemon can be told, and the way to tell it |
//!
//! Belongs here: everything of the organisation's side. Does not belong here: protocols (`relay`, `trust`), formats
//! (`seal`), opening footage (`play`). One process serves one organisation.

pub mod audit;
pub mod command;
pub mod config;
pub mod recordings;
pub mod socket;
pub mod vault;
