//! Format vectors: what every implementation must accept, refuse and name.

#[path = "vectors/tamper.rs"]
mod tamper;
#[path = "vectors/world.rs"]
mod world;
