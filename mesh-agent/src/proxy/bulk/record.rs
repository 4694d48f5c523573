// SPDX-License-Identifier: Apache-2.0

//! Seals and opens the records of a TLS session whose handshake is done.
//!
//! Keys, ciphers, tickets and key updates stay rustls's (its interface for TLS in the kernel); here
//! is only what lies between them and a socket, so that records are opened where they were read and many go out by
//! one system call. Knows nothing of sockets.
//!
//! Invariants: a key seals no more records than its cipher allows; the session ends in order only
//! by close_notify; nothing but application data, tickets, key updates and close_notify is taken.
//! Reference: RFC 8446 sections 4.6, 5 and 6.1.

use std::{collections::VecDeque, io};

use rustls::{
    ConnectionTrafficSecrets, ContentType, ExtractedSecrets, HandshakeType, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
    client::ClientConnectionData,
    crypto::cipher::{
        InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundChunks,
        OutboundPlainMessage,
    },
    kernel::KernelConnection,
    server::ServerConnectionData,
};

/// Bytes before what is sealed.
pub(super) const HEAD: usize = 5;

/// Bytes that are sealed in one record, at most.
pub(super) const MAX_PLAIN: usize = 16 * 1024;

/// Bytes after the head of a record, at most.
const MAX_SEALED: usize = MAX_PLAIN + 256;

/// Bytes of a whole record, at most.
pub(super) const MAX_RECORD: usize = HEAD + MAX_SEALED;

/// A key is replaced after so many records, if its cipher does not want that earlier.
const MOST_RECORDS: u64 = 1 << 23;

/// The message of a key update that asks for none in return.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// What a record held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// So many bytes after its head.
    Bytes(usize),
    /// The peer ends its direction in order.
    End,
    /// What concerns TLS alone.
    Nothing,
}

/// What rustls keeps of a session: it knows how keys and tickets follow from it.
pub(super) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// Both directions' keys.
pub(super) struct Records {
    kernel: Kernel,
    suite: &'static Tls13CipherSuite,
    sealer: Box<dyn MessageEncrypter>,
    sealed: u64,
    opener: Box<dyn MessageDecrypter>,
    opened: u64,
    /// That one key of ours may seal.
    pub(super) most_records: u64,
    /// The peer wants another key of ours.
    owes_update: bool,
}

impl Records {
    pub(super) fn new(secrets: ExtractedSecrets, kernel: Kernel) -> io::Result<Self> {
        let suite = match &kernel {
            Kernel::Client(kernel) => kernel.negotiated_cipher_suite(),
            Kernel::Server(kernel) => kernel.negotiated_cipher_suite(),
        };
        let SupportedCipherSuite::Tls13(suite) = suite else {
            return Err(broken("not TLS 1.3"));
        };
        let ((sealed, tx), (opened, rx)) = (secrets.tx, secrets.rx);
        let mut sealer = sealer(suite, tx)?;
        if sealed > 0 {
            // The cipher takes its first nonce for that of record 0 and refuses later ones that seem to go back
            // from there. What is sealed here is never sent.
            sealer
                .encrypt(plain(ContentType::ApplicationData, &[]), 0)
                .map_err(io::Error::other)?;
        }
        Ok(Self {
            kernel,
            suite,
            sealer,
            sealed,
            opener: opener(suite, rx)?,
            opened,
            most_records: suite.common.confidentiality_limit.min(MOST_RECORDS),
            owes_update: false,
        })
    }

    /// Seals `bytes` into as few records as hold them.
    pub(super) fn seal(&mut self, bytes: &[u8], out: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        for part in bytes.chunks(MAX_PLAIN) {
            if self.sealed >= self.most_records || self.owes_update {
                self.replace_key(out)?;
            }
            out.push_back(self.seal_one(ContentType::ApplicationData, part)?);
        }
        Ok(())
    }

    /// Seals the end of our direction.
    pub(super) fn seal_end(&mut self, out: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        const CLOSE_NOTIFY: [u8; 2] = [1, 0];
        out.push_back(self.seal_one(ContentType::Alert, &CLOSE_NOTIFY)?);
        Ok(())
    }

