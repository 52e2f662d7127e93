//! Key files that people handle: one line of text each.
//!
//! ```text
//! mvb-recipient-1 recovery <64 hex digits>     public, to seal to
//! mvb-secret-1 <64 hex digits>                 secret, to open with; mode 0600
//! ```
//! Empty lines and lines that begin with `#` are skipped.

use crate::seal::{RecipientKey, RecipientRole, RecipientSecret};
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use zeroize::Zeroizing;

const SECRET: &str = "mvb-secret-1";
const PUBLIC: &str = "mvb-recipient-1";

/// The text of a secret key file.
#[must_use]
pub fn secret_text(secret: &RecipientSecret) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "# mvb secret key: whoever has it opens the footage\n{SECRET} {}\n",
        HEX.encode(&*secret.to_bytes())
    ))
}

/// The text of a public key file.
#[must_use]
pub fn public_text(key: &RecipientKey) -> String {
    let role = match key.role {
        RecipientRole::Organisation => "organisation",
        RecipientRole::Recovery => "recovery",
    };
    format!("{PUBLIC} {role} {}\n", HEX.encode(&key.public))
}

/// Reads a secret key file; `None` if it is none.
#[must_use]
pub fn read_secret(text: &str) -> Option<RecipientSecret> {
    let mut words = line(text)?.split_ascii_whitespace();
    let (mark, digits, rest) = (words.next()?, words.next()?, words.next());
    if mark != SECRET || rest.is_some() {
        return None;
    }
    let raw = Zeroizing::new(HEX.decode(digits.as_bytes()).ok()?);
    <[u8; 32]>::try_from(raw.as_slice()).ok().map(RecipientSecret::from_bytes)
}

/// Reads the public key of a recovery pair, from its file or as hex digits alone; `None` if it is none.
#[must_use]
pub fn read_recovery(text: &str) -> Option<RecipientKey> {
    let digits = match line(text)?.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        [digits] | [PUBLIC, "recovery", digits] => digits,
        _ => return None,
    };
    let public = HEX.decode(digits.as_bytes()).ok()?.try_into().ok()?;
    Some(RecipientKey { role: RecipientRole::Recovery, public })
}

fn line(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next()?;
    lines.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_file_and_other_files_are_none() {
        let secret = RecipientSecret::generate();
        let read = read_secret(&secret_text(&secret)).expect("reads");
        assert_eq!(*read.to_bytes(), *secret.to_bytes());
        let key = secret.public(RecipientRole::Recovery);
        let public = public_text(&key);
        assert_eq!(read_recovery(&format!("# box 7\n\n{public}")), Some(key.clone()));
        assert_eq!(read_recovery(&HEX.encode(&key.public)), Some(key));
        let organisation = public_text(&secret.public(RecipientRole::Organisation));
        for bad in ["", "hello", "00", &organisation, &secret_text(&secret), &format!("{public}{public}")] {
            assert_eq!(read_recovery(bad), None, "{bad}");
        }
        for bad in ["", "mvb-secret-1", "mvb-secret-1 00", &public, "mvb-secret-1 zz\nmvb-secret-1 00"] {
            assert!(read_secret(bad).is_none(), "{bad}");
        }
    }
}
