//! What a rule of a VirtualService does beside choosing a destination, as fields of Envoy's route: header changes, redirects,
//! direct responses, rewrites, mirrors, faults, CORS.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as delays;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy as CorsProto;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as faults;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use matcher::string_matcher::MatchPattern;

use crate::standalone::kinds::istio::virtual_service::answer::{
    Body, DerivePort, DirectResponse, Redirect,
};
use crate::standalone::kinds::istio::virtual_service::destination::{
    HeaderOperations, is_internal,
};
use crate::standalone::kinds::istio::virtual_service::http_policy::{
    Abort, CorsPolicy, Delay, Fault, Percent, Rewrite, UnmatchedPreflights,
};
use crate::standalone::translate::proto::packed::{boolean, duration};
use crate::standalone::translate::proto::regex::regex_matcher as regex;
use crate::standalone::translate::routes::virtual_service_match::string;

/// Set headers, then added ones, each by name. Values are formats. The authority is a rewrite, not a header.
pub(super) fn headers_to_add(operations: &HeaderOperations) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction;
    let options = |headers: &BTreeMap<String, String>, action: HeaderAppendAction| {
        let own = headers.iter().filter(|(name, _)| !is_internal(name));
        let option = own.map(|(key, value)| core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: key.clone(),
                value: value.clone(),
                ..core::HeaderValue::default()
            }),
            append_action: action.into(),
            ..core::HeaderValueOption::default()
        });
        option.collect::<Vec<_>>()
    };
    let mut found = options(&operations.set, HeaderAppendAction::OverwriteIfExistsOrAdd);
    found.extend(options(
        &operations.add,
        HeaderAppendAction::AppendIfExistsOrAdd,
    ));
    found
}

/// The redirect of requests to this port. `None`: Envoy has no such code.
pub(super) fn redirect_action(redirect: &Redirect, port: u16) -> Option<route::RedirectAction> {
    use route::redirect_action::{
        PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
    };
    let code = match redirect.redirect_code {
        0 | 301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => return None,
    };
    let new_port = match (redirect.port, redirect.derive_port) {
        (Some(port), _) => port,
        (None, Some(DerivePort::FromRequestPort)) => port.into(),
        (None, Some(DerivePort::FromProtocolDefault) | None) => 0,
    };
    // A waypoint's requests are of HTTP; a scheme's usual port is not written out.
    let is_usual = matches!(
        (redirect.scheme.as_str(), new_port),
        ("" | "http", 80) | ("https", 443)
    );
    let path = match redirect.prefix_rewrite.as_str() {
        "" => PathRewriteSpecifier::PathRedirect(redirect.uri.clone()),
        prefix => PathRewriteSpecifier::PrefixRewrite(prefix.to_owned()),
    };
    let scheme = Some(redirect.scheme.clone()).filter(|scheme| !scheme.is_empty());
    Some(route::RedirectAction {
        host_redirect: redirect.authority.clone(),
        port_redirect: if is_usual { 0 } else { new_port },
        response_code: code.into(),
        scheme_rewrite_specifier: scheme.map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: Some(path),
        ..route::RedirectAction::default()
    })
}

pub(super) fn direct_response(response: &DirectResponse) -> route::DirectResponseAction {
    use core::data_source::Specifier;
    let specifier = match &response.body {
        Body::None => None,
        Body::Text(text) => Some(Specifier::InlineString(text.clone())),
        Body::Bytes(bytes) => Some(Specifier::InlineBytes(bytes.clone())),
    };
    route::DirectResponseAction {
        status: response.status,
        body: specifier.map(|specifier| core::DataSource {
            specifier: Some(specifier),
            ..core::DataSource::default()
        }),
        ..route::DirectResponseAction::default()
    }
}

/// The path on its way; the authority is the caller's.
pub(super) fn rewrite_path(rewrite: &Rewrite, action: &mut route::RouteAction) {
    match &rewrite.uri_regex_rewrite {
        Some(found) => {
            action.regex_rewrite = Some(matcher::RegexMatchAndSubstitute {
                pattern: Some(regex(found.r#match.clone())),
                substitution: found.rewrite.clone(),
            });
        }
        None => action.prefix_rewrite.clone_from(&rewrite.uri),
    }
}

/// `None`: nothing is mirrored.
pub(super) fn mirror_policy(
    cluster: String,
    share: FractionalPercent,
) -> Option<route::route_action::RequestMirrorPolicy> {
    (share.numerator > 0).then(|| route::route_action::RequestMirrorPolicy {
        cluster,
        runtime_fraction: Some(runtime(share)),
        trace_sampled: boolean(false),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    })
}

/// A share as a fraction; parts of a millionth are cut off.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and 1,000,000
pub(super) fn millionths(share: Percent) -> FractionalPercent {
    FractionalPercent {
        numerator: (share.value * 10_000.0) as u32,
        denominator: DenominatorType::Million.into(),
    }
}

pub(super) fn hundredths(share: u32) -> FractionalPercent {
    FractionalPercent {
        numerator: share,
        denominator: DenominatorType::Hundred.into(),
    }
}

fn runtime(share: FractionalPercent) -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent {
        default_value: Some(share),
        ..core::RuntimeFractionalPercent::default()
    }
}

/// The fault filter's configuration; `None` where there is nothing to do.
pub(super) fn fault(found: &Fault) -> Option<faults::HttpFault> {
    let delay = found.delay.as_ref().and_then(fault_delay);
    let abort = found.abort.as_ref().and_then(fault_abort);
    (delay.is_some() || abort.is_some()).then(|| faults::HttpFault {
        delay,
        abort,
        ..faults::HttpFault::default()
    })
}

fn fault_delay(delay: &Delay) -> Option<delays::FaultDelay> {
    let fixed = delay.fixed_delay.map(duration)?;
    let share = match delay.percentage {
        Some(share) => millionths(share),
        None => hundredths(delay.percent.unsigned_abs()),
    };
    Some(delays::FaultDelay {
        percentage: Some(share),
        fault_delay_secifier: Some(delays::fault_delay::FaultDelaySecifier::FixedDelay(fixed)),
    })
}

fn fault_abort(abort: &Abort) -> Option<faults::FaultAbort> {
    use faults::fault_abort::ErrorType;
    let http = abort.http_status.map(ErrorType::HttpStatus);
    let error = http.or_else(|| abort.grpc_status().map(ErrorType::GrpcStatus))?;
    Some(faults::FaultAbort {
        percentage: abort.percentage.map(millionths),
        error_type: Some(error),
        ..faults::FaultAbort::default()
    })
}

pub(super) fn cors_policy(cors: &CorsPolicy) -> CorsProto {
    let exact = |origin: &String| matcher::StringMatcher {
        match_pattern: Some(MatchPattern::Exact(origin.clone())),
        ..matcher::StringMatcher::default()
    };
    let origins = match cors.allow_origins.is_empty() {
        true => cors.allow_origin.iter().map(exact).collect(),
        false => cors.allow_origins.iter().filter_map(string).collect(),
    };
    let forward = cors.unmatched_preflights != UnmatchedPreflights::Ignore;
    let max_age = cors.max_age.map(|age| age.as_secs().to_string());
    CorsProto {
        allow_origin_string_match: origins,
        allow_methods: cors.allow_methods.join(","),
        allow_headers: cors.allow_headers.join(","),
        expose_headers: cors.expose_headers.join(","),
        max_age: max_age.unwrap_or_default(),
        allow_credentials: cors.allow_credentials.and_then(boolean),
        filter_enabled: Some(runtime(hundredths(100))),
        forward_not_matching_preflights: boolean(forward),
        ..CorsProto::default()
    }
}
