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
    time::{SystemTime, UNIX_EPOCH},
};

use ::http::request;

use super::{Outcome, pod::Pod, refused::Refused, seldom::Seldom, threads::Thread, usage};
use crate::{
    datapath::{Leg, Upstream},
    model::{
        InboundPolicy, MtlsMode, SpiffeId, Verdict, Workload,
        authorization::{Authorization, Caller, Denial, Remark, RequestReading},
        provider::Provider,
        token::{Heed, Token, TokenRefusal},
    },
    telemetry::Decision,
};

/// AUDIT policies that match, and what policies in dry run would deny.
static AUDITED: Seldom = Seldom::new();
static WOULD_DENY: Seldom = Seldom::new();

/// One who wants in.
#[derive(Clone)]
pub(crate) struct Entrance {
    thread: Rc<Thread>,
    pod: Arc<Pod>,
    identity: Option<SpiffeId>,
    from: SocketAddr,
    /// Whether policy may be asked about `from`.
    is_believed: bool,
    to: SocketAddr,
}

/// What becomes of one who wants in.
pub(crate) enum Knock {
    /// Whatever it sends is delivered.
    Allowed,
    /// Nothing is.
    Denied(Denial),
    /// Its requests are looked at.
    Look(Otherwise),
}

/// What becomes of what is no request where requests are looked at.
pub(crate) enum Otherwise {
    /// It is denied.
    Denied(Denial),
    /// It does not belong there.
    Misplaced,
    /// It passes.
    Passes,
}

/// What of a stream is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing.
    Nothing,
    /// Its begin, which is that of no request.
    Begin,
    /// Each request.
    Requests,
}

/// Streams whose owners do not wait for changes of policy themselves.
#[derive(Default)]
pub(crate) struct Watched(RefCell<Vec<Weak<Pass>>>);

/// What lets a stream go on, until it is taken back.
pub(crate) struct Pass {
    entrance: Entrance,
    seen: Seen,
    state: RefCell<PassState>,
}

#[derive(Default)]
struct PassState {
    revoked: Option<Outcome>,
    waker: Option<Waker>,
}

