// SPDX-License-Identifier: Apache-2.0

//! Endpoints that do as they are told, and write down what they were asked.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::{
    super::{
        differential::wire::{Asked, Wire},
        mesh::Mesh,
    },
    case::{Act, Case, Step},
    http2,
};

/// What the endpoints of a case do next, and what they saw.
#[derive(Debug, Default)]
pub(super) struct Stage {
    acts: VecDeque<Act>,
    first: Option<Act>,
    seen: Vec<(usize, Asked)>,
}

/// The endpoints of a case.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) a: Vec<SocketAddr>,
    pub(super) b: SocketAddr,
    stage: Arc<Mutex<Stage>>,
    /// Keep the ports at which nobody is.
    _dead: Vec<TcpSocket>,
}

/// What `$B`'s endpoint is called.
pub(super) const B: usize = 100;

impl Stage {
    /// Notes what this endpoint is asked; what it does.
    pub(super) fn next(&mut self, which: usize, asked: Asked) -> Act {
        self.seen.push((which, asked));
        let told = match (which, self.first) {
            (B, _) => None,
            (0, Some(act)) => Some(act),
            _ => self.acts.pop_front(),
        };
        told.unwrap_or(Act::Say(200, ""))
    }
}

impl Endpoints {
    pub(super) async fn start(mesh: &Mesh, case: &Case) -> Self {
        let stage = Arc::<Mutex<Stage>>::default();
        let start = |which: usize| {
            let stage = Arc::clone(&stage);
            let (tasks, http2) = (mesh.tasks.clone(), case.http2);
            mesh.app(move |stream| {
                let (tasks, stage) = (tasks.clone(), Arc::clone(&stage));
                async move {
                    match http2 {
                        true => http2::serve(stream, which, (tasks, stage)).await,
                        false => serve(stream, which, stage).await,
                    }
                }
            })
        };
        let mut a = Vec::new();
        for which in 0..case.live {
            a.push(start(which).await);
        }
        let mut dead = Vec::new();
        for _ in 0..case.dead {
            let socket = TcpSocket::new_v4().expect("a socket");
            let any = (Ipv4Addr::LOCALHOST, 0).into();
            socket.bind(any).expect("a port");
            a.push(socket.local_addr().expect("bound"));
            dead.push(socket);
        }
        let b = start(B).await;
        Self {
            a,
            b,
            stage,
            _dead: dead,
        }
    }

    /// Has this done next, and forgets what was seen.
    pub(super) fn set(&self, step: &Step) {
        let mut stage = self.stage.lock().expect("no panic");
        stage.acts = step.acts.iter().copied().collect();
        stage.first = step.first;
        stage.seen.clear();
    }

    /// What was asked, and of which endpoint.
    pub(super) fn seen(&self) -> Vec<(usize, Asked)> {
        self.stage.lock().expect("no panic").seen.clone()
    }
}

async fn serve(stream: TcpStream, which: usize, stage: Arc<Mutex<Stage>>) {
    let mut wire = Wire::new(stream);
    while let Some(asked) = wire.request().await {
        let act = stage.lock().expect("no panic").next(which, asked);
        let stream = wire.stream();
        let (status, lines) = match act {
            Act::Say(status, lines) => (status, lines),
            Act::Late(millis) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                (200, "")
            }
            Act::Close | Act::Cut | Act::Refuse => return,
            Act::Hang => {
                // Until the proxy has enough of it.
                stream.read_u8().await.ok();
                return;
            }
        };
        let said = format!("said by {}", if which == B { 'b' } else { 'a' });
        let answer = format!(
            "HTTP/1.1 {status} Said\r\n{lines}content-length: {}\r\n\r\n{said}",
            said.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
