//! What a request counts for: routes and filters make descriptors of it, lists of keys with values.
//!
//! An action that finds nothing in the request makes no descriptor of its list, unless it may be passed over.

use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::{
    RateLimit as RateLimitProto,
    rate_limit::{
        Action as ActionProto,
        action::{ActionSpecifier, HeaderValueMatch, QueryParameterValueMatch},
    },
};
use http::HeaderName;
use ipnet::IpNet;

use crate::matcher::header::{HEADER_MATCHER, HeaderMatcher, joined};
use crate::matcher::query::{QUERY_PARAMETER_MATCHER, QueryParameterMatcher};
use crate::service::ClientAddress;
use crate::service::body::Body;
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::well_known::{BOOL_VALUE, UINT32_VALUE};
use crate::xds::coverage::{Table, harmless, honoured, required};
use crate::xds::rejected::Refusal;

/// Keys with their values, in order.
pub type Descriptor = Vec<(Box<str>, Box<str>)>;

/// How one descriptor is made.
#[derive(Debug)]
pub struct RateLimit {
    stage: u32,
    actions: Box<[Action]>,
}

/// What a route and its virtual host say.
#[derive(Clone, Debug, Default)]
pub struct RouteRateLimits {
    pub of_route: Arc<[RateLimit]>,
    pub of_host: Arc<[RateLimit]>,
    /// The host's count beside the route's.
    pub include_host: bool,
}

#[derive(Debug)]
enum Action {
    Header {
        name: HeaderName,
        key: Box<str>,
        skip: bool,
    },
    Query {
        name: Box<str>,
        key: Box<str>,
        skip: bool,
    },
    RemoteAddress,
    MaskedRemoteAddress {
        v4: u8,
        v6: u8,
    },
    Fixed {
        key: Box<str>,
        value: Box<str>,
    },
    HeadersMatch {
        key: Box<str>,
        value: Box<str>,
        expect: bool,
        headers: Box<[HeaderMatcher]>,
    },
    QueryMatch {
        key: Box<str>,
        value: Box<str>,
        expect: bool,
        parameters: Box<[QueryParameterMatcher]>,
    },
}

pub static RATE_LIMIT: Table = Table {
    name: "envoy.config.route.v3.RateLimit",
    fields: &[
        honoured(1, "stage").of(&UINT32_VALUE),
        harmless(
            2,
            "disable_key",
            "there is no runtime that could disable it",
        ),
        honoured(3, "actions").list().of(&ACTION),
    ],
    refused: "4 limit, 5 hits_addend, 6 apply_on_stream_done, 7 x_ratelimit_option",
    required: &[required("actions", &[3])],
};

static ACTION: Table = Table {
    name: "envoy.config.route.v3.RateLimit.Action",
    fields: &[
        honoured(3, "request_headers").of(&REQUEST_HEADERS),
        honoured(4, "remote_address").of(&REMOTE_ADDRESS),
        honoured(5, "generic_key").of(&GENERIC_KEY),
        honoured(6, "header_value_match").of(&HEADER_VALUE_MATCH),
        honoured(10, "masked_remote_address").of(&MASKED_REMOTE_ADDRESS),
        honoured(11, "query_parameter_value_match").of(&QUERY_VALUE_MATCH),
        honoured(12, "query_parameters").of(&QUERY_PARAMETERS),
    ],
    refused: "1 source_cluster, 2 destination_cluster, 7 dynamic_metadata, 8 metadata, 9 extension, 13 remote_address_match",
    required: &[required("action_specifier", &[3, 4, 5, 6, 10, 11, 12])],
};

static REMOTE_ADDRESS: Table = Table {
    name: "envoy.config.route.v3.RateLimit.Action.RemoteAddress",
    fields: &[],
    refused: "",
    required: &[],
};

static REQUEST_HEADERS: Table = Table {
    name: "envoy.config.route.v3.RateLimit.Action.RequestHeaders",
    fields: &[
        honoured(1, "header_name"),
        honoured(2, "descriptor_key"),
        honoured(3, "skip_if_absent"),
    ],
    refused: "",
    required: &[
        required("header_name", &[1]),
        required("descriptor_key", &[2]),
    ],
};

static QUERY_PARAMETERS: Table = Table {
    name: "envoy.config.route.v3.RateLimit.Action.QueryParameters",
    fields: &[
        honoured(1, "query_parameter_name"),
        honoured(2, "descriptor_key"),
        honoured(3, "skip_if_absent"),
    ],
    refused: "",
    required: &[
        required("query_parameter_name", &[1]),
        required("descriptor_key", &[2]),
    ],
};

