//! Who trusts whom: identities, pins, the TLS configurations, pairing, revocation, the secrets file.
//!
//! Belongs here: the only rustls configurations of the product and everything of `docs/spec/pairing.md`. Does not belong
//! here: what is said after a session stands (see `relay`), who may log in (see `web`).

pub mod identity;
pub mod pairing;
pub mod secrets;
pub mod tls;
#[cfg(test)]
mod tls_tests;
