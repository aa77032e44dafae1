//! Local rate limits beside Envoy.

use waypoint_tests::rate_limits::{LIMITS, Limit, lines, resources};
use waypoint_tests::ztunnel::Ztunnel;
use waypoint_tests::{ControlPlane, Mesh};

use crate::beside::envoy_with;

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn rates_are_limited_as_envoy_limits_them() {
    let mut differences = Vec::new();
    for limit in LIMITS {
        let mesh = Mesh::new();
        let (to, app) = mesh.http_service(1, "web").await;
        let resources = resources(&mesh, limit);
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(resources.clone());
        let waypoint = mesh.start_under(&istiod).await;
        let (_envoy, address) = envoy_with(&mesh, &resources).await;
        let certificate = mesh.certificate("default", "curl");
        let theirs = Ztunnel::connect(address, &certificate).await.unwrap();
        let ours = mesh.client(&waypoint, "default", "curl").await;
        let saw = |app: &waypoint_tests::App| -> Vec<String> {
            let seen = app.seen();
            seen.iter()
                .map(|seen| seen.header("x-would-limit"))
                .collect()
        };
        let expected = lines(&theirs, to, limit).await;
        let expected_seen = saw(&app);
        app.forget();
        let found = lines(&ours, to, limit).await;
        if (&found, &saw(&app)) != (&expected, &expected_seen) {
            differences.push(format!(
                "{limit:?}\nwaypoint {found:#?} {:?}\nenvoy    {expected:#?} {expected_seen:?}",
                saw(&app)
            ));
        }
        if limit == Limit::All {
            let labels = [("limit", "story"), ("result", "enforced")];
            let name = "waypoint_local_rate_limit_total";
            waypoint.until_metric(name, &labels, 2.0).await;
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
