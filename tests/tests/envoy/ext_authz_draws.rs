//! What is drawn for external authorization: requests, filters, and what services say.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, QueryParameter, RuntimeFeatureFlag, RuntimeFractionalPercent,
};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{BufferSettings, ExtAuthz};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, HttpStatus};
use envoy_types::pb::google::protobuf::{BoolValue, Struct, Value, value::Kind};
use fastrand::Rng;
use http::{Method, Request};
use http_body_util::Full;
use waypoint_tests::ext_authz::{Reply, check};
use waypoint_tests::ext_authz_resources::names;
use waypoint_tests::ztunnel::request;

/// Bytes of a body that are told, where they are.
pub(super) const MOST: usize = 1000;

pub(super) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

/// Some of them.
pub(super) fn some<T: Copy>(rng: &mut Rng, from: &[T]) -> Vec<T> {
    from.iter().copied().filter(|_| rng.u8(..3) == 0).collect()
}

/// Names that requests may have, and answers may change.
pub(super) const NAMES: [&str; 6] = ["x-a", "x-b", "authorization", "cookie", "x-new", "x-other"];
pub(super) const VALUES: [&str; 4] = ["1", "two", "a,b", "x=y"];

/// A body that is too large, and ends with its first frame, Envoy tells in part: over HTTP/2 there is none, here.
pub(super) fn some_request(rng: &mut Rng, http2: bool) -> Request<Full<Bytes>> {
    let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
    let method = methods[rng.usize(..methods.len())].clone();
    let targets = [
        "/",
        "/a",
        "/a?b=c",
        "/a?z=1&b=2&z=3&flag",
        "/a/b?",
        "/a?b=%20&c",
    ];
    let mut headers = vec![("host", "web:80")];
    headers.extend(
        some(rng, &NAMES)
            .iter()
            .map(|name| (*name, pick(rng, &VALUES))),
    );
    if rng.u8(..4) == 0 {
        headers.push(("x-a", pick(rng, &VALUES)));
    }
    if rng.u8(..4) == 0 {
        headers.push(("x-forwarded-proto", pick(rng, &["https", "http", "ftp"])));
    }
    if rng.u8(..6) == 0 {
        headers.push(("x-envoy-auth-partial-body", "true"));
    }
    if http2 && rng.u8(..4) == 0 {
        headers.push(("content-type", "application/grpc"));
    }
    let asked = request(method.clone(), pick(rng, &targets), &headers);
    let has_body = method == Method::POST || method == Method::PUT;
    let length = match has_body {
        true if http2 => pick(rng, &[0, 1, MOST]),
        true => pick(rng, &[0, 1, MOST / 2, MOST, MOST + 1, 2 * MOST]),
        false => 0,
    };
    asked.map(|_| Full::new(vec![b'u'; length].into()))
}

pub(super) fn option(rng: &mut Rng) -> HeaderValueOption {
    let actions = [
        HeaderAppendAction::AppendIfExistsOrAdd,
        HeaderAppendAction::AddIfAbsent,
        HeaderAppendAction::OverwriteIfExists,
        HeaderAppendAction::OverwriteIfExistsOrAdd,
    ];
    let append = pick(rng, &[None, Some(true), Some(false)]);
    HeaderValueOption {
        header: Some(HeaderValue {
            key: pick(rng, &NAMES).into(),
            value: pick(rng, &VALUES).into(),
            ..HeaderValue::default()
        }),
        append: append.map(|value| BoolValue { value }),
        // Both at once says two things.
        append_action: match append {
            None => pick(rng, &actions).into(),
            Some(_) => 0,
        },
        ..HeaderValueOption::default()
    }
}

pub(super) fn options(rng: &mut Rng) -> Vec<HeaderValueOption> {
    (0..rng.usize(..4)).map(|_| option(rng)).collect()
}

