//! Gateway and GatewayClass: which traffic a waypoint takes and from which namespaces it may be used.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::standalone::input::manifest::{Manifest, Object, ObjectMeta};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::gateway_api::gateway_schema;
use crate::standalone::kinds::known_fields::{KnownFields, Report};

/// The class of the gateways that are waypoints.
pub const WAYPOINT_CLASS: &str = "istio-waypoint";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
const HBONE_PORT: u16 = waypoint_hbone::PORT;
/// The label that the API server gives to every namespace.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

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
    /// Fields that are given and say nothing to a waypoint.
    pub unused: Vec<Unused>,
    /// What its pods are annotated with; `None`: with what the Gateway itself is.
    pod_annotations: Option<BTreeMap<String, String>>,
}

impl Object<Gateway> {
    /// An annotation of the waypoint's pods, where istiod deploys them.
    pub fn pod_annotation(&self, name: &str) -> Option<&str> {
        match &self.spec.pod_annotations {
            Some(annotations) => annotations.get(name).map(String::as_str),
            None => self.meta.annotation(name),
        }
    }
}

/// A field that says nothing to a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    pub field: String,
    pub reason: &'static str,
    /// It is for others: for who deploys the waypoint's pod.
    pub for_others: bool,
}

/// Fields of `spec`, and whether they are for others.
const UNUSED: &[(&str, &str, bool)] = &[
    ("addresses", "for who deploys a waypoint", true),
    ("infrastructure", "for who deploys a waypoint", true),
    (
        "tls",
        "a waypoint ends HBONE with its own certificate",
        false,
    ),
    (
        "allowedListeners",
        "a waypoint takes no ListenerSets",
        false,
    ),
    (
        "defaultScope",
        "a waypoint is no default Gateway of routes",
        false,
    ),
];
/// Fields of the HBONE listener.
const UNUSED_OF_LISTENER: &[(&str, &str)] = &[
    (
        "hostname",
        "HBONE knows no host names: a waypoint takes what is for its services",
    ),
    ("tls", "a waypoint ends HBONE with its own certificate"),
    (
        "allowedRoutes.kinds",
        "a waypoint has routes by Services, not by its Gateway",
    ),
];

fn unused(manifest: &Manifest, hbone: Option<usize>) -> Vec<Unused> {
    let Some(spec) = manifest.body.get("spec") else {
        return Vec::new();
    };
    let says = |value: Option<&Value>| {
        value.is_some_and(|value| match value {
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            Value::String(text) => text != "None",
            _ => true,
        })
    };
    let of_spec = UNUSED.iter().filter(|(name, ..)| says(spec.get(*name)));
    let of_spec = of_spec.map(|(name, reason, for_others)| Unused {
        field: format!("spec.{name}"),
        reason,
        for_others: *for_others,
    });
    let listener = hbone.and_then(|index| Some((index, spec.get("listeners")?.get(index)?)));
    let of_listener = listener.into_iter().flat_map(|(index, listener)| {
        let given = move |(name, _): &&(&str, &str)| {
            let mut path = name.split('.');
            says(path.try_fold(listener, |value, name| value.get(name)))
        };
        let given = UNUSED_OF_LISTENER.iter().filter(given);
        given.map(move |(name, reason)| Unused {
            field: format!("spec.listeners[{index}].{name}"),
            reason,
            for_others: false,
        })
    });
    of_spec.chain(of_listener).collect()
}

/// `allowedRoutes.namespaces` of the HBONE listener.
#[derive(Clone, Debug, PartialEq)]
pub enum AllowedNamespaces {
    Same,
    All,
    /// `None`: no selector is given, which selects nothing; an empty one selects everything.
    Selector(Option<LabelSelector>),
}

