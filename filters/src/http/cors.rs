//! `envoy.filters.http.cors`: answers preflights, and marks the answers that pages of other origins may read.
//!
//! The filter itself says nothing; routes and virtual hosts have policies, and what a route's leaves open its virtual
//! host's says. As in Envoy: it refuses nothing, browsers do. Routes that redirect or answer by themselves have no
//! CORS. Whether it is on (`filter_enabled`, `shadow_enabled`) is the most specific policy's to say; in the shadow it
//! counts origins and does nothing else.

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy as CorsPolicyProto;
use envoy_types::pb::google::protobuf::BoolValue;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};

use crate::http::filter::{Config, PerRoute, Registration};
use crate::http::{FilterContext, HttpFilter};
use crate::matcher::fraction::{Fraction, RUNTIME_FRACTION};
use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::metrics::Counter;
use crate::service::body::Body;
use crate::service::{HttpCall, HttpRequest, HttpService, Response, ResponseFuture};
use crate::stream::route::PerRouteConfig;
use crate::xds::coverage::well_known::BOOL_VALUE;
use crate::xds::coverage::{Table, decode_any, honoured};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |_, context| Ok(build(context)),
    },
    per_route: Some(PerRoute {
        table: &CORS_POLICY,
        build: |config| Ok(Arc::new(CorsPolicy::from_proto(&decode_any(config)?)?)),
    }),
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.cors.v3.Cors",
    fields: &[],
    refused: "",
    required: &[],
};

static CORS_POLICY: Table = Table {
    name: "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    fields: &[
        honoured(1, "allow_origin_string_match")
            .list()
            .of(&STRING_MATCHER),
        honoured(2, "allow_methods"),
        honoured(3, "allow_headers"),
        honoured(4, "expose_headers"),
        honoured(5, "max_age"),
        honoured(6, "allow_credentials").of(&BOOL_VALUE),
        honoured(7, "filter_enabled").of(&RUNTIME_FRACTION),
        honoured(8, "shadow_enabled").of(&RUNTIME_FRACTION),
        honoured(9, "allow_private_network_access").of(&BOOL_VALUE),
        honoured(10, "forward_not_matching_preflights").of(&BOOL_VALUE),
    ],
    refused: "",
    required: &[],
};

const PRIVATE_NETWORK_ASKED: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const ANY: &[u8] = b"*";

/// What a route, or its virtual host, says of requests of other origins.
#[derive(Clone, Debug)]
struct CorsPolicy {
    /// `None`: left open, and none is allowed.
    origins: Option<Origins>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: Option<bool>,
    private_network: Option<bool>,
    forwards_strangers: Option<bool>,
    enabled: Fraction,
    shadow: Fraction,
}

#[derive(Clone, Debug)]
struct Origins {
    /// A matcher that takes `*` takes all.
    any: bool,
    matchers: Arc<[StringMatcher]>,
}

/// What a request is to CORS, and with it what becomes of its answer.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Not of another origin, or the policy is off.
    NotOurs,
    /// Of an origin that isn't allowed: nobody marks its answer.
    Stranger,
    Allowed(HeaderValue),
}

impl CorsPolicy {
    fn from_proto(proto: &CorsPolicyProto) -> Result<CorsPolicy, Refusal> {
        let matchers: Arc<[StringMatcher]> = proto
            .allow_origin_string_match
            .iter()
            .enumerate()
            .map(|(i, matcher)| {
                StringMatcher::from_proto(matcher)
                    .map_err(|e| e.within(format!("allow_origin_string_match[{i}]")))
            })
            .collect::<Result<_, _>>()?;
        let fraction = |proto: &Option<_>, otherwise, field: &str| match proto {
            None => Ok(otherwise),
            Some(proto) => Fraction::of_runtime(proto).map_err(|e| e.within(field)),
        };
        let boolean = |proto: &Option<BoolValue>| proto.as_ref().map(|b| b.value);
        Ok(CorsPolicy {
            origins: (!matchers.is_empty()).then(|| Origins {
                any: matchers.iter().any(|matcher| matcher.matches("*")),
                matchers,
            }),
            methods: text(&proto.allow_methods, "allow_methods")?,
            headers: text(&proto.allow_headers, "allow_headers")?,
            exposed: text(&proto.expose_headers, "expose_headers")?,
            max_age: text(&proto.max_age, "max_age")?,
            credentials: boolean(&proto.allow_credentials),
            private_network: boolean(&proto.allow_private_network_access),
            forwards_strangers: boolean(&proto.forward_not_matching_preflights),
            enabled: fraction(&proto.filter_enabled, Fraction::ALL, "filter_enabled")?,
            shadow: fraction(&proto.shadow_enabled, Fraction::NONE, "shadow_enabled")?,
        })
    }

    fn allows(&self, origin: &[u8]) -> bool {
        self.origins.as_ref().is_some_and(|origins| {
            origins.any || origins.matchers.iter().any(|m| m.matches_bytes(origin))
        })
    }