pub(super) fn allowed(rng: &mut Rng) -> CheckResponse {
    let mut answer = check(0);
    if rng.u8(..3) == 0 {
        let who = Value {
            kind: Some(Kind::StringValue("ana".into())),
        };
        answer.dynamic_metadata = Some(Struct {
            fields: [("who".to_owned(), who)].into(),
        });
    }
    if rng.u8(..5) == 0 {
        return answer;
    }
    let mut response = OkHttpResponse {
        headers: options(rng),
        response_headers_to_add: options(rng),
        ..OkHttpResponse::default()
    };
    let removable = [
        "x-a",
        "authorization",
        "host",
        ":path",
        "Cookie",
        "bad name",
    ];
    let removed = some(rng, &removable).into_iter();
    response.headers_to_remove = removed.map(str::to_owned).collect();
    if rng.u8(..4) == 0 {
        response.query_parameters_to_set = vec![QueryParameter {
            key: pick(rng, &["b", "z", "new"]).into(),
            value: pick(rng, &["", "9", "xy"]).into(),
        }];
    }
    if rng.u8(..4) == 0 {
        response.query_parameters_to_remove = vec![pick(rng, &["b", "z", "none"]).into()];
    }
    if rng.u8(..6) == 0 {
        let (key, value) = pick(
            rng,
            &[
                (":path", "/moved?q"),
                (":authority", "other"),
                (":method", "PUT"),
                ("host", "h"),
            ],
        );
        response.headers.push(HeaderValueOption {
            header: Some(HeaderValue {
                key: key.into(),
                value: value.into(),
                ..HeaderValue::default()
            }),
            append: Some(BoolValue { value: false }),
            ..HeaderValueOption::default()
        });
    }
    answer.http_response = Some(HttpResponse::OkResponse(response));
    answer
}

pub(super) fn denied(rng: &mut Rng) -> DeniedHttpResponse {
    let mut headers = options(rng);
    for (key, value) in some(
        rng,
        &[
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("content-type", "text/html"),
            ("content-length", "3"),
        ],
    ) {
        headers.push(HeaderValueOption {
            header: Some(HeaderValue {
                key: key.into(),
                value: value.into(),
                ..HeaderValue::default()
            }),
            append: Some(BoolValue { value: false }),
            ..HeaderValueOption::default()
        });
    }
    DeniedHttpResponse {
        status: pick(
            rng,
            &[
                None,
                Some(0),
                Some(401),
                Some(404),
                Some(200),
                Some(429),
                Some(503),
            ],
        )
        .map(|code| HttpStatus { code }),
        headers,
        body: pick(rng, &["", "no", "<p>no & never"]).into(),
    }
}

pub(super) fn some_reply(rng: &mut Rng) -> Reply {
    match rng.u8(..10) {
        0 => Reply::Status(pick(rng, &[0, 7, 14, 16])),
        1 => Reply::Http(pick(rng, &[200, 403, 503])),
        2..=4 => {
            let mut answer = check(pick(rng, &[7, 16, 3]));
            let response = HttpResponse::DeniedResponse(denied(rng));
            answer.http_response = (rng.u8(..5) > 0).then_some(response);
            Reply::Check(Box::new(answer))
        }
        5 => {
            let mut answer = check(pick(rng, &[13, 0]));
            answer.http_response = Some(HttpResponse::ErrorResponse(denied(rng)));
            Reply::Check(Box::new(answer))
        }
        _ => Reply::Check(Box::new(allowed(rng))),
    }
}

pub(super) fn some_filter(rng: &mut Rng, asks: &mut ExtAuthz) {
    asks.failure_mode_allow = rng.u8(..3) == 0;
    asks.failure_mode_allow_header_add = rng.bool();
    asks.clear_route_cache = rng.bool();
    asks.encode_raw_headers = rng.u8(..3) == 0;
    asks.include_tls_session = rng.bool();
    // Otherwise Envoy passes on what no message can have.
    asks.validate_mutations = true;
    asks.status_on_error = pick(rng, &[None, Some(503), Some(401)]).map(|code| HttpStatus { code });
    if rng.u8(..6) == 0 {
        asks.filter_enabled = Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: pick(rng, &[0, 100]),
                denominator: 0,
            }),
            ..RuntimeFractionalPercent::default()
        });
        asks.deny_at_disable = rng.bool().then(|| RuntimeFeatureFlag {
            default_value: Some(BoolValue { value: rng.bool() }),
            runtime_key: "deny".into(),
        });
    }
    asks.max_denied_response_body_bytes = pick(rng, &[0, 0, 2]);
    let ingestion = pick(rng, &[None, Some(true), Some(false)]);
    asks.enable_dynamic_metadata_ingestion = ingestion.map(|value| BoolValue { value });
    asks.disallowed_headers = (rng.u8(..4) == 0).then(|| names(&["x-b"]));
    asks.with_request_body = (rng.u8(..3) > 0).then(|| BufferSettings {
        max_request_bytes: MOST as u32,
        allow_partial_message: rng.bool(),
        pack_as_bytes: rng.bool(),
    });
}