static MASKED_REMOTE_ADDRESS: Table = Table {
    name: "envoy.config.route.v3.RateLimit.Action.MaskedRemoteAddress",
    fields: &[
        honoured(1, "v4_prefix_mask_len").of(&UINT32_VALUE),
        honoured(2, "v6_prefix_mask_len").of(&UINT32_VALUE),
    ],
    refused: "",
    required: &[],
};

static GENERIC_KEY: Table = Table {
    name: "envoy.config.route.v3.RateLimit.Action.GenericKey",
    fields: &[
        honoured(1, "descriptor_value"),
        honoured(2, "descriptor_key"),
    ],
    refused: "3 default_value",
    required: &[required("descriptor_value", &[1])],
};

static HEADER_VALUE_MATCH: Table = Table {
    name: "envoy.config.route.v3.RateLimit.Action.HeaderValueMatch",
    fields: &[
        honoured(1, "descriptor_value"),
        honoured(2, "expect_match").of(&BOOL_VALUE),
        honoured(3, "headers").list().of(&HEADER_MATCHER),
        honoured(4, "descriptor_key"),
    ],
    refused: "5 default_value",
    required: &[
        required("descriptor_value", &[1]),
        required("headers", &[3]),
    ],
};

static QUERY_VALUE_MATCH: Table = Table {
    name: "envoy.config.route.v3.RateLimit.Action.QueryParameterValueMatch",
    fields: &[
        honoured(1, "descriptor_value"),
        honoured(2, "expect_match").of(&BOOL_VALUE),
        honoured(3, "query_parameters")
            .list()
            .of(&QUERY_PARAMETER_MATCHER),
        honoured(4, "descriptor_key"),
    ],
    refused: "5 default_value",
    required: &[
        required("descriptor_value", &[1]),
        required("query_parameters", &[3]),
    ],
};

/// The lists of one place.
///
/// # Errors
/// What can't be honoured.
pub fn rate_limits(protos: &[RateLimitProto]) -> Result<Arc<[RateLimit]>, Refusal> {
    let all = protos.iter().enumerate();
    all.map(|(i, proto)| {
        RateLimit::from_proto(proto).map_err(|e| e.within(format!("rate_limits[{i}]")))
    })
    .collect()
}

