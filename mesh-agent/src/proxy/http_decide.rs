// SPDX-License-Identifier: Apache-2.0

//! Asks the model where a request goes, once, and notes in the exchange what it said.
//!
//! Knows nothing of how requests come and go.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;

use super::{Outcome, http_exchange::Exchange};
use crate::model::{
    Client, Cluster, Decision, HeaderEdits, RequestHead, Rewritten, ServicePort, Treatment,
};

/// Where a request goes.
pub(crate) struct Way {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) edits: Option<Arc<HeaderEdits>>,
    /// The URL that it goes on with, if that is another.
    pub(crate) rewritten: Option<Box<Rewritten>>,
    /// What else is done with it, if anything.
    pub(crate) treatment: Option<Arc<Treatment>>,
}

/// Where the request of `exchange` goes, which came to `port`; with what it is answered if nowhere.
/// `headers` may lack what no rule of the port looks at.
pub(crate) fn decide(
    port: Option<&ServicePort>,
    exchange: &mut Exchange,
    headers: &HeaderMap,
) -> Result<Way, Outcome> {
    let Some(port) = port else {
        return Err(Outcome::NoEndpoint);
    };
    let client = Client {
        workload: exchange.source(),
    };
    let request = RequestHead {
        method: &exchange.method,
        uri: &exchange.uri,
        authority: exchange.authority(),
        scheme: "http",
        headers,
    };
    match port.decide(&client, &request) {
        Decision::Refuse(refusal) => {
            exchange.route(Arc::clone(&refusal.route), None);
            Err(Outcome::Refused(refusal))
        }
        Decision::Answer { answer, route } => {
            exchange.route(route, None);
            Err(Outcome::Answered(answer))
        }
        Decision::Redirect {
            status,
            location,
            edits,
            route,
        } => {
            exchange.route(route, None);
            Err(Outcome::Redirected {
                status,
                location,
                edits,
            })
        }
        Decision::Forward {
            cluster,
            route,
            timeout,
            edits,
            rewritten,
            treatment,
        } => {
            exchange.route(route, Some(Arc::clone(&cluster)));
            Ok(Way {
                cluster,
                timeout,
                edits,
                rewritten,
                treatment,
            })
        }
    }
}
