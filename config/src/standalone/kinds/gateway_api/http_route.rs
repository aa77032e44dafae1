//! HTTPRoute as the Gateway API's CRD lets it through: defaults filled in, its CEL rules applied, unknown
//! fields refused by name.

use std::time::Duration;

use serde::Deserialize;

pub use crate::standalone::kinds::gateway_api::backend_object::BackendObject;
use crate::standalone::kinds::refusal::{Refusal, refusal};

use crate::standalone::input::duration::parse_duration;
use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::gateway_api::backend_object::service_kind;
use crate::standalone::kinds::gateway_api::http_route_filter::{
    Filter, NewPath, Redirect, Rewrite, WireFilter,
};
use crate::standalone::kinds::gateway_api::http_route_match::{Match, PathMatchType};
use crate::standalone::kinds::gateway_api::http_route_schema;
use crate::standalone::kinds::gateway_api::session_persistence::SessionPersistence;

/// An HTTPRoute, or a GRPCRoute as HTTP sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    pub kind: RouteKind,
    pub parents: Vec<ParentRef>,
    /// Without a meaning for a route whose parent is a Service.
    pub has_hostnames: bool,
    /// `useDefaultGateways: All`.
    pub default_gateways: bool,
    pub rules: Vec<Rule>,
}

/// Which kind of the Gateway API a route is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    Http,
    Grpc,
}

impl RouteKind {
    pub fn name(self) -> &'static str {
        match self {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
        }
    }
}

/// What the route is attached to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    #[serde(default = "gateway_group")]
    pub group: String,
    #[serde(default = "gateway_kind")]
    pub kind: String,
    pub namespace: Option<String>,
    pub name: String,
    pub section_name: Option<String>,
    pub port: Option<u16>,
}

fn gateway_group() -> String {
    "gateway.networking.k8s.io".to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub name: Option<String>,
    /// Never empty.
    pub matches: Vec<Match>,
    pub filters: Vec<Filter>,
    pub backends: Vec<Backend>,
    pub request_timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
    pub retry: Option<Retry>,
    pub session: Option<SessionPersistence>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub object: BackendObject,
    pub weight: u32,
    pub filters: Vec<Filter>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    #[serde(default)]
    pub codes: Vec<u16>,
    pub attempts: Option<u32>,
    backoff: Option<String>,
}

