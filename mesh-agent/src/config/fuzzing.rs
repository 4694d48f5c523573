// SPDX-License-Identifier: Apache-2.0

//! Manifests that nobody wrote, from the text to the snapshot.

use super::{
    Index, IndexSettings,
    read::{self, Entry, Format},
};

/// One manifest each.
pub const SEEDS: &[&[u8]] = &[
    b"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.0.0.1, selector: {app: x}, ports: [{name: http, port: 80}]}\n",
    b"---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: x}}\nspec: {containers: []}\nstatus: {podIP: 10.1.0.1}\n",
    b"---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [s], http: [{match: [{uri: {regex: '/a.*'}}], route: [{destination: {host: s, subset: v1}, weight: 3}]}]}\n",
    b"---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{kind: Service, group: '', name: s}], rules: [{backendRefs: [{name: s, port: 80}]}]}\n",
    b"---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: q}\nspec: {mtls: {mode: STRICT}}\n",
    b"---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t}\nspec: {jwtRules: [{issuer: 'https://i', fromHeaders: [{name: x, prefix: 'b '}], outputClaimToHeaders: [{header: y, claim: z}]}]}\n",
    b"{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}]}",
];

/// Nothing panics, and applying the same again changes nothing.
pub fn manifests(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for format in [Format::Yaml, Format::Json] {
        let mut index = Index::new(IndexSettings {
            statuses: true,
            ..IndexSettings::default()
        });
        apply(&mut index, &text, format);
        let first = index.report().borrow().problems.clone();
        index.publish();
        assert_eq!(index.report().borrow().problems, first);
    }
}

fn apply(index: &mut Index, text: &str, format: Format) {
    for entry in read::read("fuzz", text, format) {
        if let Entry::Good(object, origin) = entry {
            index.apply(object, origin);
        }
    }
    index.publish();
}
