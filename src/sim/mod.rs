//! Stand-ins for tests and benches (feature `sim`, never in a release): a card that fails on request, cameras, links.
//!
//! Belongs here: seeded, repeatable fakes behind the product's own traits. Does not belong here: anything that a
//! product binary uses.

pub mod camera;
pub mod power;
pub mod volume;
