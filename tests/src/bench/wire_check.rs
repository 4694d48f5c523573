// SPDX-License-Identifier: Apache-2.0

//! Whether what the pods say can be read on the wire between the nodes.
//!
//! One request of each protocol while a capture runs. Knows nothing of planes' insides.
//! Invariant: a plane that does not answer is not measured.

use super::{
    application,
    plane::Plane,
    sample::guarded,
    stage::{FILLER, GRPC, HOST, HTTP1, HTTP2, TCP},
};
use crate::{Wire, command::run, wire::Crossed};

/// How much of the body is searched for.
const MARKER: usize = 64;

/// What iperf3 says about itself when it connects.
const BULK_MARKER: &[u8] = b"\"tcp\":true";

/// Sends requests, and says what is to be read on the wire.
///
/// # Errors
/// Which request was not answered.
#[track_caller]
pub(super) fn look(plane: &Plane) -> Result<String, String> {
    if plane.stage.one_node {
        ask_all(plane)?;
        return Ok("none: one node".to_owned());
    }
    let crossed = match captured(plane)? {
        Ok(crossed) => crossed,
        // It says nothing about the plane.
        Err(why) => {
            eprintln!("{}: captured once more: {why}", plane.name);
            captured(plane)??
        }
    };
    judge(&crossed)
}

/// What crosses while every protocol is spoken, or why that was not captured whole.
fn captured(plane: &Plane) -> Result<Result<Crossed, String>, String> {
    let wire = Wire::listen(&plane.stage.lab);
    let answered = ask_all(plane);
    let crossed = guarded(|| Ok(wire.stop()));
    answered.map(|()| crossed)
}

fn judge(crossed: &Crossed) -> Result<String, String> {
    if crossed.payload_bytes() == 0 {
        return Err("nothing crosses the wire between the nodes".to_owned());
    }
    let hits = crossed.hits(&FILLER.repeat(MARKER)) + crossed.hits(BULK_MARKER);
    Ok(match (hits, crossed.tls_records()) {
        (0, Ok(records)) => format!("encrypted: {records} TLS records and nothing else"),
        (0, Err(other)) => format!("bodies cannot be read, but not all is TLS: {other}"),
        (_, _) => "clear text".to_owned(),
    })
}

fn ask_all(plane: &Plane) -> Result<(), String> {
    let get = |port: u16, version: &str| {
        let url = format!("http://{HOST}:{port}/");
        curl(plane, &[version, &url], "x")
    };
    get(HTTP1, "--http1.1")?;
    get(HTTP2, "--http2-prior-knowledge")?;
    let body = format!("@{}", plane.stage.grpc_body().display());
    let url = format!("http://{HOST}:{GRPC}{}", application::METHOD);
    let words = ["--http2-prior-knowledge", "--data-binary", &body];
    let headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"];
    let written = ["--output", "/dev/null", "--dump-header", "-", &url];
    let words = [&words[..], &headers, &written].concat();
    curl(plane, &words, "grpc-status: 0")?;
    let mut iperf3 = plane.stage.client.command("timeout");
    iperf3.args(["10", "iperf3", "--client", HOST]);
    let ran = run(iperf3.args(["--port", &TCP.to_string(), "--bytes", "256K"]));
    if ran.ok() {
        Ok(())
    } else {
        Err(format!(
            "iperf3: {}{}{}",
            ran.stderr,
            ran.stdout,
            plane.last_words()
        ))
    }
}

fn curl(plane: &Plane, words: &[&str], want: &str) -> Result<(), String> {
    let ran = plane.stage.client.curl(&[&["--fail"], words].concat());
    if ran.ok() && ran.stdout.contains(want) {
        return Ok(());
    }
    Err(format!(
        "curl {} ended with {}: {}{:.200}\n{}",
        words.join(" "),
        ran.code,
        ran.stderr,
        ran.stdout,
        plane.last_words()
    ))
}
