//! The code that people carry: `HOST[:PORT]/XXXX-XXXX-XXXX-XXXX-XX`.
//!
//! Sixteen symbols of nonce (80 bits) and two of check (10 bits of SHA-256(lower-case host ‖ nonce)), Crockford base32.
//! Spec: `docs/spec/pairing.md`, "Code".

use crate::base::ids::random_bytes;
use crate::base::reason::Coded;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const NONCE_SYMBOLS: usize = 16;
const CHECK_SYMBOLS: usize = 2;
/// Longest host, with port (RFC 1035 allows 253 for a name).
pub const MAX_HOST: usize = 260;
/// Port when the host names none.
pub const DEFAULT_PORT: u16 = 443;

/// A pairing code. Whoever knows it can pair one box until it ends: never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    host: String,
    nonce: Zeroizing<[u8; 10]>,
}

/// Why a text is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// There is no `/`.
    #[error("the code has the form cloud.example.nl/XXXX-XXXX-XXXX-XXXX-XX: the address before the slash is missing")]
    NoHost,
    /// The host is empty, too long, or has characters that no host has.
    #[error("the address before the slash is not a host name")]
    BadHost,
    /// Not 18 symbols.
    #[error("the code has {found} letters and digits after the slash, 18 are needed")]
    Length { found: usize },
    /// A character outside the alphabet.
    #[error("{0:?} does not occur in codes")]
    Symbol(char),
    /// A typing error in host or code.
    #[error("address and code do not belong together: there is a typing error in one of them")]
    Check,
}

impl Coded for CodeError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoHost => "pair-code-no-host",
            Self::BadHost => "pair-code-bad-host",
            Self::Length { .. } => "pair-code-length",
            Self::Symbol(_) => "pair-code-symbol",
            Self::Check => "pair-code-check",
        }
    }
}

impl Code {
    /// A new code for a host.
    ///
    /// # Errors
    /// `BadHost`.
    pub fn generate(host: &str) -> Result<Self, CodeError> {
        Self::with_nonce(host, random_bytes())
    }

    /// A code of a given nonce (vectors).
    ///
    /// # Errors
    /// `BadHost`.
    pub fn with_nonce(host: &str, nonce: [u8; 10]) -> Result<Self, CodeError> {
        Ok(Self { host: check_host(host)?, nonce: Zeroizing::new(nonce) })
    }

    /// The cloud's host as typed, lower case, with the port if one was typed.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Host and port to connect to.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        if let Some((host, port)) = self.host.rsplit_once(':')
            && let Ok(port) = port.parse()
        {
            return (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port);
        }
        (self.host.trim_start_matches('[').trim_end_matches(']').to_owned(), DEFAULT_PORT)
    }

    /// What the code is called on the wire: 4 bytes of HKDF(nonce, "mvb-pair/1 id").
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        self.expand(b"mvb-pair/1 id")
    }

    /// Key of the box's proof.
    #[must_use]
    pub fn box_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.expand(b"mvb-pair/1 box"))
    }

    /// Key of the cloud's proof.
    #[must_use]
    pub fn cloud_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.expand(b"mvb-pair/1 cloud"))
    }

    fn expand<const N: usize>(&self, info: &[u8]) -> [u8; N] {
        let mut out = [0; N];
        Hkdf::<Sha256>::new(None, &*self.nonce).expand(info, &mut out).expect("short outputs are valid");
        out
    }

    fn check(&self) -> u16 {
        let hash = Sha256::new().chain_update(&self.host).chain_update(*self.nonce).finalize();
        u16::from(hash[0]) << 2 | u16::from(hash[1] >> 6)
    }

    /// The whole code, for the person who carries it.
    #[must_use]
    pub fn reveal(&self) -> String {
        let bits = self.nonce.iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        let bits = bits << 10 | u128::from(self.check());
        let mut text = format!("{}/", self.host);
        for at in 0..NONCE_SYMBOLS + CHECK_SYMBOLS {
            if at > 0 && at % 4 == 0 {
                text.push('-');
            }
            let shift = 5 * (NONCE_SYMBOLS + CHECK_SYMBOLS - 1 - at);
            text.push(char::from(ALPHABET[(bits >> shift & 31) as usize]));
        }
        text
    }
}

impl FromStr for Code {
    type Err = CodeError;

    /// Tolerates lower case, missing dashes, spaces, and O, I, L for 0, 1, 1.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        let (host, symbols) = text.trim().rsplit_once('/').ok_or(CodeError::NoHost)?;
        let host = check_host(host.trim().trim_start_matches("https://"))?;
        let mut bits = 0_u128;
        let mut found = 0;
        for symbol in symbols.chars().filter(|c| *c != '-' && !c.is_whitespace()) {
            let plain = match symbol.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let value = ALPHABET.iter().position(|c| char::from(*c) == plain).ok_or(CodeError::Symbol(symbol))?;
            found += 1;
            if found <= NONCE_SYMBOLS + CHECK_SYMBOLS {
                bits = bits << 5 | value as u128;
            }
        }
        if found != NONCE_SYMBOLS + CHECK_SYMBOLS {
            return Err(CodeError::Length { found });
        }
        let mut nonce = Zeroizing::new([0; 10]);
        nonce.copy_from_slice(&(bits >> 10).to_be_bytes()[6..]);
        let code = Self { host, nonce };
        if u128::from(code.check()) == bits & 0x3ff { Ok(code) } else { Err(CodeError::Check) }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}/…)", self.host)
    }
}

fn check_host(host: &str) -> Result<String, CodeError> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if host.is_empty() || host.len() > MAX_HOST || !host.chars().all(known) {
        return Err(CodeError::BadHost);
    }
    Ok(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_how_people_type_it() {
        let code = Code::generate("Cloud.Example.nl").expect("a host");
        let text = code.reveal();
        assert_eq!(text.len(), "cloud.example.nl/".len() + 22);
        for typed in
            [text.clone(), text.to_lowercase(), text.replace('-', ""), text.replace('0', "o").replace('1', "l")]
        {
            assert_eq!(typed.parse::<Code>().as_ref(), Ok(&code), "{typed}");
        }
        assert_eq!(code.address(), ("cloud.example.nl".into(), 443));
    }

    #[test]
    fn most_typing_errors_are_noticed() {
        let code = Code::with_nonce("cloud.example.nl:8443", [7; 10]).expect("a host");
        assert_eq!(code.address(), ("cloud.example.nl".into(), 8443));
        let text = code.reveal();
        let unnoticed = (text.find('/').expect("a slash") + 1..text.len())
            .filter(|at| &text[*at..=*at] != "-")
            .filter(|at| {
                let mut typed = text.clone();
                let other = if &text[*at..=*at] == "7" { "8" } else { "7" };
                typed.replace_range(*at..=*at, other);
                typed.parse::<Code>().is_ok()
            })
            .count();
        assert_eq!(unnoticed, 0);
        assert_eq!(text.replace("cloud", "clowd").parse::<Code>(), Err(CodeError::Check));
        assert_eq!("K7QM".parse::<Code>(), Err(CodeError::NoHost));
        assert_eq!("a.nl/K7QM".parse::<Code>(), Err(CodeError::Length { found: 4 }));
        assert_eq!("a.nl/K7QU-".parse::<Code>(), Err(CodeError::Symbol('U')));
        assert_eq!("a b/7777".parse::<Code>(), Err(CodeError::BadHost));
    }
}
