//! Runs in virtual time and with scripted faults.

#[path = "sim/store.rs"]
mod store;
#[path = "sim/store_service.rs"]
mod store_service;
