//! `JwtRequirement`: which tokens a request must show.
//!
//! Envoy's semantics. Every token that stands in a provider's places must be good, the last one first. Of alternatives the
//! first that holds decides; if none does, a reason counts for more than a wrong issuer, and that for more than no token.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtRequirement, jwt_requirement::RequiresType,
};

use crate::security::jwt::examination::{Everybody, Examination};
use crate::security::jwt::failure::Failure;
use crate::security::jwt::provider::Provider;
use crate::security::jwt::provider::audience::Audiences;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static JWT_REQUIREMENT: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement",
    fields: &[
        honoured(1, "provider_name"),
        honoured(2, "provider_and_audiences").of(&PROVIDER_WITH_AUDIENCES),
        honoured(3, "requires_any").of(&OR_LIST),
        honoured(4, "requires_all").of(&AND_LIST),
        honoured(5, "allow_missing_or_failed").of(&EMPTY),
        honoured(6, "allow_missing").of(&EMPTY),
    ],
    refused: "7 extract_only_without_validation",
    required: &[],
};

static PROVIDER_WITH_AUDIENCES: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.ProviderWithAudiences",
    fields: &[
        honoured(1, "provider_name"),
        honoured(2, "audiences").list(),
    ],
    refused: "",
    required: &[required("provider_name", &[1])],
};

static OR_LIST: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementOrList",
    fields: &[honoured(1, "requirements").list().of(&JWT_REQUIREMENT)],
    refused: "",
    required: &[required("requirements", &[1])],
};

static AND_LIST: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementAndList",
    fields: &[honoured(1, "requirements").list().of(&JWT_REQUIREMENT)],
    refused: "",
    required: &[required("requirements", &[1])],
};

static EMPTY: Table = Table {
    name: "google.protobuf.Empty",
    fields: &[],
    refused: "",
    required: &[],
};

/// Requirements within requirements at most.
const MAX_DEPTH: usize = 16;

/// What a request must show.
#[derive(Debug)]
pub enum Requirement {
    /// Nothing at all.
    Nothing,
    /// A token of this provider; the audiences stand for the provider's own.
    Provider(Arc<Provider>, Option<Audiences>),
    Any(Box<[Requirement]>, Otherwise),
    All(Box<[Requirement]>),
    /// What tokens there are, of any provider.
    Optional(Arc<Everybody>, Otherwise),
}

/// What is let through where no alternative holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Otherwise {
    Nobody,
    WithoutToken,
    WithBadToken,
}

/// The providers of a filter, which its requirements name.
pub struct Named<'a> {
    pub providers: &'a BTreeMap<String, Arc<Provider>>,
    pub everybody: &'a Arc<Everybody>,
}

impl Requirement {
    pub fn from_proto(proto: &JwtRequirement, named: &Named<'_>) -> Result<Requirement, Refusal> {
        Requirement::at_depth(proto, named, 0)
    }

    fn at_depth(
        proto: &JwtRequirement,
        named: &Named<'_>,
        depth: usize,
    ) -> Result<Requirement, Refusal> {
        if depth > MAX_DEPTH {
            return Err(Refusal::new("", "is nested too deeply"));
        }
        let list = |protos: &[JwtRequirement], field: &str| {
            let inner = protos.iter().enumerate().map(|(i, proto)| {
                Requirement::at_depth(proto, named, depth + 1)
                    .map_err(|e| e.within(format!("{field}.requirements[{i}]")))
            });
            inner.collect::<Result<Vec<_>, _>>()
        };
        Ok(match &proto.requires_type {
            None => Requirement::Nothing,
            Some(RequiresType::ProviderName(name)) => {
                Requirement::Provider(named.provider(name, "provider_name")?, None)
            }
            Some(RequiresType::ProviderAndAudiences(both)) => {
                let field = "provider_and_audiences.provider_name";
                let provider = named.provider(&both.provider_name, field)?;
                let own = (!both.audiences.is_empty()).then(|| Audiences::new(&both.audiences));
                Requirement::Provider(provider, own)
            }
            Some(RequiresType::RequiresAny(any)) => {
                alternatives(list(&any.requirements, "requires_any")?)
            }
            Some(RequiresType::RequiresAll(all)) => {
                Requirement::All(list(&all.requirements, "requires_all")?.into())
            }
            Some(RequiresType::AllowMissing(_)) => {
                Requirement::Optional(named.everybody.clone(), Otherwise::WithoutToken)
            }
            Some(RequiresType::AllowMissingOrFailed(_)) => {
                Requirement::Optional(named.everybody.clone(), Otherwise::WithBadToken)
            }
            Some(RequiresType::ExtractOnlyWithoutValidation(_)) => {
                return Err(Refusal::unsupported("extract_only_without_validation"));
            }
        })
    }

