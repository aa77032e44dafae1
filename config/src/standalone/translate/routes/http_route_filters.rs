//! Filters of an HTTPRoute as fields of Envoy's route: headers, rewrites, redirects, mirrors, CORS.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3 as fraction;

use crate::standalone::kinds::gateway_api::http_route_filter::{
    Cors, Header, HeaderModifier, Mirror, Redirect, Rewrite,
};
use crate::standalone::kinds::gateway_api::http_route_match::Match;
use crate::standalone::translate::proto::packed::boolean;
use crate::standalone::translate::proto::regex::{quote, regex_matcher as regex};
use crate::standalone::translate::routes::path_modifier;

/// Set headers, then added ones, each by name. `Host` is a rewrite, not a header.
pub(crate) fn headers_to_add(modifier: &HeaderModifier) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction;
    let sorted = |headers: &[Header], action: HeaderAppendAction| {
        let by_name: BTreeMap<String, String> = headers
            .iter()
            .map(|header| (header.name.clone(), quote_format(&header.value)))
            .collect();
        let options = by_name.into_iter().filter(|(name, _)| !is_host(name));
        let option = move |(key, value)| core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key,
                value,
                ..core::HeaderValue::default()
            }),
            append_action: action.into(),
            ..core::HeaderValueOption::default()
        };
        options.map(option).collect::<Vec<_>>()
    };
    let mut options = sorted(&modifier.set, HeaderAppendAction::OverwriteIfExistsOrAdd);
    options.extend(sorted(
        &modifier.add,
        HeaderAppendAction::AppendIfExistsOrAdd,
    ));
    options
}

/// A value is a text. In Envoy's it is a format, where a `%` begins an operator, or is written twice.
fn quote_format(text: &str) -> String {
    text.replace('%', "%%")
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

pub(super) fn host_header(modifier: &HeaderModifier) -> Option<&str> {
    let host = modifier.set.iter().find(|header| is_host(&header.name));
    host.map(|header| header.value.as_str())
}

pub(super) fn host_rewrite(host: &str) -> Option<route::route_action::HostRewriteSpecifier> {
    Some(route::route_action::HostRewriteSpecifier::HostRewriteLiteral(host.to_owned()))
}

pub(super) fn apply_rewrite(rewrite: &Rewrite, found: &Match, action: &mut route::RouteAction) {
    if let Some(path) = &rewrite.path {
        path_modifier::rewrite(path.new_path(), &found.path.value, action);
    }
    if let Some(host) = &rewrite.hostname {
        action.host_rewrite_specifier = host_rewrite(host);
    }
}

pub(super) fn redirect_action(
    redirect: &Redirect,
    found: &Match,
    port: u16,
) -> route::RedirectAction {
    use route::redirect_action::{RedirectResponseCode, SchemeRewriteSpecifier};
    let new_path = redirect.path.as_ref().map(|path| path.new_path());
    let path = path_modifier::redirect(new_path, &found.path.value);
    // Without a scheme the request's port stays, which is the one that the chain is for.
    let new_port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(_)) => 0,
        (None, None) => port,
    };
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let is_default = matches!((scheme, new_port), ("http", 80) | ("https", 443));
    let code = match redirect.status_code {
        Some(302) | None => RedirectResponseCode::Found,
        Some(303) => RedirectResponseCode::SeeOther,
        Some(307) => RedirectResponseCode::TemporaryRedirect,
        Some(308) => RedirectResponseCode::PermanentRedirect,
        Some(_) => RedirectResponseCode::MovedPermanently,
    };
    route::RedirectAction {
        host_redirect: redirect.hostname.clone().unwrap_or_default(),
        port_redirect: if is_default { 0 } else { new_port.into() },
        response_code: code.into(),
        scheme_rewrite_specifier: redirect
            .scheme
            .clone()
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: Some(path),
        ..route::RedirectAction::default()
    }
}

/// `None`: nothing is mirrored.
pub(super) fn mirror_policy(
    mirror: &Mirror,
    cluster: String,
) -> Option<route::route_action::RequestMirrorPolicy> {
    use fraction::fractional_percent::DenominatorType;
    let share = match (mirror.fraction, mirror.percent) {
        (Some(found), _) => {
            let numerator =
                u64::from(found.numerator) * 1_000_000 / u64::from(found.denominator.max(1));
            (
                u32::try_from(numerator).unwrap_or(1_000_000),
                DenominatorType::Million,
            )
        }
        (None, Some(percent)) => (percent * 10_000, DenominatorType::Million),
        (None, None) => (100, DenominatorType::Hundred),
    };
    if share.0 == 0 {
        return None;
    }
    Some(route::route_action::RequestMirrorPolicy {
        cluster,
        runtime_fraction: Some(core::RuntimeFractionalPercent {
            default_value: Some(fraction::FractionalPercent {
                numerator: share.0,
                denominator: share.1.into(),
            }),
            ..core::RuntimeFractionalPercent::default()
        }),
        trace_sampled: boolean(false),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    })
}

