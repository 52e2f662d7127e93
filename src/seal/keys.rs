//! The keys of one segment, as types: the random DEK, its commitment, and the record key with its nonce.
//!
//! Belongs here: everything that touches the DEK or the AEAD of records. Does not belong here: HPKE (see
//! [`super::recipients`]) and layout (see [`super::sealer`], [`super::open`]). Spec: "Keys".

use crate::base::ids::{Digest, SegmentId};
use crate::seal::frame::{FRAME_HEAD, FrameHead, TAG};
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use std::fmt;
use zeroize::Zeroizing;

/// Where keys come from. Tests pass a seeded source; the product passes [`OsRandomness`].
pub trait Randomness {
    /// Fills `bytes` with unpredictable bytes.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRandomness;

impl Randomness for OsRandomness {
    /// # Panics
    /// If the operating system has no randomness, without which no key may be made.
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system's random generator works");
    }
}

/// A segment's data encryption key. In RAM only, zeroized on drop, never printed.
#[derive(Clone)]
pub(crate) struct Dek(pub(crate) Zeroizing<[u8; 32]>);

impl Dek {
    pub(crate) fn random(randomness: &mut dyn Randomness) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        randomness.fill(bytes.as_mut_slice());
        Self(bytes)
    }

    /// Commits to the key, because AES-GCM does not: two keys that open one ciphertext could show two films.
    pub(crate) fn commitment(&self, segment: SegmentId) -> Digest {
        Digest(self.derive(segment.as_bytes(), b"mvs1 commit"))
    }

    fn record_cipher(&self, header: &Digest) -> Aes256Gcm {
        let key = Zeroizing::new(self.derive(&header.0, b"mvs1 record"));
        Aes256Gcm::new((&*key).into())
    }

    fn derive(&self, salt: &[u8], info: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        Hkdf::<Sha256>::new(Some(salt), self.0.as_slice())
            .expand(info, &mut out)
            .expect("32 bytes are within HKDF's bound of 255 blocks");
        out
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dek(…)")
    }
}

/// SHA-256 of the header bytes as stored.
pub(crate) fn header_digest(header: &[u8]) -> Digest {
    Digest(Sha256::digest(header).into())
}

fn nonce(number: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&u64::from(number).to_be_bytes());
    nonce
}

/// Seals records. Owns the record number, which is the nonce: each number is used once, and a head can only carry the
/// number under which its body was sealed.
pub(crate) struct RecordSealer {
    cipher: Aes256Gcm,
    next: u32,
}

impl RecordSealer {
    pub(crate) fn new(dek: &Dek, header: &Digest) -> Self {
        Self { cipher: dek.record_cipher(header), next: 0 }
    }

    /// Numbers used so far, which is also the next number.
    pub(crate) fn records(&self) -> u32 {
        self.next
    }

    /// Seals in place a frame that holds room for the head, the plaintext, and room for the tag. Returns its number.
    ///
    /// # Panics
    /// After 2^32 - 1 records: with at least 28 bytes each, far beyond every cap on a segment's size.
    pub(crate) fn seal(&mut self, kind: u8, flags: u8, frame: &mut [u8]) -> u32 {
        let number = self.next;
        self.next = number.checked_add(1).expect("a segment's size is capped far below 2^32 records");
        let (head, body) = frame.split_at_mut(FRAME_HEAD);
        let length = u32::try_from(body.len()).expect("bodies are at most MAX_BODY");
        head.copy_from_slice(&FrameHead { kind, flags, number, length }.to_bytes());
        let (text, place) = body.split_at_mut(body.len() - TAG);
        let tag = self
            .cipher
            .encrypt_inout_detached(&Nonce::from(nonce(number)), head, text.into())
            .expect("a body is far below GCM's limit of 64 GiB");
        place.copy_from_slice(&tag);
        number
    }
}

/// Opens records.
pub(crate) struct RecordOpener(Aes256Gcm);

impl RecordOpener {
    pub(crate) fn new(dek: &Dek, header: &Digest) -> Self {
        Self(dek.record_cipher(header))
    }

    /// The plaintext of a whole frame as stored; `None` if it does not authenticate.
    pub(crate) fn open(&self, head: &FrameHead, body: &[u8]) -> Option<Vec<u8>> {
        let split = body.len().checked_sub(TAG)?;
        let (text, tag) = (body.get(..split)?, body.get(split..)?.first_chunk::<TAG>()?);
        let mut text = text.to_vec();
        self.0
            .decrypt_inout_detached(
                &Nonce::from(nonce(head.number)),
                &head.to_bytes(),
                text.as_mut_slice().into(),
                tag.into(),
            )
            .ok()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_once_and_binds_head_and_body() {
        let dek = Dek::random(&mut OsRandomness);
        let header = Digest([1; 32]);
        let mut sealer = RecordSealer::new(&dek, &header);
        let opener = RecordOpener::new(&dek, &header);
        let mut frames = Vec::new();
        for n in 0..3_u32 {
            let mut frame = vec![7; FRAME_HEAD + 5 + TAG];
            assert_eq!(sealer.seal(3, 3, &mut frame), n);
            frames.push(frame);
        }
        assert_ne!(frames[0][FRAME_HEAD..], frames[1][FRAME_HEAD..]);
        for frame in &frames {
            let head = FrameHead::parse(frame).expect("well formed");
            assert_eq!(opener.open(&head, &frame[FRAME_HEAD..]).expect("opens"), [7; 5]);
            for at in 0..frame.len() {
                let mut bad = frame.clone();
                bad[at] ^= 1;
                let opened = FrameHead::parse(&bad).and_then(|head| opener.open(&head, &bad[FRAME_HEAD..]));
                assert!(opened.is_none(), "byte {at}");
            }
        }
        let elsewhere = RecordOpener::new(&dek, &Digest([2; 32]));
        let head = FrameHead::parse(&frames[0]).expect("well formed");
        assert!(elsewhere.open(&head, &frames[0][FRAME_HEAD..]).is_none());
    }
}
