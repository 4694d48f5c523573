// SPDX-License-Identifier: Apache-2.0

//! Finds the server name in a TLS client's first message, without answering it.
//!
//! Knows nothing of sockets: bytes in, verdict out, so it can be asked again when more have come.
//! Invariants: a verdict other than [`Hello::Undecided`] never changes with more bytes, and at most
//! [`ENOUGH`] bytes are ever needed. References: RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3.

/// After this many bytes there is always a verdict. A ClientHello with post-quantum key shares takes
/// about 2 KiB; what is larger than this is refused, as by Envoy.
pub const ENOUGH: usize = 16 * 1024;

/// The header of a record: type, version, length.
const RECORD_HEADER: usize = 5;

/// The header of a handshake message: type, length.
const MESSAGE_HEADER: usize = 4;

/// The longest record in plaintext.
const RECORD_MAX: usize = 1 << 14;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// The longest host name there is.
const NAME_MAX: usize = 255;

/// What a client's first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Too few bytes to tell.
    Undecided,
    /// No TLS.
    Other,
    /// A ClientHello, with the name that it asks for, in lower case.
    Tls(Option<String>),
    /// It begins like TLS, but is none, or too large; why.
    Broken(&'static str),
}

/// Judges the first bytes of a client.
pub fn hello(bytes: &[u8]) -> Hello {
    let bytes = &bytes[..bytes.len().min(ENOUGH)];
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let begins = message.is_empty();
        let wrong = |why| match begins {
            true => Hello::Other,
            false => Hello::Broken(why),
        };
        match rest.first() {
            None => return undecided(bytes),
            Some(&HANDSHAKE) => {}
            Some(_) => return wrong("a ClientHello is cut by another record"),
        }
        if rest.get(1).is_some_and(|major| *major != 3) {
            return wrong("a record of an unknown version");
        }
        let Some((header, body)) = rest.split_at_checked(RECORD_HEADER) else {
            return undecided(bytes);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > RECORD_MAX {
            return wrong("a record of a length that there is not");
        }
        let part = &body[..length.min(body.len())];
        message.extend_from_slice(part);
        match whole(&message) {
            Ok(Some(hello)) => return read(hello),
            Ok(None) if part.len() < length => return undecided(bytes),
            Ok(None) => rest = &body[length..],
            Err(verdict) => return verdict,
        }
    }
}

/// More is to come, unless that is too much.
fn undecided(bytes: &[u8]) -> Hello {
    match bytes.len() < ENOUGH {
        true => Hello::Undecided,
        false => Hello::Broken("the ClientHello is too large"),
    }
}

/// The body of the message, if it is there as a whole.
fn whole(message: &[u8]) -> Result<Option<&[u8]>, Hello> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Hello::Other);
    }
    let Some((header, body)) = message.split_at_checked(MESSAGE_HEADER) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]);
    match usize::try_from(length) {
        Ok(length) if length <= ENOUGH => Ok(body.get(..length)),
        _ => Err(Hello::Broken("the ClientHello is too large")),
    }
}

/// Reads a whole ClientHello.
fn read(body: &[u8]) -> Hello {
    match server_name(body) {
        Some(name) => Hello::Tls(name),
        None => Hello::Broken("the ClientHello is not well formed"),
    }
}

/// The name in a ClientHello, if it has one; `None` if it is not well formed.
fn server_name(body: &[u8]) -> Option<Option<String>> {
    let mut fields = Fields(body);
    // The version and the random.
    fields.take(34)?;
    let session = usize::from(fields.byte()?);
    fields.take(session)?;
    fields.list()?;
    let compression = usize::from(fields.byte()?);
    fields.take(compression)?;
    if fields.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Fields(fields.list()?);
    if !fields.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let extension = extensions.list()?;
        if kind == SERVER_NAME {
            // Two names could be read in two ways.
            let first = found.replace(host_name(extension)?);
            if first.is_some() {
                return None;
            }
        }
    }
    Some(found)
}

/// The host name of the extension, in lower case.
fn host_name(extension: &[u8]) -> Option<String> {
    let mut extension = Fields(extension);
    let mut names = Fields(extension.list()?);
    let kind = names.byte()?;
    let name = names.list()?;
    let alone = names.0.is_empty() && extension.0.is_empty() && kind == HOST_NAME;
    let text = std::str::from_utf8(name).ok().filter(|text| {
        let mut bytes = text.bytes();
        !text.is_empty() && text.len() <= NAME_MAX && bytes.all(|byte| byte.is_ascii_graphic())
    })?;
    // The dot at the end is no part of the name.
    let name = text.strip_suffix('.').unwrap_or(text);
    (alone && !name.is_empty()).then(|| name.to_ascii_lowercase())
}

