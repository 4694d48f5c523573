// SPDX-License-Identifier: Apache-2.0

//! Certificates for data planes that are not ours: a root, and a leaf for each of the two pods.
//!
//! P-256 and SPIFFE names, as our own agent issues them. Knows nothing of who uses them.
//! Invariant: keys stay in the lab's directory, and go with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::command::run_ok;

/// The domain in all names.
pub(super) const TRUST_DOMAIN: &str = "cluster.local";

const KEY: &[&str] = &[
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
];

/// The SPIFFE name of a service account of the namespace `default`.
pub(super) fn spiffe_name(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{account}")
}

/// Makes `root.pem`, and `NAME.pem` and `NAME.key` for each of `accounts`, in a directory of
/// `parent`, and returns it.
///
/// # Panics
/// When openssl is missing or not content.
#[track_caller]
pub(super) fn make(parent: &Path, accounts: &[&str]) -> PathBuf {
    let directory = parent.join("certificates");
    fs::create_dir_all(&directory).expect("the lab's directory can be written");
    let subject = format!("/O={TRUST_DOMAIN}");
    let mut root = openssl(&directory, "req", KEY);
    root.args(["-x509", "-days", "2", "-subj", &subject]);
    run_ok(root.args(["-keyout", "root.key", "-out", "root.pem"]));
    for account in accounts {
        let (key, request) = (format!("{account}.key"), format!("{account}.csr"));
        let mut ask = openssl(&directory, "req", KEY);
        ask.args(["-subj", &subject, "-keyout", &key, "-out", &request]);
        run_ok(&mut ask);
        let extensions = format!("{account}.extensions");
        let text = format!(
            "subjectAltName = critical,URI:{}\nkeyUsage = digitalSignature\n\
             extendedKeyUsage = clientAuth,serverAuth\n",
            spiffe_name(account)
        );
        fs::write(directory.join(&extensions), text).expect("just made");
        let mut sign = openssl(&directory, "x509", &["-req", "-CAcreateserial"]);
        sign.args(["-CA", "root.pem", "-CAkey", "root.key", "-days", "2"]);
        sign.args(["-in", &request, "-extfile", &extensions]);
        run_ok(sign.arg("-out").arg(format!("{account}.pem")));
    }
    directory
}

fn openssl(directory: &Path, verb: &str, words: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(directory).arg(verb).args(words);
    command
}
