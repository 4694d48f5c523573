// SPDX-License-Identifier: Apache-2.0

//! Requests to a pod whose policies ask for more than who the client is: its tokens, what it wants.
//! Each is judged, and goes on to the application or is answered here.
//!
//! Whether it is HTTP, the client's first bytes say. Owns no HTTP: that is served and passed on as
//! for a pod's own requests, over connections to the application that no other client shares.
//! Invariant: nothing reaches the application but requests that were allowed; what is not HTTP
//! does only where it is certain that it is none, and all that is asked of requests is their tokens.

use std::{
    cell::{Cell, OnceCell},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use ::http::request;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{
    Outcome,
    connection::{self, Connection, Ended, Ends},
    copy::{Abort, Carried},
    custom,
    entrance::{Entrance, Otherwise, Pass, Seen},
    http,
    http_body::RequestBody,
    http_decide::Way,
    http_exchange::{Exchange, Front},
    inbound,
    sniff::{self, First},
    stream::{self, Prefixed},
};
use crate::{
    model::{Cluster, Endpoint, EndpointLoad, ServiceName, authorization::RequestReading},
    telemetry::{Flow, Reporter},
};

/// Room for what is read ahead.
const READ_AHEAD: usize = 4096;

/// How long a client may take to show that it speaks HTTP: longer than connections wait in a pool for
/// their first request.
pub(super) const FIRST_BYTES: Duration = Duration::from_secs(75);

/// The policies' side of a front whose requests are for a pod of this node.
pub(crate) struct Inbound {
    pass: Rc<Pass>,
    ends: Ends,
    /// The application.
    cluster: Arc<Cluster>,
}

impl Inbound {
    fn new(entrance: Entrance, ends: Ends, seen: Seen) -> Self {
        let pass = entrance.admit(seen);
        let address = pass.entrance().to();
        let name = ends.destination.as_ref();
        let name = name.map(|pod| (Arc::clone(&pod.namespace), Arc::clone(&pod.name)));
        let (namespace, name) = name.unwrap_or_default();
        let app = Endpoint {
            address,
            workload: None,
            place: None,
            tls: None,
            proxy_protocol: None,
            upkeep: None,
            weight: 1,
            load: Arc::new(EndpointLoad::default()),
        };
        let name = ServiceName { namespace, name };
        let port = address.port();
        let cluster = Cluster::new(name, "".into(), port, None, None, vec![app]);
        Self {
            pass,
            ends,
            cluster: Arc::new(cluster),
        }
    }

    /// Where a request goes that policy allows; its head is changed as its tokens and the providers
    /// that are asked about it ask for, and its body read as far as these want to see it.
    pub(crate) async fn decide(
        &self,
        exchange: &mut Exchange,
        head: &mut request::Parts,
        body: &mut RequestBody,
    ) -> Result<Way, Outcome> {
        let entrance = self.pass.entrance();
        let token = entrance.identify(head)?;
        let reading = RequestReading::new(&head.method, &head.uri, &head.headers);
        let providers = entrance.providers(&reading.with_token(token.as_deref()));
        let shown = providers.iter().filter_map(|provider| provider.body);
        let most = shown.map(|shown| shown.most).max().unwrap_or_default();
        for provider in providers {
            let shown = match &provider.body {
                Some(shown) => Box::pin(custom::show(entrance, shown, most, head, body)).await?,
                None => None,
            };
            let asking = Box::pin(custom::ask(entrance, &provider, head, shown));
            let allowance = asking.await?;
            allowance.apply(&mut head.headers);
            let to_client = &mut exchange.notes.to_client;
            to_client.extend(allowance.to_client);
        }
        let reading = RequestReading::new(&head.method, &head.uri, &head.headers);
        let reading = reading.with_token(token.as_deref());
        match entrance.ask(&reading) {
            Ok(()) => Ok(Way {
                cluster: Arc::clone(&self.cluster),
                timeout: None,
                edits: None,
                rewritten: None,
                treatment: None,
            }),
            Err(denial) => Err(entrance.denied(denial)),
        }
    }

    /// A connection to the application, from the client's address.
    pub(crate) async fn connect(&self) -> io::Result<crate::datapath::Upstream> {
        self.pass.entrance().connect().await
    }

    /// How exchanges ended that nobody ended.
    pub(crate) fn abandoned(&self) -> Outcome {
        self.pass.revoked().unwrap_or(Outcome::ClientGone)
    }

    /// Who talks to whom.
    pub(crate) fn flow(&self) -> Flow<'_> {
        let entrance = self.pass.entrance();
        connection::flow(
            &self.ends,
            Reporter::Destination,
            entrance.from(),
            entrance.to(),
        )
    }
}

