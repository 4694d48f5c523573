// SPDX-License-Identifier: Apache-2.0

//! Objects in, one [`model::Snapshot`](crate::model::Snapshot) out.
//!
//! Front ends (a directory of manifests; later the Kubernetes API) hand typed objects to an
//! [`Index`], which checks them, joins them and publishes an immutable snapshot together with a
//! [`Report`] of everything that is wrong. Nothing below this module knows Kubernetes; this module
//! knows nothing of sockets, the kernel or certificates.
//!
//! Invariant: what cannot be honoured is in the report, with object, field and fix.

pub mod problem;

pub use self::problem::{Origin, Problem, Report, Severity};
