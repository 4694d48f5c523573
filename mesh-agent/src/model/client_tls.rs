// SPDX-License-Identifier: Apache-2.0

//! TLS that a DestinationRule asks for on connections to endpoints, besides the mesh's own.
//!
//! Knows nothing of sockets, files or rustls: it says what is wanted. Invariant: an endpoint that has
//! this is connected to as it says, or not at all; never in plaintext.

use std::sync::Arc;

/// What a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientTls {
    /// TLS towards the application, whether there is a tunnel around it or not.
    Originate(Origination),
    /// The mesh's own TLS; an endpoint that is not in the mesh does not speak it.
    Mesh,
    /// Something that cannot be done here; what.
    Refused(Arc<str>),
}

/// TLS whose client end is the agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origination {
    /// The name that is asked for; the Service's host if none is written.
    pub server_name: Option<Arc<str>>,
    /// The server's certificate must be for one of these; for the name that is asked for if none is
    /// written.
    pub names: Vec<Arc<str>>,
    /// Who may have signed it.
    pub roots: Roots,
    /// A file of the agent's with what was revoked.
    pub revoked: Option<Arc<str>>,
    /// Whom the agent shows itself as, and who may have signed the server's certificate if
    /// [`Roots::Secret`] says so.
    pub credential: Option<Credential>,
    /// Whether any certificate will do.
    pub skip_verify: bool,
}

/// Where a certificate and its key are. What is in there is known to the identities alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// Files of the agent's.
    Files {
        /// The rule's.
        namespace: Arc<str>,
        /// The certificate and what leads from it to a root.
        certificate: Arc<str>,
        /// Its key.
        key: Arc<str>,
    },
    /// A Secret.
    Secret {
        /// The rule's.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// Whether its certificate is shown, or only its roots count.
        shown: bool,
    },
}

impl Credential {
    /// The namespace whose pods it is for, and none else's.
    pub fn namespace(&self) -> &Arc<str> {
        match self {
            Self::Files { namespace, .. } | Self::Secret { namespace, .. } => namespace,
        }
    }
}

/// Who may have signed a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Roots {
    /// Whom the agent's system trusts.
    System,
    /// Those in this file of the agent's.
    File(Arc<str>),
    /// Those in the Secret of the [`Credential`].
    Secret,
}

impl Origination {
    /// Whether a pod of `namespace` may be spoken for.
    pub fn is_for(&self, namespace: &str) -> bool {
        let credential = self.credential.as_ref();
        credential.is_none_or(|credential| **credential.namespace() == *namespace)
    }
}

impl ClientTls {
    /// The same, the server's certificate being for one of `names` if none is written.
    #[must_use]
    pub fn naming(self: Arc<Self>, names: &[Arc<str>]) -> Arc<Self> {
        match &*self {
            Self::Originate(wanted) if wanted.names.is_empty() => {
                Arc::new(Self::Originate(Origination {
                    names: names.to_vec(),
                    ..wanted.clone()
                }))
            }
            Self::Originate(_) | Self::Mesh | Self::Refused(_) => self,
        }
    }

    /// What that means for an endpoint of `hostname`; nothing if the mesh's own TLS is enough.
    pub fn towards(&self, hostname: &Arc<str>, is_enrolled: bool) -> Option<Self> {
        match self {
            Self::Mesh if is_enrolled => None,
            Self::Mesh => {
                let text = "the rule asks for ISTIO_MUTUAL, and the endpoint is not in the mesh";
                Some(Self::Refused(text.into()))
            }
            Self::Originate(wanted) => {
                let name = wanted.server_name.as_ref().unwrap_or(hostname);
                Some(Self::Originate(Origination {
                    server_name: Some(Arc::clone(name)),
                    ..wanted.clone()
                }))
            }
            Self::Refused(_) => Some(self.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meshs_own_tls_is_enough_in_the_mesh_and_refused_outside() {
        let host: Arc<str> = "a".into();
        assert_eq!(ClientTls::Mesh.towards(&host, true), None);
        let outside = ClientTls::Mesh.towards(&host, false);
        assert!(matches!(outside, Some(ClientTls::Refused(_))));
        let refused = ClientTls::Refused("why".into());
        assert_eq!(refused.towards(&host, true), Some(refused.clone()));
    }

    #[test]
    fn the_services_host_is_asked_for_unless_a_name_is_written() {
        let wanted = |name: Option<&str>| {
            ClientTls::Originate(Origination {
                server_name: name.map(Into::into),
                names: Vec::new(),
                roots: Roots::System,
                revoked: None,
                credential: None,
                skip_verify: false,
            })
        };
        let host: Arc<str> = "a".into();
        assert_eq!(wanted(None).towards(&host, false), Some(wanted(Some("a"))));
        assert_eq!(
            wanted(Some("b")).towards(&host, true),
            Some(wanted(Some("b")))
        );
    }

    #[test]
    fn a_credential_is_for_the_pods_of_its_namespace() {
        let of = |credential| Origination {
            server_name: None,
            names: Vec::new(),
            roots: Roots::System,
            revoked: None,
            credential,
            skip_verify: false,
        };
        assert!(of(None).is_for("a"));
        let secret = of(Some(Credential::Secret {
            namespace: "a".into(),
            name: "bank".into(),
            shown: true,
        }));
        assert!(secret.is_for("a"));
        assert!(!secret.is_for("b"));
    }
}
