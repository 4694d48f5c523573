// SPDX-License-Identifier: Apache-2.0

//! Reads base64 as JSON carries bytes in it (RFC 4648 section 4, padding optional).

use crate::model::token::base64url;

/// The bytes that `text` stands for, in either alphabet.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    base64url::decode(&text.replace('+', "-").replace('/', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_with_and_without_padding() {
        for (text, want) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm9vYg", Some(b"foob")),
            ("-_-_", Some(&[0xfb, 0xff, 0xbf])),
            ("Z", None),
            ("Zm 9v", None),
        ] {
            assert_eq!(decode(text).as_deref(), want, "{text:?}");
        }
    }
}
