//! What the cloud signs with its receipt key: COMMITTED and JOURNAL_ACK. Proof, not permission.
//!
//! A statement is canonical CBOR followed by 64 bytes of signature over SHA-256(label ‖ CBOR).
//! Spec: `docs/spec/relay.md`, "Statements".

use super::wire::Violation;
use crate::base::cbor;
use crate::base::chain::{Head, PublicKey, Signer};
use crate::base::ids::{BoxId, Digest, OrganisationId, PairingId, SegmentId};
use crate::base::units::WallTime;
use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};

/// Label of COMMITTED.
pub const COMMITTED: &[u8] = b"mvb relay 1 committed\0";
/// Label of JOURNAL_ACK.
pub const JOURNAL_ACK: &[u8] = b"mvb relay 1 journal ack\0";
const MAX_STATEMENT: usize = 1024;

/// The cloud holds a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Committed {
    /// Owner.
    #[n(0)]
    pub organisation: OrganisationId,
    /// For which box.
    #[n(1)]
    pub box_id: BoxId,
    /// Under which agreement.
    #[n(2)]
    pub pairing: PairingId,
    /// Which file.
    #[n(3)]
    pub segment: SegmentId,
    /// Bytes.
    #[n(4)]
    pub size: u64,
    /// Digest.
    #[n(5)]
    pub sha256: Digest,
    /// 1 = written to one disk and synced.
    #[n(6)]
    pub durability: u8,
    /// The key unwrapped and the commitment matched.
    #[n(7)]
    pub opened: bool,
    /// Never used twice by one cloud.
    #[n(8)]
    pub number: u64,
    /// Cloud time.
    #[n(9)]
    pub at: WallTime,
}

/// The cloud holds a box's journal up to a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct JournalAck {
    /// Owner.
    #[n(0)]
    pub organisation: OrganisationId,
    /// Whose journal.
    #[n(1)]
    pub box_id: BoxId,
    /// Up to here.
    #[n(2)]
    pub head: Head,
    /// Cloud time.
    #[n(3)]
    pub at: WallTime,
}

/// Signs a statement.
#[must_use]
pub fn sign<T: Encode<()>>(label: &[u8], value: &T, key: &dyn Signer) -> Vec<u8> {
    let mut bytes = cbor::encode(value);
    let signature = key.sign(&digest(label, &bytes));
    bytes.extend_from_slice(&signature);
    bytes
}

/// Checks and reads a statement.
///
/// # Errors
/// `BadStatement`.
pub fn open<'b, T: Decode<'b, ()>>(label: &[u8], bytes: &'b [u8], key: &PublicKey) -> Result<T, Violation> {
    let (body, signature) = bytes.split_last_chunk::<64>().ok_or(Violation::BadStatement)?;
    if !key.verifies(&digest(label, body), signature) {
        return Err(Violation::BadStatement);
    }
    cbor::decode(body, MAX_STATEMENT).map_err(|_| Violation::BadStatement)
}

fn digest(label: &[u8], body: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update(label).chain_update(body).finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::chain::SoftwareSigner;

    #[test]
    fn a_statement_opens_with_its_key_and_label_only() {
        let key = SoftwareSigner::generate();
        let ack = JournalAck {
            organisation: OrganisationId([1; 16]),
            box_id: BoxId([2; 32]),
            head: Head { seq: 3, hash: Digest([4; 32]) },
            at: WallTime(5),
        };
        let bytes = sign(JOURNAL_ACK, &ack, &key);
        assert_eq!(open::<JournalAck>(JOURNAL_ACK, &bytes, &key.public_key()), Ok(ack));
        assert!(open::<JournalAck>(COMMITTED, &bytes, &key.public_key()).is_err());
        assert!(open::<JournalAck>(JOURNAL_ACK, &bytes, &SoftwareSigner::generate().public_key()).is_err());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(open::<JournalAck>(JOURNAL_ACK, &bad, &key.public_key()).is_err(), "byte {at}");
        }
    }
}
