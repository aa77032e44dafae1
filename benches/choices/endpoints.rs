//! The choice of an endpoint among 2, 100 and 1,000, by each policy; and what a policy makes of a set before it chooses, which is
//! made anew whenever an endpoint comes, goes or is ejected.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use criterion::{Criterion, black_box};
use waypoint_config::model::balance::endpoint_set::EndpointSet;
use waypoint_config::model::balance::{Draw, choose};
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::route::{Route, RouteAction};
use waypoint_filters::service::RouteResolver;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};

use crate::mesh::compiled;
use crate::{allocated, counts};

const POLICIES: [(&str, &str); 6] = [
    ("least request", "simple: LEAST_REQUEST"),
    ("round robin", "simple: ROUND_ROBIN"),
    ("random", "simple: RANDOM"),
    (
        "ring hash",
        "consistentHash: {httpHeaderName: x-user, ringHash: {minimumRingSize: 1024}}",
    ),
    (
        "maglev",
        "consistentHash: {httpHeaderName: x-user, maglev: {tableSize: 65537}}",
    ),
    (
        "least request, some new",
        "simple: LEAST_REQUEST, warmup: {duration: 3600s}",
    ),
];

fn manifests(policy: &str, count: usize) -> String {
    let endpoint = |n: usize| {
        let (high, low) = (n / 250, n % 250 + 1);
        format!("{{addresses: [10.1.{high}.{low}]}}")
    };
    let endpoints: Vec<String> = (0..count).map(endpoint).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: web, namespace: default}}\n\
         spec: {{host: web, trafficPolicy: {{loadBalancer: {{{policy}}}}}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

/// Where the service's only route leads.
fn cluster(routes: &dyn RouteResolver) -> Arc<ClusterSlot> {
    let address = ([127, 0, 0, 1], 80).into();
    let now = Instant::now();
    let connection = Arc::new(Connection::new(address, address, now));
    let stream = StreamInfo::new(connection, Protocol::Http11, now, SystemTime::now());
    let route = routes.resolve(&http::Request::new(Body::empty()), &stream);
    match Route::of(&route.unwrap()).map(|route| &route.action) {
        Some(RouteAction::Forward(to)) => to.destinations.choose(0).0.clone(),
        _ => panic!("the route leads nowhere"),
    }
}

pub(crate) fn endpoint_choice(criterion: &mut Criterion) {
    for (policy, settings) in POLICIES {
        let mut group = criterion.benchmark_group(format!("endpoint by {policy}"));
        for count in counts([2, 100, 1_000]) {
            let name = format!("{}-{count}", policy.replace([' ', ','], "-"));
            let (_store, manager) = compiled(&name, &manifests(settings, count));
            let slot = cluster(&*manager.routes);
            let balancing = slot.cluster().unwrap().balancing;
            let endpoints = slot.endpoints_now();
            assert_eq!(endpoints.iter().count(), count);
            let now = Some(Instant::now()).filter(|_| balancing.slow_start.is_some());
            let one = || {
                let draw = Draw {
                    random: || fastrand::u64(..),
                    hash: Some(fastrand::u64(..)),
                    now,
                    tried: &[],
                    attempts: 0,
                    left_out: &[],
                };
                choose(black_box(balancing), &endpoints, draw)
            };
            assert!(one().is_some());
            assert_eq!(allocated(one), 0, "{name}: a choice allocates");
            group.bench_function(count.to_string(), |bencher| bencher.iter(one));
            group.bench_function(format!("{count}, made anew"), |bencher| {
                bencher.iter(|| {
                    slot.set_endpoints(EndpointSet::new(endpoints.priorities.clone()));
                    black_box(slot.endpoints_now().hosts());
                });
            });
        }
        group.finish();
    }
}
