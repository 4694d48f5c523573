// SPDX-License-Identifier: Apache-2.0

//! Judges who comes to a pod's application, when it comes and whenever policy changes.
//!
//! Who comes through a tunnel proved an identity, who comes from a pod of this node has one that the
//! agent knows, who comes in plaintext has none. Knows nothing of what is sent. Invariant: what is
//! not allowed by the policy that this thread works with has no byte delivered.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{Outcome, pod::Pod, threads::Thread};
use crate::{
    datapath::{Leg, Upstream},
    model::{
        MtlsMode, SpiffeId, Verdict,
        authorization::{Authorization, Caller, Denial, RequestReading},
    },
    telemetry::Decision,
};

/// One who wants in.
pub(crate) struct Entrance {
    thread: Rc<Thread>,
    pod: Arc<Pod>,
    identity: Option<SpiffeId>,
    from: SocketAddr,
    to: SocketAddr,
}

/// Streams whose owners do not wait for changes of policy themselves.
#[derive(Default)]
pub(crate) struct Watched(RefCell<Vec<Weak<Pass>>>);

/// What lets a stream go on, until it is taken back.
pub(crate) struct Pass {
    entrance: Entrance,
    looked_at: bool,
    state: RefCell<PassState>,
}

#[derive(Default)]
struct PassState {
    revoked: Option<Outcome>,
    waker: Option<Waker>,
}

/// Fewer streams than this are not looked through for those that have ended.
const FEW: usize = 64;

impl Entrance {
    /// `identity`, at `from`, wants to talk to `to` of `pod`.
    pub(crate) fn new(
        thread: &Rc<Thread>,
        pod: &Arc<Pod>,
        identity: Option<SpiffeId>,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Self {
        Self {
            thread: Rc::clone(thread),
            pod: Arc::clone(pod),
            identity,
            from,
            to,
        }
    }

    /// Where the caller is.
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// What it wants to talk to.
    pub(crate) fn to(&self) -> SocketAddr {
        self.to
    }

    /// Connects to the application, from the caller's address.
    pub(crate) async fn connect(&self) -> io::Result<Upstream> {
        let connector = &self.thread.shared.connector;
        let leg = Leg::App { client: self.from };
        Box::pin(connector.connect(&self.pod.netns, leg, self.to)).await
    }

    fn authorization(&self) -> Arc<Authorization> {
        Arc::clone(&self.thread.workload(&self.pod).inbound.authorization)
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            identity: self.identity.as_ref(),
            address: self.from.ip().to_canonical(),
            to: SocketAddr::new(self.to.ip().to_canonical(), self.to.port()),
        }
    }

    /// What becomes of it, by the policy of this moment.
    pub(crate) fn verdict(&self) -> Verdict {
        self.authorization().connection(&self.caller())
    }

    /// The same at its begin: policies that are not enforced have their say.
    pub(crate) fn knock(&self) -> Verdict {
        let authorization = self.authorization();
        let verdict = authorization.connection(&self.caller());
        if verdict == Verdict::Allowed {
            self.remark(&authorization, None);
        }
        verdict
    }

    /// Judges a request.
    ///
    /// # Errors
    /// If it is denied.
    pub(crate) fn ask(&self, request: &RequestReading<'_>) -> Result<(), Denial> {
        let authorization = self.authorization();
        authorization.request(&self.caller(), request)?;
        self.remark(&authorization, Some(request));
        Ok(())
    }

    fn remark(&self, authorization: &Authorization, request: Option<&RequestReading<'_>>) {
        let telemetry = &self.thread.shared.telemetry;
        authorization.remarks(&self.caller(), request, |remark, denial| {
            telemetry.decided(denial, Decision::Remark(remark));
            let identity = self.identity.as_ref().map_or("", SpiffeId::as_str);
            let (from, to, pod) = (self.from, self.to, &self.pod.workload.name);
            tracing::info!(?remark, %denial, %from, identity, %to, %pod, "policy that is not enforced");
        });
    }

    /// The outcome of one who is denied.
    pub(crate) fn denied(&self, denial: Denial) -> Outcome {
        let telemetry = &self.thread.shared.telemetry;
        telemetry.decided(&denial, Decision::Denied);
        Outcome::Denied(denial)
    }

    /// Whether it may not be in plaintext, by the mode of the port.
    pub(crate) fn needs_identity(&self) -> bool {
        let mode = self.thread.workload(&self.pod).inbound.mode(self.to.port());
        match mode {
            MtlsMode::Strict => self.identity.is_none(),
            MtlsMode::Permissive => false,
        }
    }

    /// How what was let in ends by the policy of this moment, if it may not go on.
    fn objection(&self, looked_at: bool) -> Option<Outcome> {
        if self.needs_identity() {
            let why = "connection closed due to policy change";
            return Some(Outcome::PolicyChanged(why.into()));
        }
        let denial = match self.verdict() {
            Verdict::Allowed => return None,
            Verdict::Depends(_) if looked_at => return None,
            Verdict::Denied(denial) | Verdict::Depends(denial) => denial,
        };
        let telemetry = &self.thread.shared.telemetry;
        telemetry.decided(&denial, Decision::Revoked);
        Some(Outcome::revoked(&denial))
    }

    /// Lets it in; the pass says when that is over. If `looked_at`, each request is judged anyway.
    pub(crate) fn admit(self, looked_at: bool) -> Rc<Pass> {
        let pass = Rc::new(Pass {
            entrance: self,
            looked_at,
            state: RefCell::default(),
        });
        pass.entrance.thread.watched.add(&pass);
        pass
    }
}

impl Watched {
    fn add(&self, pass: &Rc<Pass>) {
        let mut all = self.0.borrow_mut();
        if all.len() >= FEW && all.len() == all.capacity() {
            all.retain(|pass| pass.strong_count() > 0);
        }
        all.push(Rc::downgrade(pass));
    }

    /// Takes back the passes of those who may not go on by the policy of this moment.
    pub(crate) fn judge(&self) {
        let all: Vec<Rc<Pass>> = self.0.borrow().iter().filter_map(Weak::upgrade).collect();
        for pass in all {
            pass.judge();
        }
    }
}

impl Pass {
    /// Who has it.
    pub(crate) fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    fn judge(&self) {
        if self.state.borrow().revoked.is_some() {
            return;
        }
        let Some(outcome) = self.entrance.objection(self.looked_at) else {
            return;
        };
        let waker = {
            let mut state = self.state.borrow_mut();
            state.revoked = Some(outcome);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// How its owner ends, if it was taken back.
    pub(crate) fn revoked(&self) -> Option<Outcome> {
        self.state.borrow().revoked.clone()
    }

    /// Resolves when it is taken back. Cancel-safe; one task at a time may wait.
    pub(crate) async fn until_revoked(&self) -> Outcome {
        poll_fn(|context| match self.revoked() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                self.wait(context);
                Poll::Pending
            }
        })
        .await
    }

    /// Wakes the task when the pass is taken back.
    pub(crate) fn wait(&self, context: &Context<'_>) {
        let mut state = self.state.borrow_mut();
        let known = state.waker.as_ref();
        if !known.is_some_and(|known| known.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
    }
}
