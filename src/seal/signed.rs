//! Bodies of the clear, signed frames CKPT and END, and what their signatures cover. Spec: "CKPT", "END", "Signature".

use crate::base::cbor;
use crate::base::chain::{SignatureBytes, Signer};
use crate::base::ids::{Digest, SegmentId};
use crate::base::units::{BootTime, Run};
use crate::seal::frame::{FRAME_HEAD, FrameHead, FrameKind, MAX_CLEAR_BODY};
use crate::seal::header::Stanza;
use minicbor::{Decode, Decoder, Encode, Encoder};
use sha2::{Digest as _, Sha256};

/// Bytes of a signature.
pub(crate) const SIGNATURE: usize = 64;

/// Why a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum EndReason {
    /// The next segment of the recording follows.
    #[n(1)]
    Next,
    /// The recording ended.
    #[n(2)]
    Finished,
    /// The recorder's lane was full.
    #[n(3)]
    Overflow,
    /// Recovered after a power cut.
    #[n(4)]
    PowerCut,
    /// Recovered after a crash of the daemon.
    #[n(5)]
    Crash,
    /// The card was removed or failed.
    #[n(6)]
    CardLost,
    /// Ordered shutdown.
    #[n(7)]
    Shutdown,
}

impl EndReason {
    /// Whether a later run wrote the END: the only legal second continuation of a segment.
    #[must_use]
    pub const fn is_recovery(self) -> bool {
        matches!(self, Self::PowerCut | Self::Crash)
    }
}

/// The segment before this one in its recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prev {
    /// The segment and the SHA-256 of its END frame.
    Segment(SegmentId, Digest),
    /// First of its recording.
    First,
    /// The one before was lost or is not known.
    Unknown,
}

impl<C> Encode<C> for Prev {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match self {
            Self::First => e.array(1)?.u8(1)?.ok(),
            Self::Unknown => e.array(1)?.u8(2)?.ok(),
            Self::Segment(segment, end) => e.array(3)?.u8(3)?.bytes(&segment.0)?.bytes(&end.0)?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Prev {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, minicbor::decode::Error> {
        match (d.array()?, d.u8()?) {
            (Some(1), 1) => Ok(Self::First),
            (Some(1), 2) => Ok(Self::Unknown),
            (Some(3), 3) => Ok(Self::Segment(SegmentId::decode(d, c)?, Digest::decode(d, c)?)),
            _ => Err(minicbor::decode::Error::message("prev: unknown form")),
        }
    }
}

/// Body of a CKPT before its signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct CkptBody {
    #[n(0)]
    pub(crate) number: u32,
    #[n(1)]
    pub(crate) records: u32,
    #[n(2)]
    pub(crate) run: Run,
    #[n(3)]
    pub(crate) at: BootTime,
    /// CKPT 0 only: [`Stanza::mark`] of each stanza, joined.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub(crate) stanzas: Option<Vec<u8>>,
}

/// Body of an END before its signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct EndBody {
    #[n(0)]
    pub(crate) reason: EndReason,
    #[n(1)]
    pub(crate) records: u32,
    #[n(2)]
    pub(crate) checkpoints: u32,
    #[n(3)]
    pub(crate) prev: Prev,
    #[n(4)]
    pub(crate) run: Run,
    #[n(5)]
    pub(crate) at: BootTime,
}

pub(crate) fn marks(stanzas: &[Stanza]) -> Vec<u8> {
    stanzas.iter().flat_map(Stanza::mark).collect()
}

/// What a signature is made over. `file` = SHA-256 of every byte of the file before the signature itself.
pub(crate) fn digest(kind: FrameKind, segment: SegmentId, file: &Digest) -> Digest {
    let hash = Sha256::new()
        .chain_update(b"mvs1 sig")
        .chain_update([kind as u8])
        .chain_update(segment.as_bytes())
        .chain_update(file.0)
        .finalize();
    Digest(hash.into())
}

/// Lays out a signed frame and feeds all of it to the file's running hash.
pub(crate) fn sign(
    kind: FrameKind,
    number: u32,
    segment: SegmentId,
    body: &impl Encode<()>,
    hash: &mut Sha256,
    signer: &dyn Signer,
) -> Vec<u8> {
    let body = cbor::encode(body);
    let length = u32::try_from(body.len() + SIGNATURE).expect("a CKPT or END is at most 1 KiB");
    let mut frame = Vec::with_capacity(FRAME_HEAD + body.len() + SIGNATURE);
    frame.extend_from_slice(&FrameHead { kind: kind as u8, flags: 0, number, length }.to_bytes());
    frame.extend_from_slice(&body);
    hash.update(&frame);
    let signature = signer.sign(&digest(kind, segment, &Digest(hash.clone().finalize().into())));
    hash.update(signature);
    frame.extend_from_slice(&signature);
    frame
}

/// A body as stored, split into what is said and the signature; `None` if it is not canonical CBOR of the shape.
pub(crate) fn parse<T: for<'b> Decode<'b, ()>>(body: &[u8]) -> Option<(T, SignatureBytes)> {
    let (said, signature) = body.split_last_chunk::<SIGNATURE>()?;
    Some((cbor::decode(said, MAX_CLEAR_BODY).ok()?, *signature))
}
