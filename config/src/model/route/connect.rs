//! Routes for CONNECT: what tunnels begin with. A client inside of a tunnel has no use of it, and is answered 404; so a route that
//! would let it through is refused.

use envoy_types::pb::envoy::config::route::v3::Route as RouteProto;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use waypoint_filters::xds::rejected::Refusal;

/// Refuses what is for CONNECT.
pub(crate) fn refuse_connect(proto: &RouteProto) -> Result<(), Refusal> {
    let path = proto
        .r#match
        .as_ref()
        .and_then(|m| m.path_specifier.as_ref());
    if let Some(PathSpecifier::ConnectMatcher(_)) = path {
        return Err(Refusal::unsupported("match.connect_matcher"));
    }
    // Others are refused wherever they are.
    match &proto.action {
        Some(Action::Route(action)) if !action.upgrade_configs.is_empty() => {
            Err(Refusal::unsupported("route.upgrade_configs[\"CONNECT\"]"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::route_action::UpgradeConfig;
    use envoy_types::pb::envoy::config::route::v3::route_match::ConnectMatcher;
    use envoy_types::pb::envoy::config::route::v3::{RouteAction, RouteMatch, route_action};

    use super::*;
    use crate::model::route::check;

    fn route(path: PathSpecifier, upgrade: Option<&str>) -> RouteProto {
        let upgrade = upgrade.map(|upgrade_type| UpgradeConfig {
            upgrade_type: upgrade_type.to_owned(),
            ..UpgradeConfig::default()
        });
        RouteProto {
            r#match: Some(RouteMatch {
                path_specifier: Some(path),
                ..RouteMatch::default()
            }),
            action: Some(Action::Route(RouteAction {
                cluster_specifier: Some(route_action::ClusterSpecifier::Cluster("web".to_owned())),
                upgrade_configs: upgrade.into_iter().collect(),
                ..RouteAction::default()
            })),
            ..RouteProto::default()
        }
    }

    #[test]
    fn what_would_let_a_connect_through_is_refused_inside_of_tunnels() {
        let slash = || PathSpecifier::Prefix("/".to_owned());
        let connect = PathSpecifier::ConnectMatcher(ConnectMatcher::default());
        assert!(check(&route(slash(), None), &[]).is_ok());
        for (route, field) in [
            (route(connect, None), "match.connect_matcher"),
            (
                route(slash(), Some("CONNECT")),
                "route.upgrade_configs[\"CONNECT\"]",
            ),
        ] {
            let refusal = check(&route, &[]).unwrap_err();
            assert_eq!(refusal.field.to_string(), field);
        }
    }
}
