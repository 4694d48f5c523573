// SPDX-License-Identifier: Apache-2.0

//! Promise 5: whom a request's token says it is of, by RequestAuthentications, with an issuer whose
//! keys a web server has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mesh_tests::{Node, Pod, command, wait};
use serde_json::{Value, json};

use crate::mesh::{Mesh, ask};

/// Where the issuer's web server listens, on the servers' node.
const PORT: u16 = 8700;

/// Who signs by RSA.
pub(crate) struct Key {
    id: String,
    file: PathBuf,
}

impl Key {
    #[track_caller]
    pub(crate) fn new(directory: &Path, id: &str) -> Self {
        let file = directory.join(format!("{id}.pem"));
        let mut openssl = Command::new("openssl");
        let arguments = ["genpkey", "-algorithm", "RSA", "-out"];
        command::run_ok(openssl.args(arguments).arg(&file));
        Self {
            id: id.to_owned(),
            file,
        }
    }

    /// As a key set has it.
    #[track_caller]
    pub(crate) fn public(&self) -> Value {
        let mut openssl = Command::new("openssl");
        let openssl = openssl.args(["rsa", "-noout", "-modulus", "-in"]);
        let said = command::run_ok(openssl.arg(&self.file));
        let modulus = said.trim().trim_start_matches("Modulus=").to_owned();
        json!({"kty": "RSA", "kid": self.id, "n": base64url(&bytes(&modulus)), "e": "AQAB"})
    }

    /// A token of the issuer.
    #[track_caller]
    pub(crate) fn token(&self, claims: &Value) -> String {
        let part = |value: &Value| base64url(value.to_string().as_bytes());
        let header = json!({"alg": "RS256", "kid": self.id});
        let signed = format!("{}.{}", part(&header), part(claims));
        let mut openssl = Command::new("openssl");
        let openssl = openssl.args(["dgst", "-sha256", "-hex", "-sign"]);
        let said = command::feed(openssl.arg(&self.file), &signed);
        let digits = said.trim().rsplit(' ').next().unwrap().to_owned();
        format!("{signed}.{}", base64url(&bytes(&digits)))
    }
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let pairs = hexadecimal.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..=group.len() {
            let letter = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap();
            text.push(char::from(LETTERS[letter]));
        }
    }
    text
}

/// The issuer's web server.
struct Server(Child);

impl Server {
    fn start(node: &Node, directory: &Path) -> Self {
        let mut python = node.netns.command("python3");
        python.args(["-m", "http.server", &PORT.to_string()]);
        python.args(["--directory", &directory.to_string_lossy()]);
        python.stdout(Stdio::null()).stderr(Stdio::null());
        Self(python.spawn().expect("python3 starts"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        command::stop(&mut self.0, Duration::from_secs(1));
    }
}

fn publish(directory: &Path, keys: &[&Key]) {
    let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
    let fresh = directory.join("fresh.json");
    fs::write(&fresh, json!({"keys": keys}).to_string()).unwrap();
    fs::rename(fresh, directory.join("keys.json")).unwrap();
}

fn rules(node: &Node) -> String {
    let (address, _) = node.addresses();
    format!(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: default}}
spec:
  selector: {{matchLabels: {{app: recommendations}}}}
  jwtRules:
  - issuer: https://issuer.example
    jwksUri: http://{address}:{PORT}/keys.json
    outputClaimToHeaders: [{{header: x-user, claim: sub}}]
"
    )
}

const STAFF: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: staff, namespace: default}
spec:
  selector: {matchLabels: {app: recommendations}}
  rules:
  - from: [{source: {requestPrincipals: [\"https://issuer.example/*\"]}}]
    when: [{key: \"request.auth.claims[realm][groups]\", values: [staff]}]
";

fn claims(subject: &str, groups: &[&str]) -> Value {
    json!({"iss": "https://issuer.example", "sub": subject, "realm": {"groups": groups}})
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// Only the staff's tokens will do.
#[track_caller]
fn check_staff(mesh: &Mesh, near: &Pod, service: &str, key: &Key) {
    let anna = bearer(&key.token(&claims("anna", &["staff"])));
    let guest = bearer(&key.token(&claims("guest", &["visitors"])));
    for (headers, want) in [
        (&[&*anna][..], "200"),
        (&[&*guest], "403"),
        (&[], "403"),
        (&["Authorization: Bearer a.b.c"], "401"),
    ] {
        for pod in [&mesh.client, near] {
            let (status, body) = ask(pod, service, headers);
            assert_eq!(status, want, "{} {headers:?}: {body}", pod.name);
        }
    }
}

#[test]
fn tokens_of_an_issuer_are_known_by_the_keys_that_its_web_server_has() {
    let mesh = Mesh::start("tokens");
    let near = mesh.lab.pod("near").on_b().account("near").start();
    let outsider = mesh.lab.pod("outsider").outside().start();
    let directory = mesh.lab.directory().join("issuer");
    fs::create_dir(&directory).unwrap();
    let (old, new) = (Key::new(&directory, "old"), Key::new(&directory, "new"));
    mesh.apply(&rules(&mesh.lab.b));
    let service = format!("http://{}/", mesh.service("recommendations", 80));
    let direct = format!("http://{}:8080/", mesh.v1.v4);
    let anna = bearer(&old.token(&claims("anna", &["staff"])));

    // As long as there are no keys, no token is good.
    let (status, body) = ask(&mesh.client, &service, &[&anna]);
    assert_eq!((&*status, &*body), ("401", "Jwks remote fetch is failed"));
    assert_eq!(ask(&mesh.client, &service, &[]).0, "200");
    let said = mesh.b.cli(&["status"]).stdout;
    assert!(said.contains("never fetched"), "{said}");

    publish(&directory, &[&old]);
    let server = Server::start(&mesh.lab.b, &directory);
    wait::until("the keys", Duration::from_secs(60), || {
        match ask(&mesh.client, &service, &[&anna]) {
            (status, body) if status == "200" => Ok(body),
            other => Err(other),
        }
    });
    for (pod, url) in [
        (&mesh.client, &service),
        (&mesh.client, &direct),
        (&near, &service),
        (&near, &direct),
        (&outsider, &direct),
    ] {
        let place = format!("{} to {url}", pod.name);
        let (status, body) = ask(pod, url, &[&anna, "x-user: root"]);
        assert_eq!(status, "200", "{place}");
        assert!(body.contains("anna"), "{place}: {body}");
        assert!(!body.contains("root"), "{place}: {body}");
        let (_, body) = ask(pod, url, &["X-User: root", "x_user: root"]);
        assert!(!body.contains("root"), "{place}: {body}");
        let late = json!({"iss": "https://issuer.example", "exp": 1});
        let late = bearer(&old.token(&late));
        let (status, body) = ask(pod, url, &[&late]);
        assert_eq!((&*status, &*body), ("401", "Jwt is expired"), "{place}");
    }

    mesh.apply(STAFF);
    check_staff(&mesh, &near, &service, &old);

    // A token that names a new key has the keys fetched; the old key's are good no more.
    publish(&directory, &[&new]);
    let bob = bearer(&new.token(&claims("bob", &["staff"])));
    wait::until_true("the new key", Duration::from_secs(60), || {
        ask(&mesh.client, &service, &[&bob]).0 == "200"
    });
    assert_eq!(ask(&mesh.client, &service, &[&anna]).0, "401");
    // Without the web server, what there is stays.
    drop(server);
    assert_eq!(ask(&near, &service, &[&bob]).0, "200");
}
