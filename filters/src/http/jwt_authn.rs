//! `envoy.filters.http.jwt_authn`: lets a request pass whose tokens prove what its rule requires, or answers 401, and 403 to a
//! token for somebody else.
//!
//! What a token proves goes into headers and into dynamic metadata, where RBAC finds it (`requestPrincipals`,
//! `request.auth.*`). Headers that a token may fill are removed from every request first, also where nothing is required.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, PerRouteConfig, RequirementRule, per_route_config::RequirementSpecifier,
    requirement_rule::RequirementType,
};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::http::filter::{Config, PerRoute, Registration};
use crate::http::{FilterContext, HttpFilter};
use crate::matcher::route_match::{ROUTE_MATCH, RouteMatch};
use crate::security::jwt::examination::{Everybody, Examination, Proof, told};
use crate::security::jwt::failure::Failure;
use crate::security::jwt::provider::remote::RemoteKeys;
use crate::security::jwt::provider::{JWT_PROVIDER, Provider};
use crate::security::jwt::requirement::{JWT_REQUIREMENT, Named, Requirement};
use crate::service::local_reply::LocalReply;
use crate::service::{HttpCall, HttpRequest, HttpService, Response, ResponseFuture};
use crate::xds::coverage::{OWN_COUNTERS, Table, decode_any, harmless, honoured, required};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |config, context| build(&decode_any(config)?, context),
    },
    per_route: Some(PerRoute {
        table: &PER_ROUTE_CONFIG,
        build: |config| {
            Ok(Arc::new(RouteRequirement::from_proto(&decode_any(
                config,
            )?)?))
        },
    }),
};

/// Of the metadata that tokens give, whatever the filter is called.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    fields: &[
        honoured(1, "providers").map().of(&JWT_PROVIDER),
        honoured(2, "rules").list().of(&RULE),
        honoured(4, "bypass_cors_preflight"),
        honoured(5, "requirement_map").map().of(&JWT_REQUIREMENT),
        honoured(6, "strip_failure_response"),
        harmless(7, "stat_prefix", OWN_COUNTERS),
    ],
    refused: "3 filter_state_rules",
    required: &[],
};

static RULE: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.RequirementRule",
    fields: &[
        honoured(1, "match").of(&ROUTE_MATCH),
        honoured(2, "requires").of(&JWT_REQUIREMENT),
        honoured(3, "requirement_name"),
    ],
    refused: "",
    required: &[required("match", &[1])],
};

static PER_ROUTE_CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
    fields: &[
        honoured(1, "disabled").only("true"),
        honoured(2, "requirement_name"),
    ],
    refused: "",
    required: &[required("requirement_specifier", &[1, 2])],
};

/// Bytes of the path that the challenge names.
const MAX_REALM_PATH: usize = 256;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What is required of requests.
#[derive(Debug)]
struct Authentication {
    everybody: Arc<Everybody>,
    rules: Box<[(RouteMatch, Option<Arc<Requirement>>)]>,
    named: BTreeMap<String, Arc<Requirement>>,
    /// Headers that only tokens fill.
    reserved: Box<[HeaderName]>,
    bypass_preflight: bool,
    strip_failure: bool,
}

/// What a route requires instead.
#[derive(Debug)]
enum RouteRequirement {
    Disabled,
    Named(String),
}

fn build(proto: &JwtAuthentication, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    let authentication = Arc::new(Authentication::from_proto(proto, context)?);
    let position = context.position;
    Ok(HttpFilter::layer(tower::layer::layer_fn(move |inner| {
        HttpService::new(JwtAuthn {
            authentication: authentication.clone(),
            position,
            inner,
        })
    })))
}

impl RouteRequirement {
    fn from_proto(proto: &PerRouteConfig) -> Result<RouteRequirement, Refusal> {
        match &proto.requirement_specifier {
            None => Err(Refusal::missing("requirement_specifier")),
            Some(RequirementSpecifier::Disabled(true)) => Ok(RouteRequirement::Disabled),
            Some(RequirementSpecifier::Disabled(false)) => {
                Err(Refusal::new("disabled", "can only be true"))
            }
            Some(RequirementSpecifier::RequirementName(name)) => {
                Ok(RouteRequirement::Named(name.clone()))
            }
        }
    }
}

