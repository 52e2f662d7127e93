//! Runs in virtual time and with scripted faults.

#[path = "sim/ingest.rs"]
mod ingest;
#[path = "sim/ingest_fuzz.rs"]
mod ingest_fuzz;
#[path = "sim/ingest_sessions.rs"]
mod ingest_sessions;
#[path = "sim/ingest_world.rs"]
mod ingest_world;
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
