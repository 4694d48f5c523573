// SPDX-License-Identifier: Apache-2.0

//! HTTP/1 by hand against HTTP/1 by hyper: the same bytes to both, and what the endpoint saw and
//! what the client got must mean the same.
//!
//! Seeds are fixed; `MESH_AGENT_DIFFERENTIAL` sets how many random exchanges there are. What may
//! differ, and why:
//! - The order of fields of different names: hyper groups equal names.
//! - The words of the status line behind its number.
//! - A request whose chunks are broken: 400 by hand; hyper has begun to send it on, and resets.
//! - An answer that can be read in two ways: 502 by hand ([`smuggled answers`](super::smuggling));
//!   hyper takes the reading of its choice, or breaks the client's connection.

mod envoy;
pub(super) mod script;
pub(super) mod wire;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use self::{
    script::Script,
    wire::{Answer, Asked, Wire},
};
use super::{
    exchanges,
    mesh::{Mesh, cluster, connect},
};
use crate::{model::Protocol, proxy::Http1Engine};

/// How long an exchange may take that ends by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// A proxy with an endpoint that writes down what it is asked.
pub(super) struct Bench {
    pub(super) mesh: Mesh,
    table: Table,
}

/// An endpoint that writes down what it is asked, and the proxy in front of it.
struct Table {
    /// Where clients connect to.
    through: SocketAddr,
    stage: Arc<Mutex<Stage>>,
}

/// What the endpoint does, and what it saw.
#[derive(Default)]
struct Stage {
    answer: Vec<u8>,
    close: bool,
    asked: Vec<Asked>,
}

/// How a client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Order,
    Reset,
    Stalled,
}

/// What came of a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) asked: Vec<Asked>,
    pub(super) answers: Vec<Answer>,
    pub(super) end: End,
}

impl Bench {
    /// A proxy that serves HTTP/1 by `engine`.
    pub(super) async fn start(engine: Http1Engine) -> Self {
        let mesh = Mesh::start_with(engine);
        let (mut table, app) = Table::set(&mesh).await;
        let endpoints = cluster(&[app]);
        table.through = mesh.service(1, Protocol::Http, endpoints, vec![]).await;
        Self { mesh, table }
    }

    /// Plays `script`, and says what was seen.
    pub(super) async fn play(&self, script: &Script) -> Seen {
        self.table.play(script).await
    }
}

impl Table {
    /// An endpoint among the tasks of `mesh`, and its address, with nothing in front.
    async fn set(mesh: &Mesh) -> (Self, SocketAddr) {
        let stage = Arc::<Mutex<Stage>>::default();
        let shared = Arc::clone(&stage);
        let app = mesh
            .app(move |stream| answer_all(stream, Arc::clone(&shared)))
            .await;
        let through = app;
        (Self { through, stage }, app)
    }

    /// Plays `script`, and says what was seen.
    async fn play(&self, script: &Script) -> Seen {
        {
            let mut stage = self.stage.lock().expect("no panic");
            stage.answer.clone_from(&script.answer);
            stage.close = script.endpoint_closes;
            stage.asked.clear();
        }
        let mut client = connect(self.through).await;
        let (mut reader, mut writer) = client.split();
        let sending = async {
            for piece in &script.pieces {
                // The proxy may have had enough.
                if writer.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            if script.client_ends {
                writer.shutdown().await.ok();
            }
        };
        let mut got = Vec::new();
        let receiving = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut got));
        let (received, ()) = tokio::join!(receiving, sending);
        let end = match received {
            Ok(Ok(_)) => End::Order,
            Ok(Err(_)) => End::Reset,
            Err(_elapsed) => End::Stalled,
        };
        Seen {
            asked: self.asked(),
            // A reset may overtake what was sent before it.
            answers: match end {
                End::Reset => Vec::new(),
                End::Order | End::Stalled => wire::answers(&got, &script.methods),
            },
            end,
        }
    }

    /// What the endpoint was asked, without what was cut short: how much of that it sees, and when,
    /// is chance.
    fn asked(&self) -> Vec<Asked> {
        let mut stage = self.stage.lock().expect("no panic");
        let asked = std::mem::take(&mut stage.asked);
        asked.into_iter().filter(|asked| asked.whole).collect()
    }
}

/// Serves a connection from the proxy.
async fn answer_all(stream: TcpStream, stage: Arc<Mutex<Stage>>) {
    let mut wire = Wire::new(stream);
    while let Some(asked) = wire.request().await {
        let (answer, close) = {
            let mut stage = stage.lock().expect("no panic");
            stage.asked.push(asked);
            (stage.answer.clone(), stage.close)
        };
        let stream = wire.stream();
        if stream.write_all(&answer).await.is_err() || close {
            stream.shutdown().await.ok();
            return;
        }
    }
}

/// Plays scripts on both engines.
struct Pair {
    fast: Bench,
    hyper: Bench,
}

impl Pair {
    async fn start() -> Self {
        Self {
            fast: Bench::start(Http1Engine::Fast).await,
            hyper: Bench::start(Http1Engine::Hyper).await,
        }
    }

    async fn check(&self, script: &Script) {
        let (fast, hyper) = tokio::join!(self.fast.play(script), self.hyper.play(script));
        assert_ne!(fast.end, End::Stalled, "{script:#?}\n{fast:#?}\n{hyper:#?}");
        assert!(
            fast == hyper,
            "{script:#?}\nby hand: {fast:#?}\nby hyper: {hyper:#?}"
        );
    }
}

#[tokio::test]
async fn random_exchanges_mean_the_same_by_hand_and_by_hyper() {
    let pair = Pair::start().await;
    for seed in 0..exchanges() {
        pair.check(&Script::random(seed)).await;
    }
}

#[tokio::test]
async fn odd_requests_get_the_answers_that_hyper_gives() {
    let pair = Pair::start().await;
    for seed in 0..exchanges() {
        pair.check(&Script::odd(seed)).await;
    }
}

#[tokio::test]
async fn a_request_may_come_in_two_pieces_wherever_it_is_cut() {
    let pair = Pair::start().await;
    let whole = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";
    for at in 1..whole.len() {
        let (one, two) = whole.split_at(at);
        let script = Script {
            pieces: [one, two].map(|piece| piece.as_bytes().to_vec()).into(),
            methods: vec!["POST".into()],
            ..Script::default()
        };
        pair.check(&script).await;
    }
}
