// SPDX-License-Identifier: Apache-2.0

//! What is wrong with a configuration, in the form of `istioctl analyze`.
//!
//! Codes are Istio's (`pkg/config/analysis/msg/messages.yaml`) where it has one for the same
//! finding; `MESH...` are ours.

use std::{fmt, sync::Arc, time::SystemTime};

use crate::model::ObjectRef;

/// How bad a problem is. Worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Something that was asked for does not happen.
    Error,
    /// Something may not happen as meant.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// As `istioctl analyze` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "Error",
            Self::Warning => "Warning",
            Self::Info => "Info",
        }
    }
}

/// Codes of problems.
pub mod code {
    /// A thing that is named does not exist.
    pub const REFERENCE: &str = "IST0101";
    /// A namespace has pods but is not enrolled.
    pub const NOT_ENROLLED: &str = "IST0102";
    /// An object does not have the form of its kind.
    pub const SCHEMA: &str = "IST0106";
    /// Several VirtualServices claim one host.
    pub const HOST_CONFLICT: &str = "IST0109";
    /// Several Sidecars are for one whole namespace.
    pub const SIDECAR_CONFLICT: &str = "IST0111";
    /// A destination must name a port.
    pub const PORT_REQUIRED: &str = "IST0112";
    /// A selector selects no pod.
    pub const NO_WORKLOADS: &str = "IST0127";
    /// A port's name does not say what is spoken.
    pub const PORT_NAME: &str = "IST0118";
    /// A rule is never reached.
    pub const UNREACHABLE: &str = "IST0130";
    /// A condition of a rule is never what decides.
    pub const INEFFECTIVE: &str = "IST0131";
    /// Use of what is deprecated.
    pub const DEPRECATED: &str = "IST0002";
    /// A file cannot be read.
    pub const UNREADABLE: &str = "MESH0001";
    /// One object is in two files.
    pub const DUPLICATE: &str = "MESH0002";
    /// A kind or field that the mesh does not support yet.
    pub const UNSUPPORTED: &str = "MESH0003";
    /// A kind that has no bearing on the mesh.
    pub const IGNORED_KIND: &str = "MESH0004";
    /// Two objects contradict each other, and one of them wins.
    pub const OVERRULED: &str = "MESH0005";
    /// A policy lets in peers that prove no identity, probably against what is meant.
    pub const OPEN_TO_PLAINTEXT: &str = "MESH0006";
    /// Keys by which tokens are verified are fetched so that others may change them on their way.
    pub const PLAINTEXT_KEYS: &str = "MESH0012";
    /// Keys are to be fetched from where nothing is fetched.
    pub const INNER_KEYS: &str = "MESH0013";
    /// What is written changes nothing, as it is written.
    pub const WITHOUT_EFFECT: &str = "MESH0010";
}

/// Where an object was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// A file's path, or the name of another source; may be empty.
    pub place: Arc<str>,
    /// The line at which the object begins, counted from 1.
    pub line: Option<u32>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.place),
            None => f.write_str(&self.place),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// One of [`code`].
    pub code: &'static str,
    /// The object, if it could be told.
    pub object: Option<ObjectRef>,
    /// Where that was read.
    pub origin: Origin,
    /// The path of the field, for example `spec.http[0].route[1].destination.subset`; may be empty.
    pub field: String,
    /// What is wrong and what happens because of it.
    pub text: String,
    /// What to do about it; may be empty.
    pub fix: String,
}

/// One line: `Error [IST0101] (VirtualService default/x config/vs.yaml:1) spec.hosts: ...; fix: ...`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.severity.as_str(), self.code)?;
        match (&self.object, self.origin.place.is_empty()) {
            (Some(object), false) => write!(f, " ({object} {})", self.origin)?,
            (Some(object), true) => write!(f, " ({object})")?,
            (None, false) => write!(f, " ({})", self.origin)?,
            (None, true) => {}
        }
        if !self.field.is_empty() {
            write!(f, " {}:", self.field)?;
        }
        write!(f, " {}", self.text)?;
        if !self.fix.is_empty() {
            write!(f, "; fix: {}", self.fix)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with what is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Worst first, then by code and object.
    pub problems: Vec<Problem>,
    /// The generation of the snapshot that this is about.
    pub generation: u64,
    /// How many objects are in force.
    pub objects: usize,
    /// When a front end last handed over what it has.
    pub loaded_at: SystemTime,
}

impl Report {
    /// How many problems are errors.
    pub fn errors(&self) -> usize {
        let is_error = |problem: &&Problem| problem.severity == Severity::Error;
        self.problems.iter().filter(is_error).count()
    }
}

impl Default for Report {
    fn default() -> Self {
        Self {
            problems: Vec::new(),
            generation: 0,
            objects: 0,
            loaded_at: SystemTime::UNIX_EPOCH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_object_field_and_fix() {
        let problem = Problem {
            severity: Severity::Error,
            code: code::REFERENCE,
            object: Some(ObjectRef {
                kind: "VirtualService".into(),
                namespace: "default".into(),
                name: "x".into(),
            }),
            origin: Origin {
                place: "config/vs.yaml".into(),
                line: Some(3),
            },
            field: "spec.hosts[0]".to_owned(),
            text: "no such Service".to_owned(),
            fix: "create it".to_owned(),
        };
        assert_eq!(
            problem.to_string(),
            "Error [IST0101] (VirtualService default/x config/vs.yaml:3) spec.hosts[0]: \
             no such Service; fix: create it"
        );
        let bare = Problem {
            object: None,
            origin: Origin::default(),
            field: String::new(),
            fix: String::new(),
            ..problem
        };
        assert_eq!(bare.to_string(), "Error [IST0101] no such Service");
    }
}
