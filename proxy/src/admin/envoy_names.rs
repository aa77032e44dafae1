//! Numbers by the names that Envoy has for them, as dashboards, autoscalers and `istioctl x envoy-stats` ask for them.
//!
//! Nothing is counted for them: they are looked up when somebody asks. Of clusters only those are told here that were used:
//! a mesh has thousands that one waypoint never calls.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use waypoint_config::model::cluster::circuit_breakers::{Resource, Thresholds};
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::outlier::Sign;
use waypoint_config::resource::ResourceType;
use waypoint_config::store::received::{Received, Updates};
use waypoint_filters::metrics::exposition::{Collector, Exposition, Kind, Sample};
use waypoint_hbone::tls::Tls;

use crate::admin::started::Started;
use crate::configuration::link::Link;
use crate::lifecycle::readiness::Readiness;
use crate::overload::Overload;
use crate::process::memory::Resident;
use crate::upstream::limits::open::{OfCluster, OpenConnections};

const DAY: u64 = 24 * 3600;
/// What Envoy calls the cluster that is istiod.
const ISTIOD: &str = "xds-grpc";

/// Where the numbers are.
#[derive(Clone)]
pub(crate) struct EnvoyNames {
    pub(crate) readiness: Readiness,
    pub(crate) tls: Tls,
    pub(crate) received: Received,
    /// `None`: there is no istiod.
    pub(crate) link: Option<Link>,
    pub(crate) open: Arc<OpenConnections>,
    pub(crate) overload: Arc<Overload>,
    pub(crate) hbone_addr: SocketAddr,
    /// Threads for data.
    pub(crate) concurrency: usize,
    pub(crate) started: Started,
}

/// What stands between scope and name.
#[derive(Clone, Debug, PartialEq)]
struct Label {
    name: &'static str,
    value: Arc<str>,
    /// What Envoy's own name has for the value: of clusters `alt_stat_name`, which istiod ends with a `;` for its tags' sake.
    dotted: Option<Arc<str>>,
}

/// One of them: `cluster.NAME.upstream_cx_active`, or `envoy_cluster_upstream_cx_active{cluster_name="NAME"}`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Number {
    scope: &'static str,
    label: Option<Label>,
    name: Cow<'static, str>,
    pub(super) kind: Kind,
    pub(super) value: u64,
}

impl Number {
    /// As Envoy names it by itself.
    pub(super) fn dotted(&self) -> String {
        match &self.label {
            Some(Label { value, dotted, .. }) => {
                let value = dotted.as_ref().unwrap_or(value);
                format!("{}.{value}.{}", self.scope, self.name)
            }
            None => format!("{}.{}", self.scope, self.name),
        }
    }

    /// As Envoy names it for Prometheus.
    fn family(&self) -> String {
        format!("envoy_{}_{}", self.scope, self.name.replace('.', "_"))
    }
}

/// A list of numbers that grows.
struct Numbers {
    all: Vec<Number>,
    scope: &'static str,
    label: Option<Label>,
}

impl Numbers {
    fn of(&mut self, scope: &'static str) -> &mut Numbers {
        (self.scope, self.label) = (scope, None);
        self
    }

    fn labelled(&mut self, scope: &'static str, name: &'static str, value: Arc<str>) {
        let dotted = None;
        self.scope = scope;
        self.label = Some(Label {
            name,
            value,
            dotted,
        });
    }

    fn cluster(&mut self, name: Arc<str>, dotted: Option<Arc<str>>) {
        self.scope = "cluster";
        self.label = Some(Label {
            name: "cluster_name",
            value: name,
            dotted,
        });
    }

    fn add(&mut self, kind: Kind, name: impl Into<Cow<'static, str>>, value: u64) -> &mut Numbers {
        self.all.push(Number {
            scope: self.scope,
            label: self.label.clone(),
            name: name.into(),
            kind,
            value,
        });
        self
    }

    fn gauge(&mut self, name: impl Into<Cow<'static, str>>, value: u64) -> &mut Numbers {
        self.add(Kind::Gauge, name, value)
    }