impl Retry {
    pub fn backoff(&self) -> Option<Duration> {
        self.backoff.as_deref().and_then(parse_duration)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    #[serde(default)]
    hostnames: Vec<String>,
    use_default_gateways: Option<String>,
    rules: Option<Vec<WireRule>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct WireRule {
    name: Option<String>,
    matches: Vec<Match>,
    filters: Vec<WireFilter>,
    backend_refs: Vec<WireBackend>,
    timeouts: Timeouts,
    retry: Option<Retry>,
    session_persistence: Option<SessionPersistence>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireBackend {
    #[serde(default)]
    group: String,
    #[serde(default = "service_kind")]
    kind: String,
    name: String,
    namespace: Option<String>,
    port: Option<u16>,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    filters: Vec<WireFilter>,
}

fn one() -> u32 {
    1
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Timeouts {
    request: Option<String>,
    backend_request: Option<String>,
}

impl HttpRoute {
    pub fn read(manifest: &Manifest) -> Result<Object<HttpRoute>, LoadError> {
        if let Some(field) = manifest
            .body
            .keys()
            .find(|key| !matches!(key.as_str(), "spec" | "status"))
        {
            return Err(manifest.refused(field.clone(), "unknown field"));
        }
        let spec: Spec = manifest.part("spec")?;
        http_route_schema::check(manifest)?;
        check_parents(&spec.parent_refs)
            .map_err(|(field, reason)| manifest.refused(format!("spec.{field}"), reason))?;
        // The CRD's default: one rule that matches everything and has no backend.
        let rules = spec.rules.unwrap_or_else(|| vec![WireRule::default()]);
        if rules.is_empty() || rules.len() > 16 {
            return Err(manifest.refused("spec.rules", "must have 1 to 16 items"));
        }
        let read = read_rules(manifest, rules, WireRule::rule)?;
        Ok(manifest.object(HttpRoute {
            kind: RouteKind::Http,
            parents: spec.parent_refs,
            has_hostnames: !spec.hostnames.is_empty(),
            default_gateways: spec.use_default_gateways.as_deref() == Some("All"),
            rules: read,
        }))
    }
}

/// Reads the rules of a route; names are unique among them.
pub(crate) fn read_rules<W>(
    manifest: &Manifest,
    rules: Vec<W>,
    read: impl Fn(W) -> Result<Rule, Refusal>,
) -> Result<Vec<Rule>, LoadError> {
    let mut found: Vec<Rule> = Vec::with_capacity(rules.len());
    for (index, rule) in rules.into_iter().enumerate() {
        let at = |field: &str| format!("spec.rules[{index}].{field}");
        let rule = read(rule).map_err(|(field, reason)| manifest.refused(at(&field), reason))?;
        if rule.name.is_some() && found.iter().any(|other| other.name == rule.name) {
            return Err(manifest.refused(at("name"), "is not unique"));
        }
        found.push(rule);
    }
    Ok(found)
}

/// Of several references to one parent each names another part of it.
pub(crate) fn check_parents(parents: &[ParentRef]) -> Result<(), Refusal> {
    let whole = |parent: &ParentRef| (parent.section_name.is_some(), parent.port.is_some());
    for (index, parent) in parents.iter().enumerate() {
        for other in parents.iter().take(index) {
            let same = (&other.group, &other.kind, &other.name, &other.namespace)
                == (&parent.group, &parent.kind, &parent.name, &parent.namespace);
            if same && whole(other) != whole(parent) {
                let reason =
                    "sectionName or port must be given in all references to one parent, or in none";
                return Err(refusal(format!("parentRefs[{index}]"), reason));
            }
            if same && (&other.section_name, other.port) == (&parent.section_name, parent.port) {
                let reason = "the same parent is given twice";
                return Err(refusal(format!("parentRefs[{index}]"), reason));
            }
        }
    }
    Ok(())
}

impl WireRule {
    fn rule(self) -> Result<Rule, Refusal> {
        if self.matches.len() > 64 {
            return Err(refusal("matches", "more than 64"));
        }
        let matches = if self.matches.is_empty() {
            vec![Match::default()]
        } else {
            self.matches
        };
        for (index, found) in matches.iter().enumerate() {
            found
                .check()
                .map_err(|(field, reason)| (format!("matches[{index}].{field}"), reason))?;
        }
        let filters = read_filters(self.filters)?;
        check_filters(&filters, &matches, !self.backend_refs.is_empty())?;
        let mut backends = Vec::with_capacity(self.backend_refs.len());
        for (index, backend) in self.backend_refs.into_iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("backendRefs[{index}].{field}"), reason);
            let backend = backend.backend().map_err(at)?;
            check_paths(&backend.filters, &matches).map_err(at)?;
            backends.push(backend);
        }
        let request_timeout =
            gateway_duration("timeouts.request", self.timeouts.request.as_deref())?;
        let backend_timeout = gateway_duration(
            "timeouts.backendRequest",
            self.timeouts.backend_request.as_deref(),
        )?;
        if let (Some(request), Some(backend)) = (request_timeout, backend_timeout)
            && !request.is_zero()
            && backend > request
        {
            return Err(refusal("timeouts.backendRequest", "is longer than request"));
        }
        if let Some(retry) = &self.retry {
            gateway_duration("retry.backoff", retry.backoff.as_deref())?;
            if retry.codes.iter().any(|code| !(400..=599).contains(code)) {
                return Err(refusal("retry.codes", "must be between 400 and 599"));
            }
        }
        if let Some(session) = &self.session_persistence {
            let at = |(field, reason): Refusal| (format!("sessionPersistence.{field}"), reason);
            session.check().map_err(at)?;
        }
        Ok(Rule {
            name: self.name,
            matches,
            filters,
            backends,
            request_timeout,
            backend_timeout,
            retry: self.retry,
            session: self.session_persistence,
        })
    }
}

pub(crate) fn read_filters(filters: Vec<WireFilter>) -> Result<Vec<Filter>, Refusal> {
    if filters.len() > 16 {
        return Err(refusal("filters", "more than 16"));
    }
    let mut read = Vec::with_capacity(filters.len());
    for (index, filter) in filters.into_iter().enumerate() {
        let at = |(field, reason): Refusal| (format!("filters[{index}].{field}"), reason);
        read.push(filter.filter().map_err(at)?);
    }
    for (name, test) in [
        (
            "RequestHeaderModifier",
            (|f| matches!(f, Filter::RequestHeaders(_))) as fn(&Filter) -> bool,
        ),
        ("ResponseHeaderModifier", |f| {
            matches!(f, Filter::ResponseHeaders(_))
        }),
        ("RequestRedirect", |f| matches!(f, Filter::Redirect(_))),
        ("URLRewrite", |f| matches!(f, Filter::Rewrite(_))),
        ("CORS", |f| matches!(f, Filter::Cors(_))),
    ] {
        if read.iter().filter(|filter| test(filter)).count() > 1 {
            return Err(refusal("filters", format!("{name} may be given only once")));
        }
    }
    Ok(read)
}

fn redirect_of(filters: &[Filter]) -> Option<&Redirect> {
    filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect),
        _ => None,
    })
}