impl AllowedNamespaces {
    /// Whether objects of this namespace may use the waypoint of `own`. A namespace that isn't among the manifests
    /// has the one label that every namespace has.
    pub fn admit(
        &self,
        own: &str,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
    ) -> bool {
        let implied = || BTreeMap::from([(NAMESPACE_NAME.to_owned(), namespace.to_owned())]);
        match self {
            AllowedNamespaces::All => true,
            AllowedNamespaces::Same => own == namespace,
            AllowedNamespaces::Selector(None) => false,
            AllowedNamespaces::Selector(Some(selector)) => match labels {
                Some(labels) => selector.matches(labels),
                None => selector.matches(&implied()),
            },
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
    listeners: Vec<Listener>,
    #[serde(default)]
    infrastructure: Infrastructure,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Infrastructure {
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listener {
    name: String,
    port: u16,
    protocol: String,
    hostname: Option<String>,
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
    selector: Option<LabelSelector>,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum From {
    All,
    Selector,
    #[default]
    Same,
}

impl Listener {
    fn check(&self, before: &[Listener]) -> Result<(), (String, String)> {
        if before.iter().any(|other| other.name == self.name) {
            let reason = format!("{:?} is given twice", self.name);
            return Err((".name".to_owned(), reason));
        }
        let place = |listener: &Listener| {
            (
                listener.port,
                listener.protocol.clone(),
                listener.hostname.clone(),
            )
        };
        if before.iter().any(|other| place(other) == place(self)) {
            let reason = "port, protocol and hostname are those of a listener before it";
            return Err((String::new(), reason.to_owned()));
        }
        let Some(selector) = &self.allowed_routes.namespaces.selector else {
            return Ok(());
        };
        for (index, requirement) in selector.match_expressions.iter().enumerate() {
            let wanted = matches!(requirement.operator, Operator::In | Operator::NotIn);
            if wanted == requirement.values.is_empty() {
                let field =
                    format!(".allowedRoutes.namespaces.selector.matchExpressions[{index}].values");
                let reason = "are for In and NotIn, which must have some";
                return Err((field, reason.to_owned()));
            }
        }
        Ok(())
    }
}

impl Gateway {
    pub fn read(manifest: &Manifest) -> Result<Object<Gateway>, LoadError> {
        let spec: Spec = manifest.part("spec")?;
        gateway_schema::check(manifest)?;
        for (index, listener) in spec.listeners.iter().enumerate() {
            let refused = |(field, reason): (String, String)| {
                manifest.refused(format!("spec.listeners[{index}]{field}"), reason)
            };
            let before = spec.listeners.get(..index).unwrap_or_default();
            listener.check(before).map_err(refused)?;
        }
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
            unused: unused(manifest, hbone),
            pod_annotations: spec.infrastructure.annotations,
        }))
    }
}

/// What the API knows of it.
pub(crate) const FIELDS: &[KnownFields] = &[
    ("", Report::Always, &["spec", "status"]),
    (
        "spec",
        Report::Always,
        &[
            "addresses",
            "allowedListeners",
            "defaultScope",
            "gatewayClassName",
            "infrastructure",
            "listeners",
            "tls",
        ],
    ),
    (
        "spec.listeners[]",
        Report::Always,
        &[
            "allowedRoutes",
            "hostname",
            "name",
            "port",
            "protocol",
            "tls",
        ],
    ),
    (
        "spec.listeners[].allowedRoutes",
        Report::Always,
        &["kinds", "namespaces"],
    ),
    (
        "spec.listeners[].allowedRoutes.namespaces",
        Report::Always,
        &["from", "selector"],
    ),
    (
        "spec.listeners[].allowedRoutes.namespaces.selector",
        Report::Always,
        &["matchExpressions", "matchLabels"],
    ),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    fn gateway(labels: &str, namespaces: &str) -> Object<Gateway> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: w, labels: {{{labels}}}}}\nspec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {namespaces}}}}}]}}"
        );
        Gateway::read(&Manifest::of(&text)).unwrap()
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
    fn what_the_api_server_refuses() {
        let hbone = "name: mesh, port: 15008, protocol: HBONE";
        let selector = |expression: &str| {
            format!(
                "{{{hbone}, allowedRoutes: {{namespaces: {{from: Selector, selector: {{matchExpressions: [{{key: a, {expression}}}]}}}}}}}}"
            )
        };
        let values =
            "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values";
        for (listeners, field) in [
            (String::new(), "spec.listeners"),
            ("{port: 1, protocol: HTTP}".to_owned(), "spec.listeners[0]"),
            (
                "{name: A, port: 1, protocol: HTTP}".to_owned(),
                "spec.listeners[0].name",
            ),
            (
                "{name: a, port: 0, protocol: HTTP}".to_owned(),
                "spec.listeners[0].port",
            ),
            (
                format!("{{{hbone}}}, {{{hbone}}}"),
                "spec.listeners[1].name",
            ),
            (
                format!("{{{hbone}}}, {{name: b, port: 15008, protocol: HBONE}}"),
                "spec.listeners[1]",
            ),
            (selector("operator: In"), values),
            (selector("operator: Exists, values: [x]"), values),
        ] {
            let text = format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: w}}, spec: {{gatewayClassName: istio-waypoint, listeners: [{listeners}]}}}}"
            );
            let error = Gateway::read(&Manifest::of(&text)).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{listeners}: {error}");
        }
    }

    #[test]
    fn a_selector_that_is_missing_selects_nothing_and_an_empty_one_everything() {
        let named = "{from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: m}}}";
        for (namespaces, expected) in [
            ("{from: Selector}", false),
            ("{from: Selector, selector: {}}", true),
            (named, true),
        ] {
            let allowed = gateway("", namespaces).spec.allowed;
            assert_eq!(allowed.admit("own", "m", None), expected, "{namespaces}");
        }
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
