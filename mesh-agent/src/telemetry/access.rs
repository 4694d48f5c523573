// SPDX-License-Identifier: Apache-2.0

//! The access log: one line per connection and one per request.
//!
//! Requests take Envoy's default text layout and Istio's JSON names; connections take ztunnel's
//! `key=value` fields, tab-separated, and the same names in JSON. Every field name stands here.
//! Knows nothing of where lines go. Invariant: whatever a client sends, a record is one line.

use std::{
    fmt::{self, Write},
    net::SocketAddr,
    time::SystemTime,
};

use serde::Serialize;
use time::OffsetDateTime;

use super::record::{ConnectionRecord, Reporter, RequestRecord};
use crate::model::Workload;

/// Appends the line of a request that ended at `now`, in Envoy's default layout.
pub(super) fn request_text(line: &mut String, record: &RequestRecord<'_>, now: SystemTime) {
    let write = |line: &mut String| -> fmt::Result {
        write!(line, "[{}] \"", start(now, record.duration))?;
        write!(line, "{} {} ", Plain(record.method), Plain(record.path))?;
        write!(
            line,
            "{}\" {} {} ",
            Plain(record.protocol),
            record.status,
            record.flags
        )?;
        let reason = Plain(record.reason.unwrap_or("-"));
        let details = details(record.flags, record.reason);
        write!(line, "{} - \"{reason}\" ", Plain(details))?;
        let duration_ms = record.duration.as_millis();
        write!(
            line,
            "{} {} {duration_ms} ",
            record.request_bytes, record.response_bytes
        )?;
        match record.upstream_duration {
            Some(duration) => write!(line, "{} \"-\" ", duration.as_millis())?,
            None => line.push_str("- \"-\" "),
        }
        write!(line, "\"{}\" ", Plain(or_dash(record.user_agent)))?;
        write!(line, "\"{}\" ", Plain(record.request_id.unwrap_or("-")))?;
        write!(line, "\"{}\" ", Plain(or_dash(record.authority)))?;
        match record.endpoint {
            Some(endpoint) => write!(line, "\"{endpoint}\" ")?,
            None => line.push_str("\"-\" "),
        }
        write!(line, "{} - ", or_dash(record.cluster))?;
        write!(line, "{} {} - ", record.flow.orig_dst, record.flow.peer)?;
        writeln!(line, "{}", or_dash(record.route))
    };
    write(line).expect("a string takes everything");
}

/// Istio's names (EnvoyJsonLogFormat), then ours.
#[derive(Serialize)]
struct RequestLine<'a> {
    start_time: Stamp,
    method: &'a str,
    path: &'a str,
    protocol: &'a str,
    response_code: u16,
    response_flags: &'a str,
    response_code_details: &'a str,
    connection_termination_details: Option<&'a str>,
    upstream_transport_failure_reason: Option<&'a str>,
    bytes_received: u64,
    bytes_sent: u64,
    duration: u128,
    upstream_service_time: Option<u128>,
    x_forwarded_for: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    authority: Option<&'a str>,
    upstream_host: Option<SocketAddr>,
    upstream_cluster: Option<&'a str>,
    upstream_local_address: Option<SocketAddr>,
    downstream_local_address: SocketAddr,
    downstream_remote_address: SocketAddr,
    requested_server_name: Option<&'a str>,
    route_name: Option<&'a str>,
    grpc_status: Option<u32>,
    reporter: &'a str,
    source_workload: Option<&'a str>,
    source_namespace: Option<&'a str>,
    destination_workload: Option<&'a str>,
    destination_namespace: Option<&'a str>,
}

