//! `envoy.filters.http.header_mutation`: changes to heads, in the order in which they are written.
//!
//! istiod puts it on a waypoint's chains that is to tell applications who the client is (the annotation
//! `ambient.istio.io/xfcc-include-client-identity`). What the route and its virtual host say comes after what the filter says,
//! the route's first unless the filter says otherwise.

use std::sync::Arc;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation as HeaderMutationProto, header_mutation::Action,
};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation as Config, HeaderMutationPerRoute, Mutations as MutationsProto,
};
use http::{HeaderMap, HeaderName, Request};

use crate::http::HttpFilter;
use crate::http::filter::{self, PerRoute, Registration};
use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::service::body::Body;
use crate::service::header_changes::{Addition, HEADER_VALUE_OPTION, header_name};
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use crate::stream::route::PerRouteConfig;
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::{Table, decode_any, honoured, required};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: filter::Config::Message {
        table: &CONFIG,
        build: |config, context| build(&decode_any(config)?, context.position),
    },
    per_route: Some(PerRoute {
        table: &PER_ROUTE,
        build: |config| {
            let proto: HeaderMutationPerRoute = decode_any(config)?;
            Ok(Arc::new(OfRoute(vec![mutations(
                proto.mutations.as_ref(),
            )?])))
        },
    }),
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    fields: &[
        honoured(1, "mutations").of(&MUTATIONS),
        honoured(2, "most_specific_header_mutations_wins"),
    ],
    refused: "",
    required: &[],
};

static PER_ROUTE: Table = Table {
    name: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
    fields: &[honoured(1, "mutations").of(&MUTATIONS)],
    refused: "",
    required: &[],
};

static MUTATIONS: Table = Table {
    name: "envoy.extensions.filters.http.header_mutation.v3.Mutations",
    fields: &[
        honoured(1, "request_mutations").list().of(&MUTATION),
        honoured(2, "response_mutations").list().of(&MUTATION),
    ],
    refused: "3 query_parameter_mutations, 4 response_trailers_mutations, \
              5 request_trailers_mutations",
    required: &[],
};

static MUTATION: Table = Table {
    name: "envoy.config.common.mutation_rules.v3.HeaderMutation",
    fields: &[
        honoured(1, "remove"),
        honoured(2, "append").of(&HEADER_VALUE_OPTION),
        honoured(3, "remove_on_match").of(&REMOVE_ON_MATCH),
    ],
    refused: "",
    required: &[required("action", &[1, 2, 3])],
};

static REMOVE_ON_MATCH: Table = Table {
    name: "envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch",
    fields: &[honoured(1, "key_matcher").of(&STRING_MATCHER)],
    refused: "",
    required: &[required("key_matcher", &[1])],
};

/// Changes to the heads of a request and its answer.
#[derive(Debug)]
struct Mutations {
    request: Box<[Mutation]>,
    response: Box<[Mutation]>,
}

#[derive(Debug)]
enum Mutation {
    Remove(HeaderName),
    RemoveMatching(StringMatcher),
    Add(Box<Addition>),
}

/// What a route says, and behind it what its virtual host does.
struct OfRoute(Vec<Arc<Mutations>>);

fn mutations(proto: Option<&MutationsProto>) -> Result<Arc<Mutations>, Refusal> {
    let Some(proto) = proto else {
        return Ok(Arc::new(Mutations {
            request: Box::default(),
            response: Box::default(),
        }));
    };
    let list = |list: &[HeaderMutationProto], field: &str| {
        let all = list.iter().enumerate();
        all.map(|(i, mutation)| {
            Mutation::from_proto(mutation).map_err(|e| e.within(format!("mutations.{field}[{i}]")))
        })
        .collect::<Result<_, _>>()
    };
    Ok(Arc::new(Mutations {
        request: list(&proto.request_mutations, "request_mutations")?,
        response: list(&proto.response_mutations, "response_mutations")?,
    }))
}

impl Mutation {
    fn from_proto(proto: &HeaderMutationProto) -> Result<Mutation, Refusal> {
        match &proto.action {
            Some(Action::Remove(name)) => Ok(Mutation::Remove(header_name(name)?)),
            Some(Action::Append(option)) => {
                Ok(Mutation::Add(Box::new(Addition::from_proto(option)?)))
            }
            Some(Action::RemoveOnMatch(on)) => {
                let matcher = on.key_matcher.as_ref();
                let matcher = matcher.ok_or_else(|| Refusal::missing("key_matcher"))?;
                let matcher = StringMatcher::from_proto(matcher);
                let matcher = matcher.map_err(|e| e.within("remove_on_match.key_matcher"))?;
                Ok(Mutation::RemoveMatching(matcher))
            }
            None => Err(Refusal::missing("action")),
        }
    }

    fn on_request(&self, request: &mut Request<Body>, stream: &StreamInfo) {
        match self {
            Mutation::Add(addition) => addition.apply_to_request(request, stream),
            removal => removal.remove(request.headers_mut()),
        }
    }

    fn on_response(&self, headers: &mut HeaderMap, stream: &StreamInfo) {
        match self {
            Mutation::Add(addition) => addition.apply_to_response(headers, stream),
            removal => removal.remove(headers),
        }
    }

    fn remove(&self, headers: &mut HeaderMap) {
        match self {
            Mutation::Add(_) => {}
            Mutation::Remove(name) => {
                headers.remove(name);
            }
            Mutation::RemoveMatching(matcher) => {
                let doomed: Vec<HeaderName> = headers
                    .keys()
                    .filter(|name| matcher.matches(name.as_str()))
                    .cloned()
                    .collect();
                for name in doomed {
                    headers.remove(name);
                }
            }
        }
    }
}

/// What a virtual host and one of its routes say: both count.
pub(super) fn within(
    general: &PerRouteConfig,
    specific: &PerRouteConfig,
) -> Option<PerRouteConfig> {
    let general = general.downcast_ref::<OfRoute>()?;
    let specific = specific.downcast_ref::<OfRoute>()?;
    Some(Arc::new(OfRoute(
        [&specific.0[..], &general.0[..]].concat(),
    )))
}

fn build(proto: &Config, position: usize) -> Result<HttpFilter, Refusal> {
    let own = mutations(proto.mutations.as_ref())?;
    let specific_last = proto.most_specific_header_mutations_wins;
    Ok(HttpFilter::layer(tower::layer::layer_fn(move |inner| {
        HttpService::new(HeaderMutation {
            own: own.clone(),
            specific_last,
            position,
            inner,
        })
    })))
}

struct HeaderMutation {
    own: Arc<Mutations>,
    specific_last: bool,
    position: usize,
    inner: HttpService,
}

impl HttpCall for HeaderMutation {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let mut all = vec![self.own.clone()];
        if let Some(of_route) = request.per_route::<OfRoute>(self.position) {
            all.extend(of_route.0.iter().cloned());
            if self.specific_last {
                all[1..].reverse();
            }
        }
        let stream = request.stream.clone();
        for mutation in all.iter().flat_map(|of| &of.request) {
            mutation.on_request(&mut request.http, &stream);
        }
        let response = self.inner.call(request);
        if all.iter().all(|of| of.response.is_empty()) {
            return response;
        }
        ResponseFuture::boxed(async move {
            let Ok(mut response) = response.await;
            for mutation in all.iter().flat_map(|of| &of.response) {
                mutation.on_response(response.headers_mut(), &stream);
            }
            response
        })
    }
}
