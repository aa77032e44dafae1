//! Whether pods with a sidecar take mutual TLS, as istiod finds it: of PeerAuthentications the one that is for the fewest counts, and
//! of those that are for as many the oldest.
//!
//! What the root namespace selects pods with says nothing.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::istio::peer_authentication::{MutualTls, PeerAuthentication};
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::mesh_endpoint::MeshEndpoint;

/// All of them, as a mesh sees them.
#[derive(Debug, Default)]
pub struct PeerPolicies<'a> {
    root_namespace: String,
    /// By namespace, the oldest first.
    all: BTreeMap<&'a str, Vec<&'a Object<PeerAuthentication>>>,
}

/// What is said of a pod's port.
#[derive(Clone, Debug)]
pub struct Said<'a> {
    pub off: bool,
    /// Those without which it would be something else.
    pub by: Vec<&'a Object<PeerAuthentication>>,
}

impl<'a> PeerPolicies<'a> {
    pub fn of(state: &'a ClusterState, root: &str) -> PeerPolicies<'a> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for object in state.peer_authentications.values() {
            let namespace = object.meta.namespace.as_str();
            all.entry(namespace).or_default().push(object);
        }
        for objects in all.values_mut() {
            objects.sort_by_key(|object| (object.meta.created, &object.meta.name));
        }
        PeerPolicies {
            root_namespace: root.to_owned(),
            all,
        }
    }

    /// What is said of all pods of a namespace: what clusters are made by, whoever their endpoints are.
    pub fn of_namespace(&self, namespace: &str) -> Said<'a> {
        let layers = [self.wide(&self.root_namespace), self.wide_own(namespace)];
        said(layers.into_iter().flatten(), None)
    }

    /// What is said of the port of an endpoint.
    pub fn of_endpoint(&self, endpoint: &MeshEndpoint) -> Said<'a> {
        let namespace = endpoint.namespace.as_str();
        let selecting = self.in_namespace(namespace).find(|object| {
            let spec = &object.spec;
            namespace != self.root_namespace && !spec.is_wide() && spec.selects(&endpoint.labels)
        });
        let layers = [
            self.wide(&self.root_namespace),
            self.wide_own(namespace),
            selecting,
        ];
        said(layers.into_iter().flatten(), Some(endpoint.port))
    }

    fn in_namespace(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Object<PeerAuthentication>> {
        self.all.get(namespace).into_iter().flatten().copied()
    }

    fn wide(&self, namespace: &str) -> Option<&'a Object<PeerAuthentication>> {
        let mut all = self.in_namespace(namespace);
        all.find(|object| object.spec.is_wide())
    }

    /// That of a namespace which isn't the mesh's.
    fn wide_own(&self, namespace: &str) -> Option<&'a Object<PeerAuthentication>> {
        (namespace != self.root_namespace)
            .then(|| self.wide(namespace))
            .flatten()
    }
}

/// What comes of layers, the widest first.
fn said<'a>(
    layers: impl Iterator<Item = &'a Object<PeerAuthentication>>,
    port: Option<u16>,
) -> Said<'a> {
    let mut mode = MutualTls::Permissive;
    let mut by = Vec::new();
    for layer in layers {
        let spec = &layer.spec;
        let of_port = port.and_then(|port| spec.ports.get(&port)).copied();
        let Some(own) = of_port.flatten().or(spec.mode) else {
            continue;
        };
        let differs = (own == MutualTls::Disable) != (mode == MutualTls::Disable);
        if differs {
            by.push(layer);
        }
        mode = own;
    }
    Said {
        off: mode == MutualTls::Disable,
        by,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::standalone::input::yaml::documents;
    use crate::standalone::kinds::istio::workload_address::WorkloadAddress;
    use crate::standalone::state::mesh_endpoint::Locality;

    fn endpoint(namespace: &str, app: &str, port: u16) -> MeshEndpoint {
        MeshEndpoint {
            address: WorkloadAddress::of("10.0.0.1"),
            port,
            healthy: None,
            weight: 1,
            locality: Locality::default(),
            hbone: false,
            workload: None,
            namespace: namespace.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            node: String::new(),
            tls_mode: Some("istio".to_owned()),
        }
    }

    /// Whether it is off there, and who says so.
    fn found(policies: &[(&str, &str, &str)], of: &MeshEndpoint) -> (bool, String) {
        let all = policies.iter().zip(1..);
        let texts = all.map(|((name, namespace, spec), age)| format!(
            "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{age}T00:00:00Z'}}, spec: {{{spec}}}}}\n---\n"
        ));
        let text: String = texts.collect();
        let state = ClusterState::read(documents("a.yaml".as_ref(), &text).unwrap()).unwrap();
        let said = PeerPolicies::of(&state, "root").of_endpoint(of);
        let by: String = said.by.iter().map(|by| by.meta.name.as_str()).collect();
        (said.off, by)
    }

    #[test]
    fn the_narrowest_counts_and_of_equals_the_oldest() {
        let off = "mtls: {mode: DISABLE}";
        let of_a = "selector: {matchLabels: {app: a}}";
        let (of_a_off, of_a_on) = (
            format!("{of_a}, {off}"),
            format!("{of_a}, mtls: {{mode: STRICT}}"),
        );
        let ports =
            format!("{of_a}, portLevelMtls: {{80: {{mode: DISABLE}}, 81: {{mode: UNSET}}}}");
        let a = |port| endpoint("shop", "a", port);
        for (policies, of, expected) in [
            (&[][..], a(80), (false, "")),
            (&[("m", "root", off)], a(80), (true, "m")),
            (&[("m", "other", off)], a(80), (false, "")),
            (
                &[("m", "root", off), ("o", "shop", "mtls: {mode: STRICT}")],
                a(80),
                (false, "mo"),
            ),
            (
                &[("m", "root", off), ("o", "shop", "mtls: {mode: UNSET}")],
                a(80),
                (true, "m"),
            ),
            (
                &[
                    ("o", "shop", "mtls: {mode: STRICT}"),
                    ("younger", "shop", off),
                ],
                a(80),
                (false, ""),
            ),
            (&[("w", "shop", &of_a_off)], a(80), (true, "w")),
            (
                &[("w", "shop", &of_a_off)],
                endpoint("shop", "b", 80),
                (false, ""),
            ),
            (
                &[("w", "shop", &of_a_off), ("x", "shop", &of_a_on)],
                a(80),
                (true, "w"),
            ),
            (
                &[("o", "shop", off), ("w", "shop", &of_a_on)],
                a(80),
                (false, "ow"),
            ),
            // Pods are selected in their own namespace alone.
            (&[("w", "root", &of_a_off)], a(80), (false, "")),
            (
                &[("w", "root", &of_a_off)],
                endpoint("root", "a", 80),
                (false, ""),
            ),
            (&[("p", "shop", &ports)], a(80), (true, "p")),
            (&[("p", "shop", &ports)], a(82), (false, "")),
            (
                &[("o", "shop", off), ("p", "shop", &ports)],
                a(81),
                (true, "o"),
            ),
        ] {
            let (is_off, by) = found(policies, &of);
            assert_eq!((is_off, by.as_str()), expected, "{policies:?} {of:?}");
        }
    }
}
