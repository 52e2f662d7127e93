//! Identifiers. Each is its own type, so that a camera is never passed where a recording is meant.
//!
//! All random identifiers are 16 bytes, shown as 32 lower-case hex digits.

use data_encoding::HEXLOWER_PERMISSIVE;
use minicbor::{Decode, Decoder, Encode, Encoder};
use std::fmt;
use std::str::FromStr;

/// A text was not the expected number of hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hex digits, got {text:?}")]
pub struct ParseIdError {
    expected: usize,
    text: String,
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| <[u8; $len]>::try_from(bytes).ok())
                    .map(Self)
                    .ok_or_else(|| ParseIdError { expected: 2 * $len, text: text.to_owned() })
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                <[u8; $len]>::try_from(d.bytes()?)
                    .map(Self)
                    .map_err(|_| minicbor::decode::Error::message(concat!(stringify!($name), ": wrong length")))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        byte_id!($(#[$doc])* $name, 16);

        impl $name {
            /// Sixteen bytes from the operating system's generator.
            #[must_use]
            pub fn random() -> Self {
                Self(random_bytes())
            }
        }
    };
}

random_id!(/** One sealed segment file. */ SegmentId);
random_id!(/** The buyer: owner of cameras, keys and footage. */ OrganisationId);
random_id!(/** An enrolled camera of the organisation; it rides in any car. */ CameraId);
random_id!(/** One logical run of a camera, across drops. */ RecordingId);
random_id!(/** One agreement between one box and one cloud. */ PairingId);
random_id!(/** One set of links of one box process. */ BondId);
random_id!(/** One boot of the kernel (`/proc/sys/kernel/random/boot_id`). */ BootId);
byte_id!(
    /** A box: SHA-256 of the DER SubjectPublicKeyInfo of its evidence key. */
    BoxId,
    32
);
byte_id!(
    /** A recipient's public key: the first 16 bytes of SHA-256("mvs1 key" ‖ stanza type ‖ raw public key). */
    KeyId,
    16
);
byte_id!(
    /** SHA-256 of something named by the field that holds it. */
    Digest,
    32
);

/// Bytes from the operating system's generator.
///
/// # Panics
/// If the operating system has no randomness, without which no key may be made.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random generator works");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_its_cbor() {
        let id = CameraId::random();
        assert_eq!(id.to_string().parse::<CameraId>(), Ok(id));
        let bytes = minicbor::to_vec(id).expect("encodes");
        assert_eq!(minicbor::decode::<CameraId>(&bytes).expect("decodes"), id);
        assert!("12".parse::<CameraId>().is_err());
    }
}
