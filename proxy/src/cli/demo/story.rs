//! What the demo shows, and whether it was so: who answers, the split, the denied POST, the denied stranger.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::{Method, StatusCode};
use waypoint_config::standalone::ObjectName;
use waypoint_config::standalone::state::cluster_state::ClusterState;

use crate::cli::demo::DemoError;
use crate::cli::demo::client::{Answer, Client};

/// Requests from which the split is read.
const SAMPLE: usize = 400;
/// The tenth's share in percent, with room for chance: five standard deviations of [`SAMPLE`] draws.
const SECOND_SHARE: std::ops::RangeInclusive<f64> = 2.5..=17.5;
/// What a denied client is told.
const DENIED: &str = "RBAC: access denied";

/// Plays all scenes and prints them.
///
/// # Errors
/// Something was not as the manifests say.
pub(crate) async fn play(
    state: &ClusterState,
    client: impl Fn(&str, &str) -> Result<Client, DemoError>,
) -> Result<(), DemoError> {
    let curl = client("default", "curl")?;
    let stranger = client("other", "stranger")?;
    let mut scenes = Scenes { state, failed: 0 };

    say!("\nWho answers, to {}:", curl.identity);
    for (service, path) in [
        ("productpage", "/productpage"),
        ("details", "/details/1"),
        ("ratings", "/ratings/1"),
    ] {
        scenes.answered(&curl, service, path).await?;
    }
    say!("\n{SAMPLE} requests to reviews, of which the HTTPRoute sends 90 % to v1 and 10 % to v2:");
    scenes.split(&curl).await?;
    say!(
        "\nThe AuthorizationPolicy lets namespaces default and istio-system GET, and nothing else:"
    );
    scenes.denied(&curl, Method::POST).await?;
    scenes.denied(&stranger, Method::GET).await?;
    match scenes.failed {
        0 => {
            say!("\nAll as the manifests say.");
            Ok(())
        }
        failed => Err(format!("{failed} of the above are not as the manifests say").into()),
    }
}

/// The virtual address of a service in namespace `default`, with its first port.
pub(crate) fn service_address(state: &ClusterState, name: &str) -> Result<SocketAddr, DemoError> {
    let missing = || format!("the manifests have no service default/{name} with an address");
    let service = state
        .services
        .get(&ObjectName::new("default", name))
        .ok_or_else(missing)?;
    let service =
        waypoint_config::standalone::state::mesh_service::MeshService::of_service(service);
    let address = service.addresses.first().ok_or_else(missing)?.addr();
    let port = service.ports.first().ok_or_else(missing)?.number;
    Ok(SocketAddr::new(address, port))
}

struct Scenes<'a> {
    state: &'a ClusterState,
    failed: usize,
}

impl Scenes<'_> {
    fn verdict(&mut self, fine: bool, line: &str) {
        self.failed += usize::from(!fine);
        say!("  {} {line}", if fine { "✓" } else { "✗" });
    }

    async fn send(
        &self,
        client: &Client,
        method: Method,
        service: &str,
        path: &str,
    ) -> Result<Answer, DemoError> {
        let to = service_address(self.state, service)?;
        client
            .send(method, to, &format!("{service}:{}", to.port()), path)
            .await
    }

    async fn answered(
        &mut self,
        client: &Client,
        service: &str,
        path: &str,
    ) -> Result<(), DemoError> {
        let answer = self.send(client, Method::GET, service, path).await?;
        let by_service = answer
            .pod
            .as_deref()
            .is_some_and(|pod| pod.starts_with(service));
        let fine = answer.status == StatusCode::OK && by_service;
        let url = format!("http://{service}{path}");
        let line = format!("GET {url:<32} {}  {}", answer.status.as_u16(), answer.body);
        self.verdict(fine, &line);
        Ok(())
    }

    async fn split(&mut self, client: &Client) -> Result<(), DemoError> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for n in 0..SAMPLE {
            let answer = self
                .send(client, Method::GET, "reviews", &format!("/reviews/{n}"))
                .await?;
            let who = answer
                .pod
                .unwrap_or_else(|| format!("{} {}", answer.status, answer.body));
            *counts.entry(who).or_default() += 1;
        }
        let share = |who: &str| percent(counts.get(who).copied().unwrap_or(0));
        let all = share("reviews-v1") + share("reviews-v2");
        let fine = all > 99.99 && SECOND_SHARE.contains(&share("reviews-v2"));
        for (who, count) in &counts {
            let bar = "█".repeat((percent(*count) / 2.0).round() as usize);
            let line = format!("{who:<12} {:>5.1} %  {bar}", percent(*count));
            self.verdict(fine, &line);
        }
        Ok(())
    }

    async fn denied(&mut self, client: &Client, method: Method) -> Result<(), DemoError> {
        let answer = self
            .send(client, method.clone(), "reviews", "/reviews/1")
            .await?;
        let fine = answer.status == StatusCode::FORBIDDEN && answer.body == DENIED;
        let line = format!(
            "{method:<4} http://reviews/reviews/1 by {}: {}  {}",
            client.identity,
            answer.status.as_u16(),
            answer.body
        );
        self.verdict(fine, &line);
        Ok(())
    }
}

fn percent(count: usize) -> f64 {
    count as f64 * 100.0 / SAMPLE as f64
}