    /// # Errors
    /// The request doesn't show what it must, for this reason.
    pub fn check(&self, examination: &mut Examination<'_>) -> Result<(), Failure> {
        match self {
            Requirement::Nothing => Ok(()),
            Requirement::Provider(provider, audiences) => {
                examination.by_provider(provider, audiences.as_ref())
            }
            Requirement::All(all) => all.iter().try_for_each(|one| one.check(examination)),
            Requirement::Optional(everybody, otherwise) => {
                match examination.by_everybody(everybody) {
                    Err(failure) if otherwise.lets(failure) => Ok(()),
                    checked => checked,
                }
            }
            Requirement::Any(any, otherwise) => {
                let mut telling = Failure::Missing;
                for one in any {
                    let Err(failure) = one.check(examination) else {
                        return Ok(());
                    };
                    let tells = !matches!(failure, Failure::Missing | Failure::UnknownIssuer);
                    if tells || telling == Failure::Missing {
                        telling = failure;
                    }
                }
                if otherwise.lets(telling) {
                    return Ok(());
                }
                Err(telling)
            }
        }
    }
}

impl Otherwise {
    fn lets(self, failure: Failure) -> bool {
        match self {
            Otherwise::Nobody => false,
            Otherwise::WithoutToken => failure == Failure::Missing,
            Otherwise::WithBadToken => true,
        }
    }
}

impl Named<'_> {
    fn provider(&self, name: &str, field: &str) -> Result<Arc<Provider>, Refusal> {
        self.providers
            .get(name)
            .cloned()
            .ok_or_else(|| Refusal::new(field, format!("there is no provider {name:?}")))
    }
}

