//! RequestAuthentications to the filter that checks tokens (`envoy.filters.http.jwt_authn`), on HTTP chains only.
//!
//! The rules of all objects that apply to a chain stand in one filter, in order of their issuers. A token that is
//! brought along must be good; one that is missing is nobody's fault: that it must be there is what policies say,
//! of what the filter leaves in the request's metadata.

use std::collections::{BTreeSet, HashMap};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::Empty;
use jwt::jwt_provider::JwksSourceSpecifier;
use jwt::jwt_requirement::RequiresType;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::istio::jwks::JwksUri;
use crate::standalone::kinds::istio::request_authentication::{
    FromHeader, JwtRule, Keys, RequestAuthentication,
};
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::clusters::jwks_source::{FETCH, key_cluster_name};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::duration;
use crate::standalone::translate::proto::packed::http_filter;
use crate::standalone::translate::proto::packed::seconds;
use crate::standalone::translate::security::rbac_principal::JWT;

/// Under which name claims stand in the filter's metadata; policies look there.
const PAYLOAD: &str = "payload";
/// Claims that are lists with spaces between, whoever the issuer is.
const SPACE_DELIMITED: [&str; 2] = ["permission", "scope"];
/// A key whose secret half nobody has: on the curve (P-256) it has the SHA-256 of "nobody's key" for its x. It
/// stands for keys that aren't known yet, so that every token is refused until they are, as with istiod.
const NOBODYS_KEY: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "qK8Jbv9-q6G7KuVOVWMtLGuf649tpOm41vuPwQ8coJg", "y": "vNvCdGLUGQuq5v8u3jbPb0Q2wxQGY9ZOn_X97LSb_KQ"}]}"#;
const KEYS_HOLD_SECONDS: i64 = 300;

impl<'a> Mesh<'a> {
    /// `None`: nothing says which tokens a request may bring along.
    pub(crate) fn jwt_authn(&self, service: Option<&MeshService<'_>>) -> Option<hcm::HttpFilter> {
        let rules = self.jwt_rules(service);
        if rules.is_empty() {
            return None;
        }
        let providers: Vec<(String, jwt::JwtProvider)> = rules
            .iter()
            .enumerate()
            .map(|(index, rule)| (format!("origins-{index}"), self.jwt_provider(rule)))
            .collect();
        let names: Vec<&str> = providers.iter().map(|(name, _)| name.as_str()).collect();
        let rule = jwt::RequirementRule {
            r#match: Some(every_request()),
            requirement_type: Some(jwt::requirement_rule::RequirementType::Requires(requires(
                &names,
            ))),
        };
        let config = jwt::JwtAuthentication {
            rules: vec![rule],
            providers: providers.into_iter().collect::<HashMap<_, _>>(),
            bypass_cors_preflight: true,
            ..jwt::JwtAuthentication::default()
        };
        Some(http_filter(JWT, any(&config)))
    }

    /// The rules of all RequestAuthentications for a chain, in order of their issuers; those of one issuer as
    /// istiod finds the objects: the waypoint's namespace, the root namespace, the service's, the older first.
    pub(crate) fn jwt_rules(&self, service: Option<&MeshService<'_>>) -> Vec<&'a JwtRule> {
        let state = self.state;
        let all = state.request_authentications.values();
        let mut objects: Vec<&'a Object<RequestAuthentication>> = all
            .filter(|object| {
                self.targets_chain(&object.spec.targets, &object.meta.namespace, service)
            })
            .collect();
        objects.sort_by_key(|object| {
            let meta = &object.meta;
            let rank = if meta.namespace == self.waypoint.gateway.meta.namespace {
                0
            } else if meta.namespace == self.config.root_namespace {
                1
            } else {
                2
            };
            (rank, meta.created, &meta.name)
        });
        let mut rules: Vec<&'a JwtRule> = objects.iter().flat_map(|o| &o.spec.rules).collect();
        rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        rules
    }

    fn jwt_provider(&self, rule: &'a JwtRule) -> jwt::JwtProvider {
        let header = |from: &FromHeader| jwt::JwtHeader {
            name: from.name.clone(),
            value_prefix: from.prefix.clone(),
        };
        let claims = rule.output_claim_to_headers.iter();
        let normalized = jwt::jwt_provider::NormalizePayload {
            space_delimited_claims: space_delimited(&rule.space_delimited_claims),
        };
        jwt::JwtProvider {
            issuer: rule.issuer.clone(),
            audiences: rule.audiences.clone(),
            forward: rule.forward_original_token,
            from_headers: rule.from_headers.iter().map(header).collect(),
            from_params: rule.from_params.clone(),
            from_cookies: rule.from_cookies.clone(),
            forward_payload_header: rule.output_payload_to_header.clone(),
            payload_in_metadata: PAYLOAD.to_owned(),
            normalize_payload_in_metadata: Some(normalized),
            claim_to_headers: claims
                .map(|claim| jwt::JwtClaimToHeader {
                    header_name: claim.header.clone(),
                    claim_name: claim.claim.clone(),
                    ..jwt::JwtClaimToHeader::default()
                })
                .collect(),
            // Routes may be chosen by claims.
            clear_route_cache: true,
            jwks_source_specifier: self.keys(rule),
            ..jwt::JwtProvider::default()
        }
    }

    /// `None` where nobody can be asked: the chain is closed then.
    fn keys(&self, rule: &'a JwtRule) -> Option<JwksSourceSpecifier> {
        if let Some(uri) = self.keys_address(rule) {
            let source = self.jwks_source(&uri).ok()?;
            let cluster = key_cluster_name(&source, &uri);
            return Some(JwksSourceSpecifier::RemoteJwks(remote(rule, &uri, cluster)));
        }
        match &rule.keys {
            Keys::Inline(keys) => Some(inline(keys)),
            Keys::Discovered => Some(inline(NOBODYS_KEY)),
            Keys::Uri(_) => None,
        }
    }
}

fn inline(keys: &str) -> JwksSourceSpecifier {
    JwksSourceSpecifier::LocalJwks(core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(keys.to_owned())),
        ..core::DataSource::default()
    })
}

