//! The example manifests stand for themselves: no problem, and what they are meant to show.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use waypoint_config::resource::ResourceType;
use waypoint_config::standalone::StandaloneSource;

#[test]
fn bookinfo() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bookinfo");
    let translation = StandaloneSource::new(vec![folder], None).load().unwrap();
    assert_eq!(translation.problems, []);
    assert_eq!(translation.asides, []);
    assert_eq!(translation.gateway.to_string(), "default/waypoint");
    let count = |kind| {
        translation
            .resources
            .iter()
            .filter(|resource| resource.kind == kind)
            .count()
    };
    assert_eq!(count(ResourceType::Endpoints), 7);
    assert_eq!(count(ResourceType::Cluster), 7 + 5);
    assert_eq!(count(ResourceType::Workload), 8);
    let endpoints = |service: &str| {
        let name = format!("inbound-vip|9080|http|{service}.default.svc.cluster.local");
        let found = translation
            .resources
            .iter()
            .find(|r| r.kind == ResourceType::Endpoints && r.name == name);
        String::from_utf8_lossy(&found.unwrap().body).into_owned()
    };
    assert!(endpoints("reviews-v1").contains("127.10.0.4:9080"));
    assert!(endpoints("reviews-v1").contains("connect_originate"));
    assert!(!endpoints("reviews-v2").contains("connect_originate"));
}
