// SPDX-License-Identifier: Apache-2.0

//! One message in a body: a flag, a length, and the bytes of protobuf.
//!
//! Invariant: never holds more than the limit, whatever length is announced.

use std::{error::Error, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use prost::Message;

use super::status::{Code, Status};
use crate::telemetry::chain;

/// Flag and length.
const PREFIX_BYTES: usize = 5;

/// `message` with its prefix.
pub(super) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    out.put_u8(0);
    // Our messages are limited to far less than four gigabytes on both sides.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message
        .encode(&mut out)
        .expect("the buffer grows as needed");
    out.freeze()
}

/// Reads the first message of a stream, and no further.
pub(super) async fn read_first<B>(body: B, max_bytes: usize) -> Result<Option<Bytes>, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error + 'static,
{
    let mut body = body;
    let mut held = BytesMut::new();
    loop {
        if let Some(length) = announced(&held)
            && let Some(end) = length.checked_add(PREFIX_BYTES)
            && held.len() >= end
        {
            return message(held.split_to(end).freeze());
        }
        let Some(frame) = body.frame().await else {
            return message(held.freeze());
        };
        let frame = frame.map_err(|error| broken(&error))?;
        if let Ok(data) = frame.into_data() {
            held.extend_from_slice(&data);
            check_length(&held, max_bytes)?;
        }
    }
}

/// The length that the prefix tells, once it is there.
fn announced(held: &[u8]) -> Option<usize> {
    let digits = held.get(1..PREFIX_BYTES)?;
    let length = u32::from_be_bytes(digits.try_into().ok()?);
    Some(usize::try_from(length).unwrap_or(usize::MAX))
}

/// Reads a body to its end: the message's bytes, if there is one, and the trailers.
pub(super) async fn read<B>(body: B, max_bytes: usize) -> Result<(Option<Bytes>, HeaderMap), Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error + 'static,
{
    let mut body = body;
    let mut held = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        match frame.into_data() {
            Ok(data) => {
                held.extend_from_slice(&data);
                check_length(&held, max_bytes)?;
            }
            Err(frame) => {
                if let Ok(found) = frame.into_trailers() {
                    trailers = found;
                }
            }
        }
    }
    Ok((message(held.freeze())?, trailers))
}

/// Decodes protobuf.
pub(super) fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes)
        .map_err(|error| Status::invalid(format!("the message cannot be read: {error}")))
}

/// Refuses what is too long as early as it shows.
fn check_length(held: &[u8], max_bytes: usize) -> Result<(), Status> {
    let announced = announced(held).unwrap_or(0);
    if announced > max_bytes || held.len() > max_bytes + PREFIX_BYTES {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!("the message is longer than {max_bytes} bytes"),
        ));
    }
    Ok(())
}

fn message(mut held: Bytes) -> Result<Option<Bytes>, Status> {
    if held.is_empty() {
        return Ok(None);
    }
    if held.len() < PREFIX_BYTES {
        return Err(Status::invalid("the message is cut short"));
    }
    let compressed = held.get_u8();
    let length = usize::try_from(held.get_u32()).unwrap_or(usize::MAX);
    if compressed != 0 {
        return Err(Status::new(
            Code::Unimplemented,
            "compressed messages are not supported",
        ));
    }
    if held.len() != length {
        return Err(Status::invalid(format!(
            "expected one message of {length} bytes, found {}",
            held.len()
        )));
    }
    Ok(Some(held))
}

fn broken(error: &(dyn Error + 'static)) -> Status {
    Status::unavailable(format!("the stream broke off: {}", chain(error)))
}

/// `grpc-timeout`: up to eight digits and a unit.
pub(super) fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, pin::Pin, task::Poll};

    use http_body::Frame;

    use super::*;
    use crate::grpc::messages::{CreateCertificateRequest, CreateCertificateResponse};

    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn request() -> CreateCertificateRequest {
        CreateCertificateRequest {
            csr: "pem".to_owned(),
            validity_duration: 3600,
            metadata: None,
        }
    }

    async fn read_pieces(pieces: Vec<Bytes>, max: usize) -> Result<Option<Bytes>, Status> {
        read(Pieces(pieces.into()), max)
            .await
            .map(|(bytes, _)| bytes)
    }

    #[tokio::test]
    async fn a_message_may_come_byte_by_byte() {
        let encoded = encode(&request());
        let pieces = encoded.chunks(1).map(Bytes::copy_from_slice).collect();
        let bytes = read_pieces(pieces, 100).await.unwrap().unwrap();
        assert_eq!(decode::<CreateCertificateRequest>(bytes), Ok(request()));
    }

    #[tokio::test]
    async fn of_a_stream_the_first_message_is_enough() {
        let encoded = encode(&request());
        let mut pieces: VecDeque<Bytes> = encoded.chunks(3).map(Bytes::copy_from_slice).collect();
        pieces.push_back(Bytes::from_static(&[0, 0]));
        let bytes = read_first(Pieces(pieces), 100).await.unwrap().unwrap();
        assert_eq!(decode::<CreateCertificateRequest>(bytes), Ok(request()));
        let none = read_first(Pieces(VecDeque::new()), 100).await;
        assert_eq!(none, Ok(None));
        let cut = VecDeque::from([encoded.slice(..7)]);
        let refusal = read_first(Pieces(cut), 100).await.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument);
    }

    #[tokio::test]
    async fn an_announced_length_beyond_the_limit_is_refused_at_once() {
        let prefix = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]);
        let refusal = read_pieces(vec![prefix], 100).await.unwrap_err();
        assert_eq!(refusal.code, Code::ResourceExhausted);
        let refusal = read_pieces(vec![Bytes::from(vec![0; 200])], 100).await;
        assert_eq!(refusal.unwrap_err().code, Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn what_is_no_single_message_is_refused() {
        let twice = [encode(&request()), encode(&request())].concat();
        for (bytes, code) in [
            (vec![0, 0, 0], Code::InvalidArgument),
            (vec![0, 0, 0, 0, 9, 1], Code::InvalidArgument),
            (vec![1, 0, 0, 0, 1, 1], Code::Unimplemented),
            (twice, Code::InvalidArgument),
        ] {
            let refusal = read_pieces(vec![bytes.clone().into()], 1000).await;
            assert_eq!(refusal.unwrap_err().code, code, "{bytes:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_protobuf_are_refused() {
        let refusal = decode::<CreateCertificateResponse>(Bytes::from_static(&[0xff]));
        assert_eq!(refusal.unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn timeouts_have_units() {
        assert_eq!(timeout("10S"), Some(Duration::from_secs(10)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("1H"), Some(Duration::from_secs(3600)));
        for wrong in ["", "S", "10", "123456789S", "-1S", "1x", "1\u{e9}"] {
            assert_eq!(timeout(wrong), None, "{wrong}");
        }
    }
}
