//! RequestAuthentication as Istio's CRD and admission check let it through: the tokens that requests may bring along.
//!
//! Unknown fields are refused by name, and so are names of headers that no request can have: Envoy would refuse the
//! whole listener for them.

use std::time::Duration;

use serde::Deserialize;

use crate::standalone::input::duration::optional_duration;
use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::{self, Row, Rule, is_token};
use crate::standalone::kinds::istio::dry_run;
use crate::standalone::kinds::istio::jwks::{self, JwksUri};
use crate::standalone::kinds::istio::selector::Selector;
use crate::standalone::kinds::refusal::{Refusal, refusal};
use crate::standalone::kinds::target_ref::{self, Target, TargetRef};

/// Where an issuer tells of itself, behind its name.
const DISCOVERY: &str = "/.well-known/openid-configuration";

#[derive(Clone, Debug, PartialEq)]
pub struct RequestAuthentication {
    /// Empty when it has a selector or none: no waypoint enforces it then.
    pub targets: Vec<Target>,
    /// The target was written as `targetRef`.
    pub single_target: bool,
    pub rules: Vec<JwtRule>,
}

/// The tokens of one issuer.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// Empty: any.
    pub issuer: String,
    /// One of which a token must be for; none: whoever it is for.
    pub audiences: Vec<String>,
    pub keys: Keys,
    /// Where tokens are looked for; with no place at all in `Authorization: Bearer` and in `access_token`.
    pub from_headers: Vec<FromHeader>,
    pub from_params: Vec<String>,
    pub from_cookies: Vec<String>,
    pub forward_original_token: bool,
    /// Header for the token's payload; empty: none.
    pub output_payload_to_header: String,
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// For fetching keys.
    pub timeout: Option<Duration>,
    /// Claims that are lists with spaces between, besides `scope` and `permission`.
    pub space_delimited_claims: Vec<String>,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// A set of keys, as it was written.
    Inline(String),
    Uri(JwksUri),
    /// From what the issuer says of itself (OpenID Connect Discovery).
    Discovered,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FromHeader {
    pub name: String,
    /// Stands before the token.
    #[serde(default)]
    pub prefix: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimToHeader {
    pub header: String,
    /// Its name, or a path with dots.
    pub claim: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spec {
    selector: Option<Selector>,
    target_ref: Option<TargetRef>,
    #[serde(rename = "targetRefs")]
    _target_refs: Option<Vec<TargetRef>>,
    jwt_rules: Vec<WrittenRule>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct WrittenRule {
    issuer: String,
    audiences: Vec<String>,
    jwks_uri: Option<String>,
    /// The same in another spelling.
    #[serde(rename = "jwks_uri")]
    jwks_uri_too: Option<String>,
    jwks: Option<String>,
    from_headers: Vec<FromHeader>,
    from_params: Vec<String>,
    from_cookies: Vec<String>,
    forward_original_token: bool,
    output_payload_to_header: String,
    output_claim_to_headers: Vec<ClaimToHeader>,
    #[serde(deserialize_with = "optional_duration")]
    timeout: Option<Duration>,
    space_delimited_claims: Vec<String>,
}

const SOME: Rule = Rule::Length(1, usize::MAX);
const HEADER: Rule = Rule::Form(is_token, "name of a header");

/// What the CRD says of single fields.
const SCHEMA: &[Row] = &[
    ("jwtRules", Rule::Items(0, 4096)),
    ("jwtRules[].issuer", SOME),
    ("jwtRules[].audiences[]", SOME),
    ("jwtRules[].fromHeaders[].name", HEADER),
    ("jwtRules[].fromParams[]", SOME),
    ("jwtRules[].fromCookies[]", SOME),
    (
        "jwtRules[].outputClaimToHeaders[].header",
        Rule::Form(is_strict_header, "name of a header"),
    ),
    ("jwtRules[].outputClaimToHeaders[].claim", SOME),
    ("jwtRules[].spaceDelimitedClaims", Rule::Items(0, 64)),
    ("jwtRules[].spaceDelimitedClaims[]", SOME),
    ("selector.matchLabels", Rule::Fields(4096)),
];

impl RequestAuthentication {
    pub fn read(manifest: &Manifest) -> Result<Object<RequestAuthentication>, LoadError> {
        manifest.has_only_spec_and_status()?;
        let spec: Spec = manifest.part("spec")?;
        schema::check(manifest, "spec", SCHEMA)?;
        target_ref::check(manifest)?;
        dry_run::read(manifest, Err("is for AuthorizationPolicy only"))?;
        let refused = |(field, reason): Refusal| manifest.refused(format!("spec.{field}"), reason);
        if let Some(selector) = &spec.selector {
            selector.check().map_err(refused)?;
        }
        let targets = target_ref::of_unknown(manifest)
            .map_err(|(field, reason)| manifest.refused(field, reason))?;
        let mut rules = Vec::new();
        for (index, rule) in spec.jwt_rules.into_iter().enumerate() {
            let at = |(field, reason): Refusal| match field.as_str() {
                "" => refused((format!("jwtRules[{index}]"), reason)),
                field => refused((format!("jwtRules[{index}].{field}"), reason)),
            };
            rules.push(rule.checked().map_err(at)?);
        }
        Ok(manifest.object(RequestAuthentication {
            targets,
            single_target: spec.target_ref.is_some(),
            rules,
        }))
    }
}

impl JwtRule {
    /// Where the issuer says where its keys are, if nobody else does.
    ///
    /// # Errors
    /// It is no address that can be asked.
    pub fn discovery(&self) -> Option<Result<JwksUri, String>> {
        let Keys::Discovered = self.keys else {
            return None;
        };
        let issuer = self.issuer.strip_suffix('/').unwrap_or(&self.issuer);
        let address = JwksUri::parse(&format!("{issuer}{DISCOVERY}"));
        Some(address.map_err(|_| {
            format!(
                "neither jwks nor jwksUri, and the issuer {:?} can't be asked for its keys (OpenID Connect Discovery): it is no \
                 address that begins with https:// or http://",
                self.issuer
            )
        }))
    }
}

impl WrittenRule {
    fn checked(self) -> Result<JwtRule, Refusal> {
        let keys = self.keys()?;
        if self.issuer.is_empty() && !matches!(keys, Keys::Uri(_)) {
            return Err(refusal("issuer", "is required without jwksUri"));
        }
        if self
            .timeout
            .is_some_and(|timeout| timeout.is_zero() || timeout.as_nanos() % 1_000_000 != 0)
        {
            return Err(refusal("timeout", "must be whole milliseconds, 1 at least"));
        }
        let payload = &self.output_payload_to_header;
        if !payload.is_empty() && !is_token(payload) {
            let reason = format!("{payload:?} is no name of a header");
            return Err(refusal("outputPayloadToHeader", reason));
        }
        Ok(JwtRule {
            issuer: self.issuer,
            audiences: self.audiences,
            keys,
            from_headers: self.from_headers,
            from_params: self.from_params,
            from_cookies: self.from_cookies,
            forward_original_token: self.forward_original_token,
            output_payload_to_header: self.output_payload_to_header,
            output_claim_to_headers: self.output_claim_to_headers,
            timeout: self.timeout,
            space_delimited_claims: self.space_delimited_claims,
        })
    }

    fn keys(&self) -> Result<Keys, Refusal> {
        let given = [
            ("jwks", &self.jwks),
            ("jwksUri", &self.jwks_uri),
            ("jwks_uri", &self.jwks_uri_too),
        ];
        let mut given = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let (first, second) = (given.next(), given.next());
        match (first, second) {
            (Some((first, _)), Some((second, _))) => {
                let reason = format!("only one of {first} and {second} may be given");
                Err(refusal(first, reason))
            }
            // As with istiod an empty set is none at all.
            (None | Some(("jwks", "")), _) => Ok(Keys::Discovered),
            (Some((field @ "jwks", keys)), None) => {
                jwks::check(keys).map_err(|reason| refusal(field, reason))?;
                Ok(Keys::Inline(keys.to_owned()))
            }
            (Some((field, uri)), None) => {
                let uri = JwksUri::parse(uri).map_err(|reason| refusal(field, reason))?;
                Ok(Keys::Uri(uri))
            }
        }
    }
}

/// A header's name as claims may be written to it.
fn is_strict_header(text: &str) -> bool {
    let of_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    !text.is_empty() && text.bytes().all(of_name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Result<RequestAuthentication, LoadError> {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r}}\nspec: {spec}"
        );
        RequestAuthentication::read(&Manifest::of(&text)).map(|object| object.spec)
    }

    fn rule(fields: &str) -> Result<JwtRule, LoadError> {
        read(&format!("{{jwtRules: [{{{fields}}}]}}")).map(|mut found| found.rules.remove(0))
    }

    #[test]
    fn where_keys_come_from() {
        let set = "{\"keys\": []}";
        assert_eq!(
            rule(&format!("issuer: a, jwks: '{set}'")).unwrap().keys,
            Keys::Inline(set.to_owned())
        );
        for field in ["jwksUri", "jwks_uri"] {
            let found = rule(&format!("{field}: 'http://a.test/keys'")).unwrap();
            let Keys::Uri(uri) = found.keys else {
                panic!("{:?}", found.keys)
            };
            assert_eq!(uri.text, "http://a.test/keys");
        }
        for discovered in ["issuer: a", "issuer: a, jwks: ''"] {
            assert_eq!(rule(discovered).unwrap().keys, Keys::Discovered);
        }
        assert_eq!(read("{}").unwrap().rules, []);
    }

    #[test]
    fn what_cannot_be_understood_is_refused_by_name() {
        let key = "jwks: '{\"keys\": []}'";
        for (fields, field) in [
            ("", ".issuer"),
            (key, ".issuer"),
            ("issuer: ''", ".issuer"),
            ("issuer: a, issuers: b", ".issuers"),
            ("issuer: a, audiences: ['']", ".audiences[0]"),
            ("issuer: a, jwks: x", ".jwks"),
            ("issuer: a, jwks: '', jwksUri: 'http://a.test'", ".jwks"),
            (
                "jwksUri: 'http://a.test', jwks_uri: 'http://a.test'",
                ".jwksUri",
            ),
            ("jwksUri: 'ftp://a.test'", ".jwksUri"),
            ("jwksUri: ''", ".jwksUri"),
            ("issuer: a, fromHeaders: [{}]", ".fromHeaders[0]"),
            (
                "issuer: a, fromHeaders: [{name: 'a b'}]",
                ".fromHeaders[0].name",
            ),
            ("issuer: a, fromParams: ['']", ".fromParams[0]"),
            ("issuer: a, fromCookies: ['']", ".fromCookies[0]"),
            (
                "issuer: a, outputPayloadToHeader: 'a b'",
                ".outputPayloadToHeader",
            ),
            (
                "issuer: a, outputClaimToHeaders: [{header: 'a.b', claim: c}]",
                ".outputClaimToHeaders[0].header",
            ),
            (
                "issuer: a, outputClaimToHeaders: [{header: a, claim: ''}]",
                ".outputClaimToHeaders[0].claim",
            ),
            ("issuer: a, timeout: 0s", ".timeout"),
            ("issuer: a, timeout: 1.5ms", ".timeout"),
            ("issuer: a, timeout: 5", ".timeout"),
            (
                "issuer: a, spaceDelimitedClaims: ['']",
                ".spaceDelimitedClaims[0]",
            ),
            (
                "issuer: a, forwardOriginalToken: 1",
                ".forwardOriginalToken",
            ),
        ] {
            let found = rule(fields).unwrap_err().field.unwrap();
            assert_eq!(found, format!("spec.jwtRules[0]{field}"), "{fields}");
        }
        for (spec, field) in [
            ("{jwtRule: []}", "spec.jwtRule"),
            (
                "{selector: {matchLabels: {a: 'b*'}}}",
                "spec.selector.matchLabels.a",
            ),
            ("{selector: {}, targetRefs: []}", "spec.targetRefs"),
            ("{targetRefs: [{kind: Pod, name: x}]}", "spec.targetRefs[0]"),
            (
                "{targetRefs: [{kind: Service, group: '', name: x, namespace: a}]}",
                "spec.targetRefs[0]",
            ),
        ] {
            assert_eq!(
                read(spec).unwrap_err().field.as_deref(),
                Some(field),
                "{spec}"
            );
        }
    }

    #[test]
    fn a_dry_run_is_for_policies() {
        let text = "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: r, annotations: {istio.io/dry-run: 'true'}}}";
        let error = RequestAuthentication::read(&Manifest::of(text)).unwrap_err();
        assert_eq!(
            error.field.as_deref(),
            Some("metadata.annotations[istio.io/dry-run]")
        );
    }
}