pub(super) fn cors_policy(cors: &Cors) -> CorsPolicy {
    use matcher::string_matcher::MatchPattern;
    let origin = |origin: &String| {
        let pattern = match (origin.matches('*').count(), origin.strip_suffix('*')) {
            (0, _) => MatchPattern::Exact(origin.clone()),
            (_, Some("")) => {
                MatchPattern::SafeRegex(regex(r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+$".to_owned()))
            }
            (1, Some(prefix)) => MatchPattern::Prefix(prefix.to_owned()),
            _ => {
                let parts: Vec<String> = origin.split('*').map(quote).collect();
                MatchPattern::SafeRegex(regex(format!("^{}$", parts.join(".*"))))
            }
        };
        matcher::StringMatcher {
            match_pattern: Some(pattern),
            ..matcher::StringMatcher::default()
        }
    };
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(origin).collect(),
        allow_methods: cors.allow_methods.join(","),
        allow_headers: cors.allow_headers.join(","),
        expose_headers: cors.expose_headers.join(","),
        // The CRD's default is five seconds.
        max_age: match cors.max_age.unwrap_or(5) {
            0 => String::new(),
            seconds => seconds.to_string(),
        },
        allow_credentials: boolean(cors.allow_credentials),
        filter_enabled: Some(core::RuntimeFractionalPercent {
            default_value: Some(fraction::FractionalPercent {
                numerator: 100,
                denominator: fraction::fractional_percent::DenominatorType::Hundred.into(),
            }),
            ..core::RuntimeFractionalPercent::default()
        }),
        forward_not_matching_preflights: boolean(false),
        ..CorsPolicy::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_redirects() {
        let port = |scheme: Option<&str>, port: Option<u16>, own: u16| {
            let redirect = Redirect {
                scheme: scheme.map(str::to_owned),
                port,
                ..Redirect::default()
            };
            redirect_action(&redirect, &Match::default(), own).port_redirect
        };
        // Without a scheme the request's own port stays; a scheme's usual port is not written out.
        assert_eq!(port(None, None, 9080), 9080);
        assert_eq!(port(None, None, 80), 0);
        assert_eq!(port(Some("https"), None, 9080), 0);
        assert_eq!(port(Some("https"), Some(443), 9080), 0);
        assert_eq!(port(Some("http"), Some(443), 9080), 443);
        assert_eq!(port(None, Some(80), 9080), 0);
    }

    #[test]
    fn mirrored_shares() {
        use crate::standalone::kinds::gateway_api::backend_object::BackendObject;
        use crate::standalone::kinds::gateway_api::http_route_filter::Fraction;
        let share = |percent, fraction| {
            let backend_ref = BackendObject {
                group: String::new(),
                kind: "Service".to_owned(),
                name: "a".to_owned(),
                namespace: None,
                port: Some(80),
            };
            let mirror = Mirror {
                backend_ref,
                percent,
                fraction,
            };
            let policy = mirror_policy(&mirror, "c".to_owned())?;
            policy
                .runtime_fraction?
                .default_value
                .map(|share| share.numerator)
        };
        assert_eq!(share(None, None), Some(100));
        assert_eq!(share(Some(25), None), Some(250_000));
        assert_eq!(
            share(
                None,
                Some(Fraction {
                    numerator: 1,
                    denominator: 3
                })
            ),
            Some(333_333)
        );
        assert_eq!(share(Some(0), None), None);
    }

    #[test]
    fn the_host_header_is_a_rewrite() {
        let header = |name: &str| Header {
            name: name.to_owned(),
            value: "v".to_owned(),
        };
        let modifier = HeaderModifier {
            set: vec![header("x"), header("Host")],
            add: vec![header("y")],
            remove: Vec::new(),
        };
        let names: Vec<_> = headers_to_add(&modifier)
            .into_iter()
            .filter_map(|option| Some(option.header?.key))
            .collect();
        assert_eq!(names, ["x", "y"]);
        assert_eq!(host_header(&modifier), Some("v"));
    }

    #[test]
    fn a_value_is_a_text_and_no_format() {
        let modifier = HeaderModifier {
            set: vec![Header {
                name: "x-discount".to_owned(),
                value: "50% of %PROTOCOL%".to_owned(),
            }],
            ..HeaderModifier::default()
        };
        let option = headers_to_add(&modifier).remove(0);
        assert_eq!(
            option.header.unwrap_or_default().value,
            "50%% of %%PROTOCOL%%"
        );
    }
}
