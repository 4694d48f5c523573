// SPDX-License-Identifier: Apache-2.0

//! Streams to applications in other pods of this node: no tunnel, as there is no wire. The agent
//! holds both ends, so it knows both identities as surely as a handshake would tell them.
//!
//! Owns the destination's record of such a stream; the client's is made where it is for any other.
//! Knows nothing of what is sent. Invariant: bytes go only to an address of the pod that was found
//! and captured here under the wanted UID, never to a port of the mesh itself, and only as long as that
//! pod's AuthorizationPolicies allow it. Those are asked about an address that the client's status says,
//! as between nodes, and never about one that it gave itself.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Outcome,
    connection::{self, Connection, Ended, Ends},
    copy::{Abort, Carried},
    entrance::{Entrance, Knock, Pass, Seen},
    inbound, inbound_http,
    pipe::pipe,
    pod::Pod,
    stream::Upstream,
    threads::Thread,
    turns,
};
use crate::{
    datapath::{self, Leg},
    model::{Workload, WorkloadUid},
    telemetry::Reporter,
};

/// A byte stream to an application of this node.
pub struct LocalStream {
    app: datapath::Upstream,
    record: Box<Record>,
}

/// What is told of the stream when it ends, on behalf of the destination.
struct Record {
    thread: Rc<Thread>,
    pod: Arc<Pod>,
    ends: Ends,
    peer: SocketAddr,
    to: SocketAddr,
    started: Instant,
    carried: Carried,
    read_ended: bool,
    write_ended: bool,
    broken: Option<Outcome>,
    /// None as long as nobody was let in.
    pass: Option<Rc<Pass>>,
}

/// The pod of `to`, if streams to `address` there need no tunnel.
pub(super) fn find(thread: &Thread, to: &WorkloadUid, address: SocketAddr) -> Option<Arc<Pod>> {
    if thread.shared.encrypt_on_node {
        return None;
    }
    let pod = thread.local(to)?;
    let workload = thread.workload(&pod);
    let is_misdirected = inbound::misdirected(&workload, &pod.addresses, address).is_some();
    (!is_misdirected).then_some(pod)
}

/// Connects to the application at `address` in `pod`, on behalf of the connection's pod.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] if policy does not allow it, else what the kernel says;
/// [`io::ErrorKind::TimedOut`] after 10 s.
pub(super) async fn connect(
    connection: &Rc<Connection>,
    from: Arc<Workload>,
    pod: Arc<Pod>,
    address: SocketAddr,
) -> io::Result<Upstream> {
    let own = own_place(&from, &connection.pod.addresses, connection.peer);
    let client = own.unwrap_or(connection.peer);
    let workload = from.identity.clone();
    let identity = Some(workload.clone());
    let mut entrance = Entrance::new(&connection.thread, &pod, identity, client, address);
    if own.is_none() {
        entrance = entrance.of_unknown_address();
    }
    let knock = entrance.knock();
    if let Knock::Look(otherwise) = knock {
        let ends = ends(&connection.thread, from, &pod, address);
        let (near, far) = pipe();
        let tasks = &connection.thread.shared.tasks;
        let connection = Rc::clone(connection);
        let serving = inbound_http::serve(connection, far, entrance, ends, otherwise);
        tasks.spawn_local("inbound stream", turns::of(&workload, serving));
        return Ok(Upstream::Piped(near));
    }
    let mut record = Box::new(Record::begin(
        &connection.thread,
        from,
        pod,
        client,
        address,
    ));
    if let Knock::Denied(denial) = knock {
        let error = io::Error::new(io::ErrorKind::PermissionDenied, denial.to_string());
        record.broken = Some(entrance.denied(denial));
        return Err(error);
    }
    record.pass = Some(entrance.admit(Seen::Nothing));
    let connector = &connection.thread.shared.connector;
    let connecting = connector.connect(&record.pod.netns, Leg::App { client }, address);
    match Box::pin(connecting).await {
        Ok(app) => Ok(Upstream::Local(LocalStream { app, record })),
        Err(error) => {
            let why = format!("{address}: {error}").into();
            record.broken = Some(Outcome::ConnectFailed(why));
            Err(error)
        }
    }
}

/// Where a client of this node is, if that can be known: where it `says`, if that is an address of its
/// own, else at its own address of the same family. A pod that is root in its namespace chooses what its
/// sockets say; its own are those of its status, or those of its interface while there is none.
fn own_place(from: &Workload, on_interface: &[IpAddr], says: SocketAddr) -> Option<SocketAddr> {
    let own = match from.addresses.as_slice() {
        [] => on_interface,
        known => known,
    };
    let said = says.ip().to_canonical();
    if own.contains(&said) {
        return Some(says);
    }
    let mut own = own.iter();
    let same_family = own.find(|address| address.is_ipv4() == said.is_ipv4())?;
    Some(SocketAddr::new(*same_family, says.port()))
}

