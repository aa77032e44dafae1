//! Local rate limits, and what becomes of requests under them, told in one line each.
//!
//! The same requests are sent to the waypoint and to real Envoy, so the expected lines are Envoy's.

use std::collections::HashMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, RuntimeFractionalPercent,
};
use envoy_types::pb::envoy::config::route::v3::{
    RateLimit,
    rate_limit::{
        Action,
        action::{ActionSpecifier, GenericKey, RemoteAddress, RequestHeaders},
    },
};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, rate_limit_descriptor::Entry,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, HttpStatus, TokenBucket};
use envoy_types::pb::google::protobuf::{Any, BoolValue, UInt32Value};
use http::Method;
use prost::Message;
use waypoint_config::resource::Resource;

use crate::managers::{self, INNER, millis};
use crate::mesh::Mesh;
use crate::ztunnel::{Ztunnel, request};

const NAME: &str = "envoy.filters.http.local_ratelimit";
const TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// Nothing fills within a story.
const HOUR: u64 = 3_600_000;

/// What the filter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Three of all.
    All,
    /// The same, told but not enforced.
    Shadow,
    /// Two for a user by a header, three with any other value, five in all.
    Descriptors,
    /// The route has one, the filter none.
    Route,
    /// Two for each connection.
    Connection,
}

pub const LIMITS: [Limit; 5] = [
    Limit::All,
    Limit::Shadow,
    Limit::Descriptors,
    Limit::Route,
    Limit::Connection,
];

fn bucket(tokens: u32) -> Option<TokenBucket> {
    Some(TokenBucket {
        max_tokens: tokens,
        tokens_per_fill: Some(UInt32Value { value: 1 }),
        fill_interval: millis(HOUR),
    })
}

fn share(percent: u32) -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: percent,
            denominator: 0,
        }),
        ..RuntimeFractionalPercent::default()
    })
}

fn header(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    }
}

fn descriptor(entries: &[(&str, &str)], tokens: u32) -> LocalRateLimitDescriptor {
    LocalRateLimitDescriptor {
        entries: entries
            .iter()
            .map(|(key, value)| Entry {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
        token_bucket: bucket(tokens),
        ..LocalRateLimitDescriptor::default()
    }
}

fn limit(of: Limit) -> LocalRateLimit {
    let usual = LocalRateLimit {
        stat_prefix: "story".to_owned(),
        token_bucket: bucket(3),
        filter_enabled: share(100),
        filter_enforced: share(100),
        response_headers_to_add: vec![header("x-limited", "by %PROTOCOL%")],
        request_headers_to_add_when_not_enforced: vec![header("x-would-limit", "yes")],
        enable_x_ratelimit_headers: 1,
        ..LocalRateLimit::default()
    };
    match of {
        Limit::All => LocalRateLimit {
            status: Some(HttpStatus { code: 503 }),
            ..usual
        },
        Limit::Shadow => LocalRateLimit {
            filter_enforced: share(0),
            ..usual
        },
        Limit::Descriptors => LocalRateLimit {
            token_bucket: bucket(6),
            descriptors: vec![
                descriptor(&[("user", "ann"), ("generic_key", "k")], 2),
                descriptor(&[("user", "")], 1),
            ],
            rate_limited_as_resource_exhausted: true,
            always_consume_default_token_bucket: Some(BoolValue { value: false }),
            ..usual
        },
        Limit::Route => LocalRateLimit {
            stat_prefix: "filter".to_owned(),
            ..LocalRateLimit::default()
        },
        Limit::Connection => LocalRateLimit {
            token_bucket: bucket(2),
            local_rate_limit_per_downstream_connection: true,
            enable_x_ratelimit_headers: 0,
            ..usual
        },
    }
}

fn packed(limit: &LocalRateLimit) -> Any {
    Any {
        type_url: TYPE.to_owned(),
        value: limit.encode_to_vec(),
    }
}

fn actions(actions: Vec<ActionSpecifier>) -> RateLimit {
    RateLimit {
        actions: actions
            .into_iter()
            .map(|action| Action {
                action_specifier: Some(action),
            })
            .collect(),
        ..RateLimit::default()
    }
}

fn user() -> ActionSpecifier {
    ActionSpecifier::RequestHeaders(RequestHeaders {
        header_name: "x-user".to_owned(),
        descriptor_key: "user".to_owned(),
        skip_if_absent: false,
    })
}

/// The mesh's resources under this limit.
#[must_use]
pub fn resources(mesh: &Mesh, of: Limit) -> Vec<Resource> {
    let mut resources = mesh.resources();
    managers::change(&mut resources, INNER, |manager| set(manager, of));
    resources
}

fn set(manager: &mut HttpConnectionManager, of: Limit) {
    let filter = HttpFilter {
        name: NAME.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(packed(&limit(of)))),
        ..HttpFilter::default()
    };
    manager.http_filters.insert(0, filter);
    let key = ActionSpecifier::GenericKey(GenericKey {
        descriptor_value: "k".to_owned(),
        ..GenericKey::default()
    });
    managers::change_routes(manager, |route| {
        route.rate_limits = vec![
            actions(vec![user(), key.clone()]),
            actions(vec![user()]),
            actions(vec![ActionSpecifier::RemoteAddress(RemoteAddress {})]),
        ];
    });
    if of == Limit::Route
        && let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier
    {
        for host in &mut routes.virtual_hosts {
            let own = packed(&limit(Limit::All));
            host.typed_per_filter_config = HashMap::from([(NAME.to_owned(), own)]);
        }
    }
}

/// Sends requests one after the other; a line for each.
pub async fn lines(ztunnel: &Ztunnel, to: SocketAddr, of: Limit) -> Vec<String> {
    let mut requests: Vec<Vec<(&str, &str)>> = vec![vec![]; 5];
    if of == Limit::Descriptors {
        let ann = vec![("x-user", "ann")];
        let bob = vec![("x-user", "bob")];
        let cid = vec![("x-user", "cid")];
        let grpc = vec![("x-user", "ann"), ("content-type", "application/grpc")];
        requests = vec![
            ann.clone(),
            ann.clone(),
            ann,
            bob.clone(),
            bob,
            cid,
            grpc,
            vec![],
            vec![],
        ];
    }
    let mut lines = Vec::new();
    let mut client = ztunnel.http1(to).await;
    for headers in requests {
        let answer = client.send(request(Method::GET, "/", &headers)).await;
        let shown = |name: &str| answer.header(name);
        lines.push(format!(
            "{headers:?} {} limited {:?} quota {:?} {:?} grpc {:?} {:?}",
            answer.status.as_u16(),
            shown("x-limited"),
            shown("x-ratelimit-limit"),
            shown("x-ratelimit-remaining"),
            shown("grpc-status"),
            answer.text(),
        ));
    }
    if of == Limit::Connection {
        let mut other = ztunnel.http1(to).await;
        let answer = other.send(request(Method::GET, "/", &[])).await;
        lines.push(format!("another connection {}", answer.status.as_u16()));
    }
    lines
}
