// SPDX-License-Identifier: Apache-2.0

//! Who may have whose certificate: a decision on facts, without any I/O.
//!
//! A node's account may ask for the identities of pods that run on its node, anyone else for its
//! own. Invariant: what cannot be proved is refused; the caller learns that, the log learns why.

use crate::model::SpiffeId;

/// A namespace and a service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) account: Account,
    /// The pod that the token is bound to.
    pub(super) pod: Option<BoundPod>,
}

/// The pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BoundPod {
    pub(super) name: String,
    pub(super) uid: String,
}

/// What a decision needs to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) account: Account,
    pub(super) node: Option<String>,
    /// It failed or succeeded: nothing runs in it any more.
    pub(super) finished: bool,
}

/// What is granted at all.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) trust_domain: String,
    pub(super) node_accounts: Vec<Account>,
}

/// Whom the caller proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proven {
    pub(super) account: Account,
    pub(super) pod: String,
    /// The node, for a node's account.
    pub(super) node: Option<String>,
}

/// Why a caller gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denial {
    #[error("the token of {} is not bound to a pod", show(.0))]
    Unbound(Account),
    #[error("the pod {namespace}/{name} of the token, with UID {uid}, does not exist")]
    NoSuchPod {
        namespace: String,
        name: String,
        uid: String,
    },
    #[error(
        "the pod {pod} of the token runs as {}, not as {}",
        show(runs_as),
        show(claims)
    )]
    OtherAccount {
        pod: String,
        runs_as: Account,
        claims: Account,
    },
    #[error("the pod {0} of the token has ended")]
    Finished(String),
    #[error("the pod {0} of the node's account runs on no node yet")]
    NoNode(String),
    #[error("{0:?} is no workload identity")]
    NoIdentity(String),
    #[error("{asked} is not of trust domain {ours}")]
    ForeignTrustDomain { asked: SpiffeId, ours: String },
    #[error("{} asked for {asked} and is no node's account", show(caller))]
    NotANode { caller: Account, asked: SpiffeId },
    #[error("no pod of {asked} runs on node {node}")]
    NotOnNode { asked: SpiffeId, node: String },
}

fn show(account: &Account) -> String {
    format!("{}/{}", account.namespace, account.name)
}

impl Denial {
    /// What the caller is told: not what exists and what does not.
    pub(super) fn told(&self) -> &'static str {
        match self {
            Self::Unbound(_)
            | Self::NoSuchPod { .. }
            | Self::OtherAccount { .. }
            | Self::Finished(_)
            | Self::NoNode(_) => "request authenticate failure",
            Self::NoIdentity(_)
            | Self::ForeignTrustDomain { .. }
            | Self::NotANode { .. }
            | Self::NotOnNode { .. } => "request impersonation authentication failure",
        }
    }
}

impl Rules {
    /// Whether the caller is the live pod that its token is bound to.
    pub(super) fn prove(&self, caller: &Caller, pod: Option<&PodFacts>) -> Result<Proven, Denial> {
        let Some(bound) = &caller.pod else {
            return Err(Denial::Unbound(caller.account.clone()));
        };
        let same = |pod: &&PodFacts| {
            pod.uid == bound.uid
                && pod.name == bound.name
                && pod.account.namespace == caller.account.namespace
        };
        let Some(pod) = pod.filter(same) else {
            return Err(Denial::NoSuchPod {
                namespace: caller.account.namespace.clone(),
                name: bound.name.clone(),
                uid: bound.uid.clone(),
            });
        };
        if pod.account != caller.account {
            return Err(Denial::OtherAccount {
                pod: pod.name.clone(),
                runs_as: pod.account.clone(),
                claims: caller.account.clone(),
            });
        }
        if pod.finished {
            return Err(Denial::Finished(pod.name.clone()));
        }
        let is_node = self.node_accounts.contains(&caller.account);
        let node = match (is_node, &pod.node) {
            (false, _) => None,
            (true, Some(node)) => Some(node.clone()),
            (true, None) => return Err(Denial::NoNode(pod.name.clone())),
        };
        Ok(Proven {
            account: pod.account.clone(),
            pod: pod.name.clone(),
            node,
        })
    }

