// SPDX-License-Identifier: Apache-2.0

//! HTTP clients that count exactly: HTTP/1.1 by hand, HTTP/2 with prior knowledge by hyper.
//!
//! Written out rather than borrowed, so that header case, chunk borders and connection reuse are
//! what the test says. Knows nothing of pods: the calling thread's network is used. Invariant: one
//! [`Http1`] is one connection, and is never reopened behind the caller's back.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

pub mod http2;
pub mod tunnel;

/// No answer for so long is a failure.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A response, whole.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in the order and case of the wire.
    pub headers: Vec<(String, String)>,
    /// Body, without transfer coding.
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Response {
    /// Reads a final response to a request with `method`.
    pub fn read(stream: &mut impl BufRead, method: &str) -> io::Result<Self> {
        loop {
            let mut response = Self::read_head(stream)?;
            // 1xx other than 101 comes before the response proper.
            if response.status >= 200 || response.status == 101 {
                response.read_body(stream, method)?;
                return Ok(response);
            }
        }
    }

    /// Reads a status line and headers.
    pub fn read_head(stream: &mut impl BufRead) -> io::Result<Self> {
        let first = line(stream)?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| invalid(format!("status line {first:?}")))?;
        Ok(Self {
            status,
            headers: fields(stream)?,
            ..Self::default()
        })
    }

    fn read_body(&mut self, stream: &mut impl BufRead, method: &str) -> io::Result<()> {
        if method == "HEAD" || matches!(self.status, 101 | 204 | 304) {
            return Ok(());
        }
        if self
            .header("transfer-encoding")
            .is_some_and(|coding| coding.contains("chunked"))
        {
            return self.read_chunks(stream);
        }
        match self.header("content-length").map(str::parse) {
            Some(Ok(length)) => {
                self.body = vec![0; length];
                stream.read_exact(&mut self.body)
            }
            Some(Err(_)) => Err(invalid("content-length".to_owned())),
            None => stream.read_to_end(&mut self.body).map(drop),
        }
    }

    fn read_chunks(&mut self, stream: &mut impl BufRead) -> io::Result<()> {
        loop {
            let size = line(stream)?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let length = usize::from_str_radix(digits, 16)
                .map_err(|error| invalid(format!("chunk {size:?}: {error}")))?;
            if length == 0 {
                self.trailers = fields(stream)?;
                return Ok(());
            }
            let start = self.body.len();
            self.body.resize(start + length, 0);
            stream.read_exact(&mut self.body[start..])?;
            line(stream)?;
        }
    }

    /// The first header with this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{} {error}: {}", self.status, self.text()))
    }

    /// A text field of a JSON body; empty when it is not there.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_default().to_owned()
    }
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    stream.take(64 * 1024).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|error| invalid(error.to_string()))
}

fn fields(stream: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        let text = line(stream)?;
        if text.is_empty() {
            return Ok(found);
        }
        let (key, value) = text.split_once(':').ok_or_else(|| invalid(text.clone()))?;
        found.push((key.to_owned(), value.trim().to_owned()));
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// One HTTP/1.1 connection.
#[derive(Debug)]
pub struct Http1 {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Http1 {
    /// Connects to `address` (`ip:port`); `host` goes into the requests.
    pub fn connect(address: &str, host: &str) -> io::Result<Self> {
        let stream = connect(address)?;
        Ok(Self {
            stream: BufReader::new(stream),
            host: host.to_owned(),
        })
    }

    /// `GET path`.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request("GET", path, &[], b"")
    }

    /// A request with `headers` as they are written here, and a body when it is not empty.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (key, value) in headers {
            head.push_str(&format!("{key}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        Response::read(&mut self.stream, method)
    }

    /// Whether the other end has closed the connection, as far as it is known here.
    pub fn closed_by_peer(&self) -> bool {
        let stream = self.stream.get_ref();
        let mut byte = [0];
        let seen = stream
            .set_nonblocking(true)
            .and_then(|()| stream.peek(&mut byte));
        let closed = !matches!(&seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).is_err() || closed
    }

    /// The connection, to say what no well-behaved client says.
    pub fn raw(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.stream
    }

    /// The client's own address.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }
}

/// Connects with deadlines on connecting, reading and writing.
pub fn connect(address: &str) -> io::Result<TcpStream> {
    let address: SocketAddr = address
        .parse()
        .map_err(|error| invalid(format!("address {address:?}: {error}")))?;
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// One `GET` on a connection of its own.
pub fn get(address: &str, host: &str, path: &str) -> io::Result<Response> {
    Http1::connect(address, host)?.get(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn read(wire: &str) -> Response {
        Response::read(&mut wire.as_bytes(), "GET").expect("the test's response is well formed")
    }

    #[test]
    fn a_chunked_body_is_joined_and_its_trailers_kept() {
        let wire = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n";
        let response = read(wire);
        assert_eq!(response.text(), "abcde");
        assert_eq!(response.trailers, [("X-Sum".to_owned(), "5".to_owned())]);
    }

    #[test]
    fn an_interim_response_is_passed_over() {
        let wire =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(read(wire).status, 201);
    }

    #[test]
    fn a_body_cut_short_is_an_error() {
        let wire = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc";
        assert!(Response::read(&mut wire.as_bytes(), "GET").is_err());
    }
}
