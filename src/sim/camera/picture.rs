//! Pictures and sounds that carry a number: whole or broken is told from their bytes alone.

/// Sequence parameter set of a baseline stream.
pub const SPS: [u8; 10] = [0x67, 0x42, 0xc0, 0x1e, 0xd9, 0, 0xa0, 0x47, 0xfe, 0x88];
/// Its picture parameter set.
pub const PPS: [u8; 4] = [0x68, 0xce, 0x3c, 0x80];
const KEY: u8 = 0x65;
const DELTA: u8 = 0x41;
/// NAL header, slice header, number, length.
const HEAD: usize = 10;

/// One picture: its NAL units in order, without start codes or lengths. The slice has `size` bytes (at least 10): number
/// and length in front, then a pattern that depends on both. A key picture has its parameter sets in band.
#[must_use]
pub fn picture(number: u32, key: bool, size: usize) -> Vec<Vec<u8>> {
    let slice = slice(if key { KEY } else { DELTA }, number, size);
    if key { vec![SPS.to_vec(), PPS.to_vec(), slice] } else { vec![slice] }
}

/// One sound of `size` bytes (at least 10), coded as nothing that plays.
#[must_use]
pub fn sound(number: u32, size: usize) -> Vec<u8> {
    slice(0x21, number, size)
}

fn slice(kind: u8, number: u32, size: usize) -> Vec<u8> {
    let size = size.max(HEAD);
    let mut bytes = Vec::with_capacity(size);
    bytes.extend([kind, 0x88]);
    bytes.extend(number.to_be_bytes());
    bytes.extend(u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend((HEAD..size).map(|at| (number as usize).wrapping_mul(31).wrapping_add(at * 7) as u8 | 1));
    bytes
}

/// What came of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub number: u32,
    /// Sent as a key picture.
    pub key: bool,
    /// Every byte is there, parameter sets too.
    pub whole: bool,
}

/// Reads an access unit of NAL units with 4-byte lengths; `None` if its slice's beginning is missing.
#[must_use]
pub fn seen(data: &[u8]) -> Option<Seen> {
    let nals = nals(data);
    let slice = nals.iter().find(|nal| matches!(nal.first(), Some(&(KEY | DELTA))))?;
    let (number, size) = head(slice)?;
    let key = slice.first() == Some(&KEY);
    let sent = picture(number, key, size);
    Some(Seen {
        number,
        key,
        whole: nals.len() == sent.len() && nals.iter().zip(&sent).all(|(got, sent)| *got == sent),
    })
}

/// The number of a sound that is whole.
#[must_use]
pub fn heard(data: &[u8]) -> Option<u32> {
    let (number, size) = head(data)?;
    (data == sound(number, size)).then_some(number)
}

fn head(slice: &[u8]) -> Option<(u32, usize)> {
    let number = u32::from_be_bytes(*slice.get(2..)?.first_chunk()?);
    let size = u32::from_be_bytes(*slice.get(6..)?.first_chunk()?) as usize;
    // A length that a broken slice made up is not built.
    (size <= 16 * 1024 * 1024).then_some((number, size))
}

fn nals(mut data: &[u8]) -> Vec<&[u8]> {
    let mut nals = Vec::new();
    while let Some((len, rest)) = data.split_first_chunk::<4>() {
        let len = (u32::from_be_bytes(*len) as usize).min(rest.len());
        nals.push(&rest[..len]);
        data = &rest[len..];
    }
    nals
}
