//! `JwtProvider`: one issuer of tokens, the keys that it signs with, and what its tokens must say and give.
//!
//! Providers that say the same are one, whatever chains they stand in: their keys and what those have verified are shared.

pub mod audience;
pub mod local;
pub mod place;
pub mod providers;
pub mod remote;

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtCacheConfig, JwtProvider, jwt_provider::JwksSourceSpecifier,
};

use crate::callout::Callout;
use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::security::jwt::failure::Failure;
use crate::security::jwt::provider::audience::Audiences;
use crate::security::jwt::provider::local::DATA_SOURCE;
use crate::security::jwt::provider::place::{JWT_HEADER, Place};
use crate::security::jwt::provider::remote::{Fetching, REMOTE_JWKS, RemoteKeys};
use crate::security::jwt::token::Token;
use crate::security::jwt::token::claims::Claims;
use crate::security::jwt::token::output::{CLAIM_TO_HEADER, NORMALIZE_PAYLOAD, Outputs};
use crate::security::jwt::token::verified::{Limits, Room};
use crate::security::jwt::trusted::{TrustedKeys, Verified};
use crate::xds::coverage::well_known::DURATION;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::duration;
use crate::xds::rejected::Refusal;

pub(crate) static JWT_PROVIDER: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider",
    fields: &[
        honoured(1, "issuer"),
        honoured(2, "audiences").list(),
        honoured(3, "remote_jwks").of(&REMOTE_JWKS),
        honoured(4, "local_jwks").of(&DATA_SOURCE),
        honoured(5, "forward"),
        honoured(6, "from_headers").list().of(&JWT_HEADER),
        honoured(7, "from_params").list(),
        honoured(8, "forward_payload_header"),
        honoured(9, "payload_in_metadata"),
        honoured(10, "clock_skew_seconds"),
        honoured(11, "pad_forward_payload_header"),
        honoured(12, "jwt_cache_config").of(&CACHE_CONFIG),
        honoured(13, "from_cookies").list(),
        honoured(14, "header_in_metadata"),
        honoured(15, "claim_to_headers").list().of(&CLAIM_TO_HEADER),
        honoured(16, "failed_status_in_metadata"),
        honoured(17, "clear_route_cache"),
        honoured(18, "normalize_payload_in_metadata").of(&NORMALIZE_PAYLOAD),
        honoured(19, "subjects").of(&STRING_MATCHER),
        honoured(20, "require_expiration"),
        honoured(21, "max_lifetime").of(&DURATION),
    ],
    refused: "",
    required: &[required("jwks_source_specifier", &[3, 4])],
};

static CACHE_CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtCacheConfig",
    fields: &[
        honoured(1, "jwt_cache_size"),
        honoured(2, "jwt_max_token_size"),
    ],
    refused: "",
    required: &[],
};

/// Seconds that clocks may differ by.
const SKEW: u64 = 60;
/// Tokens remembered where the configuration doesn't say, and at most.
const TOKENS: usize = 1000;
const MAX_TOKENS: usize = 10_000;
const TOKEN_BYTES: usize = 4096;

/// An issuer of tokens.
#[derive(Debug)]
pub struct Provider {
    /// Empty: any.
    pub issuer: Box<str>,
    audiences: Audiences,
    subjects: Option<StringMatcher>,
    expiration: Expiration,
    skew: u64,
    /// Whether tokens stay in the request.
    pub forward: bool,
    pub places: Box<[Place]>,
    pub outputs: Outputs,
    /// Where in the metadata failures are told; empty: nowhere.
    pub failure_key: Box<str>,
    keys: Keys,
}

/// What is asked of a token's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiration {
    Any,
    Required,
    Within(Duration),
}

#[derive(Debug)]
enum Keys {
    Local(Box<TrustedKeys>),
    Remote(Arc<RemoteKeys>),
}

impl Provider {
    /// The provider, and what fetches its keys.
    pub(crate) fn from_proto(
        proto: &JwtProvider,
        cluster: &dyn Fn(&str) -> Callout,
        room: &Arc<Room>,
    ) -> Result<(Provider, Option<Fetching>), Refusal> {
        let limits = limits(proto.jwt_cache_config.as_ref())?;
        let (keys, fetching) = match &proto.jwks_source_specifier {
            None => return Err(Refusal::missing("jwks_source_specifier")),
            Some(JwksSourceSpecifier::RemoteJwks(remote)) => {
                let (keys, fetching) = RemoteKeys::from_proto(remote, cluster, limits, room)
                    .map_err(|e| e.within("remote_jwks"))?;
                (Keys::Remote(keys), Some(fetching))
            }
            Some(JwksSourceSpecifier::LocalJwks(source)) => {
                let set = local::key_set(source).map_err(|e| e.within("local_jwks"))?;
                let keys = TrustedKeys::new(set, limits, room);
                (Keys::Local(Box::new(keys)), None)
            }
        };
        let subjects = proto.subjects.as_ref().map(StringMatcher::from_proto);
        let skew = u64::from(proto.clock_skew_seconds);
        let provider = Provider {
            issuer: proto.issuer.as_str().into(),
            audiences: Audiences::new(&proto.audiences),
            subjects: subjects.transpose().map_err(|e| e.within("subjects"))?,
            expiration: expiration(proto)?,
            skew: if skew == 0 { SKEW } else { skew },
            forward: proto.forward,
            places: Place::of(proto)?.into(),
            outputs: Outputs::from_proto(proto)?,
            failure_key: proto.failed_status_in_metadata.as_str().into(),
            keys,
        };
        Ok((provider, fetching))
    }

