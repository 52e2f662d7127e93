//! Format vectors: what every implementation must accept, refuse and name.

#[path = "vectors/agreed.rs"]
mod agreed;
#[path = "vectors/fuzz.rs"]
mod fuzz;
#[path = "vectors/lone.rs"]
mod lone;

#[path = "vectors/manifest.rs"]
mod manifest;
#[path = "vectors/tamper.rs"]
mod tamper;
#[path = "vectors/world.rs"]
mod world;