const CLOSED: &str = "connection closed due to policy change";

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
            is_believed: true,
            to,
        }
    }

    /// The same of a caller that may say whatever it likes of where it is: what policies ask of its
    /// address is not known.
    pub(crate) fn of_unknown_address(self) -> Self {
        Self {
            is_believed: false,
            ..self
        }
    }

    /// The thread that serves it.
    pub(crate) fn thread(&self) -> &Rc<Thread> {
        &self.thread
    }

    /// The pod that it wants to talk to.
    pub(crate) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Whom the caller proved to be.
    pub(crate) fn identity(&self) -> Option<&SpiffeId> {
        self.identity.as_ref()
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

    fn workload(&self) -> Arc<Workload> {
        self.thread.workload(&self.pod)
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            identity: self.identity.as_ref(),
            address: self.is_believed.then(|| self.from.ip().to_canonical()),
            to: SocketAddr::new(self.to.ip().to_canonical(), self.to.port()),
        }
    }

    /// What becomes of it, by the policy of this moment. Policies that are not enforced have
    /// their say.
    pub(crate) fn knock(&self) -> Knock {
        let workload = self.workload();
        let policy = &workload.inbound;
        match policy.authorization.connection(&self.caller()) {
            Verdict::Denied(denial) => Knock::Denied(denial),
            Verdict::Depends(denial) => Knock::Look(Otherwise::Denied(denial)),
            Verdict::Allowed => match policy.heed(self.to.port()) {
                Heed::Nothing => {
                    self.remark(&policy.authorization, None);
                    Knock::Allowed
                }
                Heed::Requests => Knock::Look(Otherwise::Passes),
                Heed::RequestsOnly => Knock::Look(Otherwise::Misplaced),
            },
        }
    }

    /// Judges the tokens of a request, and changes its head as they ask for.
    ///
    /// # Errors
    /// How a request ends whose token is not good.
    pub(crate) fn identify(
        &self,
        head: &mut request::Parts,
    ) -> Result<Option<Arc<Token>>, Outcome> {
        let workload = self.workload();
        let rules = &workload.inbound.authentication;
        if rules.is_empty() {
            return Ok(None);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let keys = &self.thread.shared.keys;
        let mut cache = self.thread.tokens.borrow_mut();
        rules
            .admit(self.to.port(), head, |rule, text| {
                cache.verify(keys, rule, text, now)
            })
            .map_err(|fault| {
                Outcome::Unauthenticated(TokenRefusal::new(fault, &head.uri, &head.headers))
            })
    }

    /// The providers that are to be asked about a request, before it is judged.
    pub(crate) fn providers(&self, request: &RequestReading<'_>) -> Vec<Arc<Provider>> {
        let workload = self.workload();
        let authorization = &workload.inbound.authorization;
        authorization.providers(&self.caller(), request)
    }

    /// Judges a request.
    ///
    /// # Errors
    /// If it is denied.
    pub(crate) fn ask(&self, request: &RequestReading<'_>) -> Result<(), Denial> {
        let workload = self.workload();
        let authorization = &workload.inbound.authorization;
        authorization.request(&self.caller(), request)?;
        self.remark(authorization, Some(request));
        Ok(())
    }

    fn remark(&self, authorization: &Authorization, request: Option<&RequestReading<'_>>) {
        let telemetry = &self.thread.shared.telemetry;
        authorization.remarks(&self.caller(), request, |remark, denial| {
            telemetry.decided(denial, Decision::Remark(remark));
            let said = match remark {
                Remark::Audited => &AUDITED,
                Remark::WouldDeny => &WOULD_DENY,
            };
            let name = denial.policy().map_or("none", |policy| &**policy.name());
            // All of them are counted; a line each would be a line for every request.
            let Some(unsaid) = said.happened(name, usage::uptime()) else {
                return;
            };
            let identity = self.identity.as_ref().map_or("", SpiffeId::as_str);
            let (from, to, pod) = (self.from, self.to, &self.pod.workload.name);
            tracing::info!(?remark, %denial, %from, identity, %to, %pod, unsaid, "policy that is not enforced");
        });
    }

    /// The outcome of one who is denied.
    pub(crate) fn denied(&self, denial: Denial) -> Outcome {
        let telemetry = &self.thread.shared.telemetry;
        telemetry.decided(&denial, Decision::Denied);
        let (identity, port) = (self.identity.as_ref(), self.to.port());
        let why = Refused::Policy(denial.clone());
        self.pod.last_refused.note(self.from, identity, port, why);
        Outcome::Denied(denial)
    }

    /// Whether it may not be in plaintext, by the mode of the port.
    pub(crate) fn needs_identity(&self) -> bool {
        self.lacks_identity(&self.workload().inbound)
    }

    fn lacks_identity(&self, policy: &InboundPolicy) -> bool {
        match policy.mode(self.to.port()) {
            MtlsMode::Strict => self.identity.is_none(),
            MtlsMode::Permissive => false,
        }
    }

    /// How what was let in ends by the policy of this moment, if it may not go on.
    fn objection(&self, seen: Seen) -> Option<Outcome> {
        let workload = self.workload();
        let policy = &workload.inbound;
        let changed = |why: &str| Outcome::PolicyChanged(format!("{CLOSED}{why}").into());
        if self.lacks_identity(policy) {
            return Some(changed(""));
        }
        let denial = match policy.authorization.connection(&self.caller()) {
            Verdict::Allowed => {
                let is_fine = match policy.heed(self.to.port()) {
                    Heed::Nothing => true,
                    Heed::Requests => seen != Seen::Nothing,
                    Heed::RequestsOnly => seen == Seen::Requests,
                };
                return (!is_fine).then(|| changed(": tokens are looked at"));
            }
            Verdict::Depends(_) if seen == Seen::Requests => return None,
            Verdict::Denied(denial) | Verdict::Depends(denial) => denial,
        };
        let telemetry = &self.thread.shared.telemetry;
        telemetry.decided(&denial, Decision::Revoked);
        Some(Outcome::revoked(&denial))
    }

    /// Lets it in; the pass says when that is over.
    pub(crate) fn admit(self, seen: Seen) -> Rc<Pass> {
        let pass = Rc::new(Pass {
            entrance: self,
            seen,
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

    /// Takes it back if its owner may not go on by the policy of this moment.
    pub(crate) fn judge(&self) {
        if self.state.borrow().revoked.is_some() {
            return;
        }
        let Some(outcome) = self.entrance.objection(self.seen) else {
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