    /// The token with this text, if its signature was found good before.
    pub fn known(&self, text: &str) -> Option<Arc<Token>> {
        self.with_keys(|keys| Some(keys.known(text)?.token.clone()))?
    }

    /// Judges a token of this issuer at `now`, in seconds since 1970; `audiences` may stand for the provider's own.
    ///
    /// # Errors
    /// It proves nothing.
    pub fn judge(
        &self,
        token: &Arc<Token>,
        audiences: Option<&Audiences>,
        now: u64,
    ) -> Result<Arc<Verified>, Failure> {
        let claims = &token.claims;
        claims.check_time(now, self.skew)?;
        if !audiences
            .unwrap_or(&self.audiences)
            .allow(&claims.audiences)
        {
            return Err(Failure::AudienceNotAllowed);
        }
        self.check_subject(claims)?;
        self.check_lifetime(claims, now)?;
        let verified = self.with_keys(|keys| keys.verify(token, &self.outputs));
        verified.unwrap_or(Err(Failure::NotFetched))
    }

    fn check_subject(&self, claims: &Claims) -> Result<(), Failure> {
        match &self.subjects {
            Some(subjects) if !subjects.matches(&claims.subject) => Err(Failure::NotVerified),
            _ => Ok(()),
        }
    }

    fn check_lifetime(&self, claims: &Claims, now: u64) -> Result<(), Failure> {
        let lasts = match (self.expiration, claims.expiration) {
            (Expiration::Any, _) | (Expiration::Required, Some(_)) => true,
            (Expiration::Within(most), Some(expiration)) => {
                Duration::from_secs(expiration.saturating_sub(now)) < most
            }
            (_, None) => false,
        };
        lasts.then_some(()).ok_or(Failure::NotVerified)
    }

    /// `None`: there are no keys.
    fn with_keys<T>(&self, what: impl FnOnce(&TrustedKeys) -> T) -> Option<T> {
        match &self.keys {
            Keys::Local(keys) => Some(what(keys)),
            Keys::Remote(remote) => remote.trusted().as_deref().map(what),
        }
    }

    /// Whom tokens must be for.
    pub fn audiences(&self) -> &Audiences {
        &self.audiences
    }

    /// Keys that are fetched.
    pub fn remote(&self) -> Option<&Arc<RemoteKeys>> {
        match &self.keys {
            Keys::Remote(remote) => Some(remote),
            _ => None,
        }
    }

    /// What of it isn't well.
    pub fn problem(&self) -> Option<String> {
        let problem = self.remote()?.problem()?;
        Some(format!("tokens of {:?}: {problem}", self.issuer))
    }

    pub(crate) fn sweep(&self, now: u64) {
        self.with_keys(|keys| keys.sweep(now));
    }
}

fn expiration(proto: &JwtProvider) -> Result<Expiration, Refusal> {
    let most = duration::optional(&proto.max_lifetime, "max_lifetime")?;
    Ok(match (most, proto.require_expiration) {
        (Some(most), _) => Expiration::Within(most),
        (None, true) => Expiration::Required,
        (None, false) => Expiration::Any,
    })
}

