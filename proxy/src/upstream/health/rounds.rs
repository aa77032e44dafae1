//! The rounds of one endpoint: a check, what it changes, and the time until the next.
//!
//! Between two checks nothing of the endpoint is held but its connection: what it is, and how it is checked, is looked up anew
//! for each.

use std::sync::{Arc, Weak};
use std::time::Duration;

use waypoint_config::model::active_health::{CheckOutcome, Transition};
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::health_check::{Asks, HealthCheck};
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::endpoint::{Endpoint, EndpointState};
use waypoint_filters::stream::session::SessionHost;

use crate::upstream::dial::client_tls::settled;
use crate::upstream::health::check::{Check, Shared, target};
use crate::upstream::health::client::Client;
use crate::upstream::health::{grpc, http, tcp};

/// How often it is looked whether there is an own certificate.
const CERTIFICATE: Duration = Duration::from_millis(100);

/// One endpoint's checks, one after the other.
pub(super) struct Rounds {
    shared: Arc<Shared>,
    slot: Arc<ClusterSlot>,
    host: SessionHost,
    state: Weak<EndpointState>,
    kept: Option<Kept>,
}

/// A connection for the next check, and what it was made for.
struct Kept {
    client: Client,
    cluster: Weak<Cluster>,
    generation: u64,
}

impl Rounds {
    pub(super) fn new(
        shared: Arc<Shared>,
        slot: Arc<ClusterSlot>,
        host: SessionHost,
        state: Weak<EndpointState>,
    ) -> Rounds {
        Rounds {
            shared,
            slot,
            host,
            state,
            kept: None,
        }
    }

    /// Checks until there is nothing to check any more.
    pub(super) async fn run(mut self) {
        self.prepared().await;
        if let Some(first) = self.before_first() {
            tokio::time::sleep(first).await;
        }
        while let Some(pause) = Box::pin(self.round()).await {
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits for what connections are made with, as Envoy's clusters do: a first check that fails for want of it would hold for as
    /// long as the interval is.
    async fn prepared(&self) {
        let Some((cluster, endpoint)) = self.subject() else {
            return;
        };
        let tls = cluster.sockets.of(&endpoint.metadata).tls.clone();
        drop((cluster, endpoint));
        if self.host.hbone || tls.is_some() {
            while !self.shared.upstreams.has_certificate() {
                tokio::time::sleep(CERTIFICATE).await;
            }
        }
        if let Some(tls) = tls {
            settled(&tls).await;
        }
    }

    fn before_first(&self) -> Option<Duration> {
        let cluster = self.slot.cluster()?;
        let rules = cluster.health_check.as_ref()?;
        Some(rules.intervals.before_first(|| fastrand::u64(..)))
    }

    /// The endpoint as it is now.
    fn subject(&self) -> Option<(Arc<Cluster>, Arc<Endpoint>)> {
        let cluster = self.slot.cluster()?;
        let endpoints = self.slot.endpoints_now();
        let endpoint = endpoints.at(self.host)?;
        let is_the_same = self.state.ptr_eq(&Arc::downgrade(&endpoint.state));
        is_the_same.then(|| (cluster, endpoint.clone()))
    }

    /// Checks once; the time until the next check.
    async fn round(&mut self) -> Option<Duration> {
        let shared = self.shared.clone();
        let _turn = shared.turns.acquire().await.ok()?;
        let (cluster, endpoint) = self.subject()?;
        let rules = cluster.health_check.clone()?;
        self.slot.checks.begun();
        let outcome = self.check(&cluster, &endpoint, &rules).await;
        self.slot.checks.ended(outcome);
        let transition = self.record(&cluster, &endpoint, &rules, outcome);
        let has_traffic = shared.upstreams.connector.open.had_any(&cluster.name);
        let passed = outcome == CheckOutcome::Passed;
        let random = || fastrand::u64(..);
        Some(
            rules
                .intervals
                .after(passed, transition, has_traffic, random),
        )
    }

    fn record(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        rules: &HealthCheck,
        outcome: CheckOutcome,
    ) -> Transition {
        let health = &endpoint.state.health;
        let transition = health.record(outcome, rules.thresholds);
        let (name, address) = (&*cluster.name, endpoint.address);
        match (transition, health.is_failed()) {
            (Transition::Changed, true) => {
                tracing::warn!(cluster = name, endpoint = %address, because = ?outcome, "endpoint fails its checks: it gets nothing");
            }
            (Transition::Changed, false) => {
                tracing::info!(cluster = name, endpoint = %address, "endpoint passes its checks");
            }
            _ => {}
        }
        let redeemed = outcome == CheckOutcome::Passed
            && health.is_passing()
            && endpoint.state.monitor.is_ejected();
        if redeemed {
            health.redeem();
        }
        if redeemed || transition == Transition::Changed {
            self.slot.checks.alarm();
            self.shared.suspects.notify_one();
        }
        transition
    }

    async fn check(
        &mut self,
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
        rules: &HealthCheck,
    ) -> CheckOutcome {
        let generation = self.shared.upstreams.generation();
        let kept = self.kept.take().filter(|kept| {
            // As in pools, a tunnel is of the certificate that it was made with.
            (kept.generation == generation || !self.host.hbone)
                && std::ptr::eq(kept.cluster.as_ptr(), &**cluster)
        });
        let check = Check {
            shared: &self.shared,
            slot: &self.slot,
            cluster,
            endpoint,
            target: target(endpoint),
        };
        let asking = Rounds::ask(&check, rules, kept.map(|kept| kept.client));
        let Ok((outcome, client)) = tokio::time::timeout(rules.timeout, asking).await else {
            return CheckOutcome::TimedOut;
        };
        let client = client.filter(|_| rules.reuses_connection);
        self.kept = client.map(|client| Kept {
            client,
            cluster: Arc::downgrade(cluster),
            generation,
        });
        outcome
    }
}

impl Rounds {
    /// Asks, on the connection of the last check if there is one; a connection for the next, if there may be one.
    async fn ask(
        check: &Check<'_>,
        rules: &HealthCheck,
        client: Option<Client>,
    ) -> (CheckOutcome, Option<Client>) {
        let asked = match (&rules.asks, client) {
            (Asks::Http(what), Some(Client::Http(client))) => {
                http::ask(check, what, Some(client)).await
            }
            (Asks::Http(what), _) => http::ask(check, what, None).await,
            (Asks::Grpc(what), Some(Client::Http(client))) => {
                grpc::ask(check, what, Some(client)).await
            }
            (Asks::Grpc(what), _) => grpc::ask(check, what, None).await,
            (Asks::Tcp(what), Some(Client::Tcp(client))) => {
                tcp::ask(check, what, Some(client)).await
            }
            (Asks::Tcp(what), _) => tcp::ask(check, what, None).await,
        };
        asked.unwrap_or((CheckOutcome::Failed, None))
    }
}
