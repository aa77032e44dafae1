//! One request's tokens, as they are looked at: what proved true, and what of it is taken from the request.
//!
//! A token that proved true and isn't to be forwarded is gone for whoever looks after that. A token is parsed once, whoever
//! looks at it.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Uri};
use serde_json::{Value, json};

use crate::security::jwt::failure::Failure;
use crate::security::jwt::provider::Provider;
use crate::security::jwt::provider::audience::Audiences;
use crate::security::jwt::provider::place::Place;
use crate::security::jwt::token::Token;
use crate::security::jwt::trusted::Verified;

/// A request under examination.
pub struct Examination<'a> {
    headers: &'a HeaderMap,
    uri: &'a Uri,
    /// In seconds since 1970.
    now: u64,
    everybody: &'a Everybody,
    parsed: Vec<Parsed<'a>>,
    pub proofs: Vec<Proof>,
    /// What is to be told in metadata, by key.
    pub failures: Vec<(Box<str>, Failure)>,
}

/// A text that was found, and the token that it is.
type Parsed<'a> = (Cow<'a, str>, Result<Arc<Token>, Failure>);

/// A token that proved true.
#[derive(Debug)]
pub struct Proof {
    pub provider: Arc<Provider>,
    pub place: Place,
    pub verified: Arc<Verified>,
}

/// All providers of a filter, by name, and all places that any of them names.
#[derive(Debug, Default)]
pub struct Everybody {
    providers: Box<[Arc<Provider>]>,
    places: Box<[(Place, Issuers)]>,
}

/// Whose tokens may stand in a place.
#[derive(Debug)]
enum Issuers {
    All,
    These(Vec<Box<str>>),
}

impl Proof {
    fn new(provider: &Arc<Provider>, place: &Place, verified: Arc<Verified>) -> Proof {
        Proof {
            provider: provider.clone(),
            place: place.clone(),
            verified,
        }
    }
}

impl Everybody {
    pub fn new(providers: impl IntoIterator<Item = Arc<Provider>>) -> Everybody {
        let providers: Box<[_]> = providers.into_iter().collect();
        let mut places: Vec<Place> = providers.iter().flat_map(|p| p.places.to_vec()).collect();
        places.sort();
        places.dedup();
        let with_issuers = |place: Place| {
            let here = providers.iter().filter(|p| p.places.contains(&place));
            let issuers: Vec<Box<str>> = here.map(|p| p.issuer.clone()).collect();
            match issuers.iter().any(|issuer| issuer.is_empty()) {
                true => (place, Issuers::All),
                false => (place, Issuers::These(issuers)),
            }
        };
        Everybody {
            places: places.into_iter().map(with_issuers).collect(),
            providers,
        }
    }

    pub fn providers(&self) -> &[Arc<Provider>] {
        &self.providers
    }

    /// The first provider that names this issuer, or the first that takes any.
    fn of_issuer(&self, issuer: &str) -> Option<&Arc<Provider>> {
        let find = |wanted: &str| self.providers.iter().find(|p| *p.issuer == *wanted);
        find(issuer).or_else(|| find(""))
    }
}

impl Issuers {
    fn include(&self, issuer: &str) -> bool {
        match self {
            Issuers::All => true,
            Issuers::These(these) => these.iter().any(|one| **one == *issuer),
        }
    }
}