impl Authentication {
    fn from_proto(
        proto: &JwtAuthentication,
        context: &FilterContext<'_>,
    ) -> Result<Authentication, Refusal> {
        let all = context.host.jwt_providers();
        let mut providers = BTreeMap::new();
        for (name, provider) in &proto.providers {
            let provider = all
                .get(provider, &|cluster| context.cluster(cluster))
                .map_err(|e| e.within(format!("providers[{name:?}]")))?;
            providers.insert(name.clone(), provider);
        }
        let everybody = Arc::new(Everybody::new(providers.values().cloned()));
        let names = Named {
            providers: &providers,
            everybody: &everybody,
        };
        let mut named = BTreeMap::new();
        for (name, requirement) in &proto.requirement_map {
            let requirement = Requirement::from_proto(requirement, &names)
                .map_err(|e| e.within(format!("requirement_map[{name:?}]")))?;
            named.insert(name.clone(), Arc::new(requirement));
        }
        let rules = proto.rules.iter().enumerate().map(|(i, proto)| {
            rule(proto, &names, &named).map_err(|e| e.within(format!("rules[{i}]")))
        });
        let rules = rules.collect::<Result<_, _>>()?;
        Ok(Authentication {
            rules,
            reserved: reserved(everybody.providers()),
            everybody,
            named,
            bypass_preflight: proto.bypass_cors_preflight,
            strip_failure: proto.strip_failure_response,
        })
    }

    /// The requirement that holds for a request; `None`: none does.
    fn requirement(
        &self,
        request: &mut HttpRequest,
        position: usize,
    ) -> Result<Option<Arc<Requirement>>, LocalReply> {
        if self.bypass_preflight && is_preflight(request) {
            return Ok(None);
        }
        match request.per_route::<RouteRequirement>(position).as_deref() {
            Some(RouteRequirement::Disabled) => Ok(None),
            Some(RouteRequirement::Named(name)) => match self.named.get(name) {
                Some(requirement) => Ok(Some(requirement.clone())),
                None => Err(self.wrong_name(name)),
            },
            None => {
                let mut rules = self.rules.iter();
                let rule = rules.find(|(on, _)| on.matches(&request.http, &request.stream));
                Ok(rule.and_then(|(_, requirement)| requirement.clone()))
            }
        }
    }

    fn wrong_name(&self, name: &str) -> LocalReply {
        let names: Vec<&str> = self.named.keys().map(String::as_str).collect();
        let names = names.join(",");
        let error = format!("Wrong requirement_name: {name}. It should be one of [{names}]");
        let details = details(&error);
        let body = match self.strip_failure {
            true => String::new(),
            false => format!("Failed JWT authentication: {error}"),
        };
        LocalReply::new(StatusCode::FORBIDDEN, body, details)
    }

    /// The keys that nobody has tried to fetch yet, if the request has tokens for which they may be needed.
    fn untried(&self, request: &HttpRequest) -> Vec<Arc<RemoteKeys>> {
        let providers = self.everybody.providers().iter();
        let untried: Vec<_> = providers
            .filter_map(|provider| provider.remote())
            .filter(|keys| keys.is_untried())
            .cloned()
            .collect();
        if untried.is_empty() || !self.examination(request, 0).has_tokens() {
            return Vec::new();
        }
        untried
    }

    fn examination<'a>(&'a self, request: &'a HttpRequest, now: u64) -> Examination<'a> {
        let http = &request.http;
        Examination::new(http.headers(), http.uri(), &self.everybody, now)
    }