fn rewrite_of(filters: &[Filter]) -> Option<&Rewrite> {
    filters.iter().find_map(|filter| match filter {
        Filter::Rewrite(rewrite) => Some(rewrite),
        _ => None,
    })
}

fn check_filters(filters: &[Filter], matches: &[Match], has_backends: bool) -> Result<(), Refusal> {
    check_paths(filters, matches)?;
    if redirect_of(filters).is_some() && has_backends {
        return Err(refusal(
            "backendRefs",
            "must not be given with RequestRedirect",
        ));
    }
    Ok(())
}

/// What changes a path: in the filters of a rule and of a backend.
fn check_paths(filters: &[Filter], matches: &[Match]) -> Result<(), Refusal> {
    let (redirect, rewrite) = (redirect_of(filters), rewrite_of(filters));
    if redirect.is_some() && rewrite.is_some() {
        return Err(refusal(
            "filters",
            "RequestRedirect and URLRewrite exclude each other",
        ));
    }
    let paths = [
        redirect.and_then(|r| r.path.as_ref()),
        rewrite.and_then(|r| r.path.as_ref()),
    ];
    let prefix = paths
        .into_iter()
        .flatten()
        .any(|path| matches!(path.new_path(), NewPath::Prefix(_)));
    let one_prefix = matches!(matches, [found] if found.path.r#type == PathMatchType::PathPrefix);
    if prefix && !one_prefix {
        return Err(refusal(
            "filters",
            "replacePrefixMatch needs exactly one match, of type PathPrefix",
        ));
    }
    Ok(())
}

impl WireBackend {
    pub(crate) fn filters(&self) -> &[WireFilter] {
        &self.filters
    }

    pub(crate) fn backend(self) -> Result<Backend, Refusal> {
        let object = BackendObject {
            group: self.group,
            kind: self.kind,
            name: self.name,
            namespace: self.namespace,
            port: self.port,
        };
        object.check()?;
        if self.weight > 1_000_000 {
            return Err(refusal("weight", "must be between 0 and 1000000"));
        }
        Ok(Backend {
            object,
            weight: self.weight,
            filters: read_filters(self.filters)?,
        })
    }
}

/// Gateway API durations: up to four numbers with h, m, s or ms.
fn gateway_duration(field: &str, text: Option<&str>) -> Result<Option<Duration>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let units = text
        .bytes()
        .all(|c| c.is_ascii_digit() || matches!(c, b'h' | b'm' | b's'));
    match parse_duration(text).filter(|_| units && text != "0") {
        Some(duration) => Ok(Some(duration)),
        None => Err(refusal(
            field,
            format!("{text:?} is no duration such as 10s"),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;
    use crate::standalone::kinds::gateway_api::http_route_match::ValueMatchType;

    fn route(rule: &str) -> Result<Object<HttpRoute>, LoadError> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec: {{parentRefs: [{{group: '', kind: Service, name: s}}], rules: [{rule}]}}"
        );
        HttpRoute::read(&Manifest::of(&text))
    }

    #[test]
    fn crd_defaults() {
        let found = route("{backendRefs: [{name: a, port: 80}]}").unwrap().spec;
        let rule = &found.rules[0];
        assert_eq!(rule.matches, [Match::default()]);
        assert_eq!(rule.matches[0].path.value, "/");
        assert_eq!(rule.backends[0].weight, 1);
        let found = route("{matches: [{headers: [{name: a, value: b}], path: {value: /x}}]}")
            .unwrap()
            .spec;
        assert_eq!(
            found.rules[0].matches[0].path.r#type,
            PathMatchType::PathPrefix
        );
        assert_eq!(
            found.rules[0].matches[0].headers[0].r#type,
            ValueMatchType::Exact
        );
    }

    #[test]
    fn bounds_and_forms_of_the_crd() {
        let long = "x".repeat(1025);
        let header =
            |value: &str| format!("{{matches: [{{headers: [{{name: a, value: \"{value}\"}}]}}]}}");
        let cors = |cors: &str| format!("{{filters: [{{type: CORS, cors: {{{cors}}}}}]}}");
        let set = |set: &str| {
            format!(
                "{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{set}]}}}}]}}"
            )
        };
        let backend = |filters: &str| {
            format!(
                "{{matches: [{{path: {{type: Exact, value: /a}}}}], backendRefs: [{{name: a, port: 80, filters: [{filters}]}}]}}"
            )
        };
        let auth = |auth: &str| {
            format!(
                "{{filters: [{{type: ExternalAuth, externalAuth: {{backendRef: {{name: a, port: 80}}, {auth}}}}}]}}"
            )
        };
        for (rule, field) in [
            ("{name: A}".to_owned(), "name"),
            (header("a  b"), "matches[0].headers[0].value"),
            (header("\u{e9}"), "matches[0].headers[0].value"),
            (
                "{matches: [{queryParams: [{name: 'a b', value: c}]}]}".to_owned(),
                "matches[0].queryParams[0].name",
            ),
            (
                format!("{{matches: [{{queryParams: [{{name: a, value: {long}}}]}}]}}"),
                "matches[0].queryParams[0].value",
            ),
            (
                "{backendRefs: [{name: a, namespace: a.b, port: 1}]}".to_owned(),
                "backendRefs[0].namespace",
            ),
            (
                "{backendRefs: [{name: '', port: 1}]}".to_owned(),
                "backendRefs[0].name",
            ),
            ("{retry: {attempts: 0}}".to_owned(), "retry.attempts"),
            ("{retry: {backoff: 100us}}".to_owned(), "retry.backoff"),
            ("{timeouts: {request: 1.5s}}".to_owned(), "timeouts.request"),
            (
                "{timeouts: {request: 100000s}}".to_owned(),
                "timeouts.request",
            ),
            (cors("maxAge: 0"), "filters[0].cors.maxAge"),
            (
                cors("allowMethods: [GET, '*']"),
                "filters[0].cors.allowMethods",
            ),
            (
                cors("allowMethods: [get]"),
                "filters[0].cors.allowMethods[0]",
            ),
            (
                cors("allowOrigins: [a.test]"),
                "filters[0].cors.allowOrigins[0]",
            ),
            (
                set("{name: a, value: ' b'}"),
                "filters[0].requestHeaderModifier.set[0].value",
            ),
            (
                set("{name: 'a b', value: b}"),
                "filters[0].requestHeaderModifier.set[0].name",
            ),
            (
                "{filters: [{type: RequestRedirect, requestRedirect: {hostname: '*.a.test'}}]}"
                    .to_owned(),
                "filters[0].requestRedirect.hostname",
            ),
            (
                "{matches: [{path: {value: '/a|b'}}]}".to_owned(),
                "matches[0].path.value",
            ),
            (
                "{matches: [{path: {value: '/a%2'}}]}".to_owned(),
                "matches[0].path.value",
            ),
            (
                backend(
                    "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}",
                ),
                "backendRefs[0].filters",
            ),
            (
                backend(
                    "{type: URLRewrite, urlRewrite: {}}, {type: RequestRedirect, requestRedirect: {}}",
                ),
                "backendRefs[0].filters",
            ),
            (
                auth("protocol: GRPC, http: {}"),
                "filters[0].externalAuth.grpc",
            ),
            (
                auth("protocol: HTTP, http: {path: a b}"),
                "filters[0].externalAuth.http.path",
            ),
            (
                "{filters: [{type: ExtensionRef, extensionRef: {group: a, kind: b}}]}".to_owned(),
                "filters[0].extensionRef",
            ),
            (
                "{sessionPersistence: {type: Header, cookieConfig: {}}}".to_owned(),
                "sessionPersistence.cookieConfig",
            ),
            (
                "{sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}}".to_owned(),
                "sessionPersistence.absoluteTimeout",
            ),
            (
                "{sessionPersistence: {idleTimeout: 1s}}".to_owned(),
                "sessionPersistence.idleTimeout",
            ),
        ] {
            let field = format!("spec.rules[0].{field}");
            let error = route(&rule).unwrap_err();
            assert_eq!(
                error.field.as_deref(),
                Some(field.as_str()),
                "{rule}: {error}"
            );
        }
        assert!(route(&set("{name: a, value: 50% off}")).is_ok());
    }

    #[test]
    fn parents_are_told_apart() {
        let parents = |parents: &str| {
            let text = format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{parents}]}}}}"
            );
            let read = HttpRoute::read(&Manifest::of(&text));
            read.err().and_then(|error| error.field)
        };
        let web = "group: '', kind: Service, name: web";
        for (text, field) in [
            (format!("{{{web}, port: 1}}, {{{web}, port: 2}}"), None),
            (format!("{{{web}}}, {{{web}, namespace: other}}"), None),
            (format!("{{{web}}}, {{{web}}}"), Some("spec.parentRefs[1]")),
            (
                format!("{{{web}}}, {{{web}, port: 1}}"),
                Some("spec.parentRefs[1]"),
            ),
            ("{name: ''}".to_owned(), Some("spec.parentRefs[0].name")),
            (
                "{name: a, port: 0}".to_owned(),
                Some("spec.parentRefs[0].port"),
            ),
            (
                "{name: a, kind: ''}".to_owned(),
                Some("spec.parentRefs[0].kind"),
            ),
            (
                "{name: a, sectionName: A}".to_owned(),
                Some("spec.parentRefs[0].sectionName"),
            ),
        ] {
            assert_eq!(parents(&text).as_deref(), field, "{text}");
        }
    }

    #[test]
    fn what_the_api_server_refuses() {
        for (rule, field) in [
            ("{backendRefs: [{name: a}]}", "backendRefs[0].port"),
            (
                "{backendRefs: [{name: a, port: 80, weight: -1}]}",
                "backendRefs[0].weight",
            ),
            ("{match: []}", "match"),
            ("{matches: [{path: {value: x}}]}", "matches[0].path.value"),
            (
                "{matches: [{path: {value: /a/../b}}]}",
                "matches[0].path.value",
            ),
            (
                "{matches: [{path: {type: RegularExpression, value: '('}}]}",
                "matches[0].path.value",
            ),
            (
                "{matches: [{headers: [{name: a, value: b}, {name: A, value: c}]}]}",
                "matches[0].headers[1].name",
            ),
            (
                "{matches: [{headers: [{name: a, value: y}]}]}",
                "matches[0].headers[0].value",
            ),
            ("{matches: [{method: get}]}", "matches[0].method"),
            ("{filters: [{type: URLRewrite}]}", "filters[0].type"),
            (
                "{filters: [{type: Novelty, urlRewrite: {}}]}",
                "filters[0].type",
            ),
            (
                "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}",
                "filters[0].requestRedirect.statusCode",
            ),
            (
                "{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]}",
                "backendRefs",
            ),
            (
                "{matches: [{}, {}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}",
                "filters",
            ),
            (
                "{timeouts: {request: 1s, backendRequest: 2s}}",
                "timeouts.backendRequest",
            ),
            ("{timeouts: {request: 10}}", "timeouts.request"),
            ("{timeouts: {request: '10'}}", "timeouts.request"),
        ] {
            let error = route(rule).unwrap_err();
            assert_eq!(
                error.field,
                Some(format!("spec.rules[0].{field}")),
                "{rule}: {error}"
            );
        }
    }
}
