//! What an istiod sent and was refused (NACK), as the page shows it, and as it is mended.

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::google::protobuf::Any;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::browser::{Browser, Screen};
use waypoint_tests::managers::{self, INNER};
use waypoint_tests::wait::until;
use waypoint_tests::{ControlPlane, Mesh};

/// With a filter that nobody knows on every chain, and a cluster that is none.
fn spoilt(mesh: &Mesh) -> Vec<Resource> {
    let mut resources = mesh.resources();
    managers::change(&mut resources, INNER, |manager| {
        let filter = HttpFilter {
            name: "not-known".into(),
            config_type: Some(ConfigType::TypedConfig(Any {
                type_url: "type.googleapis.com/example.NotKnown".into(),
                value: Vec::new(),
            })),
            ..HttpFilter::default()
        };
        manager.http_filters.insert(0, filter);
    });
    resources.push(Resource {
        kind: ResourceType::Cluster,
        name: "broken".into(),
        body: vec![0xff].into(),
    });
    resources
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a browser: make test-page"]
async fn what_was_refused_is_shown_with_the_reason_until_it_is_mended() {
    let mesh = Mesh::new();
    let (_, _app) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    let browser = Browser::start().await;
    browser
        .screen(Screen {
            width: 1280,
            height: 900,
            dark: false,
        })
        .await;
    let page = format!("http://{}/", waypoint.running.admin_addr);
    browser.open(&format!("{page}#resources")).await;
    browser.until_text("main", &["Cluster", "Listener"]).await;
    let before = browser.text("main").await;
    assert!(!before.contains("not-known"), "{before}");

    istiod.discovery.set(spoilt(&mesh));
    istiod.discovery.until_answered().await;
    let nack = istiod.discovery.refusals().join("\n");
    for part in ["not-known", "broken"] {
        assert!(nack.contains(part), "{nack}");
        browser.until_text("main", &[part]).await;
    }
    let shown = browser
        .until_text("main", &["example.NotKnown", "last good version"])
        .await;
    assert!(!shown.contains('\u{0}'), "{shown}");

    istiod.discovery.set(mesh.resources());
    until("the refusals to go", async || {
        let shown = browser.text("main").await;
        (!shown.contains("not-known") && !shown.contains("broken")).then_some(())
    })
    .await;
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
}