    fn replace_key(&mut self, out: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        out.push_back(self.seal_one(ContentType::Handshake, &KEY_UPDATE)?);
        let next = match &mut self.kernel {
            Kernel::Client(kernel) => kernel.update_tx_secret(),
            Kernel::Server(kernel) => kernel.update_tx_secret(),
        };
        let (sealed, secrets) = next.map_err(io::Error::other)?;
        self.sealer = sealer(self.suite, secrets)?;
        self.sealed = sealed;
        self.owes_update = false;
        Ok(())
    }

    fn seal_one(&mut self, typ: ContentType, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let sealed = self.sealer.encrypt(plain(typ, bytes), self.sealed);
        self.sealed += 1;
        Ok(sealed.map_err(io::Error::other)?.encode())
    }

    /// Opens a whole record in place.
    pub(super) fn open(&mut self, record: &mut [u8]) -> io::Result<Opened> {
        let (typ, version) = (ContentType::ApplicationData, ProtocolVersion::TLSv1_2);
        let sealed = InboundOpaqueMessage::new(typ, version, &mut record[HEAD..]);
        let plain = self.opener.decrypt(sealed, self.opened);
        let plain = plain.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.opened += 1;
        match (plain.typ, plain.payload) {
            (ContentType::ApplicationData, bytes) => Ok(Opened::Bytes(bytes.len())),
            (ContentType::Alert, [_, 0]) => Ok(Opened::End),
            (ContentType::Alert, _) => Err(broken("the peer gave the session up")),
            (ContentType::Handshake, messages) => {
                let messages = messages.to_vec();
                self.after_handshake(&messages)?;
                Ok(Opened::Nothing)
            }
            _ => Err(broken("a record that has no place here")),
        }
    }

    /// Tickets and key updates; each is whole in its record.
    fn after_handshake(&mut self, mut messages: &[u8]) -> io::Result<()> {
        while let [kind, l0, l1, l2, rest @ ..] = messages {
            let length = u32::from_be_bytes([0, *l0, *l1, *l2]);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some((message, rest)) = rest.split_at_checked(length) else {
                return Err(broken("a message in parts"));
            };
            messages = rest;
            match (HandshakeType::from(*kind), message, &mut self.kernel) {
                (HandshakeType::NewSessionTicket, ticket, Kernel::Client(kernel)) => {
                    let kept = kernel.handle_new_session_ticket(ticket);
                    kept.map_err(io::Error::other)?;
                }
                // Nothing of the old key may follow in the same record.
                (HandshakeType::KeyUpdate, [asks @ (0 | 1)], _) if messages.is_empty() => {
                    self.owes_update |= *asks == 1;
                    self.follow_key()?;
                }
                _ => return Err(broken("a message that has no place here")),
            }
        }
        if messages.is_empty() {
            Ok(())
        } else {
            Err(broken("a message in parts"))
        }
    }

    fn follow_key(&mut self) -> io::Result<()> {
        let next = match &mut self.kernel {
            Kernel::Client(kernel) => kernel.update_rx_secret(),
            Kernel::Server(kernel) => kernel.update_rx_secret(),
        };
        let (opened, secrets) = next.map_err(io::Error::other)?;
        self.opener = opener(self.suite, secrets)?;
        self.opened = opened;
        Ok(())
    }
}

/// The length of the record at the front of `bytes`, if its head is there.
///
/// # Errors
/// If that is no record as there can be after a handshake.
pub(super) fn record_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let [kind, _, _, l0, l1, ..] = bytes else {
        return Ok(None);
    };
    let sealed = usize::from(u16::from_be_bytes([*l0, *l1]));
    if ContentType::from(*kind) != ContentType::ApplicationData || sealed > MAX_SEALED {
        return Err(broken("what comes is no record"));
    }
    Ok(Some(HEAD + sealed))
}

fn plain(typ: ContentType, bytes: &[u8]) -> OutboundPlainMessage<'_> {
    OutboundPlainMessage {
        typ,
        version: ProtocolVersion::TLSv1_2,
        payload: OutboundChunks::Single(bytes),
    }
}

fn sealer(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> io::Result<Box<dyn MessageEncrypter>> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv } => Ok(suite.aead_alg.encrypter(key, iv)),
        _ => Err(broken("a cipher that we do not offer")),
    }
}

fn opener(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> io::Result<Box<dyn MessageDecrypter>> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv } => Ok(suite.aead_alg.decrypter(key, iv)),
        _ => Err(broken("a cipher that we do not offer")),
    }
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