    /// Whose certificate is asked for, if it may be asked for at all: on which node a pod of it
    /// must run is returned with it.
    pub(super) fn wanted<'a>(
        &self,
        caller: &'a Proven,
        asked: Option<&str>,
    ) -> Result<(SpiffeId, Option<&'a str>), Denial> {
        let own = &caller.account;
        let own = SpiffeId::new(&self.trust_domain, &own.namespace, &own.name);
        let Some(asked) = asked else {
            return Ok((own, None));
        };
        let asked =
            SpiffeId::parse(asked).map_err(|_other| Denial::NoIdentity(asked.to_owned()))?;
        if asked.trust_domain() != self.trust_domain {
            return Err(Denial::ForeignTrustDomain {
                asked,
                ours: self.trust_domain.clone(),
            });
        }
        match &caller.node {
            _ if asked == own => Ok((own, None)),
            Some(node) => Ok((asked, Some(node))),
            None => Err(Denial::NotANode {
                caller: caller.account.clone(),
                asked,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> Account {
        let (namespace, name) = text.split_once('/').unwrap();
        Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn rules() -> Rules {
        Rules {
            trust_domain: "td".to_owned(),
            node_accounts: vec![account("mesh-system/mesh-agent")],
        }
    }

    fn caller(of: &str) -> Caller {
        let pod = Some(BoundPod {
            name: "p".to_owned(),
            uid: "u".to_owned(),
        });
        let account = account(of);
        Caller { account, pod }
    }

    fn pod(of: &str) -> PodFacts {
        PodFacts {
            uid: "u".to_owned(),
            name: "p".to_owned(),
            account: account(of),
            node: Some("n1".to_owned()),
            finished: false,
        }
    }

    const AGENT: &str = "mesh-system/mesh-agent";

    #[test]
    fn a_live_pod_of_the_account_is_proof() {
        let proven = rules().prove(&caller(AGENT), Some(&pod(AGENT))).unwrap();
        assert_eq!(proven.node.as_deref(), Some("n1"));
        let proven = rules().prove(&caller("a/b"), Some(&pod("a/b"))).unwrap();
        assert_eq!(proven.node, None, "a workload speaks for no node");
    }

    #[track_caller]
    fn unproven(caller: &Caller, pod: Option<&PodFacts>, part: &str) {
        let denial = rules().prove(caller, pod).unwrap_err();
        assert!(denial.to_string().contains(part), "{denial}");
        assert_eq!(denial.told(), "request authenticate failure");
    }

    #[test]
    fn everything_else_is_no_proof() {
        let agent = caller(AGENT);
        let unbound = Caller {
            pod: None,
            ..agent.clone()
        };
        unproven(&unbound, Some(&pod(AGENT)), "not bound");
        unproven(&agent, None, "does not exist");
        let other = |change: fn(&mut PodFacts)| {
            let mut pod = pod(AGENT);
            change(&mut pod);
            pod
        };
        let replaced = other(|pod| pod.uid = "later".to_owned());
        unproven(&agent, Some(&replaced), "does not exist");
        let renamed = other(|pod| pod.name = "q".to_owned());
        unproven(&agent, Some(&renamed), "does not exist");
        unproven(&agent, Some(&pod("elsewhere/mesh-agent")), "does not exist");
        unproven(&agent, Some(&pod("mesh-system/web")), "runs as");
        let ended = other(|pod| pod.finished = true);
        unproven(&agent, Some(&ended), "has ended");
        let pending = other(|pod| pod.node = None);
        unproven(&agent, Some(&pending), "no node");
    }

    #[track_caller]
    fn check(of: &str, asked: Option<&str>, want: Result<(&str, Option<&str>), &str>) {
        let proven = rules().prove(&caller(of), Some(&pod(of))).unwrap();
        let got = rules().wanted(&proven, asked);
        match (got, want) {
            (Ok((identity, node)), Ok(want)) => assert_eq!((identity.as_str(), node), want),
            (Err(denial), Err(part)) => {
                assert!(denial.to_string().contains(part), "{denial}");
                assert!(denial.told().contains("impersonation"));
            }
            (got, want) => panic!("{of} {asked:?}: {got:?}, not {want:?}"),
        }
    }

    #[test]
    fn a_node_may_ask_for_others_and_a_workload_for_itself() {
        let web = "spiffe://td/ns/shop/sa/web";
        check(AGENT, Some(web), Ok((web, Some("n1"))));
        let own = "spiffe://td/ns/mesh-system/sa/mesh-agent";
        check(AGENT, None, Ok((own, None)));
        check(AGENT, Some(own), Ok((own, None)));
        check("shop/web", None, Ok((web, None)));
        check("shop/web", Some(web), Ok((web, None)));
        let db = "spiffe://td/ns/shop/sa/db";
        check("shop/web", Some(db), Err("no node's account"));
    }

    #[test]
    fn identities_of_others_are_none_of_ours() {
        let elsewhere = "spiffe://elsewhere/ns/shop/sa/web";
        check(AGENT, Some(elsewhere), Err("not of trust domain td"));
        check("shop/web", Some(elsewhere), Err("not of trust domain td"));
        check(AGENT, Some(""), Err("no workload identity"));
        check(AGENT, Some("spiffe://td/ns/a/sa/b/c"), Err("no workload"));
    }
}
