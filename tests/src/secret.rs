// SPDX-License-Identifier: Apache-2.0

//! Secrets that must not be told, and in which forms they could be.
//!
//! Knows nothing of where they are looked for. Invariant: a form is found wherever the secret stands in what
//! was encoded, at the beginning or not.

use std::fmt::Write as _;

/// How a private key of P-256 begins as PKCS #8, up to its number.
pub const P256_PKCS8: &[u8] = &[
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
    0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02,
    0x01, 0x01, 0x04, 0x20,
];

/// How many bytes the number of such a key has.
pub const P256_NUMBER: usize = 32;

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A secret, in every form that it could be told in.
#[derive(Debug)]
pub struct Secret {
    forms: Vec<Vec<u8>>,
}

/// What somebody may read, and should have no secrets in it.
#[derive(Debug)]
pub struct Told {
    text: Vec<u8>,
    /// The same with what was broken into lines, as it is or escaped, joined again.
    joined: Vec<u8>,
}

impl Secret {
    /// Its bytes, hexadecimal and decimal digits, and base64 of whatever holds it.
    ///
    /// # Panics
    /// When it is so short that it could be there by chance.
    #[track_caller]
    pub fn new(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 16, "{} bytes are no secret", bytes.len());
        let digits = |between: &str, form: fn(&u8) -> String| {
            let all: Vec<String> = bytes.iter().map(form).collect();
            all.join(between)
        };
        let lower: fn(&u8) -> String = |byte| format!("{byte:02x}");
        let decimal: fn(&u8) -> String = u8::to_string;
        let mut texts = Vec::new();
        for between in ["", ":", " "] {
            texts.push(digits(between, lower));
            texts.push(digits(between, lower).to_uppercase());
        }
        texts.extend([", ", ","].map(|between| digits(between, decimal)));
        for begin in 0..3 {
            let text = base64_from(bytes, begin);
            texts.push(text.replace('+', "-").replace('/', "_"));
            texts.push(text);
        }
        let texts = texts.into_iter().map(String::into_bytes);
        Self {
            forms: [bytes.to_vec()].into_iter().chain(texts).collect(),
        }
    }

    /// The secret number of a private key of P-256, as PEM.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    pub fn of_key(pem: &str) -> Self {
        let der = from_pem(pem);
        let number = der.strip_prefix(P256_PKCS8);
        let number = number.and_then(|rest| rest.get(..P256_NUMBER));
        Self::new(
            number.unwrap_or_else(|| panic!("no key of P-256 in PKCS #8 in {} bytes", der.len())),
        )
    }
}

impl Told {
    /// What is told: a log, an answer.
    pub fn new(text: Vec<u8>) -> Self {
        let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let joined: Vec<u8> = text
            .iter()
            .copied()
            .filter(|byte| !is_break(byte))
            .collect();
        let joined = String::from_utf8_lossy(&joined).replace("\\n", "");
        Self {
            joined: joined.into_bytes(),
            text,
        }
    }

    /// Whether a secret is in it, however it is written.
    pub fn tells(&self, secret: &Secret) -> bool {
        let mut forms = secret.forms.iter();
        forms.any(|form| contains(&self.text, form) || contains(&self.joined, form))
    }
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    let first = part[0];
    let mut rest = all;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        if rest[at..].starts_with(part) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// The letters of base64 that are `bytes`' alone, whatever is around them, when they begin in the third of
/// three places of a group.
fn base64_from(bytes: &[u8], begin: usize) -> String {
    let skip = (3 - begin) % 3;
    let whole = &bytes[skip..];
    let (groups, _rest) = whole.as_chunks::<3>();
    let mut text = String::new();
    for group in groups {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        for shift in [18, 12, 6, 0] {
            let letter = usize::try_from(bits >> shift & 63).expect("six bits are a place");
            write!(text, "{}", char::from(LETTERS[letter])).expect("a string takes everything");
        }
    }
    text
}

/// The bytes of the first private key of a text.
#[track_caller]
fn from_pem(text: &str) -> Vec<u8> {
    let (_, key) = text
        .split_once("-----BEGIN PRIVATE KEY-----")
        .expect("a private key in PEM");
    let key = key.split('-').next().unwrap_or_default();
    let letters = key.bytes().filter_map(|letter| {
        let place = LETTERS.iter().position(|known| *known == letter)?;
        u32::try_from(place).ok()
    });
    let letters: Vec<u32> = letters.collect();
    let mut bytes = Vec::new();
    for group in letters.chunks(4) {
        let bits = group.iter().fold(0_u32, |bits, letter| bits << 6 | letter);
        let bits = bits << (6 * (4 - group.len()));
        let [_, group_bytes @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(&group_bytes[..group.len() * 6 / 8]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = b"\xfb\xef\xbethe secret of all\xff";

    #[track_caller]
    fn told(text: &[u8], want: bool) {
        let secret = Secret::new(BYTES);
        let shown = String::from_utf8_lossy(text);
        let told = Told::new(text.to_vec());
        assert_eq!(told.tells(&secret), want, "{shown}");
    }

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        for other in ["nothing", "++++dGhlIHNlY3JldCBvZiB", "fbefbe 746865"] {
            told(other.as_bytes(), false);
        }
        told(&[b"before ", BYTES, b" after"].concat(), true);
        for text in [
            "key=fbefbe74686520736563726574206f6620616c6cff.",
            "FB:EF:BE:74:68:65:20:73:65:63:72:65:74:20:6F:66:20:61:6C:6C:FF",
            "[1, 251, 239, 190, 116, 104, 101, 32, 115, 101, 99, 114, 101, 116, 32, 111, 102, 32, 97, 108, 108, 255]",
            "++++dGhlIHNlY3JldCBvZiBhbGz/",
            "----dGhlIHNlY3JldCBvZiBhbGz_",
            // With one letter in front, and with two.
            "ePvvvnRoZSBzZWNyZXQgb2YgYWxs/w==",
            "eHj77750aGUgc2VjcmV0IG9mIGFsbP8=",
            "++++dGhlIHNl\nY3JldCBvZiBhbGz/",
            "++++dGhlIHNl\\nY3JldCBvZiBhbGz/",
        ] {
            told(text.as_bytes(), true);
        }
    }

    #[test]
    fn the_number_of_a_key_is_read_of_its_text() {
        let number: Vec<u8> = (0..32).collect();
        let pem = "-----BEGIN PRIVATE KEY-----\n\
            MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAAECAwQFBgcICQoL\n\
            DA0ODxAREhMUFRYXGBkaGxwdHh8=\n-----END PRIVATE KEY-----\n";
        let secret = Secret::of_key(pem);
        let is_told = |text: &[u8]| Told::new(text.to_vec()).tells(&secret);
        assert!(is_told(&number));
        assert!(is_told(pem.as_bytes()));
        assert!(!is_told(b"-----BEGIN PRIVATE KEY-----"));
    }
}
