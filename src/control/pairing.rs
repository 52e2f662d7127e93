//! Pairing as people ask for it. The exchange and what is kept belong to `trust` (docs/spec/pairing.md).

use serde::{Deserialize, Serialize};

/// What people do with the pairing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// Pairs with the cloud that made the code → [`super::status::Pairing`].
    Pair {
        /// As shown by the cloud: `HOST/XXXX-XXXX-XXXX-XXXX-XX`.
        code: String,
    },
    /// → [`super::status::Pairing`].
    Status,
    /// Ends the pairing on this side: identity and cloud address are wiped; footage, evidence key and recipients stay.
    Unpair,
}