/// Appends the line of a request that ended at `now`, as JSON.
pub(super) fn request_json(line: &mut String, record: &RequestRecord<'_>, now: SystemTime) {
    let flow = &record.flow;
    push_json(
        line,
        &RequestLine {
            start_time: start(now, record.duration),
            method: record.method,
            path: record.path,
            protocol: record.protocol,
            response_code: record.status,
            response_flags: record.flags,
            response_code_details: details(record.flags, record.reason),
            connection_termination_details: None,
            upstream_transport_failure_reason: record.reason,
            bytes_received: record.request_bytes,
            bytes_sent: record.response_bytes,
            duration: record.duration.as_millis(),
            upstream_service_time: record
                .upstream_duration
                .map(|duration| duration.as_millis()),
            x_forwarded_for: None,
            user_agent: present(record.user_agent),
            request_id: record.request_id,
            authority: present(record.authority),
            upstream_host: record.endpoint,
            upstream_cluster: present(record.cluster),
            upstream_local_address: None,
            downstream_local_address: flow.orig_dst,
            downstream_remote_address: flow.peer,
            requested_server_name: None,
            route_name: present(record.route),
            grpc_status: record.grpc,
            reporter: flow.reporter.as_str(),
            source_workload: flow.source.map(|workload| &*workload.name),
            source_namespace: flow.source.map(|workload| &*workload.namespace),
            destination_workload: flow.destination.map(|workload| &*workload.name),
            destination_namespace: flow.destination.map(|workload| &*workload.namespace),
        },
    );
}

/// Appends the line of a connection that ended at `now`, as ztunnel writes it.
pub(super) fn connection_text(line: &mut String, record: &ConnectionRecord<'_>, now: SystemTime) {
    let flow = &record.flow;
    let write = |line: &mut String| -> fmt::Result {
        let level = if record.error.is_some() {
            "error"
        } else {
            "info"
        };
        write!(
            line,
            "{}\t{level}\taccess\tconnection complete\t",
            Stamp(now)
        )?;
        write!(line, "src.addr={}", flow.peer)?;
        workload_text(line, "src", flow.source.map(AsRef::as_ref))?;
        if let Some(identity) = flow.source_identity {
            write!(line, " src.identity=\"{identity}\"")?;
        }
        write!(
            line,
            " dst.addr={}",
            record.endpoint.unwrap_or(flow.orig_dst)
        )?;
        write!(line, " dst.orig_addr={}", flow.orig_dst)?;
        if let Some(service) = flow.service {
            write!(line, " dst.service=\"{}\"", service.hostname)?;
        }
        workload_text(line, "dst", flow.destination.map(AsRef::as_ref))?;
        if let Some(identity) = flow.destination_identity {
            write!(line, " dst.identity=\"{identity}\"")?;
        }
        let security = if flow.mutual_tls {
            "mutual_tls"
        } else {
            "none"
        };
        write!(
            line,
            " direction=\"{}\" security=\"{security}\"",
            direction(flow.reporter)
        )?;
        write!(
            line,
            " bytes_sent={} bytes_recv={}",
            record.bytes_sent, record.bytes_received
        )?;
        write!(
            line,
            " duration=\"{}ms\" flags={}",
            record.duration.as_millis(),
            record.flags
        )?;
        if let Some(error) = record.error {
            write!(line, " error=\"{}\"", Plain(error))?;
        }
        writeln!(line)
    };
    write(line).expect("a string takes everything");
}

fn workload_text(line: &mut String, side: &str, workload: Option<&Workload>) -> fmt::Result {
    workload.map_or(Ok(()), |workload| {
        write!(line, " {side}.workload=\"{}\"", workload.name)?;
        write!(line, " {side}.namespace=\"{}\"", workload.namespace)
    })
}

/// ztunnel's names, then ours.
#[derive(Serialize)]
struct ConnectionLine<'a> {
    time: Stamp,
    level: &'a str,
    scope: &'a str,
    message: &'a str,
    #[serde(rename = "src.addr")]
    src_addr: SocketAddr,
    #[serde(rename = "src.workload")]
    src_workload: Option<&'a str>,
    #[serde(rename = "src.namespace")]
    src_namespace: Option<&'a str>,
    #[serde(rename = "src.identity")]
    src_identity: Option<&'a str>,
    #[serde(rename = "dst.addr")]
    dst_addr: SocketAddr,
    #[serde(rename = "dst.orig_addr")]
    dst_orig_addr: SocketAddr,
    #[serde(rename = "dst.service")]
    dst_service: Option<&'a str>,
    #[serde(rename = "dst.workload")]
    dst_workload: Option<&'a str>,
    #[serde(rename = "dst.namespace")]
    dst_namespace: Option<&'a str>,
    #[serde(rename = "dst.identity")]
    dst_identity: Option<&'a str>,
    direction: &'a str,
    security: &'a str,
    bytes_sent: u64,
    bytes_recv: u64,
    duration: String,
    flags: &'a str,
    error: Option<&'a str>,
}