/// How much is remembered by each thread; with Envoy, only where the configuration says so.
fn limits(proto: Option<&JwtCacheConfig>) -> Result<Limits, Refusal> {
    let set = |value: u32, otherwise: usize| match usize::try_from(value) {
        Ok(value) if value > 0 => value,
        _ => otherwise,
    };
    let proto = proto.copied().unwrap_or_default();
    let limits = Limits {
        tokens: set(proto.jwt_cache_size, TOKENS),
        token_bytes: set(proto.jwt_max_token_size, TOKEN_BYTES),
    };
    if limits.tokens > MAX_TOKENS {
        let reason = format!("is more than {MAX_TOKENS}");
        return Err(Refusal::new("jwt_cache_config.jwt_cache_size", reason));
    }
    Ok(limits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
    use envoy_types::pb::envoy::r#type::matcher::v3::{
        StringMatcher as StringMatcherProto, string_matcher::MatchPattern,
    };
    use envoy_types::pb::google::protobuf::Duration as DurationProto;
    use serde_json::{Value, json};

    use super::*;
    use crate::security::jwt::keys::key::tests::p256_jwk;

    pub(crate) const NOW: u64 = 1_000_000;

    /// By the key of RFC 7515, appendix A.3.
    pub(crate) fn signed(claims: &Value) -> String {
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let jwk = p256_jwk();
        let coordinate = |name: &str| bytes(jwk[name].as_str().unwrap());
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let private = bytes("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI");
        let how = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_private_key_and_public_key(how, &private, &point).unwrap();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({"alg": "ES256"})), part(claims));
        let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    pub(crate) fn proto(issuer: &str) -> JwtProvider {
        let keys = json!({"keys": [p256_jwk()]}).to_string();
        JwtProvider {
            issuer: issuer.into(),
            jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
                specifier: Some(Specifier::InlineString(keys)),
                ..DataSource::default()
            })),
            ..JwtProvider::default()
        }
    }

    pub(crate) fn build(proto: &JwtProvider) -> Result<Arc<Provider>, Refusal> {
        let nowhere = |_: &str| -> Callout { unreachable!("these keys aren't fetched") };
        let (provider, fetching) = Provider::from_proto(proto, &nowhere, &Arc::default())?;
        assert!(fetching.is_none());
        Ok(Arc::new(provider))
    }

    fn judged(provider: &Provider, claims: &Value) -> Result<(), Failure> {
        let token = Arc::new(Token::parse(&signed(claims)).unwrap());
        provider.judge(&token, None, NOW).map(|_| ())
    }

    #[test]
    fn a_token_must_say_what_its_provider_asks_for() {
        let strict = build(&JwtProvider {
            audiences: vec!["api".into()],
            subjects: Some(StringMatcherProto {
                match_pattern: Some(MatchPattern::Prefix("spiffe://".into())),
                ignore_case: false,
            }),
            require_expiration: true,
            clock_skew_seconds: 5,
            ..proto("me")
        })
        .unwrap();
        let good = json!({"aud": "api", "sub": "spiffe://a", "exp": NOW});
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            judged(&strict, &claims)
        };
        assert_eq!(judged(&strict, &good), Ok(()));
        assert_eq!(with("aud", json!("web")), Err(Failure::AudienceNotAllowed));
        assert_eq!(with("sub", json!("a")), Err(Failure::NotVerified));
        assert_eq!(with("exp", json!(0)), Err(Failure::NotVerified));
        assert_eq!(with("exp", json!(NOW - 5)), Ok(()));
        assert_eq!(with("exp", json!(NOW - 6)), Err(Failure::Expired));
        assert_eq!(with("nbf", json!(NOW + 6)), Err(Failure::NotYetValid));
        // What is known already is asked the same.
        let token = Arc::new(Token::parse(&signed(&good)).unwrap());
        assert!(strict.judge(&token, None, NOW).is_ok());
        assert!(strict.known(token.text()).is_some());
        let late = strict.judge(&token, None, NOW + 6).err();
        assert_eq!(late, Some(Failure::Expired));
        let own = Audiences::new(&["other".into()]);
        let other = strict.judge(&token, Some(&own), NOW).err();
        assert_eq!(other, Some(Failure::AudienceNotAllowed));
    }

    #[test]
    fn a_token_may_not_last_too_long() {
        let brief = build(&JwtProvider {
            max_lifetime: Some(DurationProto {
                seconds: 100,
                nanos: 0,
            }),
            ..proto("me")
        })
        .unwrap();
        let ends = |at: u64| judged(&brief, &json!({"exp": at}));
        assert_eq!(ends(NOW + 99), Ok(()));
        assert_eq!(ends(NOW - 1), Ok(()), "within the clock's error");
        assert_eq!(ends(NOW + 100), Err(Failure::NotVerified));
        assert_eq!(judged(&brief, &json!({})), Err(Failure::NotVerified));
    }

    #[test]
    fn what_is_remembered_is_bounded_by_configuration_too() {
        let cache = |size: u32| JwtProvider {
            jwt_cache_config: Some(JwtCacheConfig {
                jwt_cache_size: size,
                jwt_max_token_size: 10,
            }),
            ..proto("me")
        };
        let provider = build(&cache(1)).unwrap();
        let token = Arc::new(Token::parse(&signed(&json!({}))).unwrap());
        assert!(provider.judge(&token, None, NOW).is_ok());
        assert!(provider.known(token.text()).is_none(), "longer than 10");
        let refusal = build(&cache(1_000_000)).err().unwrap();
        assert_eq!(refusal.field, "jwt_cache_config.jwt_cache_size");
        let mut without = proto("me");
        without.jwks_source_specifier = None;
        assert!(build(&without).is_err());
    }
}
