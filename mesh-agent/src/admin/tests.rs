// SPDX-License-Identifier: Apache-2.0

//! The admin socket, asked over real sockets.

use std::{fs, net::Ipv4Addr, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UnixStream},
};

use super::{samples::Sample, *};
use crate::proxy::{Budget, BudgetView};

/// A served sample; its socket's directory is removed at the end.
struct Served {
    sample: Sample,
    path: PathBuf,
}

impl Served {
    async fn new(name: &str, sample: Sample) -> Self {
        let dir = std::env::temp_dir().join(format!("mesh-serve-{name}-{}", std::process::id()));
        let path = dir.join("n1.sock");
        serve(&path, sample.views.clone(), &sample.tasks)
            .await
            .unwrap();
        Self { sample, path }
    }

    async fn send(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        split(&answer)
    }

    async fn ask(&self, method: &str, target: &str) -> (u16, Value) {
        let (status, body) = self
            .send(&format!("{method} {target} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let body = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        (status, body)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(self.path.parent().unwrap()));
    }
}

#[track_caller]
fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn readiness_lists_what_is_missing_until_nothing_is() {
    let served = Served::new("unready", Sample::new()).await;
    let (status, body) = served.ask("GET", "/ready").await;
    assert_eq!(status, 503);
    assert_eq!(
        body,
        json!({ "ready": false, "missing": [
            "the kernel works with generation 0 of the configuration, not yet with 4",
            "data threads work with generation 0 of the configuration, not yet with 4",
            "web.default is not captured: the kernel knows nothing of it yet",
        ] })
    );
    let served = Served::new("ready", Sample::ready().await).await;
    assert_eq!(
        served.ask("GET", "/ready").await,
        (200, json!({ "ready": true, "missing": [] }))
    );
}

#[tokio::test]
async fn a_pod_that_the_kernel_lost_makes_the_agent_unready() {
    let served = Served::new("lost", Sample::ready().await).await;
    served.sample.observation.lock().unwrap().pods[0].error = Some("no eth0".to_owned());
    let (status, body) = served.ask("GET", "/ready").await;
    assert_eq!(status, 503);
    assert_eq!(body["missing"][0], "web.default is not captured: no eth0");
}

#[tokio::test]
async fn an_agent_without_configuration_is_not_ready() {
    let served = Served::new("empty", Sample::ready().await).await;
    served.sample.snapshot.send_replace(Arc::default());
    let (_, body) = served.ask("GET", "/ready").await;
    assert_eq!(body["missing"], json!(["the configuration is not loaded"]));
}

#[tokio::test]
async fn status_tells_what_the_kernel_says() {
    let served = Served::new("status", Sample::ready().await).await;
    let (_, body) = served.ask("GET", "/status").await;
    let (batch, web) = (&body["pods"][0], &body["pods"][1]);
    assert_eq!(
        (&batch["name"], &batch["captured"], &batch["reason"]),
        (
            &json!("batch.default"),
            &json!(false),
            &json!("it is not enrolled")
        )
    );
    assert_eq!(web["captured"], true);
    assert_eq!(web["hook"], "tcx");
    assert_eq!(web["connections"], 3);
    assert_eq!(web["counters"]["captured"], 7);
    assert_eq!(
        web["inbound"],
        json!({ "mode": "STRICT", "ports": { "8080": "PERMISSIVE" } })
    );
    assert_eq!(web["certificate"]["state"], "live");
    assert_eq!(body["node"]["kernel"], "6.18.44");
    assert_eq!(body["node"]["config"]["warnings"], 1);
    served.sample.observation.lock().unwrap().pods.clear();
    let (_, body) = served.ask("GET", "/status").await;
    assert_eq!(
        body["pods"][1]["captured"], false,
        "enrolled is not captured"
    );
}

#[tokio::test]
async fn proxy_status_compares_what_is_known_with_what_is_applied() {
    let served = Served::new("sync", Sample::ready().await).await;
    let (_, body) = served.ask("GET", "/proxy-status").await;
    assert_eq!(body[0]["name"], "web.default");
    assert_eq!(
        (&body[0]["cds"], &body[0]["lds"]),
        (&json!("SYNCED"), &json!("SYNCED"))
    );
    served.sample.proxy.lock().unwrap().applied_generation = 3;
    served.sample.observation.lock().unwrap().pods.clear();
    let (_, body) = served.ask("GET", "/proxy-status").await;
    assert_eq!(body[0]["rds"], "STALE");
    assert_eq!(body[0]["lds"], "STALE (Never Acknowledged)");
}

#[tokio::test]
async fn proxy_config_shows_a_pods_view() {
    let served = Served::new("config", Sample::ready().await).await;
    let (_, rows) = served
        .ask("GET", "/proxy-config/listeners?pod=web.default")
        .await;
    assert_eq!(
        rows[0]["destination"],
        "Route: recommendations.default.svc.cluster.local:80"
    );
    assert_eq!(
        rows[1]["destination"],
        "Cluster: outbound|3306||recommendations.default.svc.cluster.local"
    );
    assert_eq!(
        rows[4],
        json!({
            "address": "10.1.1.3", "port": "*", "match": "Trans: raw_buffer",
            "destination": "Refused (STRICT)", "direction": "inbound",
        })
    );
    let (_, rows) = served.ask("GET", "/proxy-config/clusters?pod=web").await;
    assert_eq!(rows.as_array().unwrap().len(), 3);
    assert_eq!(
        (&rows[1]["subset"], &rows[1]["port"]),
        (&json!("v2"), &json!(80))
    );
    assert_eq!(rows[1]["destinationRule"], "recommendations.default");
    let (_, rows) = served.ask("GET", "/proxy-config/routes?pod=web").await;
    assert_eq!(rows[0]["match"], "/*");
    assert_eq!(rows[0]["virtualService"], "recommendations.default");
    let (_, rows) = served
        .ask("GET", "/proxy-config/endpoints?pod=web&port=3306")
        .await;
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(rows[0]["endpoint"], "10.1.2.4:8080");
    assert_eq!(rows[0]["protocol"], "HBONE");
}

#[tokio::test]
async fn refusals_say_what_would_have_been_right() {
    let served = Served::new("refusals", Sample::ready().await).await;
    for (method, target, status, says) in [
        ("GET", "/nothing", 404, "/status"),
        ("POST", "/status", 405, "does not take POST"),
        ("PUT", "/log?level=loud", 400, "use error, warn"),
        ("PUT", "/log", 400, "/log?level=debug"),
        (
            "GET",
            "/proxy-config/secrets?pod=web",
            404,
            "listeners, clusters",
        ),
        ("GET", "/proxy-config/routes", 400, "?pod="),
        (
            "GET",
            "/proxy-config/routes?pod=web&port=http",
            400,
            "not a port",
        ),
        ("GET", "/proxy-config/routes?pod=nobody", 404, "web.default"),
        (
            "GET",
            "/proxy-config/routes?pod=recommendations-v2",
            404,
            "node n2",
        ),
        (
            "GET",
            "/proxy-config/routes?pod=batch.default",
            404,
            "not enrolled",
        ),
    ] {
        let (got, body) = served.ask(method, target).await;
        let text = body["error"].as_str().unwrap_or_default();
        assert_eq!(got, status, "{method} {target}: {body}");
        assert!(text.contains(says), "{method} {target}: {text}");
    }
}

#[tokio::test]
async fn the_log_level_can_be_changed() {
    let served = Served::new("log", Sample::new()).await;
    assert_eq!(
        served.ask("PUT", "/log?level=debug").await,
        (200, json!({ "level": "debug" }))
    );
    assert_eq!(served.sample.views.log.get(), "debug");
    assert_eq!(served.ask("GET", "/log").await.1["level"], "debug");
}

#[tokio::test]
async fn the_loopback_address_tells_metrics_and_readiness_alone() {
    let sample = Sample::ready().await;
    let address = ([127, 0, 0, 1], 0).into();
    let bound = serve_metrics(address, sample.views.clone(), &sample.tasks)
        .await
        .unwrap();
    for (target, status, says) in [
        (
            "/metrics",
            200,
            "mesh_agent_captured{namespace=\"default\",pod=\"web\"} 1",
        ),
        ("/ready", 200, "true"),
        ("/config", 404, "/metrics, /ready"),
        ("/log", 404, "/metrics, /ready"),
    ] {
        let socket = TcpSocket::new_v4().unwrap();
        let mut stream = socket.connect(bound).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (got, body) = split(&answer);
        assert_eq!(got, status, "{target}");
        assert!(body.contains(says), "{target}: {body}");
    }
    let everywhere = ([0, 0, 0, 0], 0).into();
    let error = serve_metrics(everywhere, sample.views.clone(), &sample.tasks).await;
    assert!(matches!(error, Err(AdminError::NotLoopback { .. })));
}

#[tokio::test]
async fn clients_that_send_nonsense_or_leave_harm_nobody() {
    let served = Served::new("nonsense", Sample::ready().await).await;
    for _ in 0..50 {
        let mut gone = UnixStream::connect(&served.path).await.unwrap();
        gone.write_all(b"GET /config HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        drop(gone);
    }
    let endless = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let mut stream = UnixStream::connect(&served.path).await.unwrap();
    // It is refused while it still writes.
    drop(stream.write_all(endless.as_bytes()).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(answer.starts_with(b"HTTP/1.1 431") || answer.is_empty());
    assert_eq!(served.ask("GET", "/ready").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn silent_clients_are_bounded_in_number_and_time() {
    let served = Served::new("silent", Sample::ready().await).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(UnixStream::connect(&served.path).await.unwrap());
    }
    // Beyond the bound a client waits for the deadline of those before it, and is answered.
    assert_eq!(served.ask("GET", "/ready").await.0, 200);
    for (name, live) in served.sample.tasks.live() {
        assert!(
            name != "admin-client" || live <= 8,
            "{live} clients at a time"
        );
    }
}

#[tokio::test]
async fn the_socket_goes_when_the_drain_begins() {
    let served = Served::new("drain", Sample::new()).await;
    assert_eq!(fs::metadata(&served.path).unwrap().mode() & 0o777, 0o600);
    served.sample.tasks.begin_drain();
    let left = served.sample.tasks.drained(Duration::from_secs(10)).await;
    assert_eq!(left, []);
    assert!(!served.path.exists());
}

#[tokio::test]
async fn the_whole_configuration_and_its_problems_can_be_read() {
    let sample = Sample::new();
    let web = sample
        .snapshot
        .borrow()
        .local_enrolled()
        .next()
        .unwrap()
        .clone();
    let held = BudgetView {
        budget: Budget::Connections,
        side: "inbound",
        used: 3,
        limit: 40,
        held_back: 2,
        refused: 1,
        peers: vec![(Ipv4Addr::new(10, 0, 0, 9).into(), 2)],
    };
    let budgets = [(web.uid.clone(), vec![held])].into();
    sample.proxy.lock().unwrap().budgets = budgets;
    let served = Served::new("dump", sample).await;
    let (_, body) = served.ask("GET", "/config").await;
    assert_eq!(body["generation"], 4);
    let (_, status) = served.ask("GET", "/status").await;
    let of = |rows: &Value| {
        let mut rows = rows.as_array().unwrap().iter();
        rows.find(|row| row["uid"] == *web.uid.0).unwrap()["budgets"].clone()
    };
    let dumped = of(&body["workloads"]);
    assert_eq!(dumped["inbound"]["connections"]["used"], 3);
    assert_eq!(dumped, of(&status["pods"]));
    let kept = body["workloads"].as_array().unwrap().iter();
    assert_eq!(kept.filter(|row| !row["budgets"].is_null()).count(), 1);
    assert_eq!(body["workloads"].as_array().unwrap().len(), 3);
    assert_eq!(
        body["services"][0]["ports"][0]["routes"]["rules"][0]["name"],
        "canary"
    );
    let (_, problems) = served.ask("GET", "/problems").await;
    assert_eq!(body["problems"], problems);
    assert_eq!(problems[0]["code"], "IST0101");
}

/// A served sample that hands over.
async fn with_desk(name: &str) -> (Served, Desk) {
    let (hand_over, desk) = desk();
    let mut sample = Sample::ready().await;
    sample.views.hand_over = hand_over;
    (Served::new(name, sample).await, desk)
}

fn successor() -> Successor {
    Successor {
        version: "9.9.9".to_owned(),
        abi: 7,
        socket: "/run/next one.sock".into(),
    }
}

#[tokio::test]
async fn a_successor_is_answered_once_the_agent_has_let_go() {
    let (served, mut desk) = with_desk("granted").await;
    let agent = async {
        let wish = desk.wish().await;
        assert_eq!(wish.successor, successor());
        desk.close();
        wish.grant();
    };
    let own = successor();
    let (asked, ()) = tokio::join!(ask_to_hand_over(&served.path, &own), agent);
    asked.unwrap();
    // The place is the successor's now, and what it makes there stays.
    loop {
        match serve(&served.path, served.sample.views.clone(), &Tasks::new()).await {
            Ok(()) => break,
            Err(error) => assert!(error.is_taken(), "{error}"),
        }
        tokio::task::yield_now().await;
    }
    assert!(served.path.exists());
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason() {
    let (served, mut desk) = with_desk("refused").await;
    let own = successor();
    let agent = async { desk.wish().await.refuse("not today".to_owned()) };
    let (asked, ()) = tokio::join!(ask_to_hand_over(&served.path, &own), agent);
    let error = asked.unwrap_err();
    assert!(matches!(&error, HandOverError::Refused(text) if text == "not today"));
    // An agent that is on its way out answers as well.
    drop(desk);
    let error = ask_to_hand_over(&served.path, &own).await.unwrap_err();
    assert!(matches!(error, HandOverError::Refused(_)), "{error}");
}

#[tokio::test]
async fn an_agent_of_an_earlier_version_cannot_hand_over() {
    let directory = std::env::temp_dir().join(format!("mesh-earlier-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("n1.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let earlier = async {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        assert!(client.read(&mut head).await.unwrap() > 0);
        let answer = b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n";
        client.write_all(answer).await.unwrap();
    };
    let own = successor();
    let (asked, ()) = tokio::join!(ask_to_hand_over(&path, &own), earlier);
    assert!(matches!(asked, Err(HandOverError::Unable)), "{asked:?}");
    drop(listener);
    let asked = ask_to_hand_over(&path, &own).await;
    assert!(
        matches!(asked, Err(HandOverError::Unreached { .. })),
        "{asked:?}"
    );
    fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_given_up() {
    let (served, mut desk) = with_desk("silent-agent").await;
    let own = successor();
    let agent = async {
        let wish = desk.wish().await;
        // Longer than anybody waits.
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(wish);
    };
    let (asked, ()) = tokio::join!(ask_to_hand_over(&served.path, &own), agent);
    assert!(
        matches!(asked, Err(HandOverError::Unreached { .. })),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_wish_without_a_name_is_a_mistake() {
    let (served, _desk) = with_desk("nameless").await;
    let (status, body) = served.ask("POST", "/hand-over").await;
    assert_eq!(status, 400, "{body}");
    let (status, _) = served
        .ask("GET", "/hand-over?version=1&abi=1&socket=/s")
        .await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn the_address_for_istioctl_tells_the_configuration_alone() {
    let sample = Sample::ready().await;
    let address = ([127, 0, 0, 1], 0).into();
    let bound = serve_ztunnel_dump(address, sample.views.clone(), &sample.tasks)
        .await
        .unwrap();
    for (target, status, says) in [
        ("/config_dump", 200, "mtls-strict-except-8080"),
        ("/metrics", 404, "/config_dump"),
        ("/log", 404, "/config_dump"),
    ] {
        let socket = TcpSocket::new_v4().unwrap();
        let mut stream = socket.connect(bound).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (got, body) = split(&answer);
        assert_eq!(got, status, "{target}");
        assert!(body.contains(says), "{target}: {body}");
    }
}
