//! Runs in virtual time and with scripted faults.

#[path = "sim/relay.rs"]
mod relay;
#[path = "sim/relay_refusals.rs"]
mod relay_refusals;
#[path = "sim/relay_world.rs"]
mod relay_world;
#[path = "sim/store.rs"]
mod store;
#[path = "sim/store_service.rs"]
mod store_service;