/// Who talks to whom.
fn ends(thread: &Thread, from: Arc<Workload>, pod: &Pod, to: SocketAddr) -> Ends {
    Ends {
        source_identity: Some(from.identity.clone()),
        source: Some(from),
        destination: Some(thread.workload(pod)),
        service: None,
        mutual_tls: true,
        endpoint: Some(to),
    }
}

impl Record {
    fn begin(
        thread: &Rc<Thread>,
        from: Arc<Workload>,
        pod: Arc<Pod>,
        peer: SocketAddr,
        to: SocketAddr,
    ) -> Self {
        let thread = Rc::clone(thread);
        let ends = ends(&thread, from, &pod, to);
        let flow = connection::flow(&ends, Reporter::Destination, peer, to);
        thread.shared.telemetry.connection_opened(&flow);
        pod.begin();
        Self {
            thread,
            pod,
            ends,
            peer,
            to,
            started: Instant::now(),
            carried: Carried::default(),
            read_ended: false,
            write_ended: false,
            broken: None,
            pass: None,
        }
    }

    /// Fails once policy does not allow the stream any more.
    fn check(&mut self) -> io::Result<()> {
        let revoked = self.pass.as_ref().and_then(|pass| pass.revoked());
        let Some(outcome) = revoked else {
            return Ok(());
        };
        self.broken.get_or_insert(outcome);
        Err(io::ErrorKind::ConnectionReset.into())
    }

    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let why = error.to_string().into();
            self.broken.get_or_insert(Outcome::UpstreamGone(why));
        }
        result
    }

    fn outcome(&mut self) -> Outcome {
        match self.broken.take() {
            Some(outcome) => outcome,
            None if self.read_ended && self.write_ended => Outcome::Complete,
            None => Outcome::ClientGone,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.pod.end();
        let ended = Ended {
            outcome: self.outcome(),
            carried: self.carried,
        };
        let flow = connection::flow(&self.ends, Reporter::Destination, self.peer, self.to);
        let record = connection::record(flow, &self.ends, &ended, self.started);
        self.thread.shared.telemetry.connection_closed(&record);
    }
}

impl Abort for LocalStream {
    fn abort(self) {
        let Self { app, record } = self;
        app.abort();
        drop(record);
    }
}

impl AsyncRead for LocalStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { app, record } = self.get_mut();
        record.check()?;
        let before = buffer.filled().len();
        let read = Pin::new(app).poll_read(context, buffer);
        if let (Poll::Pending, Some(pass)) = (&read, &record.pass) {
            pass.wait(context);
        }
        let read = ready!(read);
        let count = buffer.filled().len() - before;
        record.carried.to_client += count as u64;
        record.read_ended |= read.is_ok() && count == 0 && buffer.remaining() > 0;
        Poll::Ready(record.note(read))
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { app, record } = self.get_mut();
        record.check()?;
        let written = ready!(Pin::new(app).poll_write(context, bytes));
        Poll::Ready(record.note(written).inspect(|count| {
            record.carried.to_upstream += *count as u64;
        }))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { app, record } = self.get_mut();
        record.check()?;
        let written = ready!(Pin::new(app).poll_write_vectored(context, slices));
        Poll::Ready(record.note(written).inspect(|count| {
            record.carried.to_upstream += *count as u64;
        }))
    }

    fn is_write_vectored(&self) -> bool {
        self.app.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.app).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { app, record } = self.get_mut();
        let ended = ready!(Pin::new(app).poll_shutdown(context));
        record.write_ended |= ended.is_ok();
        Poll::Ready(record.note(ended))
    }
}

impl fmt::Debug for LocalStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStream")
            .field("app", &self.app)
            .field("to", &self.record.to)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::mesh::workload;

    fn client(addresses: &[&str]) -> Workload {
        Workload {
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            ..workload("client")
        }
    }

    #[track_caller]
    fn check(status: &[&str], on_interface: &str, says: &str, want: Option<&str>) {
        let on_interface = [on_interface.parse().unwrap()];
        let place = own_place(&client(status), &on_interface, says.parse().unwrap());
        assert_eq!(place, want.map(|it| it.parse().unwrap()), "{says}");
    }

    #[test]
    fn an_address_is_believed_that_is_the_pods_by_its_status() {
        let both = ["10.1.0.1", "fd00::1"];
        check(&both, "10.1.0.1", "10.1.0.1:99", Some("10.1.0.1:99"));
        check(&both, "10.1.0.1", "[fd00::1]:99", Some("[fd00::1]:99"));
        check(&both, "10.1.0.2", "10.1.0.2:99", Some("10.1.0.1:99"));
        check(&both, "10.1.0.2", "[fd00::2]:99", Some("[fd00::1]:99"));
    }

    #[test]
    fn without_a_status_the_interface_tells_and_without_either_nobody_knows() {
        check(&[], "10.1.0.2", "10.1.0.2:99", Some("10.1.0.2:99"));
        check(&[], "10.1.0.2", "10.1.0.3:99", Some("10.1.0.2:99"));
        check(&["10.1.0.1"], "fd00::2", "[fd00::2]:99", None);
    }
}