/// Serves a client whose requests are looked at; of what is none, `otherwise` says what becomes.
pub(crate) async fn serve<Client>(
    connection: Rc<Connection>,
    mut client: Client,
    entrance: Entrance,
    ends: Ends,
    otherwise: Otherwise,
) where
    Client: AsyncRead + AsyncWrite + Abort + Unpin + 'static,
{
    let inbound = Inbound::new(entrance, ends, Seen::Requests);
    let pass = Rc::clone(&inbound.pass);
    let mut ahead = BytesMut::with_capacity(READ_AHEAD);
    // Cancel-safe: what was read is lost only together with the client.
    let first = tokio::select! {
        biased;
        outcome = pass.until_revoked() => Err(outcome),
        first = first(&mut client, &mut ahead) => Ok(first),
    };
    let outcome = match first {
        Ok(Some(first @ (First::Http1 | First::Http2))) => {
            let client = Prefixed::new(ahead.freeze(), client);
            let front = front(connection, inbound);
            // Cancel-safe: what is under way is given up with the client, who sees a reset.
            tokio::select! {
                biased;
                _outcome = pass.until_revoked() => {}
                () = requests(front, client, first) => {}
            }
            return;
        }
        Ok(None) if ahead.is_empty() => {
            stream::linger(client).await;
            Outcome::Complete
        }
        Ok(first) => match (otherwise, first) {
            (Otherwise::Passes, Some(First::Opaque)) => {
                let client = Prefixed::new(ahead.freeze(), client);
                return Box::pin(inbound.bytes(&connection, client)).await;
            }
            (Otherwise::Denied(denial), _) => {
                client.abort();
                pass.entrance().denied(denial)
            }
            (Otherwise::Misplaced | Otherwise::Passes, _) => {
                client.abort();
                Outcome::PolicyDenied
            }
        },
        Err(outcome) => {
            client.abort();
            outcome
        }
    };
    let ended = Ended {
        outcome,
        carried: Carried::default(),
    };
    inbound.opened(&connection);
    inbound.closed(&connection, &ended);
}

impl Inbound {
    /// Carries what is no request.
    async fn bytes<Client>(self, connection: &Connection, client: Client)
    where
        Client: AsyncRead + AsyncWrite + Abort + Unpin,
    {
        let entrance = self.pass.entrance().clone();
        let inbound = Self {
            pass: entrance.admit(Seen::Begin),
            ..self
        };
        // Policy may have changed since it was asked what becomes of what is no request.
        inbound.pass.judge();
        inbound.opened(connection);
        let mut carried = Carried::default();
        let outcome = match inbound.connect().await {
            Ok(app) => inbound::carry(client, app, &inbound.pass, &mut carried).await,
            Err(error) => {
                client.abort();
                let to = inbound.pass.entrance().to();
                Outcome::ConnectFailed(format!("{to}: {error}").into())
            }
        };
        inbound.closed(connection, &Ended { outcome, carried });
    }

    /// Tells of the begin of a connection without requests.
    fn opened(&self, connection: &Connection) {
        let telemetry = &connection.thread.shared.telemetry;
        telemetry.connection_opened(&self.flow());
    }

    /// Makes the record of a connection without requests.
    fn closed(&self, connection: &Connection, ended: &Ended) {
        let telemetry = &connection.thread.shared.telemetry;
        let record = connection::record(self.flow(), &self.ends, ended, connection.started);
        telemetry.connection_closed(&record);
    }
}

/// What the client's first bytes are; `None` if it ended, broke or said nothing for too long.
async fn first(client: &mut (impl AsyncRead + Unpin), ahead: &mut BytesMut) -> Option<First> {
    let deciding = async {
        loop {
            match client.read_buf(ahead).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            match sniff::first(ahead) {
                First::Undecided => {}
                decided => return Some(decided),
            }
        }
    };
    // Cancel-safe: who says nothing for so long is not listened to any more.
    tokio::time::timeout(FIRST_BYTES, deciding)
        .await
        .unwrap_or(Some(First::Undecided))
}

fn front(connection: Rc<Connection>, inbound: Inbound) -> Rc<Front> {
    let pool = connection.thread.pools.apart();
    Rc::new(Front {
        connection,
        service: None,
        pool,
        own_pool: OnceCell::new(),
        waiting: Rc::default(),
        truncated: Cell::default(),
        switched: Cell::default(),
        inbound: Some(inbound),
    })
}

async fn requests<Client>(front: Rc<Front>, client: Prefixed<Client>, first: First)
where
    Client: AsyncRead + AsyncWrite + Abort + Unpin + 'static,
{
    match first {
        First::Http2 => Box::pin(http::serve_http2(front, client)).await,
        First::Http1 | First::Opaque | First::Undecided => {
            Box::pin(http::serve_http1(front, client)).await;
        }
    }
}