impl<'a> Examination<'a> {
    pub fn new(
        headers: &'a HeaderMap,
        uri: &'a Uri,
        everybody: &'a Everybody,
        now: u64,
    ) -> Examination<'a> {
        Examination {
            headers,
            uri,
            now,
            everybody,
            parsed: Vec::new(),
            proofs: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Whether there is anything in a place for tokens.
    pub fn has_tokens(&self) -> bool {
        let mut places = self.everybody.places.iter();
        places.any(|(place, _)| !place.tokens(self.headers, self.uri).is_empty())
    }

    /// Looks at all tokens in a provider's places.
    ///
    /// # Errors
    /// There is none, or one of them proves nothing.
    pub fn by_provider(
        &mut self,
        provider: &Arc<Provider>,
        audiences: Option<&Audiences>,
    ) -> Result<(), Failure> {
        let found: Vec<_> = provider
            .places
            .iter()
            .flat_map(|place| {
                self.tokens(place)
                    .into_iter()
                    .map(move |text| (place, text))
            })
            .collect();
        if found.is_empty() {
            return Err(self.missing());
        }
        let mut proofs = Vec::new();
        for (place, text) in found.into_iter().rev() {
            let verified = self.parse(text).and_then(|token| {
                let issuer = &*provider.issuer;
                if !issuer.is_empty() && *token.claims.issuer != *issuer {
                    return Err(Failure::UnknownIssuer);
                }
                provider.judge(&token, audiences, self.now)
            });
            match verified {
                Ok(verified) => proofs.push(Proof::new(provider, place, verified)),
                Err(failure) => return Err(self.tell(provider, failure)),
            }
        }
        // A good token beside a bad one proves nothing, and isn't gone for others.
        self.proofs.append(&mut proofs);
        Ok(())
    }

    /// Looks at all tokens in any provider's places, each by the provider of its issuer.
    ///
    /// # Errors
    /// There is none, or one of them proves nothing; Envoy counts the last that it looks at.
    pub fn by_everybody(&mut self, everybody: &Everybody) -> Result<(), Failure> {
        let places = everybody.places.iter();
        let found: Vec<_> = places
            .flat_map(|(place, issuers)| {
                let tokens = self.tokens(place).into_iter();
                tokens.map(move |text| (place, issuers, text))
            })
            .collect();
        if found.is_empty() {
            return Err(self.missing());
        }
        let (mut checked, mut proofs) = (Ok(()), Vec::new());
        for (place, issuers, text) in found.into_iter().rev() {
            let of = self.parse(text).and_then(|token| {
                let issuer = &*token.claims.issuer;
                let provider = everybody.of_issuer(issuer);
                let provider = provider.filter(|_| issuers.include(issuer));
                Ok((provider.ok_or(Failure::UnknownIssuer)?, token))
            });
            let judged = match of {
                Ok((provider, token)) => match provider.judge(&token, None, self.now) {
                    Ok(verified) => {
                        proofs.push(Proof::new(provider, place, verified));
                        Ok(())
                    }
                    Err(failure) => Err(self.tell(provider, failure)),
                },
                Err(failure) => Err(self.tell_alone(failure)),
            };
            checked = checked.and(judged);
        }
        self.proofs.append(&mut proofs);
        checked
    }

    /// Each token, good or bad, with its place.
    pub(super) fn each_token(&self) -> Vec<(&Place, Result<Arc<Token>, Failure>)> {
        let places = self.everybody.places.iter();
        let found = places.flat_map(|(place, _)| {
            let texts = place.tokens(self.headers, self.uri).into_iter();
            texts.map(move |text| (place, Token::parse(&text).map(Arc::new)))
        });
        found.collect()
    }

    /// The provider that judges tokens of an issuer in a place.
    pub(super) fn provider_of(&self, issuer: &str, place: &Place) -> Option<&Arc<Provider>> {
        let mut places = self.everybody.places.iter();
        let here = places.any(|(of, issuers)| of == place && issuers.include(issuer));
        let provider = self.everybody.of_issuer(issuer);
        provider.filter(|_| here)
    }

    pub(super) fn issuers(&self) -> impl Iterator<Item = &str> {
        let providers = self.everybody.providers.iter();
        providers.map(|provider| match &*provider.issuer {
            "" => "anybody",
            issuer => issuer,
        })
    }

    /// In seconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// The tokens in a place, unless they were taken from there.
    fn tokens(&self, place: &Place) -> Vec<Cow<'a, str>> {
        let taken = |proof: &Proof| !proof.provider.forward && place.overlaps(&proof.place);
        if self.proofs.iter().any(taken) {
            return Vec::new();
        }
        place.tokens(self.headers, self.uri)
    }

    fn parse(&mut self, text: Cow<'a, str>) -> Result<Arc<Token>, Failure> {
        if let Some((_, token)) = self.parsed.iter().find(|(known, _)| *known == text) {
            return token.clone();
        }
        let mut providers = self.everybody.providers.iter();
        let token = match providers.find_map(|provider| provider.known(&text)) {
            Some(known) => Ok(known),
            None => Token::parse(&text).map(Arc::new),
        };
        self.parsed.push((text, token.clone()));
        token
    }

