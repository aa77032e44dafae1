//! gRPC-Web beside Envoy.

use waypoint_tests::Mesh;
use waypoint_tests::grpc_web::{Application, lines};
use waypoint_tests::ztunnel::Ztunnel;

use crate::beside::envoy_beside;

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn calls_of_browsers_are_answered_as_envoy_answers_them() {
    let mesh = Mesh::new();
    let (to, application) = Application::start(&mesh).await;
    let waypoint = mesh.start().await;
    let (_envoy, address) = envoy_beside(&mesh).await;
    let certificate = mesh.certificate("default", "curl");
    let theirs = Ztunnel::connect(address, &certificate).await.unwrap();
    let ours = mesh.client(&waypoint, "default", "curl").await;
    let expected = lines(&theirs, to, &application).await;
    let found = lines(&ours, to, &application).await;
    let pairs = found.iter().zip(&expected);
    let differences: Vec<_> = pairs
        .filter(|(found, expected)| {
            !is_padded_in_between(found) && comparable(found) != comparable(expected)
        })
        .map(|(found, expected)| format!("waypoint {found}\nenvoy    {expected}\n"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Base64 with padding in between, which Envoy refuses; listed in `docs/differences.md`.
fn is_padded_in_between(line: &str) -> bool {
    line.starts_with("/echo application/grpc-web-text accept \"\" \"AAAAAAJoaQ==AAAAAAA=\"")
}

/// Without what is listed there: a length that stays, and what the application sees of a request that is refused half-way.
fn comparable(line: &str) -> String {
    let mut parts: Vec<&str> = line.lines().map(str::trim).collect();
    if parts.last().is_some_and(|got| got.starts_with("got 400")) {
        parts.retain(|part| !part.starts_with("saw"));
    }
    parts.join("\n").replace(" length 12 ", " length - ")
}