    /// Holds a request to a requirement; `Some`: this is the answer.
    fn check(&self, request: &mut HttpRequest, requirement: &Requirement) -> Option<Response> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut examination = self.examination(request, now.unwrap_or_default().as_secs());
        if let Some(explanation) = request.stream.explanation() {
            explanation.tokens(examination.explain());
        }
        let checked = requirement.check(&mut examination);
        let Examination {
            proofs, failures, ..
        } = examination;
        tell(request, &proofs, &failures);
        match checked {
            Ok(()) => {
                pass(request, &proofs);
                None
            }
            Err(failure) => Some(self.deny(request, failure)),
        }
    }

    fn deny(&self, request: &HttpRequest, failure: Failure) -> Response {
        let body = if self.strip_failure {
            ""
        } else {
            failure.text()
        };
        let reply = LocalReply::new(failure.status(), body, details(failure.text()));
        let mut response = reply.respond(&request.stream, request.http.headers());
        if !self.strip_failure
            && let Some(challenge) = challenge(request, failure)
        {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn rule(
    proto: &RequirementRule,
    names: &Named<'_>,
    named: &BTreeMap<String, Arc<Requirement>>,
) -> Result<(RouteMatch, Option<Arc<Requirement>>), Refusal> {
    let on = proto
        .r#match
        .as_ref()
        .ok_or_else(|| Refusal::missing("match"))?;
    let on = RouteMatch::from_proto(on).map_err(|e| e.within("match"))?;
    let requirement = match &proto.requirement_type {
        None => None,
        Some(RequirementType::Requires(requirement)) => {
            let requirement = Requirement::from_proto(requirement, names);
            Some(Arc::new(requirement.map_err(|e| e.within("requires"))?))
        }
        Some(RequirementType::RequirementName(name)) => {
            let requirement = named.get(name).cloned().ok_or_else(|| {
                Refusal::new(
                    "requirement_name",
                    format!("there is no requirement {name:?}"),
                )
            })?;
            Some(requirement)
        }
    };
    Ok((on, requirement))
}

fn reserved(providers: &[Arc<Provider>]) -> Box<[HeaderName]> {
    let names = providers.iter().flat_map(|p| p.outputs.reserved());
    let mut names: Vec<HeaderName> = names.cloned().collect();
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names.into()
}

/// A preflight of CORS, which browsers send without credentials.
fn is_preflight(request: &HttpRequest) -> bool {
    let headers = request.http.headers();
    let has = |name: HeaderName| headers.get(name).is_some_and(|value| !value.is_empty());
    request.http.method() == Method::OPTIONS
        && has(header::ORIGIN)
        && has(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Writes into the stream's metadata what came of the tokens, also where the request is denied.
fn tell(request: &HttpRequest, proofs: &[Proof], failures: &[(Box<str>, Failure)]) {
    if failures.is_empty() && proofs.iter().all(|p| p.verified.given.metadata.is_none()) {
        return;
    }
    let mut state = request.stream.state();
    for (key, failure) in failures {
        state.metadata.set(NAMESPACE, key, told(*failure));
    }
    for proof in proofs {
        if let Some(given) = &proof.verified.given.metadata {
            state.metadata.merge(NAMESPACE, given);
        }
    }
}

/// Gives the request what its tokens give, and takes those away that aren't to be forwarded.
fn pass(request: &mut HttpRequest, proofs: &[Proof]) {
    for proof in proofs {
        let given = &proof.verified.given;
        let (headers, clear) = (&given.headers, given.clear_route);
        for (name, value) in headers {
            request
                .http
                .headers_mut()
                .append(name.clone(), value.clone());
        }
        if !proof.provider.forward {
            let mut uri = std::mem::take(request.http.uri_mut());
            proof.place.clear(request.http.headers_mut(), &mut uri);
            *request.http.uri_mut() = uri;
        }
        if clear {
            request.clear_route();
        }
    }
}

/// Access logs are read by words.
fn details(error: &str) -> String {
    let error = error.replace(char::is_whitespace, "_");
    format!("jwt_authn_access_denied{{{error}}}")
}

/// `www-authenticate` (RFC 6750, section 3), which names the request as its client wrote it.
fn challenge(request: &HttpRequest, failure: Failure) -> Option<HeaderValue> {
    let header = |name: HeaderName| request.http.headers().get(name).map(HeaderValue::as_bytes);
    let scheme: &[u8] = match header(FORWARDED_PROTO) {
        Some(b"https") => b"https",
        _ => b"http",
    };
    let host = header(header::HOST).unwrap_or_default();
    let target = request.http.uri().path_and_query();
    let path = target.map_or("/", |target| target.as_str()).as_bytes();
    let path = path.get(..MAX_REALM_PATH).unwrap_or(path);
    let error: &[u8] = match failure {
        Failure::Missing => b"",
        _ => b", error=\"invalid_token\"",
    };
    let realm = [scheme, b"://", host, path].concat();
    let value = [b"Bearer realm=\"", &*realm, b"\"", error].concat();
    HeaderValue::from_bytes(&value).ok()
}

struct JwtAuthn {
    authentication: Arc<Authentication>,
    position: usize,
    inner: HttpService,
}

impl HttpCall for JwtAuthn {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let authentication = &self.authentication;
        for name in &authentication.reserved {
            // It may have chosen the route already.
            if request.http.headers_mut().remove(name).is_some() {
                request.clear_route();
            }
        }
        let requirement = match authentication.requirement(&mut request, self.position) {
            Ok(Some(requirement)) => requirement,
            Ok(None) => return self.inner.call(request),
            Err(reply) => {
                let headers = request.http.headers();
                return ResponseFuture::ready(reply.respond(&request.stream, headers));
            }
        };
        let untried = authentication.untried(&request);
        let explained = request.stream.explanation();
        if let Some(explanation) = explained.filter(|_| !untried.is_empty()) {
            explanation.note("keys of tokens were not fetched, nor are they now".to_owned());
        }
        if untried.is_empty() || explained.is_some() {
            return match authentication.check(&mut request, &requirement) {
                None => self.inner.call(request),
                Some(response) => ResponseFuture::ready(response),
            };
        }
        let (authentication, inner) = (authentication.clone(), self.inner.clone());
        ResponseFuture::boxed(async move {
            for keys in untried {
                keys.tried().await;
            }
            if let Some(response) = authentication.check(&mut request, &requirement) {
                return response;
            }
            match inner.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Instant;

    use super::*;
    use crate::service::RouteResolver;
    use crate::service::body::Body;
    use crate::stream::connection::Connection;
    use crate::stream::explanation::RouteStep;
    use crate::stream::route::SelectedRoute;
    use crate::stream::stream_info::{Protocol, StreamInfo};

    struct NoRoute;

    impl RouteResolver for NoRoute {
        fn resolve(
            &self,
            _: &http::Request<Body>,
            _: &StreamInfo,
        ) -> Option<Arc<dyn SelectedRoute>> {
            None
        }

        fn has_per_filter(&self, _: usize) -> bool {
            false
        }

        fn explain(&self, _: &http::Request<Body>, _: &StreamInfo) -> Vec<RouteStep> {
            Vec::new()
        }
    }

    fn request(method: Method, target: &str, headers: &[(&str, &str)]) -> HttpRequest {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let anybody = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let connection = Connection::new(anybody, anybody, Instant::now());
        let stream = StreamInfo::new(
            Arc::new(connection),
            Protocol::Http11,
            Instant::now(),
            UNIX_EPOCH,
        );
        let http = request.body(Body::empty()).unwrap();
        HttpRequest::new(http, stream, Arc::new(NoRoute))
    }

    #[test]
    fn the_challenge_names_the_request_and_what_is_wrong() {
        let of = |request: &HttpRequest, failure| challenge(request, failure).unwrap();
        let plain = request(Method::GET, "/a?b", &[("host", "web:80")]);
        assert_eq!(
            of(&plain, Failure::Missing),
            "Bearer realm=\"http://web:80/a?b\""
        );
        let long = format!("/{}", "a".repeat(999));
        let headers = [("host", "web"), ("x-forwarded-proto", "https")];
        let long = of(&request(Method::GET, &long, &headers), Failure::Expired);
        let path = "a".repeat(MAX_REALM_PATH - 1);
        let expected = format!("Bearer realm=\"https://web/{path}\", error=\"invalid_token\"");
        assert_eq!(long, expected.as_str());
        assert_eq!(
            details("Jwt is missing"),
            "jwt_authn_access_denied{Jwt_is_missing}"
        );
    }

    #[test]
    fn a_preflight_is_one_with_all_its_signs() {
        let origin = ("origin", "https://a.test");
        let asks = ("access-control-request-method", "GET");
        for (method, headers, is) in [
            (Method::OPTIONS, vec![origin, asks], true),
            (Method::GET, vec![origin, asks], false),
            (Method::OPTIONS, vec![origin], false),
            (Method::OPTIONS, vec![asks, ("origin", "")], false),
        ] {
            assert_eq!(is_preflight(&request(method, "/", &headers)), is);
        }
    }

    #[test]
    fn a_route_switches_it_off_or_names_a_requirement() {
        let of = |specifier| {
            RouteRequirement::from_proto(&PerRouteConfig {
                requirement_specifier: specifier,
            })
        };
        let off = of(Some(RequirementSpecifier::Disabled(true)));
        assert!(matches!(off, Ok(RouteRequirement::Disabled)));
        let name = RequirementSpecifier::RequirementName("a".into());
        assert!(matches!(of(Some(name)), Ok(RouteRequirement::Named(name)) if name == "a"));
        assert!(of(Some(RequirementSpecifier::Disabled(false))).is_err());
        assert!(of(None).is_err());
    }
}