    fn missing(&mut self) -> Failure {
        self.tell_alone(Failure::Missing)
    }

    /// A failure that is no provider's is told where there is only one.
    fn tell_alone(&mut self, failure: Failure) -> Failure {
        match self.everybody.providers() {
            [only] => self.tell(only, failure),
            _ => failure,
        }
    }

    fn tell(&mut self, provider: &Provider, failure: Failure) -> Failure {
        if !provider.failure_key.is_empty() {
            self.failures.push((provider.failure_key.clone(), failure));
        }
        failure
    }
}

/// A failure as metadata tells of it.
pub fn told(failure: Failure) -> Value {
    json!({"code": failure.code(), "message": failure.text()})
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::JwtProvider;
    use http::header;

    use super::*;
    use crate::security::jwt::provider::tests::{NOW, build, proto, signed};

    fn telling(issuer: &str) -> Arc<Provider> {
        build(&JwtProvider {
            failed_status_in_metadata: format!("failure of {issuer}"),
            ..proto(issuer)
        })
        .unwrap()
    }

    fn shown(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {token}");
        headers.insert(header::AUTHORIZATION, bearer.parse().unwrap());
        headers
    }

    fn failures(examination: &Examination<'_>) -> Vec<(String, Failure)> {
        let failures = examination.failures.iter();
        failures.map(|(key, f)| (key.to_string(), *f)).collect()
    }

    #[test]
    fn a_failure_is_told_by_the_provider_that_found_it() {
        let [one, two] = ["one", "two"].map(telling);
        let both = Everybody::new([one.clone(), two.clone()]);
        let (headers, uri) = (
            shown(&signed(&json!({"iss": "one", "exp": 1}))),
            Uri::default(),
        );
        let mut examination = Examination::new(&headers, &uri, &both, NOW);
        assert!(examination.has_tokens());
        assert_eq!(examination.by_provider(&one, None), Err(Failure::Expired));
        assert_eq!(
            examination.by_provider(&two, None),
            Err(Failure::UnknownIssuer)
        );
        assert_eq!(examination.by_everybody(&both), Err(Failure::Expired));
        let of = |issuer: &str, failure| (format!("failure of {issuer}"), failure);
        assert_eq!(
            failures(&examination),
            [
                of("one", Failure::Expired),
                of("two", Failure::UnknownIssuer),
                of("one", Failure::Expired),
            ]
        );
        assert_eq!(examination.parsed.len(), 1, "it is parsed once");
        assert_eq!(
            told(Failure::Expired),
            json!({"code": 3, "message": "Jwt is expired"})
        );
    }

    #[test]
    fn what_is_missing_is_told_where_only_one_could_miss_it() {
        let one = telling("one");
        let (headers, uri) = (HeaderMap::new(), Uri::default());
        let alone = Everybody::new([one.clone()]);
        let mut examination = Examination::new(&headers, &uri, &alone, NOW);
        assert!(!examination.has_tokens());
        assert_eq!(examination.by_provider(&one, None), Err(Failure::Missing));
        assert_eq!(failures(&examination).len(), 1);
        let both = Everybody::new([one.clone(), telling("two")]);
        let mut examination = Examination::new(&headers, &uri, &both, NOW);
        assert_eq!(examination.by_provider(&one, None), Err(Failure::Missing));
        assert_eq!(examination.by_everybody(&both), Err(Failure::Missing));
        assert!(failures(&examination).is_empty());
    }

    #[test]
    fn a_token_of_any_issuer_is_for_the_provider_that_names_it_or_none() {
        let [named, any] = ["named", ""].map(|issuer| build(&proto(issuer)).unwrap());
        let both = Everybody::new([any, named]);
        for (issuer, by) in [("named", "named"), ("other", "")] {
            let headers = shown(&signed(&json!({"iss": issuer})));
            let uri = Uri::default();
            let mut examination = Examination::new(&headers, &uri, &both, NOW);
            assert_eq!(examination.by_everybody(&both), Ok(()));
            assert_eq!(*examination.proofs[0].provider.issuer, *by);
        }
    }
}
