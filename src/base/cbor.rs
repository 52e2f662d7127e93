//! Canonical CBOR: the only encoding in our formats and protocols (RFC 8949 §4.2.1, restricted).
//!
//! Maps have small unsigned integer keys in rising order; lengths are definite; integers are shortest; no floats, no
//! tags, no null; nesting at most 8. One value has one encoding, so that a hash of the bytes is a hash of the value. A field
//! that a reader does not know is skipped; what every reader must understand changes the version instead. Arrays have
//! exactly their elements: their types are decoded as tuples, because a derived decoder would skip what is too much.

use minicbor::data::Type;
use minicbor::{Decode, Decoder, Encode};

const MAX_DEPTH: u8 = 8;

/// Why bytes are not one canonical value of the expected shape.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not canonical: another encoding of the same value exists and is the right one.
    #[error("not canonical CBOR at byte {at}: {what}")]
    NotCanonical { at: usize, what: &'static str },
    /// Canonical, but not the expected shape.
    #[error("unexpected CBOR")]
    Shape(#[source] minicbor::decode::Error),
    /// Larger than the caller allows.
    #[error("{len} bytes of CBOR, {max} allowed")]
    TooLong { len: usize, max: usize },
}

/// Encodes a value whose type derives a canonical encoding (`#[cbor(map)]` with rising indexes, or `array`).
///
/// # Panics
/// Never for types whose encoders only fail when the writer does.
#[must_use]
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to a Vec does not fail")
}

/// Decodes exactly one canonical value of at most `max` bytes.
///
/// # Errors
/// Anything but one canonical value of the expected shape.
pub fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8], max: usize) -> Result<T, Error> {
    if bytes.len() > max {
        return Err(Error::TooLong { len: bytes.len(), max });
    }
    check(bytes)?;
    minicbor::decode(bytes).map_err(Error::Shape)
}

/// Checks that `bytes` is exactly one canonical value.
///
/// # Errors
/// The first place where it is not.
pub fn check(bytes: &[u8]) -> Result<(), Error> {
    let mut d = Decoder::new(bytes);
    value(&mut d, bytes, 0)?;
    if d.position() == bytes.len() { Ok(()) } else { fail(d.position(), "bytes after the value") }
}

fn fail<T>(at: usize, what: &'static str) -> Result<T, Error> {
    Err(Error::NotCanonical { at, what })
}

fn value(d: &mut Decoder<'_>, all: &[u8], depth: u8) -> Result<(), Error> {
    let at = d.position();
    if depth > MAX_DEPTH {
        return fail(at, "nested too deep");
    }
    shortest_head(all, at)?;
    match d.datatype().map_err(Error::Shape)? {
        Type::U8
        | Type::U16
        | Type::U32
        | Type::U64
        | Type::I8
        | Type::I16
        | Type::I32
        | Type::I64
        | Type::Int
        | Type::Bool
        | Type::Bytes
        | Type::String => d.skip().map_err(Error::Shape),
        Type::Array => {
            let len = d.array().map_err(Error::Shape)?;
            for _ in 0..len.unwrap_or(0) {
                value(d, all, depth + 1)?;
            }
            Ok(())
        }
        Type::Map => {
            let len = d.map().map_err(Error::Shape)?;
            let mut last = None;
            for _ in 0..len.unwrap_or(0) {
                let at = d.position();
                shortest_head(all, at)?;
                let key = d.u64().map_err(Error::Shape)?;
                if last.is_some_and(|last| last >= key) {
                    return fail(at, "map keys do not rise");
                }
                last = Some(key);
                value(d, all, depth + 1)?;
            }
            Ok(())
        }
        _ => fail(at, "a type that the formats do not use"),
    }
}

/// The head of the item at `at` uses the fewest bytes (RFC 8949 §4.2.1) and a definite length.
fn shortest_head(all: &[u8], at: usize) -> Result<(), Error> {
    let Some(&first) = all.get(at) else { return fail(at, "ends too early") };
    let extra = match first & 0x1f {
        0..=23 => return Ok(()),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return fail(at, "indefinite length"),
    };
    if first >> 5 == 7 {
        return fail(at, "a type that the formats do not use");
    }
    let Some(tail) = all.get(at + 1..at + 1 + extra) else { return fail(at, "ends too early") };
    let argument = tail.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let least = match extra {
        1 => 24,
        2 => 1 << 8,
        4 => 1 << 16,
        _ => 1 << 32,
    };
    if argument < least { fail(at, "an integer or length is not shortest") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shortest_sorted_definite_form_is_canonical() {
        for good in [&[0x00][..], &[0x18, 24], &[0xa2, 0, 1, 1, 0x41, 7], &[0x82, 0xf5, 0x20]] {
            assert!(check(good).is_ok(), "{good:02x?}");
        }
        let deep = [[0x81_u8; 12].as_slice(), &[0]].concat();
        for bad in [
            &[][..],
            &[0x18, 23],
            &[0xa2, 1, 1, 0, 1],
            &[0xa2, 1, 1, 1, 1],
            &[0xa1, 0x61, b'a', 0],
            &[0x9f, 0xff],
            &[0x5f, 0x41, 1, 0xff],
            &[0xf9, 0, 0],
            &[0xc0, 0],
            &[0, 0],
            &[0x42, 1],
            &[0xf6],
            &[0xa1, 0, 0xf6],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &deep,
        ] {
            assert!(check(bad).is_err(), "{bad:02x?}");
        }
    }
}