    fn counter(&mut self, name: impl Into<Cow<'static, str>>, value: u64) -> &mut Numbers {
        self.add(Kind::Counter, name, value)
    }
}

impl EnvoyNames {
    /// Envoy's name and number of the state that the process is in.
    pub(super) fn state(&self) -> (&'static str, u64) {
        match self.readiness.check() {
            Ok(()) => ("LIVE", 0),
            // Envoy's word for unhealthy at wish as well.
            Err(_) if self.readiness.is_draining() || self.readiness.is_failed() => ("DRAINING", 1),
            Err(_) => ("INITIALIZING", 3),
        }
    }

    /// All of them. `every_cluster`: also those that were never used.
    pub(super) fn numbers(&self, every_cluster: bool) -> Vec<Number> {
        let mut numbers = Numbers {
            all: Vec::new(),
            scope: "",
            label: None,
        };
        self.process(&mut numbers);
        self.configuration(&mut numbers);
        self.downstream(&mut numbers);
        let used = self.open.by_cluster();
        for slot in self.received.clusters() {
            let used = used.get(&slot.name).copied();
            if used.is_some() || every_cluster {
                of_cluster(&slot, used.unwrap_or_default(), &mut numbers);
            }
        }
        numbers.all
    }

    fn process(&self, numbers: &mut Numbers) {
        let state = self.state().1;
        let resident = Resident::now();
        numbers
            .of("server")
            .gauge("state", state)
            .gauge("live", u64::from(state == 0))
            .gauge("uptime", self.started.instant.elapsed().as_secs())
            .gauge("concurrency", self.concurrency as u64)
            .gauge("hot_restart_epoch", 0)
            .gauge("memory_heap_size", resident.anonymous)
            .gauge("memory_physical_size", resident.all);
        if let Some(certificate) = self.tls.certificate() {
            let left = certificate.not_after().duration_since(SystemTime::now());
            let days = left.map_or(0, |left| left.as_secs() / DAY);
            numbers.gauge("days_until_first_cert_expiring", days);
        }
    }

    fn configuration(&self, numbers: &mut Numbers) {
        let listeners = self.received.entries(ResourceType::Listener);
        let active = listeners.iter().filter(|(_, l)| l.in_force.is_some());
        let clusters = self.received.clusters().len() as u64;
        let Updates { accepted, refused } = self.received.updates(ResourceType::Listener);
        numbers
            .of("listener_manager")
            // Those for traffic run from the start.
            .gauge("workers_started", 1)
            .gauge("total_listeners_active", active.count() as u64)
            .counter("lds.update_success", accepted)
            .counter("lds.update_rejected", refused);
        let Updates { accepted, refused } = self.received.updates(ResourceType::Cluster);
        numbers
            .of("cluster_manager")
            .gauge("active_clusters", clusters)
            .gauge("warming_clusters", 0)
            .counter("cds.update_success", accepted)
            .counter("cds.update_rejected", refused);
        if let Some(link) = &self.link {
            let link = link.numbers();
            let up = u64::from(link.is_up);
            numbers.of("control_plane").gauge("connected_state", up);
            numbers.cluster(ISTIOD.into(), None);
            numbers
                .gauge("upstream_cx_active", up)
                .counter("upstream_cx_total", link.opened + link.failed)
                .counter("upstream_cx_connect_fail", link.failed)
                .gauge("upstream_rq_active", up)
                .counter("upstream_rq_total", link.opened);
        }
    }

    fn downstream(&self, numbers: &mut Numbers) {
        let now = self.overload.in_flight();
        numbers
            .of("server")
            .gauge("total_connections", now.connections);
        let address = self.hbone_addr.to_string().replace(':', "_");
        numbers.labelled("listener", "listener_address", address.into());
        numbers.gauge("downstream_cx_active", now.connections);
        let terminates = "connect_terminate".into();
        numbers.labelled("http", "http_conn_manager_prefix", terminates);
        numbers
            .gauge("downstream_cx_active", now.connections)
            .gauge("downstream_rq_active", now.tunnels);
    }
}