fn every_request() -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..route::RouteMatch::default()
    }
}

/// Keys are fetched before the first request needs them, as an istiod has them before it sends anything.
fn remote(rule: &JwtRule, uri: &JwksUri, cluster: String) -> jwt::RemoteJwks {
    let timeout = Some(duration(rule.timeout.unwrap_or(FETCH)));
    jwt::RemoteJwks {
        http_uri: Some(core::HttpUri {
            uri: uri.text.clone(),
            timeout,
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster)),
        }),
        cache_duration: seconds(KEYS_HOLD_SECONDS),
        async_fetch: Some(jwt::JwksAsyncFetch::default()),
        ..jwt::RemoteJwks::default()
    }
}

/// Any of the providers is content, or none of them finds anything to be discontent with. The first part is for
/// providers that look in the same place, where each finds the other's tokens wrong.
fn requires(providers: &[&str]) -> jwt::JwtRequirement {
    let optional: Vec<jwt::JwtRequirement> = providers
        .iter()
        .map(|name| any_of(vec![good(name), missing()]))
        .collect();
    match <[jwt::JwtRequirement; 1]>::try_from(optional) {
        Ok([only]) => only,
        Err(optional) => {
            let all = jwt::JwtRequirementAndList {
                requirements: optional,
            };
            let mut any: Vec<jwt::JwtRequirement> =
                providers.iter().map(|name| good(name)).collect();
            any.push(requirement(RequiresType::RequiresAll(all)));
            any_of(any)
        }
    }
}

fn any_of(requirements: Vec<jwt::JwtRequirement>) -> jwt::JwtRequirement {
    requirement(RequiresType::RequiresAny(jwt::JwtRequirementOrList {
        requirements,
    }))
}

fn good(provider: &str) -> jwt::JwtRequirement {
    requirement(RequiresType::ProviderName(provider.to_owned()))
}

fn missing() -> jwt::JwtRequirement {
    requirement(RequiresType::AllowMissing(Empty {}))
}

fn requirement(requires: RequiresType) -> jwt::JwtRequirement {
    jwt::JwtRequirement {
        requires_type: Some(requires),
    }
}

/// Each once, in order.
fn space_delimited(own: &[String]) -> Vec<String> {
    let own = own.iter().map(String::as_str);
    let all: BTreeSet<&str> = own.chain(SPACE_DELIMITED).collect();
    all.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_told_once() {
        let own = ["roles".to_owned(), "scope".to_owned()];
        assert_eq!(space_delimited(&own), ["permission", "roles", "scope"]);
        assert_eq!(space_delimited(&[]), SPACE_DELIMITED);
    }

    #[test]
    fn several_issuers_may_look_in_one_place() {
        assert_eq!(requires(&["a"]), any_of(vec![good("a"), missing()]));
        let RequiresType::RequiresAny(any) = requires(&["a", "b"]).requires_type.unwrap() else {
            panic!("not any of them");
        };
        assert_eq!(any.requirements[..2], [good("a"), good("b")]);
        assert!(matches!(
            any.requirements[2].requires_type,
            Some(RequiresType::RequiresAll(_))
        ));
    }
}