/// What is left to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|one| one[0])
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2).map(|two| u16::from_be_bytes([two[0], two[1]]))
    }

    /// What two bytes give the length of.
    fn list(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(usize::from(length))
    }
}

/// A ClientHello in one record, asking for `name`, with so many bytes of padding: for tests.
#[cfg(test)]
pub(crate) fn sample(name: Option<&str>, padding: u16) -> Vec<u8> {
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let mut extensions = Vec::new();
    // Something unknown first, so that it is skipped.
    extensions.extend([0xfa, 0xfa, 0, 1, 0]);
    if let Some(name) = name {
        extensions.extend([0, 0]);
        extensions.extend(short(name.len() + 5));
        extensions.extend(short(name.len() + 3));
        extensions.push(HOST_NAME);
        extensions.extend(short(name.len()));
        extensions.extend(name.as_bytes());
    }
    extensions.extend([0, 21]);
    extensions.extend(padding.to_be_bytes());
    extensions.extend(vec![0; usize::from(padding)]);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session, one suite, no compression.
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(short(extensions.len()));
    body.extend(extensions);
    let mut record = vec![HANDSHAKE, 3, 1];
    record.extend(short(body.len() + MESSAGE_HEADER));
    record.extend([CLIENT_HELLO, 0]);
    record.extend(short(body.len()));
    record.extend(body);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Hello {
        Hello::Tls(Some(name.to_owned()))
    }

    #[track_caller]
    fn check(bytes: &[u8], want: &Hello) {
        assert_eq!(hello(bytes), *want, "{} bytes", bytes.len());
    }

    /// The same message in records of `size` bytes.
    fn split(record: &[u8], size: usize) -> Vec<u8> {
        let parts = record[RECORD_HEADER..].chunks(size);
        parts
            .flat_map(|part| {
                let length = u16::try_from(part.len()).unwrap().to_be_bytes();
                let header = [HANDSHAKE, 3, 1, length[0], length[1]];
                header.into_iter().chain(part.iter().copied())
            })
            .collect()
    }

    #[test]
    fn the_name_is_found_wherever_the_message_is_cut() {
        let whole = sample(Some("Shop.example.com"), 300);
        for end in 0..whole.len() {
            check(&whole[..end], &Hello::Undecided);
        }
        check(&whole, &named("shop.example.com"));
        check(
            &[&whole[..], b"and more"].concat(),
            &named("shop.example.com"),
        );
        for size in [1, 3, 100] {
            check(&split(&whole, size), &named("shop.example.com"));
        }
    }

    #[test]
    fn a_client_may_ask_for_no_name() {
        check(&sample(None, 0), &Hello::Tls(None));
    }

    #[test]
    fn what_is_not_tls_is_told_by_its_first_bytes() {
        check(b"", &Hello::Undecided);
        check(b"G", &Hello::Other);
        check(b"\x16\x02", &Hello::Other);
        check(b"\x16\x03\x01\x00\x00", &Hello::Other);
        // A ServerHello.
        check(b"\x16\x03\x01\x00\x05\x02", &Hello::Other);
    }

    #[test]
    fn what_is_too_large_is_broken() {
        let large = sample(Some("a"), 16_300);
        let length = large.len();
        assert!(matches!(hello(&large[..length - 1]), Hello::Broken(_)) || length < ENOUGH);
        check(
            b"\x16\x03\x01\x02\x00\x01\x01\x00\x00",
            &Hello::Broken("the ClientHello is too large"),
        );
        let endless = split(&large, 1);
        check(
            &endless[..ENOUGH],
            &Hello::Broken("the ClientHello is too large"),
        );
        check(&endless[..ENOUGH - 1], &Hello::Undecided);
    }

    #[test]
    fn what_lies_about_its_lengths_is_broken() {
        let good = sample(Some("a.b"), 0);
        let broken = Hello::Broken("the ClientHello is not well formed");
        // The length of the session, of the suites, of the extensions, of the name.
        let name = good.windows(3).position(|part| part == b"a.b").unwrap();
        for (at, value) in [(43, 200), (44, 200), (50, 9), (name - 1, 9), (name - 3, 1)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            check(&bytes, &broken);
        }
        check(&sample(Some("a b"), 0), &broken);
        check(&sample(Some(""), 0), &broken);
    }

    #[test]
    fn another_record_within_the_message_is_broken() {
        let mut bytes = split(&sample(Some("a"), 0), 10);
        bytes[15] = 21;
        check(
            &bytes,
            &Hello::Broken("a ClientHello is cut by another record"),
        );
    }
}