fn of_cluster(slot: &ClusterSlot, used: OfCluster, numbers: &mut Numbers) {
    let endpoints = slot.endpoints();
    let healthy = endpoints.iter().filter(|e| e.is_healthy()).count() as u64;
    let active = endpoints
        .iter()
        .map(|e| e.state.active.load(Ordering::Relaxed) as usize);
    let chosen: usize = active.sum();
    let cluster = slot.cluster();
    let stat_name = cluster.as_deref().and_then(|c| c.stat_name.clone());
    numbers.cluster(slot.name.clone(), stat_name);
    numbers
        .gauge("membership_total", endpoints.iter().count() as u64)
        .gauge("membership_healthy", healthy)
        .gauge("upstream_cx_active", used.open as u64)
        .counter("upstream_cx_total", used.made)
        // Who waits has chosen an endpoint already.
        .gauge(
            "upstream_rq_active",
            chosen.saturating_sub(used.waiting) as u64,
        )
        .gauge("upstream_rq_pending_active", used.waiting as u64);
    if let Some(thresholds) = cluster.as_ref().and_then(|cluster| cluster.thresholds) {
        of_limits(slot, &thresholds, numbers);
    }
    let Some(cluster) = cluster else { return };
    if cluster.outlier_detection.is_some() {
        of_outliers(slot, numbers);
    }
    if cluster.health_check.is_some() {
        of_checks(slot, numbers);
    }
}

/// Whether there is room for one more: 0, or 1 where there isn't.
fn of_limits(slot: &ClusterSlot, thresholds: &Thresholds, numbers: &mut Numbers) {
    for (name, resource) in [
        ("circuit_breakers.default.cx_open", Resource::Connections),
        (
            "circuit_breakers.default.rq_pending_open",
            Resource::PendingRequests,
        ),
        ("circuit_breakers.default.rq_open", Resource::Requests),
        ("circuit_breakers.default.rq_retry_open", Resource::Retries),
    ] {
        let full =
            slot.in_use.count(resource) >= thresholds.max(resource, &slot.in_use, Instant::now);
        numbers.gauge(name, u64::from(full));
    }
}

fn of_outliers(slot: &ClusterSlot, numbers: &mut Numbers) {
    let name = |of: &str| format!("outlier_detection.ejections_{of}");
    let outliers = &slot.outliers;
    let mut total = 0;
    for sign in Sign::ALL {
        let (detected, enforced) = outliers.of(sign);
        total += enforced;
        let of = sign.name();
        numbers.counter(name(&format!("detected_{of}")), detected);
        numbers.counter(name(&format!("enforced_{of}")), enforced);
    }
    numbers
        .counter(name("enforced_total"), total)
        .counter(name("overflow"), outliers.overflow())
        .gauge(name("active"), outliers.active().into());
}

fn of_checks(slot: &ClusterSlot, numbers: &mut Numbers) {
    let endpoints = slot.endpoints();
    let passing = endpoints.iter().filter(|e| e.state.health.is_passing());
    let passing = passing.count() as u64;
    for (name, count) in slot.checks.all() {
        numbers.counter(format!("health_check.{name}"), count);
    }
    numbers.gauge("health_check.healthy", passing);
}

