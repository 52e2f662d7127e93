//! Runs in virtual time and with scripted faults.

#[path = "sim/store.rs"]
mod store;
