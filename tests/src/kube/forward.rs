// SPDX-License-Identifier: Apache-2.0

//! `kubectl port-forward`, while a test needs it.
//!
//! Knows nothing of what is behind the port. Invariant: it listens before the constructor returns
//! and ends with its value.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStdout, Stdio},
};

use super::{Namespace, end};
use crate::command::run_ok;

/// A port of a pod, reachable in the network of the control plane.
pub struct Forward<'a> {
    namespace: &'a Namespace,
    child: Child,
    port: u16,
    /// Kept open: kubectl says each connection there, and ends when it cannot.
    _output: BufReader<ChildStdout>,
}

impl<'a> Forward<'a> {
    /// Forwards some port to `port` of `target`.
    ///
    /// # Panics
    /// When kubectl does not.
    #[track_caller]
    pub fn start(namespace: &'a Namespace, target: &str, port: u16) -> Self {
        let mut kubectl = namespace.kubectl();
        kubectl.args(["port-forward", target, &format!(":{port}")]);
        kubectl.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = kubectl
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let output = child.stdout.take().expect("standard output was piped");
        let mut output = BufReader::new(output);
        let mut first = String::new();
        output.read_line(&mut first).expect("a pipe can be read");
        // `Forwarding from 127.0.0.1:40001 -> 8080`
        let chosen = first
            .split(" -> ")
            .next()
            .and_then(|left| left.rsplit(':').next())
            .and_then(|digits| digits.parse().ok());
        let Some(chosen) = chosen else {
            end(&mut child);
            let mut errors = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut errors).unwrap_or_default();
            }
            panic!("kubectl port-forward {target}: {first}{errors}");
        };
        Self {
            namespace,
            child,
            port: chosen,
            _output: output,
        }
    }

    /// Asks for `path` through it and returns the body.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut curl = self.namespace.cluster().inside(Path::new("curl"));
        run_ok(curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "20",
            &url,
        ]))
    }
}

impl Drop for Forward<'_> {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
