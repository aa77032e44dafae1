//! Gateway and GatewayClass: which traffic a waypoint takes and from which namespaces it may be used.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::standalone::manifest::{Manifest, Object, ObjectMeta};
use crate::standalone::problem::LoadError;

/// The class of the gateways that are waypoints.
pub const WAYPOINT_CLASS: &str = "istio-waypoint";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
const HBONE_PORT: u16 = 15008;

/// Which addresses a waypoint takes traffic for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficType {
    Service,
    Workload,
    All,
    None,
}

impl TrafficType {
    /// The label of the Gateway, else of its class, else services. `Err` gives a value that is none of
    /// the four; such a waypoint takes nothing.
    pub fn of(gateway: &ObjectMeta, class: Option<&ObjectMeta>) -> Result<TrafficType, String> {
        let label = gateway
            .label(WAYPOINT_FOR)
            .or_else(|| class?.label(WAYPOINT_FOR));
        match label.unwrap_or("service") {
            "service" => Ok(TrafficType::Service),
            "workload" => Ok(TrafficType::Workload),
            "all" => Ok(TrafficType::All),
            "none" => Ok(TrafficType::None),
            other => Err(other.to_owned()),
        }
    }

    /// The value of the label that says so.
    pub fn label(self) -> &'static str {
        match self {
            TrafficType::Service => "service",
            TrafficType::Workload => "workload",
            TrafficType::All => "all",
            TrafficType::None => "none",
        }
    }

    pub fn services(self) -> bool {
        matches!(self, TrafficType::Service | TrafficType::All)
    }

    pub fn workloads(self) -> bool {
        matches!(self, TrafficType::Workload | TrafficType::All)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    pub class: String,
    /// Whose `use-waypoint` label is followed.
    pub allowed: AllowedNamespaces,
    /// The HBONE listener, by its place; without one only the Gateway's own namespace may use it.
    pub hbone: Option<usize>,
    /// All listeners, as `protocol:port`.
    pub listeners: Vec<String>,
}

/// `allowedRoutes.namespaces` of the HBONE listener.
#[derive(Clone, Debug, PartialEq)]
pub enum AllowedNamespaces {
    Same,
    All,
    Selector(LabelSelector),
}

impl AllowedNamespaces {
    /// Whether objects of this namespace may use the waypoint of `own`.
    pub fn admit(
        &self,
        own: &str,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
    ) -> bool {
        match self {
            AllowedNamespaces::All => true,
            AllowedNamespaces::Same => own == namespace,
            AllowedNamespaces::Selector(selector) => {
                labels.is_some_and(|labels| selector.matches(labels))
            }
        }
    }
}

/// A Kubernetes label selector.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Requirement {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
            && self.match_expressions.iter().all(|requirement| {
                let found = labels.get(&requirement.key);
                match requirement.operator {
                    Operator::In => found.is_some_and(|value| requirement.values.contains(value)),
                    Operator::NotIn => {
                        !found.is_some_and(|value| requirement.values.contains(value))
                    }
                    Operator::Exists => found.is_some(),
                    Operator::DoesNotExist => found.is_none(),
                }
            })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    gateway_class_name: String,
    #[serde(default)]
    listeners: Vec<Listener>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listener {
    port: u16,
    protocol: String,
    #[serde(default)]
    allowed_routes: AllowedRoutes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AllowedRoutes {
    namespaces: Namespaces,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Namespaces {
    from: From,
    selector: LabelSelector,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum From {
    All,
    Selector,
    #[default]
    Same,
}

impl Gateway {
    pub fn read(manifest: &Manifest) -> Result<Object<Gateway>, LoadError> {
        let spec: Spec = manifest.part("spec")?;
        let is_hbone =
            |listener: &Listener| listener.protocol == "HBONE" && listener.port == HBONE_PORT;
        let hbone = spec.listeners.iter().position(is_hbone);
        let listeners = spec.listeners.iter();
        let listeners =
            listeners.map(|listener| format!("{}:{}", listener.protocol, listener.port));
        let listeners = listeners.collect();
        let listener = hbone.and_then(|index| spec.listeners.into_iter().nth(index));
        let allowed = match listener.map(|listener| listener.allowed_routes.namespaces) {
            None
            | Some(Namespaces {
                from: From::Same, ..
            }) => AllowedNamespaces::Same,
            Some(Namespaces {
                from: From::All, ..
            }) => AllowedNamespaces::All,
            Some(Namespaces {
                from: From::Selector,
                selector,
            }) => AllowedNamespaces::Selector(selector),
        };
        Ok(manifest.object(Gateway {
            class: spec.gateway_class_name,
            allowed,
            hbone,
            listeners,
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::yaml::documents;

    fn gateway(labels: &str, namespaces: &str) -> Object<Gateway> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: w, labels: {{{labels}}}}}\nspec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {namespaces}}}}}]}}"
        );
        let document = documents(Path::new("a.yaml"), &text).unwrap().remove(0);
        Gateway::read(&Manifest::read(document, |_, _| true).unwrap()).unwrap()
    }

    #[test]
    fn traffic_types() {
        let of = |labels: &str| TrafficType::of(&gateway(labels, "{}").meta, None);
        assert_eq!(of(""), Ok(TrafficType::Service));
        assert_eq!(of("istio.io/waypoint-for: all"), Ok(TrafficType::All));
        assert_eq!(of("istio.io/waypoint-for: none"), Ok(TrafficType::None));
        assert!(of("istio.io/waypoint-for: everything").is_err());
        let class = gateway("istio.io/waypoint-for: workload", "{}").meta;
        assert_eq!(
            TrafficType::of(&gateway("", "{}").meta, Some(&class)),
            Ok(TrafficType::Workload)
        );
    }

    #[test]
    fn namespaces_are_admitted() {
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        for (namespaces, namespace, expected) in [
            ("{}", "own", true),
            ("{}", "other", false),
            ("{from: All}", "other", true),
            (
                "{from: Selector, selector: {matchLabels: {team: a}}}",
                "other",
                true,
            ),
            (
                "{from: Selector, selector: {matchLabels: {team: b}}}",
                "other",
                false,
            ),
            (
                "{from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}",
                "other",
                false,
            ),
        ] {
            let allowed = gateway("", namespaces).spec.allowed;
            assert_eq!(
                allowed.admit("own", namespace, Some(&labels)),
                expected,
                "{namespaces}"
            );
        }
    }
}