/// Appends the line of a connection that ended at `now`, as JSON.
pub(super) fn connection_json(line: &mut String, record: &ConnectionRecord<'_>, now: SystemTime) {
    let flow = &record.flow;
    push_json(
        line,
        &ConnectionLine {
            time: Stamp(now),
            level: if record.error.is_some() {
                "error"
            } else {
                "info"
            },
            scope: "access",
            message: "connection complete",
            src_addr: flow.peer,
            src_workload: flow.source.map(|workload| &*workload.name),
            src_namespace: flow.source.map(|workload| &*workload.namespace),
            src_identity: flow.source_identity.map(|identity| identity.as_str()),
            dst_addr: record.endpoint.unwrap_or(flow.orig_dst),
            dst_orig_addr: flow.orig_dst,
            dst_service: flow.service.map(|service| &*service.hostname),
            dst_workload: flow.destination.map(|workload| &*workload.name),
            dst_namespace: flow.destination.map(|workload| &*workload.namespace),
            dst_identity: flow.destination_identity.map(|identity| identity.as_str()),
            direction: direction(flow.reporter),
            security: if flow.mutual_tls {
                "mutual_tls"
            } else {
                "none"
            },
            bytes_sent: record.bytes_sent,
            bytes_recv: record.bytes_received,
            duration: format!("{}ms", record.duration.as_millis()),
            flags: record.flags,
            error: record.error,
        },
    );
}

fn push_json(line: &mut String, value: &impl Serialize) {
    let text = serde_json::to_string(value).expect("these fields are all strings and numbers");
    line.push_str(&text);
    line.push('\n');
}

fn direction(reporter: Reporter) -> &'static str {
    match reporter {
        Reporter::Source => "outbound",
        Reporter::Destination => "inbound",
    }
}

/// Envoy's `%RESPONSE_CODE_DETAILS%` for the first of `flags` that says how it ended; who denies says
/// it in these words already.
fn details<'a>(flags: &str, reason: Option<&'a str>) -> &'a str {
    let first = flags.split(',').find(|flag| !matches!(*flag, "DI" | "URX"));
    match first.unwrap_or("-") {
        "-" => "via_upstream",
        "NC" => "cluster_not_found",
        "NR" => "route_not_found",
        "UH" => "no_healthy_upstream",
        "UF" => "upstream_reset_before_response_started{connection_failure}",
        "UC" => "upstream_reset_before_response_started{connection_termination}",
        "UR" => "upstream_reset_before_response_started{remote_reset}",
        "UT" => "response_timeout",
        "FI" => "fault_filter_abort",
        "UO" => "overflow",
        "RL" => "local_rate_limited",
        "DC" => "downstream_remote_disconnect",
        "DENY" => reason
            .filter(|why| !why.contains(' '))
            .unwrap_or("mesh_agent"),
        _ => "mesh_agent",
    }
}

fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn or_dash(text: &str) -> &str {
    present(text).unwrap_or("-")
}

fn start(now: SystemTime, duration: std::time::Duration) -> Stamp {
    Stamp(now.checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// A moment in RFC 3339, UTC, with milliseconds.
struct Stamp(SystemTime);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from(self.0);
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        let (hour, minute, second) = at.to_hms();
        let milli = at.millisecond();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
        )
    }
}

impl Serialize for Stamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Text from outside: quotes, backslashes and control characters are escaped, so that it can
/// neither end its quotes nor its line.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
            let (plain, tail) = rest.split_at(at);
            f.write_str(plain)?;
            let special = tail.chars().next().expect("something was found there");
            write!(f, "{}", special.escape_default())?;
            rest = &tail[special.len_utf8()..];
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests;
