// SPDX-License-Identifier: Apache-2.0

//! An HTTP/1.1 connection taken out of the pool for one exchange.
//!
//! Knows nothing of requests. Invariant: it goes back only after a whole request and a whole
//! response; dropped otherwise, the connection ends.

use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;

use super::{
    http_body::{Progress, RequestBody},
    http_pool::Pool,
    http_upstream::{Http1, Unanswered},
};
use crate::model::Endpoint;

/// An HTTP/1.1 connection in use.
pub(crate) struct Lease {
    pub(crate) http1: Http1,
    pub(crate) endpoint: Endpoint,
    pub(crate) pool: Rc<Pool>,
    /// How many exchanges the connection is for, if that is limited.
    pub(crate) limit: Option<u32>,
    /// Of the request's body, if it has one.
    pub(crate) progress: Option<Rc<Progress>>,
}

impl Lease {
    /// Sends `request` and waits for the head of its answer; says which endpoint failed otherwise.
    pub(crate) async fn send(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Self), (Unanswered, Endpoint)> {
        match self.http1.send(request).await {
            Ok(response) => Ok((response, self)),
            Err(error) => Err((error, self.endpoint)),
        }
    }

    /// Puts the connection back for the next exchange, if it can take one.
    pub(crate) fn give_back(self) {
        let whole = self.progress.is_none_or(|progress| progress.has_ended());
        let worn = self
            .limit
            .is_some_and(|limit| self.http1.exchanges() >= limit);
        if whole && !worn && !self.http1.is_closed() {
            self.pool.put(&self.endpoint, self.http1);
        }
    }
}