impl RateLimit {
    fn from_proto(proto: &RateLimitProto) -> Result<RateLimit, Refusal> {
        let actions = proto.actions.iter().enumerate();
        let actions = actions.map(|(i, action)| {
            Action::from_proto(action).map_err(|e| e.within(format!("actions[{i}]")))
        });
        let stage = proto.stage.as_ref().map_or(0, |stage| stage.value);
        if stage > 10 {
            return Err(Refusal::new("stage", "must be 10 at most"));
        }
        Ok(RateLimit {
            stage,
            actions: actions.collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn is_of(&self, stage: u32) -> bool {
        self.stage == stage
    }

    pub(crate) fn descriptor(
        &self,
        request: &http::Request<Body>,
        stream: &StreamInfo,
    ) -> Option<Descriptor> {
        let mut descriptor = Descriptor::new();
        for action in &self.actions {
            match action.entry(request, stream) {
                Entry::Made(key, value) => descriptor.push((key.into(), value.into())),
                Entry::PassedOver => {}
                Entry::Missing => return None,
            }
        }
        (!descriptor.is_empty()).then_some(descriptor)
    }
}

/// What an action finds.
enum Entry<'a> {
    Made(&'a str, String),
    PassedOver,
    Missing,
}

impl Action {
    fn from_proto(proto: &ActionProto) -> Result<Action, Refusal> {
        let key = |own: &str, default: &str| -> Box<str> {
            if own.is_empty() { default } else { own }.into()
        };
        Ok(match &proto.action_specifier {
            Some(ActionSpecifier::RequestHeaders(of)) => Action::Header {
                name: HeaderName::try_from(&*of.header_name).map_err(|_| {
                    let reason = format!("{:?} is not a header name", of.header_name);
                    Refusal::new("request_headers.header_name", reason)
                })?,
                key: of.descriptor_key.as_str().into(),
                skip: of.skip_if_absent,
            },
            Some(ActionSpecifier::QueryParameters(of)) => Action::Query {
                name: of.query_parameter_name.as_str().into(),
                key: of.descriptor_key.as_str().into(),
                skip: of.skip_if_absent,
            },
            Some(ActionSpecifier::RemoteAddress(_)) => Action::RemoteAddress,
            Some(ActionSpecifier::MaskedRemoteAddress(of)) => {
                let length = |own: Option<u32>, most: u8, field: &str| {
                    let own = own.unwrap_or(most.into());
                    let own = u8::try_from(own).ok().filter(|own| *own <= most);
                    let field = format!("masked_remote_address.{field}");
                    own.ok_or_else(|| Refusal::new(field, format!("must be {most} at most")))
                };
                let v4 = of.v4_prefix_mask_len.as_ref().map(|n| n.value);
                let v6 = of.v6_prefix_mask_len.as_ref().map(|n| n.value);
                Action::MaskedRemoteAddress {
                    v4: length(v4, 32, "v4_prefix_mask_len")?,
                    v6: length(v6, 128, "v6_prefix_mask_len")?,
                }
            }
            Some(ActionSpecifier::GenericKey(of)) => Action::Fixed {
                key: key(&of.descriptor_key, "generic_key"),
                value: literal(&of.descriptor_value)?,
            },
            Some(ActionSpecifier::HeaderValueMatch(of)) => headers_match(of)?,
            Some(ActionSpecifier::QueryParameterValueMatch(of)) => query_match(of)?,
            _ => return Err(Refusal::unsupported("action_specifier")),
        })
    }

    fn entry(&self, request: &http::Request<Body>, stream: &StreamInfo) -> Entry<'_> {
        let found = |key, value: Option<String>, skip: bool| match value {
            Some(value) => Entry::Made(key, value),
            None if skip => Entry::PassedOver,
            None => Entry::Missing,
        };
        let if_match = |matches: bool, key, value: &str| match matches {
            true => Entry::Made(key, value.to_owned()),
            false => Entry::Missing,
        };
        match self {
            Action::Header { name, key, skip } => {
                let value = joined(request.headers(), name);
                let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                found(key, value, *skip)
            }
            Action::Query { name, key, skip } => {
                found(key, parameter(request.uri().query(), name), *skip)
            }
            Action::RemoteAddress => {
                Entry::Made("remote_address", client(request, stream).to_string())
            }
            Action::MaskedRemoteAddress { v4, v6 } => {
                let client = client(request, stream);
                let length = if client.is_ipv4() { *v4 } else { *v6 };
                let network = IpNet::new(client, length).map(|net| net.trunc().to_string());
                found("masked_remote_address", network.ok(), false)
            }
            Action::Fixed { key, value } => Entry::Made(key, value.to_string()),
            Action::HeadersMatch {
                key,
                value,
                expect,
                headers,
            } => {
                let matches = headers.iter().all(|matcher| matcher.matches(request));
                if_match(matches == *expect, key, value)
            }
            Action::QueryMatch {
                key,
                value,
                expect,
                parameters,
            } => {
                let query = request.uri().query();
                let matches = parameters.iter().all(|matcher| matcher.matches(query));
                if_match(matches == *expect, key, value)
            }
        }
    }
}

fn headers_match(of: &HeaderValueMatch) -> Result<Action, Refusal> {
    let headers = of.headers.iter().enumerate();
    let headers = headers.map(|(i, matcher)| {
        let field = format!("header_value_match.headers[{i}]");
        HeaderMatcher::from_proto(matcher).map_err(|e| e.within(field))
    });
    Ok(Action::HeadersMatch {
        key: match of.descriptor_key.as_str() {
            "" => "header_match",
            own => own,
        }
        .into(),
        value: literal(&of.descriptor_value)?,
        expect: of.expect_match.as_ref().is_none_or(|e| e.value),
        headers: headers.collect::<Result<_, _>>()?,
    })
}

fn query_match(of: &QueryParameterValueMatch) -> Result<Action, Refusal> {
    let parameters = of.query_parameters.iter().enumerate();
    let parameters = parameters.map(|(i, matcher)| {
        let field = format!("query_parameter_value_match.query_parameters[{i}]");
        QueryParameterMatcher::from_proto(matcher).map_err(|e| e.within(field))
    });
    Ok(Action::QueryMatch {
        key: match of.descriptor_key.as_str() {
            "" => "query_match",
            own => own,
        }
        .into(),
        value: literal(&of.descriptor_value)?,
        expect: of.expect_match.as_ref().is_none_or(|e| e.value),
        parameters: parameters.collect::<Result<_, _>>()?,
    })
}

/// Envoy takes formats here; only what is none is honoured.
fn literal(text: &str) -> Result<Box<str>, Refusal> {
    match text.contains('%') {
        false => Ok(text.into()),
        true => Err(Refusal::new(
            "descriptor_value",
            "a format is not supported",
        )),
    }
}

/// The first value, as it is written.
fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut all = query?
        .split('&')
        .map(|one| one.split_once('=').unwrap_or((one, "")));
    all.find(|(own, _)| *own == name)
        .map(|(_, value)| value.to_owned())
}

/// Who the client is, to its connection manager.
fn client(request: &http::Request<Body>, stream: &StreamInfo) -> IpAddr {
    let told = request.extensions().get::<ClientAddress>();
    told.map_or_else(
        || stream.connection.source.ip().to_canonical(),
        |client| client.0,
    )
}