impl Collector for EnvoyNames {
    fn collect(&self, out: &mut dyn Exposition) -> io::Result<()> {
        tell(&self.numbers(false), out)?;
        let now = self.overload.in_flight();
        for (name, help, value) in [
            (
                "waypoint_tunnels_active",
                "Tunnels that are open.",
                now.tunnels,
            ),
            (
                "waypoint_requests_active",
                "HTTP requests that aren't answered whole.",
                now.requests,
            ),
        ] {
            out.family(name, help, Kind::Gauge)?;
            out.series(&[], &Sample::Whole(value))?;
        }
        out.family(
            "waypoint_xds_updates_total",
            "Responses of the control plane, by what they hold, and whether all of it was accepted.",
            Kind::Counter,
        )?;
        for kind in ResourceType::ALL {
            let Updates { accepted, refused } = self.received.updates(kind);
            let message = kind.type_url().rsplit('.').next().unwrap_or_default();
            for (result, count) in [("accepted", accepted), ("refused", refused)] {
                let labels = [("type", message), ("result", result)];
                out.series(&labels, &Sample::Whole(count))?;
            }
        }
        let Some(link) = &self.link else {
            return Ok(());
        };
        let link = link.numbers();
        for (name, help, kind, value) in [
            (
                "waypoint_xds_connected",
                "Whether there is a stream to istiod.",
                Kind::Gauge,
                u64::from(link.is_up),
            ),
            (
                "istio_agent_istiod_connection_failures",
                "The total number of connection failures to Istiod",
                Kind::Counter,
                link.failed,
            ),
            (
                "istio_agent_istiod_connection_terminations",
                "The total number of connection errors to Istiod",
                Kind::Counter,
                link.ended,
            ),
        ] {
            out.family(name, help, kind)?;
            out.series(&[], &Sample::Whole(value))?;
        }
        Ok(())
    }
}

/// Numbers of one name stand together.
fn tell(numbers: &[Number], out: &mut dyn Exposition) -> io::Result<()> {
    let mut families: HashMap<String, usize> = HashMap::new();
    let mut grouped: Vec<(String, Vec<&Number>)> = Vec::new();
    for number in numbers {
        let family = number.family();
        let next = grouped.len();
        let at = *families.entry(family.clone()).or_insert(next);
        if at == next {
            grouped.push((family, Vec::new()));
        }
        if let Some((_, members)) = grouped.get_mut(at) {
            members.push(number);
        }
    }
    for (family, members) in grouped {
        let Some(first) = members.first() else {
            continue;
        };
        let help = format!("Envoy's {}.{}", first.scope, first.name);
        out.family(&family, &help, first.kind)?;
        for number in members {
            let label = number.label.as_ref().map(|l| (l.name, &*l.value));
            out.series(label.as_slice(), &Sample::Whole(number.value))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use waypoint_filters::metrics::{Format, TextWriter};

    use super::*;

    #[test]
    fn a_number_has_envoys_two_names() {
        let mut numbers = Numbers {
            all: Vec::new(),
            scope: "",
            label: None,
        };
        for name in ["inbound-vip|80|http|a.test", "b"] {
            numbers.cluster(name.into(), None);
            numbers
                .gauge("upstream_cx_active", 3)
                .counter("outlier_detection.ejections_total", 1);
        }
        numbers.cluster("c".into(), Some("c;".into()));
        let named = numbers.gauge("membership_total", 1).all.pop();
        assert_eq!(named.unwrap().dotted(), "cluster.c;.membership_total");
        numbers.of("server").gauge("live", 1);
        let dotted: Vec<String> = numbers.all.iter().map(Number::dotted).collect();
        assert_eq!(
            dotted[0],
            "cluster.inbound-vip|80|http|a.test.upstream_cx_active"
        );
        assert_eq!(dotted[4], "server.live");
        let mut writer = TextWriter::new(Vec::new(), Format::Prometheus);
        tell(&numbers.all, &mut writer).unwrap();
        let text = String::from_utf8(writer.finish().unwrap()).unwrap();
        let told = "# TYPE envoy_cluster_upstream_cx_active gauge\n\
             envoy_cluster_upstream_cx_active{cluster_name=\"inbound-vip|80|http|a.test\"} 3\n\
             envoy_cluster_upstream_cx_active{cluster_name=\"b\"} 3\n";
        assert!(text.contains(told), "{text}");
        let told = "# TYPE envoy_cluster_outlier_detection_ejections_total counter\n";
        assert!(text.contains(told), "{text}");
        assert!(text.ends_with("# TYPE envoy_server_live gauge\nenvoy_server_live 1\n"));
    }
}
