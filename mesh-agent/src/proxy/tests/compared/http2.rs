// SPDX-License-Identifier: Apache-2.0

//! An endpoint that speaks HTTP/2, and gRPC.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response, Version};
use tokio::{net::TcpStream, sync::mpsc};

use super::{super::differential::wire::Asked, case::Act, client::fields, endpoint::Stage};
use crate::tasks::Tasks;

/// Serves a connection from a proxy.
pub(super) async fn serve(
    stream: TcpStream,
    which: usize,
    (tasks, stage): (Tasks, Arc<Mutex<Stage>>),
) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let (cut, mut is_cut) = mpsc::unbounded_channel();
    loop {
        // Cancel-safe: what was not accepted is accepted in the next turn.
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            _ = is_cut.recv() => return,
        };
        let Some(Ok((request, respond))) = accepted else {
            return;
        };
        let (stage, cut) = (Arc::clone(&stage), cut.clone());
        tasks.spawn("app stream", async move {
            if answer(request, respond, which, stage).await == Then::Cut {
                cut.send(()).ok();
            }
        });
    }
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Stay,
    Cut,
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    which: usize,
    stage: Arc<Mutex<Stage>>,
) -> Then {
    let Some(asked) = read(request).await else {
        return Then::Stay;
    };
    let act = stage.lock().expect("no panic").next(which, asked);
    let (status, lines) = match act {
        Act::Say(status, lines) => (status, lines),
        Act::Cut => return Then::Cut,
        Act::Refuse | Act::Close => {
            respond.send_reset(match act {
                Act::Refuse => Reason::REFUSED_STREAM,
                _ => Reason::INTERNAL_ERROR,
            });
            return Then::Stay;
        }
        Act::Late(_) | Act::Hang => {
            // Until the proxy has enough of it.
            std::future::poll_fn(|context| respond.poll_reset(context))
                .await
                .ok();
            return Then::Stay;
        }
    };
    let mut response = Response::builder().status(status).version(Version::HTTP_2);
    for line in lines.lines() {
        let (name, value) = line.split_once(": ").expect("a field");
        response = response.header(name, value);
    }
    let only_head = !lines.is_empty();
    let response = response.body(()).expect("a response");
    if let Ok(mut body) = respond.send_response(response, only_head)
        && !only_head
    {
        body.send_data(Bytes::from_static(b"said"), true).ok();
    }
    Then::Stay
}

async fn read(request: Request<RecvStream>) -> Option<Asked> {
    let (head, mut stream) = request.into_parts();
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data.ok()?;
        stream.flow_control().release_capacity(data.len()).ok()?;
        body.extend_from_slice(&data);
    }
    let mut fields = fields(&head.headers);
    let host = head.uri.authority().map(ToString::to_string);
    fields.entry("host".to_owned()).or_default().extend(host);
    Some(Asked {
        line: format!("{} {} HTTP/2", head.method, head.uri.path()),
        fields,
        body: body.to_vec(),
        whole: true,
    })
}
