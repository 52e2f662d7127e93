//! The box's assembly: everything is started here in boot order, kept running, and stopped in the opposite order.
//!
//! Belongs here: which service gets which handle, supervision, shutdown, systemd, metrics. Does not belong here: what
//! any service does.

pub mod agreement;
pub mod app;
pub mod cameras;
pub mod cli;
pub mod gather;
pub mod machine;
pub mod metrics;
pub mod runs;
pub mod services;
pub mod supervisor;
pub mod systemd;
pub mod uplink;
