// SPDX-License-Identifier: Apache-2.0

//! What commands print, and what they say when there is no agent.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread,
};

use serde_json::json;

use super::*;

/// An empty directory, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mesh-cli-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Something at `path` that answers one request with `answer`.
fn answering(path: &Path, answer: &'static str) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let _read = client.read(&mut request).unwrap();
        client.write_all(answer.as_bytes()).unwrap();
    });
}

#[track_caller]
fn error_of(outcome: Result<Value, CliError>) -> String {
    format!(
        "{:#}",
        anyhow::Error::from(outcome.expect_err("there is no such agent"))
    )
}

fn ask(path: &Path) -> Result<Value, CliError> {
    Client::find_in(Some(path), Path::new("/nowhere"))?.get_json("/status")
}

#[test]
fn without_a_socket_the_first_question_is_whether_an_agent_runs() {
    let scratch = Scratch::new("none");
    let error = Client::find_in(None, &scratch.0).err().unwrap().to_string();
    assert!(
        error.contains("is the agent running on this node?"),
        "{error}"
    );
    let error = error_of(ask(&scratch.0.join("n1.sock")));
    assert!(error.contains("n1.sock: is the agent running?"), "{error}");
}

#[test]
fn of_several_sockets_one_must_be_named() {
    let scratch = Scratch::new("several");
    let _first = UnixListener::bind(scratch.0.join("n1.sock")).unwrap();
    let second = UnixListener::bind(scratch.0.join("n2.sock")).unwrap();
    let error = Client::find_in(None, &scratch.0).err().unwrap().to_string();
    assert!(
        error.contains("--socket") && error.contains("n1.sock, "),
        "{error}"
    );
    // A socket that a dead agent left does not count.
    drop(second);
    assert!(Client::find_in(None, &scratch.0).is_ok());
}

#[test]
fn a_forbidden_socket_is_a_matter_of_the_user() {
    let path = PathBuf::from("/s");
    let source = io::Error::from(io::ErrorKind::PermissionDenied);
    let error = CliError::Permission { path, source }.to_string();
    assert!(error.contains("sudo"), "{error}");
}

