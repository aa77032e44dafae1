//! Tokens and their targets, and constraints of providers.

use serde_json::json;
use waypoint_tests::tokens::{Signer, claims, now};

use crate::token_cases::{Allowed, Case, STRICT, flawed, without};

/// What the challenge says of the request.
pub(super) fn by_target() -> Vec<Case> {
    let bad = || ("authorization", "Bearer x".to_owned());
    let with = |name: &'static str, value: &str| vec![bad(), (name, value.to_owned())];
    let long = format!("/one/{}?q", "a".repeat(300));
    vec![
        Case::new(
            "a host with a port",
            "/one?a=b#c",
            with("host", "Web.Example:8080"),
        ),
        Case::new("a long path", &long, vec![bad()]),
        Case::new(
            "a long query",
            &format!("/one?{}", "a".repeat(300)),
            vec![bad()],
        ),
        Case::new("https before", "/one", with("x-forwarded-proto", "https")),
        Case::new(
            "something before",
            "/one",
            with("x-forwarded-proto", "gopher"),
        ),
        Case::new(
            "an original path",
            "/one",
            with("x-envoy-original-path", "/else"),
        )
        .but(Allowed::Words("a client doesn't say what its path was")),
        Case::new("a path that is cleaned", "/x/../one/./y", vec![bad()]),
        Case::new("a token in the query", "/one?access_token=x&b=c", vec![]),
    ]
}

/// Subjects, lifetimes, and keys that are none.
pub(super) fn by_constraint(signer: &Signer) -> Vec<Case> {
    let spiffe = flawed(&claims(STRICT, "spiffe://a/b"), "aud", json!("a"));
    let elsewhere = flawed(&spiffe, "aud", json!("b"));
    let brief = json!({"iss": "anybody", "exp": now() + 300});
    [
        ("/strict", "x-strict", "good", spiffe.clone()),
        (
            "/strict",
            "x-strict",
            "wrong subject",
            flawed(&spiffe, "sub", json!("https://a/b")),
        ),
        ("/strict", "x-strict", "no subject", without(&spiffe, "sub")),
        ("/strict", "x-strict", "wrong audience", elsewhere.clone()),
        (
            "/strict",
            "x-strict",
            "wrong audience, no subject",
            without(&elsewhere, "sub"),
        ),
        (
            "/strict",
            "x-strict",
            "wrong audience, no end",
            without(&elsewhere, "exp"),
        ),
        ("/strict", "x-strict", "no end", without(&spiffe, "exp")),
        (
            "/strict",
            "x-strict",
            "no end, no subject, wrong issuer",
            json!({"iss": "x"}),
        ),
        (
            "/strict",
            "x-strict",
            "late, no subject",
            json!({"iss": STRICT, "exp": 7}),
        ),
        ("/brief", "x-brief", "good", brief.clone()),
        (
            "/brief",
            "x-brief",
            "long",
            flawed(&brief, "exp", json!(now() + 7000)),
        ),
        ("/brief", "x-brief", "endless", without(&brief, "exp")),
        ("/brief", "x-brief", "no issuer", without(&brief, "iss")),
        ("/missing", "x-brief", "anybody's", brief.clone()),
        (
            "/missing",
            "authorization",
            "anybody's elsewhere",
            brief.clone(),
        ),
    ]
    .into_iter()
    .map(|(path, header, what, claims)| {
        let token = signer.token(&claims);
        let value = if header == "authorization" {
            format!("Bearer {token}")
        } else {
            token
        };
        Case::new(format!("{path}: {what}"), path, vec![(header, value)])
    })
    .collect()
}