    /// Marks the answer to a request of `origin`, which is allowed.
    fn mark(&self, headers: &mut HeaderMap, origin: HeaderValue) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials == Some(true) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(exposed) = &self.exposed {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    /// The answer to a preflight. One of a stranger says the same, without an origin: a browser takes it for a no.
    fn preflight(&self, request: &HeaderMap, origin: Option<HeaderValue>) -> Response {
        let mut response = http::Response::new(Body::empty());
        let headers = response.headers_mut();
        match origin {
            Some(origin) => self.mark(headers, origin),
            None if self.credentials == Some(true) => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
            }
            None => {}
        }
        for (name, value, asked) in [
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                &self.methods,
                header::ACCESS_CONTROL_REQUEST_METHOD,
            ),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                &self.headers,
                header::ACCESS_CONTROL_REQUEST_HEADERS,
            ),
        ] {
            let value = match value {
                // With credentials `*` says nothing to a browser: what it asks for does.
                Some(any) if any == ANY => {
                    let asked = value_of(request, &asked);
                    Some(asked.unwrap_or_else(|| HeaderValue::from_static("")))
                }
                value => value.clone(),
            };
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        if let Some(max_age) = &self.max_age {
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, max_age.clone());
        }
        let asked = value_of(request, &PRIVATE_NETWORK_ASKED);
        if self.private_network == Some(true) && asked.is_some_and(|asked| asked == TRUE) {
            headers.insert(PRIVATE_NETWORK, TRUE);
        }
        response
    }
}

const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The text of a header; an empty one is left open.
fn text(text: &str, field: &str) -> Result<Option<HeaderValue>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(text);
    let value = value.map_err(|_| Refusal::new(field, format!("{text:?} is no header value")))?;
    Ok(Some(value))
}

/// A header that has a value. Of several those that aren't empty are one, as Envoy joins these headers.
fn value_of(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers
        .get_all(name)
        .iter()
        .filter(|value| !value.is_empty());
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(first.clone());
    };
    let mut all = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_bytes(&all).ok()
}

fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && value_of(request.headers(), &header::ACCESS_CONTROL_REQUEST_METHOD).is_some()
}

/// What the policies of a virtual host and of one of its routes say together: `None` if they aren't ours.
pub(super) fn within(
    general: &PerRouteConfig,
    specific: &PerRouteConfig,
) -> Option<PerRouteConfig> {
    let general = general.downcast_ref::<CorsPolicy>()?;
    let specific = specific.downcast_ref::<CorsPolicy>()?;
    let value = |specific: &Option<HeaderValue>, general: &Option<HeaderValue>| {
        specific.clone().or_else(|| general.clone())
    };
    Some(Arc::new(CorsPolicy {
        origins: specific.origins.clone().or_else(|| general.origins.clone()),
        methods: value(&specific.methods, &general.methods),
        headers: value(&specific.headers, &general.headers),
        exposed: value(&specific.exposed, &general.exposed),
        max_age: value(&specific.max_age, &general.max_age),
        credentials: specific.credentials.or(general.credentials),
        private_network: specific.private_network.or(general.private_network),
        forwards_strangers: specific.forwards_strangers.or(general.forwards_strangers),
        enabled: specific.enabled,
        shadow: specific.shadow,
    }))
}

/// Origins that were looked at.
#[derive(Clone)]
struct Counters {
    valid: Counter,
    invalid: Counter,
}

fn build(context: &FilterContext<'_>) -> HttpFilter {
    let origins = context.host.metrics().counters(
        "waypoint_cors_origins_total",
        "Requests of another origin where a route has a CORS policy, by whether it allows the origin.",
        &["result"],
    );
    let counters = Counters {
        valid: origins.with(&["valid".into()]),
        invalid: origins.with(&["invalid".into()]),
    };
    let position = context.position;
    HttpFilter::layer(tower::layer::layer_fn(move |inner| {
        HttpService::new(Cors {
            position,
            counters: counters.clone(),
            inner,
        })
    }))
}

struct Cors {
    position: usize,
    counters: Counters,
    inner: HttpService,
}

impl Cors {
    fn judge(&self, policy: &CorsPolicy, headers: &HeaderMap) -> Verdict {
        let shadow = || policy.shadow.applies(fastrand::u64(..));
        let enabled = policy.enabled.applies(fastrand::u64(..));
        if !enabled && !shadow() {
            return Verdict::NotOurs;
        }
        let Some(origin) = value_of(headers, &header::ORIGIN) else {
            return Verdict::NotOurs;
        };
        let allowed = policy.allows(origin.as_bytes());
        if allowed {
            self.counters.valid.add(1);
        } else {
            self.counters.invalid.add(1);
        }
        match (enabled, allowed) {
            (false, _) => Verdict::NotOurs,
            (true, false) => Verdict::Stranger,
            (true, true) => Verdict::Allowed(origin),
        }
    }
}