#[test]
fn answers_cut_short_are_errors() {
    let scratch = Scratch::new("short");
    for (name, answer, says) in [
        (
            "a",
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}",
            "cut short",
        ),
        ("b", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1.1"),
        (
            "c",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{{",
            "not JSON",
        ),
        ("d", "", "no head"),
        (
            "e",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
            "cut short",
        ),
    ] {
        let path = scratch.0.join(name);
        answering(&path, answer);
        let error = error_of(ask(&path));
        assert!(error.contains(says) && error.contains(name), "{error}");
    }
}

#[test]
fn chunks_are_joined() {
    let scratch = Scratch::new("chunks");
    let path = scratch.0.join("n1.sock");
    answering(
        &path,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n",
    );
    assert_eq!(ask(&path).unwrap(), json!({ "a": 1 }));
}

#[test]
fn the_agents_own_words_are_passed_on() {
    let scratch = Scratch::new("refused");
    let path = scratch.0.join("n1.sock");
    answering(
        &path,
        "HTTP/1.1 404 Not Found\r\ncontent-length: 29\r\n\r\n{\"error\":\"there is no pod x\"}",
    );
    assert_eq!(error_of(ask(&path)), "there is no pod x");
}

#[test]
fn proxy_status_looks_like_istioctls() {
    let row = |name, lds| {
        json!({ "name": name, "cds": "SYNCED", "lds": lds, "eds": "SYNCED", "rds": "NOT SENT",
                "istiod": "n1", "version": "0.1.0", "knownGeneration": 4 })
    };
    let answer = json!([
        row("web.default", "STALE (Never Acknowledged)"),
        row("a.b", "SYNCED")
    ]);
    assert_eq!(
        print::proxy_status(&answer),
        "\
NAME            CDS        LDS                            EDS        RDS          ISTIOD     VERSION
web.default     SYNCED     STALE (Never Acknowledged)     SYNCED     NOT SENT     n1         0.1.0
a.b             SYNCED     SYNCED                         SYNCED     NOT SENT     n1         0.1.0
"
    );
}

#[test]
fn listeners_look_like_istioctls() {
    let answer = json!([
        { "address": "10.96.0.7", "port": 80, "match": "Trans: raw_buffer; App: HTTP",
          "destination": "Route: a.b.svc.cluster.local:80" },
        { "address": "10.1.1.3", "port": "*", "match": "Trans: raw_buffer",
          "destination": "Refused (STRICT)" },
    ]);
    assert_eq!(
        print::listeners(&answer),
        "\
ADDRESS   PORT MATCH                        DESTINATION
10.96.0.7 80   Trans: raw_buffer; App: HTTP Route: a.b.svc.cluster.local:80
10.1.1.3  *    Trans: raw_buffer            Refused (STRICT)
"
    );
}

#[test]
fn clusters_routes_and_endpoints_look_like_istioctls() {
    let clusters = json!([{ "serviceFqdn": "a.b.svc", "port": 80, "subset": "-",
        "direction": "outbound", "type": "EDS", "destinationRule": null }]);
    assert_eq!(
        print::clusters(&clusters),
        "\
SERVICE FQDN     PORT     SUBSET     DIRECTION     TYPE     DESTINATION RULE
a.b.svc          80       -          outbound      EDS
"
    );
    let routes = json!([{ "name": "a.b.svc:80", "domains": "a.b.svc", "match": "/v2*",
        "virtualService": "a.b" }]);
    assert_eq!(
        print::routes(&routes),
        "\
NAME           DOMAINS     MATCH     VIRTUAL SERVICE
a.b.svc:80     a.b.svc     /v2*      a.b
"
    );
    let endpoints = json!([{ "endpoint": "10.1.2.4:8080", "status": "HEALTHY",
        "outlierCheck": "OK", "cluster": "outbound|80||a.b.svc" }]);
    assert_eq!(
        print::endpoints(&endpoints),
        "\
ENDPOINT          STATUS      OUTLIER CHECK     CLUSTER
10.1.2.4:8080     HEALTHY     OK                outbound|80||a.b.svc
"
    );
}

#[test]
fn status_is_a_page_for_people() {
    let answer = json!({
        "node": {
            "name": "n1", "kernel": "6.18.44", "version": "0.1.0", "ready": false,
            "missing": ["batch.default is not captured: no eth0"],
            "config": { "generation": 4, "appliedGeneration": 4, "ageSeconds": 75, "errors": 0,
                        "warnings": 1,
                        "source": { "kind": "kubernetes", "synced": false, "sinceSeconds": 5,
                                    "fromDiskAgeSeconds": 130,
                                    "kinds": [{ "kind": "Pod", "error": "nobody answers" },
                                              { "kind": "Service", "error": null }] } },
            "threads": { "count": 2, "alive": 2, "connections": [2, 1] },
            "droppedLogLines": 0, "droppedAccessLogLines": 0,
            "kernelCounters": { "map_full": 0, "verdict_pass": 3 },
        },
        "pods": [
            { "name": "batch.default", "captured": false, "reason": "no eth0" },
            { "name": "web.default", "captured": true, "capturedSeconds": 11_520, "hook": "tcx",
              "firstContainerAfterCaptureMs": 182,
              "existingConnections": [{ "local": "10.0.0.1:1", "remote": "10.0.0.2:2" }],
              "inbound": { "mode": "STRICT", "ports": { "8080": "PERMISSIVE" } },
              "connections": 3, "identity": "spiffe://x", "counters": { "captured": 7, "dropped": 0 },
              "certificate": { "state": "live", "serial": "0123456789abcdef",
                               "expiresInSeconds": 90_000 } },
        ],
    });
    let want = [
        "Node:     n1 (kernel 6.18.44)",
        "Version:  0.1.0",
        "Ready:    no",
        "          - batch.default is not captured: no eth0",
        "Config:   generation 4 (applied 4), loaded 1m15s ago, errors: 0, warnings: 1",
        "Source:   kubernetes, NOT in step for 5s",
        "          - from disk, 2m10s old",
        "          - Pod: nobody answers",
        "Threads:  2 of 2 alive, connections 2,1",
        "Dropped:  0 log lines, 0 access log lines",
        "Kernel:   verdict_pass=3",
        "",
        "POD             CAPTURED      FIRST CONTAINER       HOOK   INBOUND                    CONNECTIONS   OLDER   IDENTITY     \
         CERTIFICATE   SERIAL     EXPIRES   KERNEL",
        "batch.default   no: no eth0",
        "web.default     for 3h12m     182ms after capture   tcx    STRICT (8080=PERMISSIVE)   3             1       spiffe://x   \
         live          01234567   1d1h      captured=7",
    ];
    let got = print::status(&answer);
    assert_eq!(got.lines().collect::<Vec<_>>(), want);
}

#[test]
fn metrics_can_be_read_as_objects() {
    let text = "# HELP a b\n# TYPE a counter\na{x=\"1\\\"2\\\\\",y=\"\"} 3\nb 0.5\n";
    assert_eq!(
        print::metrics(text),
        json!([
            { "name": "a", "labels": { "x": "1\"2\\", "y": "" }, "value": 3.0 },
            { "name": "b", "labels": {}, "value": 0.5 },
        ])
    );
}

#[test]
fn a_table_of_the_configuration_counts_its_parts() {
    let answer = json!({ "generation": 4, "services": [1, 2] });
    assert_eq!(
        print::config(&answer),
        "PART           COUNT OR VALUE\ngeneration     4\nservices       2\n"
    );
}

#[test]
fn queries_are_encoded() {
    assert_eq!(
        client::query_value("info,a::b=debug"),
        "info%2Ca%3A%3Ab%3Ddebug"
    );
}

#[test]
fn an_agent_that_is_not_ready_says_what_is_missing() {
    let scratch = Scratch::new("ready");
    let path = scratch.0.join("n1.sock");
    let client = Client::find_in(Some(&path), Path::new("/nowhere")).unwrap();
    answering(
        &path,
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 33\r\n\r\n{\"ready\":false,\"missing\":[\"a b\"]}",
    );
    assert_eq!(client.missing().unwrap(), ["a b"]);
    fs::remove_file(&path).unwrap();
    answering(
        &path,
        "HTTP/1.1 200 OK\r\ncontent-length: 27\r\n\r\n{\"ready\":true,\"missing\":[]}",
    );
    assert_eq!(client.missing().unwrap(), [""; 0]);
    assert_eq!(print::ready(&json!({ "missing": [] })), "ready\n");
    assert_eq!(print::ready(&json!({ "missing": ["a", "b"] })), "a\nb\n");
}

#[test]
fn whoever_listens_in_this_process_is_of_our_container() {
    let scratch = Scratch::new("own");
    let path = scratch.0.join("n1.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let client = Client::find_in(Some(&path), Path::new("/nowhere")).unwrap();
    client.is_of_our_container().unwrap();
}
