//! Warm-up: a pod that is new gets little at first, and its share in the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::core::v3::RuntimeDouble;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::Duration as DurationProto;
use http::StatusCode;
use waypoint_config::resource::Resource;
use waypoint_tests::balancing::{clusters, pods};
use waypoint_tests::ztunnel::{Http1, get};
use waypoint_tests::{ControlPlane, Mesh};

const WINDOW: Duration = Duration::from_secs(3);

/// The mesh's resources, where new pods of `web` have next to nothing for the most part of the window.
fn warming(mesh: &Mesh, policy: LbPolicy) -> Vec<Resource> {
    let slow_start_config = Some(SlowStartConfig {
        slow_start_window: Some(DurationProto {
            seconds: WINDOW.as_secs() as i64,
            nanos: 0,
        }),
        aggression: Some(RuntimeDouble {
            default_value: 0.2,
            runtime_key: "(".into(),
        }),
        min_weight_percent: Some(Percent { value: 1.0 }),
    });
    let mut resources = mesh.resources();
    clusters(&mut resources, "web", |cluster| {
        cluster.lb_policy = policy as i32;
        let slow_start_config = slow_start_config.clone();
        cluster.lb_config = Some(match policy {
            LbPolicy::RoundRobin => {
                LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })
            }
            _ => LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                slow_start_config,
                ..LeastRequestLbConfig::default()
            }),
        });
    });
    resources
}

/// How many of 300 requests each pod answers.
async fn shares(connection: &mut Http1) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for _ in 0..300 {
        let answer = connection.send(get("/")).await;
        assert_eq!(answer.status, StatusCode::OK);
        *shares.entry(answer.header("x-app")).or_insert(0) += 1;
    }
    shares
}

#[tokio::test]
async fn a_new_pod_gets_little_at_first() {
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest] {
        let mesh = Mesh::new();
        let _apps = pods(&mesh, 3).await;
        let to = mesh.service(1, "web");
        mesh.remove_manifest("pod-web-3.yaml");
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(warming(&mesh, policy));
        let (_waypoint, client) = mesh.started_under(&istiod).await;
        let mut connection = client.http1(to).await;
        // All are new alike.
        let first = shares(&mut connection).await;
        assert!(first.values().all(|n| (100..=200).contains(n)), "{first:?}");
        tokio::time::sleep(WINDOW).await;

        mesh.describe_pod(3, "web-3", "web", false);
        istiod.discovery.set(warming(&mesh, policy));
        istiod.discovery.until_answered().await;
        let came = Instant::now();
        let new = shares(&mut connection).await;
        let third = new.get("web-3").copied().unwrap_or_default();
        // Whoever needs longer for 300 requests sees more of it.
        assert!(third < 30 || came.elapsed() > WINDOW / 2, "{new:?}");

        tokio::time::sleep(WINDOW).await;
        let whole = shares(&mut connection).await;
        assert!((65..=135).contains(&whole["web-3"]), "{whole:?}");
    }
}
