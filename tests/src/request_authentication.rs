//! RequestAuthentication as istiod sends it: the filter, put into chains that were made without.

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::{
    JwksSourceSpecifier, NormalizePayload,
};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtProvider, JwtRequirement, JwtRequirementAndList, JwtRequirementOrList,
    PerRouteConfig, RequirementRule, jwt_requirement::RequiresType,
    requirement_rule::RequirementType,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::google::protobuf::{Any, Empty};
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};

const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const JWT_AUTHN: &str =
    "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const PER_ROUTE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig";
const NAME: &str = "envoy.filters.http.jwt_authn";

/// A provider as istiod writes it for a waypoint.
#[must_use]
pub fn provider(issuer: &str, jwks: &str) -> JwtProvider {
    JwtProvider {
        issuer: issuer.into(),
        payload_in_metadata: "payload".into(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: vec!["permission".into(), "scope".into()],
        }),
        clear_route_cache: true,
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(Specifier::InlineString(jwks.into())),
            ..DataSource::default()
        })),
        ..JwtProvider::default()
    }
}

/// What istiod makes of these providers: a token may be missing, but not be bad.
#[must_use]
pub fn authentication(providers: Vec<JwtProvider>) -> JwtAuthentication {
    let names: Vec<String> = (0..providers.len())
        .map(|i| format!("origins-{i}"))
        .collect();
    let or_missing = |name: &String| any(vec![by(name), missing()]);
    let requires = match &*names {
        [only] => or_missing(only),
        all => {
            let mut alternatives: Vec<_> = all.iter().map(|name| by(name)).collect();
            alternatives.push(self::all(all.iter().map(or_missing).collect()));
            any(alternatives)
        }
    };
    JwtAuthentication {
        providers: names.into_iter().zip(providers).collect(),
        rules: vec![rule("/", Some(requires))],
        bypass_cors_preflight: true,
        ..JwtAuthentication::default()
    }
}

/// A rule for paths that begin so.
#[must_use]
pub fn rule(prefix: &str, requires: Option<JwtRequirement>) -> RequirementRule {
    RequirementRule {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.into())),
            ..RouteMatch::default()
        }),
        requirement_type: requires.map(RequirementType::Requires),
    }
}

#[must_use]
pub fn requirement(requires: RequiresType) -> JwtRequirement {
    JwtRequirement {
        requires_type: Some(requires),
    }
}

/// A token of this provider.
#[must_use]
pub fn by(name: &str) -> JwtRequirement {
    requirement(RequiresType::ProviderName(name.into()))
}

#[must_use]
pub fn missing() -> JwtRequirement {
    requirement(RequiresType::AllowMissing(Empty {}))
}

#[must_use]
pub fn any(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    requirement(RequiresType::RequiresAny(JwtRequirementOrList {
        requirements,
    }))
}

#[must_use]
pub fn all(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    requirement(RequiresType::RequiresAll(JwtRequirementAndList {
        requirements,
    }))
}

/// These resources with the filter in the chains whose names have this in them, before their policies.
#[must_use]
pub fn with(
    resources: Vec<Resource>,
    chain: &str,
    authentication: &JwtAuthentication,
) -> Vec<Resource> {
    in_chains(resources, chain, &|manager| insert(manager, authentication))
}

/// These resources with what routes of `main_internal` write into requests taken as formats; Gateway API has no formats.
#[must_use]
pub fn with_formats(resources: Vec<Resource>) -> Vec<Resource> {
    changed(resources, &|manager| {
        let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
            return;
        };
        let routes = routes
            .virtual_hosts
            .iter_mut()
            .flat_map(|host| &mut host.routes);
        for header in routes.flat_map(|route| &mut route.request_headers_to_add) {
            if let Some(header) = &mut header.header {
                header.value = header.value.replace("%%", "%");
            }
        }
    })
}

/// These resources with configuration of the filter on the routes that match paths which begin so.
#[must_use]
pub fn with_route(
    resources: Vec<Resource>,
    prefix: &str,
    config: &PerRouteConfig,
) -> Vec<Resource> {
    let any = Any {
        type_url: PER_ROUTE.into(),
        value: config.encode_to_vec(),
    };
    changed(resources, &|manager| {
        let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
            return;
        };
        let routes = routes
            .virtual_hosts
            .iter_mut()
            .flat_map(|host| &mut host.routes);
        for route in routes {
            let path = route
                .r#match
                .as_ref()
                .and_then(|m| m.path_specifier.as_ref());
            if let Some(PathSpecifier::PathSeparatedPrefix(path)) = path
                && path == prefix
            {
                let configs = &mut route.typed_per_filter_config;
                configs.insert(NAME.into(), any.clone());
            }
        }
    })
}

fn changed(resources: Vec<Resource>, change: &dyn Fn(&mut HttpConnectionManager)) -> Vec<Resource> {
    in_chains(resources, "", change)
}

/// Changes the connection managers of `main_internal`'s chains whose names have this in them.
#[must_use]
pub fn in_chains(
    mut resources: Vec<Resource>,
    part: &str,
    change: &dyn Fn(&mut HttpConnectionManager),
) -> Vec<Resource> {
    let inner = |r: &&mut Resource| r.kind == ResourceType::Listener && r.name == "main_internal";
    for resource in resources.iter_mut().filter(inner) {
        let mut listener = Listener::decode(&*resource.body).unwrap();
        let chains = listener.filter_chains.iter_mut();
        let chains = chains.filter(|chain| chain.name.contains(part));
        for filter in chains.flat_map(|chain| &mut chain.filters) {
            if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type
                && any.type_url == HCM
            {
                let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
                change(&mut manager);
                any.value = manager.encode_to_vec();
            }
        }
        resource.body = listener.encode_to_vec().into();
    }
    resources
}

fn insert(manager: &mut HttpConnectionManager, authentication: &JwtAuthentication) {
    let filters = &mut manager.http_filters;
    let policies = |filter: &HttpFilter| filter.name == "envoy.filters.http.rbac";
    let at = filters
        .iter()
        .position(policies)
        .unwrap_or(filters.len() - 1);
    let filter = HttpFilter {
        name: NAME.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(Any {
            type_url: JWT_AUTHN.into(),
            value: authentication.encode_to_vec(),
        })),
        ..HttpFilter::default()
    };
    filters.insert(at, filter);
}
