//! The signed statement COMMITTED. Spec: `docs/spec/relay.md`, "COMMITTED".
//!
//! Belongs here: what this vault promises. Does not belong here: when a receipt may be given (see [`super::commit`]).

use super::ReceiptFields;
use crate::base::chain::Signer;
use crate::relay::statement::{self, Committed};

/// Written to one disk and synced; other values come with other vaults.
const DURABLE_LOCAL: u8 = 1;

/// The signed statement of the fields.
pub(super) fn statement(fields: &ReceiptFields, key: &dyn Signer) -> Vec<u8> {
    let said = Committed {
        organisation: fields.organisation,
        box_id: fields.peer.box_id,
        pairing: fields.peer.pairing,
        segment: fields.segment,
        size: fields.size,
        sha256: fields.sha256,
        durability: DURABLE_LOCAL,
        opened: fields.opened,
        number: fields.number,
        at: fields.at,
    };
    statement::sign(statement::COMMITTED, &said, key)
}
