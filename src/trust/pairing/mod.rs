//! Pairing: a code carried out of band proves box and cloud to each other, once. Spec: `docs/spec/pairing.md`.
//!
//! [`code`] is what people type, [`messages`] what goes over the wire, [`box_side`] and [`cloud_side`] the two ends,
//! [`state`] what the box keeps afterwards. Does not belong here: sessions (see `relay`).

pub mod box_side;
pub mod cloud_side;
pub mod code;
pub mod messages;
pub mod state;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;

pub use code::Code;