/// Among alternatives, what allows for no token isn't one: it says what becomes of the request when none holds. It is one
/// where there is no other.
fn alternatives(all: Vec<Requirement>) -> Requirement {
    let (optional, others): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|one| matches!(one, Requirement::Optional(..)));
    let otherwise = optional.iter().filter_map(|one| match one {
        Requirement::Optional(_, otherwise) => Some(*otherwise),
        _ => None,
    });
    let otherwise = otherwise.max().unwrap_or(Otherwise::Nobody);
    if others.is_empty() {
        let mut optional = optional.into_iter();
        let most =
            optional.find(|one| matches!(one, Requirement::Optional(_, o) if *o == otherwise));
        return most.unwrap_or(Requirement::Any(Box::default(), Otherwise::Nobody));
    }
    Requirement::Any(others.into(), otherwise)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
        ExtractOnlyWithoutValidation, JwtHeader, JwtProvider, JwtRequirementAndList,
        JwtRequirementOrList, ProviderWithAudiences,
    };
    use envoy_types::pb::google::protobuf::Empty;
    use http::{HeaderMap, HeaderName, Uri};
    use serde_json::json;

    use super::*;
    use crate::security::jwt::provider::tests::{NOW, build, proto, signed};

    struct Scene {
        providers: BTreeMap<String, Arc<Provider>>,
        everybody: Arc<Everybody>,
    }

    /// `one` in the usual places, `two` in `x-two`; tokens of `two` stay.
    fn scene() -> Scene {
        let two = JwtProvider {
            forward: true,
            from_headers: vec![JwtHeader {
                name: "x-two".into(),
                value_prefix: String::new(),
            }],
            ..proto("two")
        };
        let providers = [("one", proto("one")), ("two", two)];
        let providers = providers.map(|(name, proto)| (name.to_owned(), build(&proto).unwrap()));
        Scene {
            everybody: Arc::new(Everybody::new(providers.iter().map(|(_, p)| p.clone()))),
            providers: providers.into(),
        }
    }

    impl Scene {
        fn requirement(&self, proto: &JwtRequirement) -> Result<Requirement, Refusal> {
            let named = Named {
                providers: &self.providers,
                everybody: &self.everybody,
            };
            Requirement::from_proto(proto, &named)
        }

        /// What comes of a request with these headers, and whose tokens proved true.
        fn check(
            &self,
            proto: &JwtRequirement,
            headers: &[(&str, &str)],
        ) -> (Result<(), Failure>, Vec<String>) {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                let name = HeaderName::try_from(*name).unwrap();
                map.append(name, value.parse().unwrap());
            }
            let uri = Uri::from_static("/");
            let mut examination = Examination::new(&map, &uri, &self.everybody, NOW);
            let checked = self.requirement(proto).unwrap().check(&mut examination);
            let proofs = examination.proofs.iter();
            (
                checked,
                proofs.map(|p| p.provider.issuer.to_string()).collect(),
            )
        }
    }

    fn requires(requires: RequiresType) -> JwtRequirement {
        JwtRequirement {
            requires_type: Some(requires),
        }
    }

    fn by(name: &str) -> JwtRequirement {
        requires(RequiresType::ProviderName(name.into()))
    }

    fn any(requirements: Vec<JwtRequirement>) -> JwtRequirement {
        requires(RequiresType::RequiresAny(JwtRequirementOrList {
            requirements,
        }))
    }

    fn all(requirements: Vec<JwtRequirement>) -> JwtRequirement {
        requires(RequiresType::RequiresAll(JwtRequirementAndList {
            requirements,
        }))
    }

    fn missing() -> JwtRequirement {
        requires(RequiresType::AllowMissing(Empty {}))
    }

    fn failed() -> JwtRequirement {
        requires(RequiresType::AllowMissingOrFailed(Empty {}))
    }

    /// As istiod writes it for two providers.
    fn istiods() -> JwtRequirement {
        let or_missing = |name: &str| any(vec![by(name), missing()]);
        any(vec![
            by("one"),
            by("two"),
            all(vec![or_missing("one"), or_missing("two")]),
        ])
    }

    #[test]
    fn a_missing_token_passes_and_a_bad_one_does_not_as_istiod_means_it() {
        let scene = scene();
        let one = format!("Bearer {}", signed(&json!({"iss": "one"})));
        let two = signed(&json!({"iss": "two"}));
        let late = signed(&json!({"iss": "one", "exp": 1}));
        let late = format!("Bearer {late}");
        let stranger = format!("Bearer {}", signed(&json!({"iss": "x"})));
        let one_in_two = signed(&json!({"iss": "one"}));
        for (headers, expected, proved) in [
            (vec![], Ok(()), vec![]),
            (vec![("authorization", &one)], Ok(()), vec!["one"]),
            (vec![("x-two", &two)], Ok(()), vec!["two"]),
            (
                vec![("authorization", &one), ("x-two", &two)],
                Ok(()),
                vec!["one"],
            ),
            (
                vec![("authorization", &late)],
                Err(Failure::Expired),
                vec![],
            ),
            (
                vec![("authorization", &stranger)],
                Err(Failure::UnknownIssuer),
                vec![],
            ),
            (
                vec![("x-two", &one_in_two)],
                Err(Failure::UnknownIssuer),
                vec![],
            ),
            (vec![("x-two", &late)], Err(Failure::HeaderBase64), vec![]),
            // Whoever proves one thing may show something bad where nobody looks any more, as with Envoy.
            (
                vec![("authorization", &late), ("x-two", &two)],
                Ok(()),
                vec!["two"],
            ),
        ] {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let (checked, by) = scene.check(&istiods(), &headers);
            assert_eq!(
                (checked, by),
                (expected, proved.iter().map(ToString::to_string).collect())
            );
        }
    }

    #[test]
    fn a_good_token_beside_a_bad_one_in_the_same_place_proves_nothing() {
        let scene = scene();
        let good = signed(&json!({"iss": "two"}));
        let bad = signed(&json!({"iss": "two", "exp": 1}));
        for pair in [[&good, &bad], [&bad, &good]] {
            let headers = pair.map(|token| ("x-two", token.as_str()));
            for requirement in [by("two"), istiods(), missing()] {
                let (checked, proved) = scene.check(&requirement, &headers);
                assert_eq!(checked, Err(Failure::Expired), "{requirement:?}");
                assert!(proved.is_empty() || requirement == missing());
            }
            let (checked, _) = scene.check(&failed(), &headers);
            assert_eq!(checked, Ok(()));
        }
    }

    #[test]
    fn a_token_that_is_not_forwarded_is_gone_for_the_next() {
        let scene = scene();
        let one = format!("Bearer {}", signed(&json!({"iss": "one"})));
        let twice = all(vec![by("one"), by("one")]);
        let shown = [("authorization", one.as_str())];
        assert_eq!(scene.check(&twice, &shown).0, Err(Failure::Missing));
        let two = signed(&json!({"iss": "two"}));
        let twice = all(vec![by("two"), by("two")]);
        let (checked, proved) = scene.check(&twice, &[("x-two", &two)]);
        assert_eq!((checked, proved.len()), (Ok(()), 2));
    }

    #[test]
    fn of_alternatives_the_most_telling_reason_is_told() {
        let scene = scene();
        let late = format!("Bearer {}", signed(&json!({"iss": "one", "exp": 1})));
        let strange = signed(&json!({"iss": "x"}));
        let both = any(vec![by("one"), by("two")]);
        let told = |headers: &[(&str, &str)]| scene.check(&both, headers).0;
        assert_eq!(told(&[]), Err(Failure::Missing));
        assert_eq!(told(&[("x-two", &strange)]), Err(Failure::UnknownIssuer));
        assert_eq!(
            told(&[("authorization", &late), ("x-two", &strange)]),
            Err(Failure::Expired)
        );
        let lenient = any(vec![missing(), by("one"), failed()]);
        assert_eq!(scene.check(&lenient, &[("authorization", &late)]).0, Ok(()));
        let only = any(vec![missing(), missing()]);
        assert_eq!(scene.check(&only, &[]).0, Ok(()));
        assert_eq!(
            scene.check(&only, &[("authorization", &late)]).0,
            Err(Failure::Expired)
        );
    }

    #[test]
    fn audiences_of_a_requirement_stand_for_the_providers() {
        let scene = scene();
        let wanted = |audience: &str| {
            requires(RequiresType::ProviderAndAudiences(ProviderWithAudiences {
                provider_name: "two".into(),
                audiences: vec![audience.into()],
            }))
        };
        let token = signed(&json!({"iss": "two", "aud": "a"}));
        let shown = [("x-two", token.as_str())];
        assert_eq!(scene.check(&wanted("a"), &shown).0, Ok(()));
        assert_eq!(
            scene.check(&wanted("b"), &shown).0,
            Err(Failure::AudienceNotAllowed)
        );
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let scene = scene();
        let refused = |proto: &JwtRequirement| scene.requirement(proto).err().unwrap();
        let inner = any(vec![by("one"), by("three")]);
        assert_eq!(
            refused(&inner).to_string(),
            "requires_any.requirements[1].provider_name: there is no provider \"three\""
        );
        let extract = ExtractOnlyWithoutValidation::default();
        let extract = requires(RequiresType::ExtractOnlyWithoutValidation(extract));
        assert_eq!(refused(&extract).field, "extract_only_without_validation");
        let deep = (0..=MAX_DEPTH).fold(by("one"), |inner, _| all(vec![inner]));
        assert!(refused(&deep).reason.contains("too deeply"));
        let nothing = scene.check(&JwtRequirement::default(), &[]);
        assert_eq!(nothing, (Ok(()), vec![]));
    }
}
