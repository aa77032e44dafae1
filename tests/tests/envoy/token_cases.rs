//! Requests with tokens: every algorithm with every flaw, every kind of requirement, in every place; and the configuration
//! that they are held to.

use http::Method;
use serde_json::{Value, json};
use waypoint_tests::tokens::{Signer, claims, now, unsigned};

pub(super) const ONE: &str = "https://one.test";
pub(super) const TWO: &str = "https://two.test";
pub(super) const STRICT: &str = "https://strict.test";

/// A request, and why another answer than Envoy's is right.
pub(super) struct Case {
    pub(super) what: String,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) allowed: Option<Allowed>,
}

/// What may be different, with the reason.
#[derive(Clone, Copy)]
pub(super) enum Allowed {
    /// Both deny it, in other words.
    Words(&'static str),
    Everything(&'static str),
}

/// Whoever reads a part that was tampered with finds something else to complain of.
pub(super) const CHANCE: Allowed = Allowed::Words("chance");

impl Case {
    pub(super) fn new(
        what: impl Into<String>,
        path: &str,
        headers: Vec<(&'static str, String)>,
    ) -> Case {
        Case {
            what: what.into(),
            method: Method::GET,
            path: path.into(),
            headers,
            allowed: None,
        }
    }

    fn bearer(what: impl Into<String>, path: &str, token: impl std::fmt::Display) -> Case {
        Case::new(
            what,
            path,
            vec![("authorization", format!("Bearer {token}"))],
        )
    }

    pub(super) fn but(self, allowed: Allowed) -> Case {
        Case {
            allowed: Some(allowed),
            ..self
        }
    }
}

pub(super) fn flawed(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

pub(super) fn without(claims: &Value, name: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// Claims of the first provider's tokens.
pub(super) fn good() -> Value {
    let mut good = claims(ONE, "somebody");
    good["aud"] = json!(["other", "api.test"]);
    good["nested"] = json!({"role": "admin"});
    good["groups"] = json!(["a", "b"]);
    good["admin"] = json!(true);
    good["scope"] = json!("read write");
    good["n"] = json!(42);
    good["neg"] = json!(-42);
    good["frac"] = json!(0.25);
    good["big"] = json!(1_234_567_890_123_u64);
    good["none"] = Value::Null;
    good
}

/// A token with one character of its part `n` exchanged.
pub(super) fn tampered(token: &str, n: usize, random: &mut fastrand::Rng) -> String {
    let mut parts: Vec<Vec<u8>> = token
        .split('.')
        .map(|part| part.as_bytes().to_vec())
        .collect();
    let part = &mut parts[n];
    // Not the last, of which some bits don't count.
    let at = random.usize(..part.len() - 1);
    part[at] = if part[at] == b'A' { b'B' } else { b'A' };
    let parts: Vec<_> = parts.iter().map(|p| String::from_utf8_lossy(p)).collect();
    parts.join(".")
}

/// Each algorithm, good and with every flaw.
pub(super) fn by_algorithm(signers: &[Signer], random: &mut fastrand::Rng) -> Vec<Case> {
    let (good, now) = (good(), now());
    let mut cases = Vec::new();
    for (n, signer) in signers.iter().enumerate() {
        let name = signer.algorithm();
        let other = signers[(n + 1) % signers.len()].algorithm();
        let mut add = |what: &str, token: String| {
            let case = Case::bearer(format!("{name} {what}"), "/one", token);
            let allowed = match (name, what) {
                ("EdDSA", "other algorithm") => Some(Allowed::Everything(
                    "Envoy takes a signature by EdDSA whatever the token says",
                )),
                ("EdDSA", "HMAC") => Some(Allowed::Words("Envoy tries EdDSA")),
                (_, "tampered header" | "tampered payload") => Some(CHANCE),
                _ => None,
            };
            cases.push(Case { allowed, ..case });
        };
        let token = signer.token(&good);
        add("good", token.clone());
        add(
            "without kid",
            signer.with_header(&json!({"alg": name}), &good),
        );
        add(
            "wrong kid",
            signer.with_header(&json!({"alg": name, "kid": "x"}), &good),
        );
        add(
            "expired",
            signer.token(&flawed(&good, "exp", json!(now - 100))),
        );
        add(
            "just expired",
            signer.token(&flawed(&good, "exp", json!(now - 30))),
        );
        add(
            "not yet",
            signer.token(&flawed(&good, "nbf", json!(now + 1000))),
        );
        add(
            "almost",
            signer.token(&flawed(&good, "nbf", json!(now + 30))),
        );
        add(
            "wrong audience",
            signer.token(&flawed(&good, "aud", json!("nobody"))),
        );
        add("no audience", signer.token(&without(&good, "aud")));
        add(
            "wrong issuer",
            signer.token(&flawed(&good, "iss", json!("https://x.test"))),
        );
        add("no issuer", signer.token(&without(&good, "iss")));
        add(
            "other algorithm",
            signer.with_header(&json!({"alg": other, "kid": name}), &good),
        );
        add("none", signer.with_header(&json!({"alg": "none"}), &good));
        add("HMAC", signer.with_public_key_as_secret(&good));
        add(
            "unsigned",
            format!("{}.", unsigned(&json!({"alg": name}), &good)),
        );
        add("tampered header", tampered(&token, 0, random));
        add("tampered payload", tampered(&token, 1, random));
        add("tampered signature", tampered(&token, 2, random));
        add("short signature", token[..token.len() - 8].to_owned());
    }
    cases
}

/// What is no token, and claims that are none.
pub(super) fn malformed(signer: &Signer) -> Vec<Case> {
    let good = good();
    let token = signer.token(&good);
    let name = signer.algorithm();
    let mut cases: Vec<Case> = [
        "",
        "a",
        "a.b",
        "a.b.c",
        "..",
        "a..b",
        "e30.e30.e30",
        "!.!.!",
    ]
    .into_iter()
    .map(|text| Case::bearer(format!("{text:?}"), "/one", text))
    .collect();
    cases.push(Case::bearer("four parts", "/one", format!("{token}.x")));
    cases.push(Case::bearer("a space behind", "/one", format!("{token} ")));
    cases.push(
        Case::bearer("words behind", "/one", format!("{token} x"))
            .but(Allowed::Everything("Envoy takes spaces within base64")),
    );
    cases.push(
        Case::bearer("null", "/one", "bnVsbA.e30.e30")
            .but(Allowed::Words("Envoy takes null for an empty object")),
    );
    let padded = format!("{}==", token.replace('.', "==."));
    cases.push(Case::bearer("padded", "/one", padded));
    cases.push(Case::bearer(
        "a comma behind",
        "/one",
        format!("{token}, Basic x"),
    ));
    cases.push(Case::bearer("quoted", "/one", format!("\"{token}\"")));
    cases.push(Case::new(
        "words before",
        "/one",
        vec![("authorization", format!("x Bearer  {token}"))],
    ));
    cases.push(Case::new(
        "lower case",
        "/one",
        vec![("authorization", format!("bearer {token}"))],
    ));
    cases.push(Case::new(
        "Basic",
        "/one",
        vec![("authorization", "Basic dTpw".into())],
    ));
    let long = flawed(&good, "x", json!("y".repeat(8000)));
    cases.push(Case::bearer("long", "/one", signer.token(&long)));
    for (claim, value) in [
        ("iss", json!(1)),
        ("sub", json!(1)),
        ("aud", json!(1)),
        ("aud", json!(["web", 1])),
        ("jti", json!(1)),
        ("iat", json!("1")),
        ("iat", json!(-1)),
        ("nbf", json!("1")),
        ("nbf", json!(-1)),
        ("nbf", json!(1e30)),
        ("exp", json!("1")),
        ("exp", json!(-1)),
        ("exp", json!(1e30)),
        ("exp", json!(0)),
        ("exp", json!(1.5)),
        ("exp", json!(null)),
        ("sub", json!("")),
        ("sub", json!("ü")),
        ("aud", json!("http://web/")),
    ] {
        let flawed = flawed(&good, claim, value.clone());
        let token = signer.token(&flawed);
        cases.push(Case::bearer(format!("{claim}: {value}"), "/one", token));
    }
    for header in [
        json!({}),
        json!({"alg": 1}),
        json!({"alg": name, "kid": 1}),
        json!({"alg": "ES256K"}),
        json!({"alg": "es256"}),
    ] {
        let token = signer.with_header(&header, &good);
        cases.push(Case::bearer(format!("{header}"), "/one", token));
    }
    cases
}

/// Every kind of rule, with tokens in every place.
pub(super) fn by_rule(signer: &Signer) -> Vec<Case> {
    let one = signer.token(&good());
    let two = signer.token(&claims(TWO, "two"));
    let late = signer.token(&flawed(&good(), "exp", json!(now() - 100)));
    let stranger = signer.token(&claims("https://x.test", "x"));
    let special = signer.token(&flawed(&good(), "aud", json!("special")));
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let second = |token: &str| ("x-token", format!("Token {token}"));
    let sets = [
        ("nothing", vec![]),
        ("one", vec![bearer(&one)]),
        ("two", vec![second(&two)]),
        (
            "two in a cookie",
            vec![("cookie", format!("a=b; session={two}; c=d"))],
        ),
        ("both", vec![bearer(&one), second(&two)]),
        ("one, late", vec![bearer(&late)]),
        ("a stranger's", vec![bearer(&stranger)]),
        ("one and a late two", vec![bearer(&one), second(&late)]),
        ("late and two", vec![bearer(&late), second(&two)]),
        ("one's in two's place", vec![second(&one)]),
        ("two's in one's place", vec![bearer(&two)]),
        ("one twice", vec![bearer(&one), bearer(&one)]),
        ("one and a late one", vec![bearer(&one), bearer(&late)]),
        ("a late one and one", vec![bearer(&late), bearer(&one)]),
        ("special", vec![bearer(&special)]),
        ("garbage", vec![bearer("x")]),
    ];
    let paths = [
        "/",
        "/open",
        "/empty",
        "/one",
        "/two",
        "/audience",
        "/any",
        "/all",
        "/both-missing",
        "/missing",
        "/failed",
        "/any-failed",
    ];
    let mut cases = Vec::new();
    for path in paths {
        for (what, headers) in &sets {
            let case = Case::new(format!("{path}: {what}"), path, headers.clone());
            let allowed = match (path, *what) {
                ("/missing", "one and a late two") => Some(Allowed::Everything(
                    "with Envoy the token that it looks at last counts alone",
                )),
                (
                    "/open" | "/empty" | "/failed",
                    "one twice" | "one and a late one" | "a late one and one",
                ) => Some(Allowed::Everything(
                    "Envoy joins the values of authorization",
                )),
                _ => None,
            };
            cases.push(Case { allowed, ..case });
        }
        // Headers that are only for tokens to fill.
        let spoofed = ["x-payload", "x-sub", "x-nested-role", "x-payload-two"];
        let spoofed = spoofed.map(|name| (name, "spoofed".to_owned()));
        cases.push(Case::new(
            format!("{path}: spoofed"),
            path,
            spoofed.to_vec(),
        ));
        let with_token = [spoofed.to_vec(), vec![bearer(&one)]].concat();
        cases.push(Case::new(
            format!("{path}: spoofed, with a token"),
            path,
            with_token,
        ));
        for query in [
            format!("{path}?access_token={one}"),
            format!("{path}?a=1&access_token={one}&b=2"),
            format!("{path}?token={two}"),
            format!("{path}?token={late}"),
        ] {
            let what = format!("{path}: {}", &query[..query.len().min(40)]);
            cases.push(Case::new(what, &query, vec![]));
        }
        let query = format!("{path}?access_token={one}&b=%20");
        let case = Case::new(format!("{path}: a space escaped"), &query, vec![]);
        let taken = !["/open", "/empty", "/two", "/audience", "/all"].contains(&path);
        let unescaped =
            Allowed::Everything("Envoy writes other parameters unescaped, and refuses them then");
        cases.push(if taken { case.but(unescaped) } else { case });
        let preflight = vec![
            ("origin", "https://web.test".to_owned()),
            ("access-control-request-method", "GET".to_owned()),
            bearer("x"),
        ];
        cases.push(Case {
            method: Method::OPTIONS,
            ..Case::new(format!("{path}: preflight"), path, preflight)
        });
        let grpc = vec![
            ("content-type", "application/grpc".to_owned()),
            bearer(&late),
        ];
        cases.push(Case {
            method: Method::POST,
            ..Case::new(format!("{path}: gRPC"), path, grpc)
        });
    }
    cases
}

/// What Envoy lets through, and isn't let through here, or comes otherwise.
pub(super) fn on_purpose(signer: &Signer) -> Vec<Case> {
    let critical = json!({"alg": signer.algorithm(), "crit": ["exp"]});
    let strict = flawed(&claims(STRICT, "spiffe://a/b"), "aud", json!("a"));
    let late = signer.token(&flawed(&strict, "exp", json!(7)));
    let strict = signer.token(&strict);
    let pair = |first: &String, second: &String| {
        [first, second]
            .map(|token| ("x-strict", token.clone()))
            .into()
    };
    let huge = flawed(&good(), "n", json!(9_007_199_254_740_993_u64));
    vec![
        Case::bearer("crit", "/one", signer.with_header(&critical, &good()))
            .but(Allowed::Everything("Envoy doesn't look for crit")),
        Case::new("a late token and a good one", "/", pair(&late, &strict)).but(
            Allowed::Everything("Envoy takes the good one away, and then finds none"),
        ),
        Case::bearer(
            "two dots",
            "/one",
            signer.token(&good()).replacen('.', "..", 1),
        )
        .but(Allowed::Everything("Envoy takes more dots in a row")),
        Case::new("a good token and a late one", "/", pair(&strict, &late)),
        Case::bearer("a number over 2^53", "/one", signer.token(&huge))
            .but(Allowed::Everything("Envoy rounds it")),
    ]
}
