//! The signed statement COMMITTED. Spec: `docs/spec/relay.md`, "COMMITTED".
//!
//! Belongs here: laying out and signing. Does not belong here: when a receipt may be given (see [`super::commit`]).

use super::ReceiptFields;
use crate::base::cbor;
use crate::base::chain::Signer;
use crate::base::ids::{BoxId, Digest, OrganisationId, PairingId, SegmentId};
use crate::base::units::WallTime;
use minicbor::Encode;
use sha2::{Digest as _, Sha256};

/// Written to one disk and synced; other values come with other vaults.
const DURABLE_LOCAL: u8 = 1;

#[derive(Encode)]
#[cbor(map)]
struct Statement {
    #[n(0)]
    organisation: OrganisationId,
    #[n(1)]
    box_id: BoxId,
    #[n(2)]
    pairing: PairingId,
    #[n(3)]
    segment: SegmentId,
    #[n(4)]
    size: u64,
    #[n(5)]
    sha256: Digest,
    #[n(6)]
    durability: u8,
    #[n(7)]
    opened: bool,
    #[n(8)]
    number: u64,
    #[n(9)]
    at: WallTime,
}

/// Canonical CBOR of the fields, then the 64-byte signature by the receipt key.
pub(super) fn statement(fields: &ReceiptFields, key: &dyn Signer) -> Vec<u8> {
    let mut bytes = cbor::encode(&Statement {
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
    });
    let digest = Sha256::new().chain_update(b"mvb relay 1 committed\0").chain_update(&bytes).finalize();
    let signature = key.sign(&Digest(digest.into()));
    bytes.extend_from_slice(&signature);
    bytes
}
