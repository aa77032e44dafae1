//! GRPCRoute as the Gateway API's CRD lets it through, read as istiod does: as a route of HTTP.
//!
//! A method is a path: `/service/method`. Of a name that is left out any will do; one that isn't matched exactly is
//! part of a regular expression for the whole path. Unknown fields are refused by name.

use std::borrow::Cow;

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::gateway_api::http_route::{
    HttpRoute, ParentRef, RouteKind, Rule, WireBackend, check_parents, read_filters, read_rules,
};
use crate::standalone::kinds::gateway_api::http_route_filter::WireFilter;
use crate::standalone::kinds::gateway_api::http_route_match::{
    Match, PathMatch, PathMatchType, ValueMatch, check_regex,
};
use crate::standalone::kinds::gateway_api::http_route_schema;
use crate::standalone::kinds::gateway_api::session_persistence::SessionPersistence;
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// Filters that the kind has.
const FILTERS: &[&str] = &[
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "ExtensionRef",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    #[serde(default)]
    hostnames: Vec<String>,
    use_default_gateways: Option<String>,
    #[serde(default)]
    rules: Vec<WireRule>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct WireRule {
    name: Option<String>,
    matches: Vec<WireMatch>,
    filters: Vec<WireFilter>,
    backend_refs: Vec<WireBackend>,
    session_persistence: Option<SessionPersistence>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WireMatch {
    method: Option<MethodMatch>,
    headers: Vec<ValueMatch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodMatch {
    #[serde(default)]
    r#type: MethodMatchType,
    service: Option<String>,
    method: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum MethodMatchType {
    #[default]
    Exact,
    RegularExpression,
}

/// # Errors
/// What the API server would refuse, and fields that nobody knows.
pub fn read(manifest: &Manifest) -> Result<Object<HttpRoute>, LoadError> {
    manifest.has_only_spec_and_status()?;
    let spec: Spec = manifest.part("spec")?;
    http_route_schema::check_grpc(manifest)?;
    check_parents(&spec.parent_refs)
        .map_err(|(field, reason)| manifest.refused(format!("spec.{field}"), reason))?;
    Ok(manifest.object(HttpRoute {
        kind: RouteKind::Grpc,
        parents: spec.parent_refs,
        has_hostnames: !spec.hostnames.is_empty(),
        default_gateways: spec.use_default_gateways.as_deref() == Some("All"),
        rules: read_rules(manifest, spec.rules, WireRule::rule)?,
    }))
}

impl WireRule {
    fn rule(self) -> Result<Rule, Refusal> {
        let mut matches = Vec::with_capacity(self.matches.len().max(1));
        for (index, found) in self.matches.into_iter().enumerate() {
            let found = found.http();
            let found =
                found.map_err(|(field, reason)| (format!("matches[{index}].{field}"), reason))?;
            matches.push(found);
        }
        if matches.is_empty() {
            matches.push(Match::default());
        }
        check_types(&self.filters)?;
        let mut backends = Vec::with_capacity(self.backend_refs.len());
        for (index, backend) in self.backend_refs.into_iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("backendRefs[{index}].{field}"), reason);
            check_types(backend.filters()).map_err(at)?;
            backends.push(backend.backend().map_err(at)?);
        }
        if let Some(session) = &self.session_persistence {
            let at = |(field, reason): Refusal| (format!("sessionPersistence.{field}"), reason);
            session.check().map_err(at)?;
        }
        Ok(Rule {
            name: self.name,
            matches,
            filters: read_filters(self.filters)?,
            backends,
            request_timeout: None,
            backend_timeout: None,
            retry: None,
            session: self.session_persistence,
        })
    }
}

/// HTTPRoute has filters that this kind hasn't.
fn check_types(filters: &[WireFilter]) -> Result<(), Refusal> {
    let unknown = |filter: &WireFilter| !FILTERS.contains(&filter.type_name());
    match filters.iter().position(unknown) {
        None => Ok(()),
        Some(index) => {
            let name = filters.get(index).map(WireFilter::type_name);
            let reason = format!("unknown filter type {:?}", name.unwrap_or_default());
            Err(refusal(format!("filters[{index}].type"), reason))
        }
    }
}

impl WireMatch {
    /// The match as HTTP sees it.
    fn http(self) -> Result<Match, Refusal> {
        let path = match self.method {
            None => PathMatch::default(),
            Some(method) => {
                let path = method.path();
                path.map_err(|(field, reason)| (format!("method.{field}"), reason))?
            }
        };
        let found = Match {
            path,
            headers: self.headers,
            ..Match::default()
        };
        found.check_values()?;
        Ok(found)
    }
}

impl MethodMatch {
    fn path(&self) -> Result<PathMatch, Refusal> {
        let (service, method) = (self.service.as_deref(), self.method.as_deref());
        for (field, value, is_name) in [
            ("service", service, is_service as fn(&str) -> bool),
            ("method", method, is_method),
        ] {
            let Some(value) = value else { continue };
            match self.r#type {
                MethodMatchType::Exact if !is_name(value) => {
                    let reason = format!("{value:?} is no name of a gRPC {field}");
                    return Err(refusal(field, reason));
                }
                MethodMatchType::Exact => {}
                MethodMatchType::RegularExpression => check_regex(field, value)?,
            }
        }
        let (r#type, value) = match (self.r#type, service, method) {
            (_, None, None) => {
                return Err(refusal("service", "or method must be given"));
            }
            (MethodMatchType::Exact, Some(service), Some(method)) => {
                (PathMatchType::Exact, format!("/{service}/{method}"))
            }
            (MethodMatchType::Exact, Some(service), None) => {
                (PathMatchType::PathPrefix, format!("/{service}"))
            }
            (_, service, method) => {
                let service = service.map_or("[^/]+".into(), alternatives);
                let method = method.map_or(".+".into(), alternatives);
                let path = format!("/{service}/{method}");
                (PathMatchType::RegularExpression, path)
            }
        };
        if r#type == PathMatchType::RegularExpression {
            // Two expressions may be none together.
            check_regex("method", &value)?;
        }
        Ok(PathMatch { r#type, value })
    }
}

/// An expression as a part of a larger one. (istiod doesn't look: the alternatives of a method would be paths.)
fn alternatives(expression: &str) -> Cow<'_, str> {
    match expression.contains('|') {
        true => format!("(?:{expression})").into(),
        false => expression.into(),
    }
}

/// Names parted by dots, perhaps with one before them.
fn is_service(text: &str) -> bool {
    let text = text.strip_prefix('.').unwrap_or(text);
    text.split('.').all(is_method)
}

fn is_method(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && bytes.all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn route(rules: &str) -> Result<HttpRoute, LoadError> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: r}}\nspec: {{parentRefs: [{{group: '', kind: Service, name: s}}], rules: [{rules}]}}"
        );
        read(&Manifest::of(&text)).map(|object| object.spec)
    }

    #[test]
    fn a_method_is_a_path() {
        use PathMatchType::{Exact, PathPrefix, RegularExpression};
        for (method, r#type, path) in [
            ("{service: shop.Cart, method: Get}", Exact, "/shop.Cart/Get"),
            ("{service: shop.Cart}", PathPrefix, "/shop.Cart"),
            ("{method: Get}", RegularExpression, "/[^/]+/Get"),
            (
                "{type: RegularExpression, service: 'shop\\..*'}",
                RegularExpression,
                "/shop\\..*/.+",
            ),
            (
                "{type: RegularExpression, method: 'Get|Put'}",
                RegularExpression,
                "/[^/]+/(?:Get|Put)",
            ),
            (
                "{type: RegularExpression, service: a.b, method: .*}",
                RegularExpression,
                "/a.b/.*",
            ),
        ] {
            let found = route(&format!("{{matches: [{{method: {method}}}]}}")).unwrap();
            let value = path.to_owned();
            let expected = PathMatch { r#type, value };
            assert_eq!(found.rules[0].matches[0].path, expected, "{method}");
        }
        let all = route("{}, {matches: [{headers: [{name: a, value: b}]}]}").unwrap();
        assert_eq!(all.rules[0].matches, [Match::default()]);
        assert_eq!(all.rules[1].matches[0].path, PathMatch::default());
        assert!(route("").unwrap().rules.is_empty());
    }

    #[test]
    fn what_the_api_server_refuses_is_no_route() {
        for (rules, field) in [
            ("{matches: [{method: {}}]}", "matches[0].method.service"),
            (
                "{matches: [{method: {service: a/b}}]}",
                "matches[0].method.service",
            ),
            (
                "{matches: [{method: {service: a.}}]}",
                "matches[0].method.service",
            ),
            (
                "{matches: [{method: {method: a.b}}]}",
                "matches[0].method.method",
            ),
            (
                "{matches: [{method: {method: ''}}]}",
                "matches[0].method.method",
            ),
            (
                "{matches: [{method: {type: RegularExpression, method: '('}}]}",
                "matches[0].method.method",
            ),
            ("{matches: [{path: {value: /}}]}", "matches[0]"),
            (
                "{matches: [{headers: [{name: a, value: ''}]}]}",
                "matches[0].headers[0].value",
            ),
            ("{timeouts: {request: 1s}}", "timeouts"),
            ("{name: a}, {name: a}", "rules[1].name"),
            (
                "{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}",
                "filters[0].type",
            ),
            ("{filters: [{type: CORS, cors: {}}]}", "filters[0].type"),
            ("{backendRefs: [{name: a}]}", "backendRefs[0].port"),
            (
                "{backendRefs: [{name: a, port: 1, filters: [{type: RequestRedirect, requestRedirect: {}}]}]}",
                "backendRefs[0].filters[0].type",
            ),
        ] {
            let error = route(rules).unwrap_err().to_string();
            assert!(error.contains(field), "{rules}: {error}");
        }
        assert!(route("{matches: [{method: {service: .a_1.B, method: _x}}]}").is_ok());
    }
}
