// SPDX-License-Identifier: Apache-2.0

//! The TLS handshake of a bulk session, up to where its records are ours to seal and open.
//!
//! rustls does it without buffers of its own, so nothing that comes behind the handshake is lost in
//! them. Knows nothing of who the peer must be: the configuration's verifier does.
//!
//! Invariant: what was read beyond the handshake is handed on, in order. Reference: RFC 8446.

use std::{collections::VecDeque, io, ops::Deref};

use rustls::{
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, UnbufferedConnectionCommon, UnbufferedStatus,
    },
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::record::{HEAD, Kernel, Opened, Records, record_length};

/// What is read of a handshake at once.
const READ: usize = 4096;

/// What may wait to be understood, in bytes.
const MOST_WAITING: usize = 128 * 1024;

/// One end of a handshake.
pub(super) trait Session: Deref<Target = UnbufferedConnectionCommon<Self::Data>> {
    /// rustls's name for the end.
    type Data;

    /// Looks at what came.
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// The keys, after the handshake.
    fn into_records(self) -> io::Result<Records>;
}

/// A handshake that is done.
pub(super) struct Established<S> {
    pub(super) session: S,
    /// What the peer sent behind it, opened already.
    pub(super) opened: Vec<u8>,
    /// Records behind that.
    pub(super) records: Vec<u8>,
}

/// What is to be done next.
enum Next {
    Look,
    /// Nothing, if the handshake is done.
    Wait,
}

/// Does the handshake over `io`, of which `incoming` was read before.
pub(super) async fn complete<S: Session>(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut session: S,
    mut incoming: Vec<u8>,
) -> io::Result<Established<S>> {
    let (mut outgoing, mut opened) = (Vec::new(), Vec::new());
    loop {
        let UnbufferedStatus { discard, state, .. } = session.process(&mut incoming);
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, &mut outgoing)?;
                Next::Look
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                io.write_all(&outgoing).await?;
                outgoing.clear();
                data.done();
                Next::Look
            }
            Ok(ConnectionState::ReadTraffic(mut data)) => {
                while let Some(record) = data.next_record() {
                    opened.extend_from_slice(record.map_err(invalid)?.payload);
                }
                Next::Look
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Next::Wait,
            Ok(_ended) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => {
                io.write_all(&alert(&mut session)).await?;
                return Err(invalid(error));
            }
        };
        incoming.drain(..discard);
        match next {
            Next::Look => {}
            Next::Wait if session.is_handshaking() => read(io, &mut incoming).await?,
            Next::Wait => {
                return Ok(Established {
                    session,
                    opened,
                    records: incoming,
                });
            }
        }
    }
}

/// Writes a few bytes in a record of their own.
pub(super) async fn write_record(
    io: &mut (impl AsyncWrite + Unpin),
    records: &mut Records,
    bytes: &[u8],
) -> io::Result<()> {
    let mut sealed = VecDeque::new();
    records.seal(bytes, &mut sealed)?;
    for record in sealed {
        io.write_all(&record).await?;
    }
    Ok(())
}

/// Reads the next record that holds bytes, and opens it. `waiting` was read before.
pub(super) async fn read_record(
    io: &mut (impl AsyncRead + Unpin),
    records: &mut Records,
    waiting: &mut Vec<u8>,
    opened: &mut Vec<u8>,
) -> io::Result<()> {
    loop {
        let length = match record_length(waiting)? {
            Some(length) if length <= waiting.len() => length,
            _ => {
                read(io, waiting).await?;
                continue;
            }
        };
        let found = records.open(&mut waiting[..length])?;
        if let Opened::Bytes(count) = found {
            opened.extend_from_slice(&waiting[HEAD..HEAD + count]);
        }
        waiting.drain(..length);
        match found {
            Opened::Bytes(_) => return Ok(()),
            Opened::Nothing => {}
            Opened::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

async fn read(io: &mut (impl AsyncRead + Unpin), incoming: &mut Vec<u8>) -> io::Result<()> {
    if incoming.len() > MOST_WAITING {
        return Err(io::ErrorKind::InvalidData.into());
    }
    incoming.reserve(READ);
    match io.read_buf(incoming).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) -> io::Result<()> {
    let begin = outgoing.len();
    let required = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(error)) => error.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    };
    outgoing.resize(begin + required, 0);
    let written = data.encode(&mut outgoing[begin..]);
    outgoing.truncate(begin + written.map_err(io::Error::other)?);
    Ok(())
}

/// What tells the peer why the handshake failed.
fn alert<S: Session>(session: &mut S) -> Vec<u8> {
    let mut outgoing = Vec::new();
    while let Ok(ConnectionState::EncodeTlsData(mut data)) = session.process(&mut []).state {
        if encode(&mut data, &mut outgoing).is_err() {
            break;
        }
    }
    outgoing
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn into_records(self) -> io::Result<Records> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection().map_err(invalid)?;
        Records::new(secrets, Kernel::Client(kernel))
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn into_records(self) -> io::Result<Records> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection().map_err(invalid)?;
        Records::new(secrets, Kernel::Server(kernel))
    }
}
