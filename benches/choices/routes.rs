//! The choice of a route among 10, 1,000 and 10,000: the last one that could be meant, and none.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use criterion::{Criterion, black_box};
use waypoint_filters::service::RouteResolver;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};

use crate::mesh::compiled;
use crate::{allocated, counts};

/// Matches that a rule may have, and rules of an HTTPRoute, which may have 128 matches.
const MATCHES: usize = 64;
const RULES: usize = 2;

/// What tells routes from each other, and a request of the last one.
struct Shape {
    name: &'static str,
    matched: fn(usize) -> String,
    path: fn(usize) -> String,
    header: fn(usize) -> String,
}

const SHAPES: [Shape; 6] = [
    Shape {
        name: "exact",
        matched: |n| format!("{{path: {{type: Exact, value: /shop/item-{n}}}}}"),
        path: |n| format!("/shop/item-{n}"),
        header: |_| String::new(),
    },
    Shape {
        name: "prefix",
        matched: |n| format!("{{path: {{value: /shop/{n}}}}}"),
        path: |n| format!("/shop/{n}/reviews?page=1"),
        header: |_| String::new(),
    },
    Shape {
        name: "regex",
        matched: |n| format!("{{path: {{type: RegularExpression, value: '/shop/{n}/[a-z]+'}}}}"),
        path: |n| format!("/shop/{n}/reviews"),
        header: |_| String::new(),
    },
    // One path for all.
    Shape {
        name: "header",
        matched: |n| format!("{{headers: [{{name: x-tenant, value: tenant-{n}}}]}}"),
        path: |_| "/".to_owned(),
        header: |n| format!("tenant-{n}"),
    },
    Shape {
        name: "header and method",
        matched: |n| {
            let method = if n % 2 == 0 { "POST" } else { "GET" };
            let tenant = n / 2;
            format!("{{method: {method}, headers: [{{name: x-tenant, value: tenant-{tenant}}}]}}")
        },
        path: |_| "/".to_owned(),
        header: |n| format!("tenant-{}", n / 2),
    },
    Shape {
        name: "query parameter",
        matched: |n| format!("{{queryParams: [{{name: tenant, value: tenant-{n}}}]}}"),
        path: |n| format!("/?page=1&tenant=tenant-{n}"),
        header: |_| String::new(),
    },
];

fn manifests(shape: &Shape, count: usize) -> String {
    let matches: Vec<String> = (0..count).map(shape.matched).collect();
    let rules: Vec<String> = matches
        .chunks(MATCHES)
        .map(|matches| {
            format!(
                "  - matches: [{}]\n    backendRefs: [{{name: web, port: 80}}]\n",
                matches.join(", ")
            )
        })
        .collect();
    let objects = rules.chunks(RULES).enumerate().map(|(n, rules)| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: web-{n}, namespace: default}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules:\n{}",
            rules.concat()
        )
    });
    objects.collect()
}

pub(crate) fn route_choice(criterion: &mut Criterion) {
    let address = ([127, 0, 0, 1], 80).into();
    let now = Instant::now();
    let connection = Arc::new(Connection::new(address, address, now));
    let stream = StreamInfo::new(connection, Protocol::Http11, now, SystemTime::now());
    for shape in SHAPES {
        let mut group = criterion.benchmark_group(format!("route by {}", shape.name));
        for count in counts([10, 1_000, 10_000]) {
            let name = format!("{}-{count}", shape.name);
            let (_store, manager) = compiled(&name, &manifests(&shape, count));
            let asked = |n: usize| {
                http::Request::builder()
                    .uri((shape.path)(n))
                    .header("host", "web")
                    .header("x-tenant", (shape.header)(n))
                    .body(Body::empty())
                    .unwrap()
            };
            let (last, none) = (asked(count - 1), asked(count));
            let resolve = |request| manager.routes.resolve(request, &stream);
            assert!(
                resolve(&last).is_some() && resolve(&none).is_none(),
                "{name}"
            );
            assert_eq!(allocated(|| resolve(&last)), 0, "{name}: a hit allocates");
            group.bench_function(format!("{count}, the last"), |bencher| {
                bencher.iter(|| resolve(black_box(&last)));
            });
            group.bench_function(format!("{count}, none"), |bencher| {
                bencher.iter(|| resolve(black_box(&none)));
            });
        }
        group.finish();
    }
}
