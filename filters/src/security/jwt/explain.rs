//! How a request's tokens fare, in words, where somebody asks why: what each says of itself, what is wrong with it, and what to
//! do about that. The judges are those that decide; only the words are made here.

use std::fmt;
use std::sync::Arc;

use crate::security::jwt::examination::Examination;
use crate::security::jwt::failure::Failure;
use crate::security::jwt::provider::Provider;
use crate::security::jwt::provider::place::Place;
use crate::security::jwt::token::Token;
use crate::security::jwt::token::claims::Claims;
use crate::stream::explanation::TokenStep;

/// Issuers that are named where a token's own is none of them.
const NAMED: usize = 10;

impl Examination<'_> {
    /// How each token fares, in the order of places.
    pub fn explain(&self) -> Vec<TokenStep> {
        let tokens = self.each_token().into_iter();
        tokens
            .map(|(place, token)| match token {
                Ok(token) => self.explain_token(place, &token),
                Err(failure) => TokenStep {
                    place: place.to_string(),
                    failure: Some(failure.text()),
                    advice: advice(failure, None, None, self.now()),
                    ..TokenStep::default()
                },
            })
            .collect()
    }

    fn explain_token(&self, place: &Place, token: &Arc<Token>) -> TokenStep {
        let Claims {
            issuer, subject, ..
        } = &token.claims;
        let provider = self.provider_of(issuer, place);
        let judged = match provider {
            None => Err(Failure::UnknownIssuer),
            Some(provider) => provider.judge(token, None, self.now()).map(|_| ()),
        };
        let advice = match judged {
            Ok(()) => None,
            Err(Failure::UnknownIssuer) => Some(self.known_issuers(issuer)),
            Err(failure) => advice(failure, Some(token), provider, self.now()),
        };
        TokenStep {
            place: place.to_string(),
            issuer: Some(issuer.to_string()),
            subject: Some(subject.to_string()),
            failure: judged.err().map(Failure::text),
            advice,
        }
    }

    fn known_issuers(&self, issuer: &str) -> String {
        let mut known: Vec<&str> = self.issuers().collect();
        known.sort_unstable();
        known.dedup();
        let more = known.len().saturating_sub(NAMED);
        known.truncate(NAMED);
        let mut known = known.join(", ");
        if more > 0 {
            known.push_str(&format!(" and {more} more"));
        }
        format!(
            "its issuer is {issuer:?}, and here tokens are taken of {known}: a rule with that issuer (and its keys) makes it known"
        )
    }
}

/// What to do about it; `None`: there is nothing that could be said.
fn advice(
    failure: Failure,
    token: Option<&Token>,
    provider: Option<&Arc<Provider>>,
    now: u64,
) -> Option<String> {
    let claims = token.map(|token| &token.claims);
    let signed = || {
        let key = token.map_or("", |token| &token.key_id);
        let algorithm = token.map_or("", |token| &token.algorithm_name);
        match key {
            "" => format!("alg {algorithm:?}, no kid"),
            key => format!("alg {algorithm:?}, kid {key:?}"),
        }
    };
    Some(match failure {
        Failure::Expired => {
            let end = claims.and_then(|claims| claims.expiration)?;
            let ago = now.saturating_sub(end);
            format!("its exp was {ago} s ago: the client needs a new one")
        }
        Failure::NotYetValid => {
            let ahead = claims?.not_before.saturating_sub(now);
            format!("its nbf is {ahead} s from now: look at the clocks, the issuer's and this one")
        }
        Failure::AudienceNotAllowed => {
            let taken = provider.map(|provider| provider.audiences().to_string())?;
            let its = match &*claims?.audiences {
                [] => "nobody in particular".to_owned(),
                some => some.join(", "),
            };
            format!("it is for {its}, and taken are those for {taken}: see audiences of the rule")
        }
        Failure::NotVerified => format!(
            "none of the issuer's keys made its signature ({}): it was signed by another's or changed since, or the keys here \
             are old",
            signed()
        ),
        Failure::NoFittingKey => format!(
            "no key of the set fits it ({}): the issuer has other keys by now, or the set is another's",
            signed()
        ),
        Failure::NotFetched => match provider.and_then(|provider| provider.remote()) {
            Some(remote) => match remote.problem() {
                Some(problem) => problem,
                None => "keys were not fetched yet, nor are they for a question: ask a running waypoint (--pod), or give the keys as jwks"
                    .to_owned(),
            },
            None => return None,
        },
        Failure::BadFormat | Failure::HeaderBase64 | Failure::PayloadBase64 | Failure::SignatureBase64 => {
            "it is no signed token (JWS in the compact form), or was cut: look at what the client sends, and at fromHeaders' prefix"
                .to_owned()
        }
        Failure::UnknownAlgorithm | Failure::Critical => {
            "taken are RS, PS and ES with 256, 384 or 512 bits, and EdDSA, without extensions: the issuer must sign otherwise"
                .to_owned()
        }
        Failure::Missing => return None,
        _ => "the issuer must write it otherwise (RFC 7515, RFC 7519)".to_owned(),
    })
}

