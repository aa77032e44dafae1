//! The providers and requirements that tokens are shown to.

use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, ProviderWithAudiences,
    jwt_requirement::RequiresType,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{Duration, Empty};
use waypoint_tests::request_authentication::{
    all, any, authentication, by, missing, provider, requirement, rule,
};

use crate::token_cases::{ONE, STRICT, TWO};

fn claim(header: &str, claim: &str) -> JwtClaimToHeader {
    JwtClaimToHeader {
        header_name: header.into(),
        claim_name: claim.into(),
        ..JwtClaimToHeader::default()
    }
}

pub(super) fn providers(keys: &str) -> Vec<JwtProvider> {
    let claims = [
        "sub",
        "nested.role",
        "groups",
        "admin",
        "n",
        "neg",
        "frac",
        "big",
        "none",
    ];
    vec![
        JwtProvider {
            audiences: vec!["https://api.test/".into(), "web".into()],
            forward_payload_header: "x-payload".into(),
            header_in_metadata: "header".into(),
            failed_status_in_metadata: "failure".into(),
            claim_to_headers: claims
                .map(|c| claim(&format!("x-{}", c.replace('.', "-")), c))
                .into(),
            ..provider(ONE, keys)
        },
        JwtProvider {
            forward: true,
            from_headers: vec![JwtHeader {
                name: "x-token".into(),
                value_prefix: "Token ".into(),
            }],
            from_params: vec!["token".into()],
            from_cookies: vec!["session".into()],
            forward_payload_header: "x-payload-two".into(),
            pad_forward_payload_header: true,
            clock_skew_seconds: 1,
            ..provider(TWO, keys)
        },
        JwtProvider {
            from_headers: vec![JwtHeader {
                name: "x-strict".into(),
                value_prefix: String::new(),
            }],
            from_params: vec!["strict".into()],
            subjects: Some(StringMatcher {
                match_pattern: Some(MatchPattern::Prefix("spiffe://".into())),
                ..StringMatcher::default()
            }),
            require_expiration: true,
            audiences: vec!["a".into()],
            ..provider(STRICT, keys)
        },
        JwtProvider {
            from_headers: vec![JwtHeader {
                name: "x-brief".into(),
                value_prefix: String::new(),
            }],
            max_lifetime: Some(Duration {
                seconds: 600,
                nanos: 0,
            }),
            ..provider("", keys)
        },
    ]
}

/// What istiod sends, behind rules of every other kind.
pub(super) fn configuration(keys: &str) -> JwtAuthentication {
    let mut all_of_it = authentication(providers(keys));
    let audiences = |audiences: &[&str]| {
        requirement(RequiresType::ProviderAndAudiences(ProviderWithAudiences {
            provider_name: "origins-0".into(),
            audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
        }))
    };
    let failed = || requirement(RequiresType::AllowMissingOrFailed(Empty {}));
    let mut rules = vec![
        rule("/open", None),
        rule("/empty", Some(Default::default())),
        rule("/one", Some(by("origins-0"))),
        rule("/two", Some(by("origins-1"))),
        rule("/strict", Some(by("origins-2"))),
        rule("/brief", Some(by("origins-3"))),
        rule("/audience", Some(audiences(&["special"]))),
        rule("/any", Some(any(vec![by("origins-0"), by("origins-1")]))),
        rule("/all", Some(all(vec![by("origins-0"), by("origins-1")]))),
        rule(
            "/both-missing",
            Some(any(vec![missing(), by("origins-0"), by("origins-1")])),
        ),
        rule("/missing", Some(missing())),
        rule("/failed", Some(failed())),
        rule("/any-failed", Some(any(vec![by("origins-0"), failed()]))),
    ];
    rules.append(&mut all_of_it.rules);
    all_of_it.rules = rules;
    all_of_it
}
