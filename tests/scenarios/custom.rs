// SPDX-License-Identifier: Apache-2.0

//! Promise 5: a service of the user's decides about requests, where the server is.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use mesh_tests::{App, Pod, command, wait};

use crate::mesh::{Mesh, ask};

/// Says yes to `x-ext: good`.
const PROVIDER: &str = "
import http.server
class Judge(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        good = self.headers.get('x-ext') == 'good' and self.path.startswith('/check/')
        body = b'' if good else b'not you'
        self.send_response(200 if good else 401)
        self.send_header('x-user', 'anna')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(('', 9000), Judge).serve_forever()
";

const MANIFESTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: judge
      envoyExtAuthzHttp:
        service: judge.default.svc.cluster.local
        port: 80
        timeout: 2s
        pathPrefix: /check
        includeRequestHeadersInCheck: [x-ext]
        headersToUpstreamOnAllow: [x-user]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: judged, namespace: default}
spec:
  selector: {matchLabels: {app: recommendations}}
  action: CUSTOM
  provider: {name: judge}
  rules: [{to: [{operation: {notPaths: [/trailers]}}]}]
";

struct Provider(Child);

impl Provider {
    fn start(pod: &Pod) -> Self {
        let mut python = pod.command("python3");
        python.args(["-c", PROVIDER]);
        python.stdout(Stdio::null()).stderr(Stdio::null());
        Self(python.spawn().expect("python3 starts"))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        command::stop(&mut self.0, Duration::from_secs(1));
    }
}

#[test]
fn a_provider_on_another_node_decides_and_without_it_nothing_passes() {
    let mesh = Mesh::start("custom");
    let near = mesh.lab.pod("near").on_b().account("near").start();
    let judge = mesh.lab.pod("judge").label("app", "judge").start();
    mesh.lab.service("judge").port("http", 80, 9000).create();
    mesh.apply(MANIFESTS);
    let url = format!("http://{}/", mesh.service("recommendations", 80));

    let requests = || mesh.apps.iter().map(App::work).sum::<u64>();
    let before = requests();
    assert_eq!(ask(&mesh.client, &url, &["x-ext: good"]).0, "403");
    assert_eq!(requests(), before, "nobody listens at the provider yet");

    let provider = Provider::start(&judge);
    wait::until_true("the provider", wait::PATIENCE, || {
        ask(&mesh.client, &url, &["x-ext: good"]).0 == "200"
    });
    for pod in [&mesh.client, &near] {
        let (status, body) = ask(pod, &url, &["x-ext: good", "x-user: root"]);
        assert_eq!(status, "200", "{}: {body}", pod.name);
        assert!(body.contains("anna") && !body.contains("root"), "{body}");
        let (status, body) = ask(pod, &url, &[]);
        assert_eq!((&*status, &*body), ("401", "not you"), "{}", pod.name);
        assert_eq!(ask(pod, &format!("{url}trailers"), &[]).0, "200");
    }

    // Without its provider, a policy lets nothing pass.
    drop(provider);
    let before = requests();
    assert_eq!(ask(&mesh.client, &url, &["x-ext: good"]).0, "403");
    mesh.lab.delete("ConfigMap", "istio-system", "istio");
    mesh.settle();
    assert_eq!(ask(&mesh.client, &url, &["x-ext: good"]).0, "403");
    assert_eq!(requests(), before);
}