/// As people name it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Header { name, .. } => write!(f, "header {}", name.0),
            Place::Parameter(name) => write!(f, "parameter {name}"),
            Place::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::JwtProvider;
    use http::{HeaderMap, Uri, header};
    use serde_json::{Value, json};

    use super::*;
    use crate::security::jwt::examination::Everybody;
    use crate::security::jwt::provider::tests::{NOW, build, proto, signed};

    /// What is said of a token with these claims: what is wrong, and what to do.
    fn said(claims: &Value, change: impl FnOnce(String) -> String) -> (String, String) {
        let provider = build(&JwtProvider {
            audiences: vec!["shop".into()],
            ..proto("issuer")
        });
        let everybody = Everybody::new([provider.unwrap()]);
        let mut headers = HeaderMap::new();
        let token = change(signed(claims));
        headers.insert(
            header::AUTHORIZATION,
            format!("Bearer {token}").parse().unwrap(),
        );
        let uri = Uri::default();
        let steps = Examination::new(&headers, &uri, &everybody, NOW).explain();
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].place, "header authorization");
        let told = |text: Option<&str>| text.unwrap_or_default().to_owned();
        (told(steps[0].failure), told(steps[0].advice.as_deref()))
    }

    #[test]
    fn a_refused_token_is_told_with_what_to_do() {
        let same = |token: String| token;
        let good = json!({"iss": "issuer", "aud": "shop"});
        assert_eq!(said(&good, same), (String::new(), String::new()));
        let late = json!({"iss": "issuer", "aud": "shop", "exp": NOW - 100});
        let (failure, advice) = said(&late, same);
        assert_eq!(failure, "Jwt is expired");
        assert!(advice.contains("100 s ago"), "{advice}");
        let (failure, advice) = said(&json!({"iss": "other"}), same);
        assert_eq!(failure, "Jwt issuer is not configured");
        assert!(
            advice.contains("\"other\"") && advice.contains("of issuer"),
            "{advice}"
        );
        let (failure, advice) = said(&json!({"iss": "issuer", "aud": ["a", "b"]}), same);
        assert_eq!(failure, "Audiences in Jwt are not allowed");
        assert!(
            advice.contains("a, b") && advice.contains("shop"),
            "{advice}"
        );
        let forged = |token: String| match token.rsplit_once('.') {
            Some((signed, signature)) => {
                let signature: String = signature.chars().rev().collect();
                format!("{signed}.{signature}")
            }
            None => token,
        };
        let (failure, advice) = said(&good, forged);
        assert_eq!(failure, "Jwt verification fails");
        assert!(advice.contains("alg"), "{advice}");
        let (failure, advice) = said(&good, |_| "no-token".to_owned());
        assert!(failure.starts_with("Jwt is not in the form"));
        assert!(advice.contains("compact form"), "{advice}");
    }
}
