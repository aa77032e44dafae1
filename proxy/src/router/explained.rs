//! What the router would do with a request that is only explained: the clusters, and the head as it would go up.

use std::sync::Arc;

use http::Request;
use waypoint_config::model::balance::endpoint_set::EndpointSet;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::endpoint::Transport;
use waypoint_config::model::route::forward::{Destinations, Forward};
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::explanation::{ClusterStep, EndpointStep, UpstreamStep};

/// Endpoints that are told of, of one cluster.
const MAX_ENDPOINTS: usize = 100;

/// The request has been changed as the route says.
pub(crate) fn upstream(forward: &Forward, request: &Request<Body>) -> UpstreamStep {
    let clusters = match &forward.destinations {
        Destinations::Single(slot) => vec![cluster(slot, 100.0)],
        Destinations::Weighted { shares, .. } => {
            let total = shares.total().max(1) as f64;
            let weights = shares.weights();
            weights
                .map(|(weight, to)| cluster(&to.cluster, 100.0 * weight as f64 / total))
                .collect()
        }
    };
    let headers = request.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.to_string(), value.into_owned())
    });
    let target = request.uri().path_and_query();
    UpstreamStep {
        method: request.method().to_string(),
        target: target.map_or_else(|| "/".to_owned(), ToString::to_string),
        headers: headers.collect(),
        clusters,
        mirrors: forward
            .mirrors
            .iter()
            .map(|m| m.cluster.name.to_string())
            .collect(),
    }
}

/// A cluster with its part of the requests.
pub(crate) fn cluster(slot: &Arc<ClusterSlot>, percent: f64) -> ClusterStep {
    ClusterStep {
        name: slot.name.to_string(),
        percent,
        exists: slot.cluster().is_some(),
        endpoints: endpoints(&slot.endpoints()),
    }
}

fn endpoints(set: &EndpointSet) -> Vec<EndpointStep> {
    let priorities = set.priorities.iter().enumerate();
    let all = priorities.flat_map(|(priority, localities)| {
        let endpoints = localities.iter().flat_map(|locality| &locality.endpoints);
        endpoints.map(move |endpoint| (priority, endpoint))
    });
    let step = |(priority, endpoint): (usize, &Arc<_>)| {
        let endpoint: &waypoint_config::model::endpoint::Endpoint = endpoint;
        EndpointStep {
            address: endpoint.address.to_string(),
            hbone: matches!(endpoint.transport, Transport::Hbone { .. }),
            healthy: endpoint.healthy,
            weight: endpoint.weight,
            priority,
            workload: endpoint.peer.as_ref().map(|peer| peer.to_string()),
        }
    };
    all.take(MAX_ENDPOINTS).map(step).collect()
}