impl HttpCall for Cors {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let Some(policy) = request.per_route::<CorsPolicy>(self.position) else {
            return self.inner.call(request);
        };
        if !request.route().is_some_and(|route| route.forwards()) {
            return self.inner.call(request);
        }
        let origin = match self.judge(&policy, request.http.headers()) {
            Verdict::NotOurs => return self.inner.call(request),
            Verdict::Stranger => None,
            Verdict::Allowed(origin) => Some(origin),
        };
        let passes = origin.is_none() && policy.forwards_strangers.unwrap_or(true);
        if is_preflight(&request.http) && !passes {
            let response = policy.preflight(request.http.headers(), origin);
            request.stream.state().response_code_details = Some("cors_response".into());
            return ResponseFuture::ready(response);
        }
        let response = self.inner.call(request);
        let Some(origin) = origin else {
            return response;
        };
        ResponseFuture::boxed(async move {
            let Ok(mut response) = response.await;
            policy.mark(response.headers_mut(), origin);
            response
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
    use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher as StringMatcherProto;
    use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
    use envoy_types::pb::envoy::r#type::v3::FractionalPercent;

    use super::*;

    fn origin(exact: &str) -> StringMatcherProto {
        StringMatcherProto {
            match_pattern: Some(MatchPattern::Exact(exact.into())),
            ..StringMatcherProto::default()
        }
    }

    fn percent(numerator: u32) -> Option<RuntimeFractionalPercent> {
        Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator,
                denominator: 0,
            }),
            ..RuntimeFractionalPercent::default()
        })
    }

    fn policy(proto: CorsPolicyProto) -> CorsPolicy {
        CorsPolicy::from_proto(&proto).unwrap()
    }

    fn filter() -> Cors {
        struct Nobody;
        impl HttpCall for Nobody {
            fn call(&self, _: HttpRequest) -> ResponseFuture {
                ResponseFuture::ready(http::Response::new(Body::empty()))
            }
        }
        Cors {
            position: 0,
            counters: Counters {
                valid: Counter::default(),
                invalid: Counter::default(),
            },
            inner: HttpService::new(Nobody),
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    #[test]
    fn an_origin_is_allowed_counted_or_left_alone() {
        let filter = filter();
        let proto = CorsPolicyProto {
            allow_origin_string_match: vec![origin("https://a.example")],
            ..CorsPolicyProto::default()
        };
        let on = policy(proto.clone());
        let from = |text: &'static str| headers(&[("origin", text)]);
        let known = HeaderValue::from_static("https://a.example");
        for (asked, verdict) in [
            (from("https://a.example"), Verdict::Allowed(known)),
            (from("https://b.example"), Verdict::Stranger),
            (from("HTTPS://A.EXAMPLE"), Verdict::Stranger),
            (from(""), Verdict::NotOurs),
            (HeaderMap::new(), Verdict::NotOurs),
        ] {
            assert_eq!(filter.judge(&on, &asked), verdict, "{asked:?}");
        }
        assert_eq!(filter.counters.valid.get(), 1);
        assert_eq!(filter.counters.invalid.get(), 2);
        let off = policy(CorsPolicyProto {
            filter_enabled: percent(0),
            ..proto.clone()
        });
        let shadow = policy(CorsPolicyProto {
            filter_enabled: percent(0),
            shadow_enabled: percent(100),
            ..proto
        });
        for (policy, counted) in [(off, 1), (shadow, 2)] {
            let asked = from("https://a.example");
            assert_eq!(filter.judge(&policy, &asked), Verdict::NotOurs);
            assert_eq!(filter.counters.valid.get(), counted);
        }
        let any = policy(CorsPolicyProto {
            allow_origin_string_match: vec![origin("*")],
            ..CorsPolicyProto::default()
        });
        assert!(any.allows(b"null") && !policy(CorsPolicyProto::default()).allows(b"null"));
    }

    #[test]
    fn what_a_route_leaves_open_its_virtual_host_says() {
        let host = policy(CorsPolicyProto {
            allow_origin_string_match: vec![origin("https://a.example")],
            allow_methods: "GET".into(),
            max_age: "5".into(),
            allow_credentials: Some(BoolValue { value: true }),
            filter_enabled: percent(0),
            ..CorsPolicyProto::default()
        });
        let route = policy(CorsPolicyProto {
            allow_methods: "PUT".into(),
            allow_credentials: Some(BoolValue { value: false }),
            ..CorsPolicyProto::default()
        });
        let (host, route): (PerRouteConfig, PerRouteConfig) = (Arc::new(host), Arc::new(route));
        let both = within(&host, &route).unwrap();
        let both = both.downcast_ref::<CorsPolicy>().unwrap();
        assert!(both.allows(b"https://a.example"));
        assert_eq!(both.methods.as_ref().unwrap(), "PUT");
        assert_eq!(both.max_age.as_ref().unwrap(), "5");
        assert_eq!(both.credentials, Some(false));
        assert!(both.enabled.applies(7));
        let other: PerRouteConfig = Arc::new(());
        assert!(within(&other, &route).is_none() && within(&host, &other).is_none());
    }

    #[test]
    fn what_is_no_header_value_is_refused_by_name() {
        let proto = CorsPolicyProto {
            max_age: "5\r\nx: y".into(),
            ..CorsPolicyProto::default()
        };
        let refusal = CorsPolicy::from_proto(&proto).unwrap_err();
        assert_eq!(refusal.field, "max_age");
    }
}
