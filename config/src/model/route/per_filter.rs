//! What a virtual host or a route says of the filters of its chain.

use std::collections::HashMap;

use envoy_types::pb::google::protobuf::Any;
use waypoint_filters::stream::route::PerRouteConfig;
use waypoint_filters::xds::omitted::OmittedKind;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::route::context::RouteContext;

/// What is said of filters, by their positions in the chain.
pub(crate) fn per_filter(
    configs: &HashMap<String, Any>,
    context: &RouteContext<'_>,
) -> Result<Box<[Option<PerRouteConfig>]>, Refusal> {
    let mut built: Vec<Option<PerRouteConfig>> = Vec::new();
    for (name, config) in configs {
        let field = |e: Refusal| e.within(format!("typed_per_filter_config[{name:?}]"));
        let found = context
            .filters
            .iter()
            .enumerate()
            .find(|(_, (filter, _))| filter == name);
        let Some((position, (_, filter))) = found else {
            if waypoint_filters::http::says_nothing_alone(config) {
                let refusal = field(Refusal::new("", "the chain has no such filter"));
                context.omissions.add(OmittedKind::Session, refusal);
                continue;
            }
            return Err(field(Refusal::new("", "no such filter in the chain")));
        };
        built.resize_with(context.filters.len(), || None);
        let config = waypoint_filters::http::build_per_route(filter, config).map_err(field)?;
        if let Some(place) = built.get_mut(position) {
            *place = Some(config);
        }
    }
    Ok(built.into())
}

/// Gives a route what its virtual host says of filters, where it doesn't say more itself.
pub(crate) fn inherit(
    of_route: &mut Box<[Option<PerRouteConfig>]>,
    of_host: &[Option<PerRouteConfig>],
) {
    if of_route.is_empty() {
        *of_route = of_host.into();
        return;
    }
    for (specific, general) in of_route.iter_mut().zip(of_host) {
        if let Some(general) = general {
            *specific = Some(match specific.take() {
                None => general.clone(),
                Some(specific) => waypoint_filters::http::per_route_within(general, specific),
            });
        }
    }
}
