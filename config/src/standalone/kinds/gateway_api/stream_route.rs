//! TCPRoute and TLSRoute as the Gateway API's CRDs let them through: where connections go that are passed on as they are.
//!
//! They differ by `hostnames`, which only TLSRoute has. Unknown fields are refused by name.

use std::net::IpAddr;

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::gateway_api::backend_object::{BackendObject, service_kind};
use crate::standalone::kinds::gateway_api::http_route::{Backend, ParentRef, check_parents};
use crate::standalone::kinds::gateway_api::http_route_schema;
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, PartialEq)]
pub struct StreamRoute {
    pub kind: StreamRouteKind,
    pub parents: Vec<ParentRef>,
    /// Of a TLSRoute.
    pub hostnames: Vec<String>,
    /// `useDefaultGateways: All`.
    pub default_gateways: bool,
    /// One, as things are.
    pub rules: Vec<StreamRule>,
}

/// Which kind of the Gateway API a route is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRouteKind {
    Tcp,
    Tls,
}

impl StreamRouteKind {
    pub fn name(self) -> &'static str {
        match self {
            StreamRouteKind::Tcp => "TCPRoute",
            StreamRouteKind::Tls => "TLSRoute",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct StreamRule {
    pub backends: Vec<Backend>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    hostnames: Option<Vec<String>>,
    use_default_gateways: Option<String>,
    #[serde(default)]
    rules: Vec<WireRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireRule {
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(default)]
    backend_refs: Vec<WireBackend>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireBackend {
    #[serde(default)]
    group: String,
    #[serde(default = "service_kind")]
    kind: String,
    name: String,
    namespace: Option<String>,
    port: Option<u16>,
    weight: Option<u32>,
}

impl StreamRoute {
    /// # Errors
    /// What the API server would refuse, and fields that nobody knows.
    pub fn read(
        kind: StreamRouteKind,
        manifest: &Manifest,
    ) -> Result<Object<StreamRoute>, LoadError> {
        manifest.has_only_spec_and_status()?;
        let spec: Spec = manifest.part("spec")?;
        http_route_schema::check_stream(manifest)?;
        let at = |(field, reason): Refusal| manifest.refused(format!("spec.{field}"), reason);
        check_hostnames(kind, spec.hostnames.as_deref()).map_err(at)?;
        check_parents(&spec.parent_refs).map_err(at)?;
        Ok(manifest.object(StreamRoute {
            kind,
            parents: spec.parent_refs,
            hostnames: spec.hostnames.unwrap_or_default(),
            default_gateways: spec.use_default_gateways.as_deref() == Some("All"),
            rules: read_rules(spec.rules).map_err(at)?,
        }))
    }
}

/// A TLSRoute has names of servers, of which none is all and none is an address.
fn check_hostnames(kind: StreamRouteKind, hostnames: Option<&[String]>) -> Result<(), Refusal> {
    match (kind, hostnames) {
        (StreamRouteKind::Tcp, None) => return Ok(()),
        (StreamRouteKind::Tcp, Some(_)) => return Err(refusal("hostnames", "unknown field")),
        (StreamRouteKind::Tls, None | Some([])) => {
            return Err(refusal("hostnames", "must have 1 to 16 items"));
        }
        (StreamRouteKind::Tls, Some(_)) => {}
    }
    let mut names = hostnames.unwrap_or_default().iter().enumerate();
    let odd = names.find(|(_, name)| *name == "*" || name.parse::<IpAddr>().is_ok());
    match odd {
        None => Ok(()),
        Some((index, name)) => {
            let reason = format!("{name:?} is no name of a server");
            Err(refusal(format!("hostnames[{index}]"), reason))
        }
    }
}

fn read_rules(rules: Vec<WireRule>) -> Result<Vec<StreamRule>, Refusal> {
    let rules = rules.into_iter().enumerate();
    let read = rules.map(|(index, rule)| {
        let at = |(field, reason): Refusal| (format!("rules[{index}].{field}"), reason);
        if rule.backend_refs.is_empty() {
            return Err(at(refusal("backendRefs", "must have 1 to 16 items")));
        }
        let backends = rule.backend_refs.into_iter().enumerate();
        let backends = backends.map(|(position, backend)| {
            let backend = backend.backend();
            backend
                .map_err(|(field, reason)| at((format!("backendRefs[{position}].{field}"), reason)))
        });
        Ok(StreamRule {
            backends: backends.collect::<Result<_, _>>()?,
        })
    });
    read.collect()
}

impl WireBackend {
    fn backend(self) -> Result<Backend, Refusal> {
        let object = BackendObject {
            group: self.group,
            kind: self.kind,
            name: self.name,
            namespace: self.namespace,
            port: self.port,
        };
        object.check()?;
        Ok(Backend {
            object,
            weight: self.weight.unwrap_or(1),
            filters: Vec::new(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn route(kind: StreamRouteKind, spec: &str) -> Result<StreamRoute, LoadError> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {}\nmetadata: {{name: r}}\nspec: {{parentRefs: [{{group: '', kind: Service, name: s}}], {spec}}}",
            kind.name()
        );
        StreamRoute::read(kind, &Manifest::of(&text)).map(|object| object.spec)
    }

    #[test]
    fn what_the_api_server_refuses_is_no_route() {
        use StreamRouteKind::{Tcp, Tls};
        let to = "backendRefs: [{name: a, port: 1}]";
        let found = route(Tcp, &format!("rules: [{{{to}}}]")).unwrap();
        assert_eq!(found.rules[0].backends[0].weight, 1);
        let found = route(Tls, &format!("hostnames: [a.test], rules: [{{{to}}}]")).unwrap();
        assert_eq!(found.hostnames, ["a.test"]);
        for (kind, spec, field) in [
            (Tcp, "rules: []".to_owned(), "spec.rules"),
            (Tcp, "rules: [{}]".to_owned(), "spec.rules[0].backendRefs"),
            (
                Tcp,
                format!("hostnames: [a.test], rules: [{{{to}}}]"),
                "spec.hostnames",
            ),
            (
                Tls,
                format!("hostnames: [a b], rules: [{{{to}}}]"),
                "spec.hostnames[0]",
            ),
            (Tcp, format!("rules: [{{matches: [], {to}}}]"), "matches"),
            (Tcp, format!("rules: [{{{to}}}, {{{to}}}]"), "spec.rules"),
            (Tls, format!("rules: [{{{to}}}]"), "spec.hostnames"),
            (
                Tls,
                format!("hostnames: [a.test, 10.0.0.1], rules: [{{{to}}}]"),
                "spec.hostnames[1]",
            ),
            (
                Tcp,
                "rules: [{backendRefs: [{name: a}]}]".to_owned(),
                "spec.rules[0].backendRefs[0].port",
            ),
            (
                Tcp,
                "rules: [{backendRefs: [{name: a, port: 1, filters: []}]}]".to_owned(),
                "filters",
            ),
        ] {
            let error = route(kind, &spec).unwrap_err().to_string();
            assert!(error.contains(field), "{spec}: {error}");
        }
    }
}
