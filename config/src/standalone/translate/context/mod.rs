//! What all parts of a translation need, in one `Mesh`; and what they report to it.
//!
//! It uses none of them: whoever translates something uses the context.

pub(super) mod access_log;
mod effects;
pub(super) mod settings;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use crate::standalone::input::manifest::Object;
use crate::standalone::input::problem::Problem;
use crate::standalone::kinds::core::config_map::MeshConfig;
use crate::standalone::kinds::core::proxy_config::{self, ProxyConfig};
use crate::standalone::kinds::gateway_api::gateway::Gateway;
use crate::standalone::state::cluster_state::{Closure, ClusterState};
use crate::standalone::state::destination_rules::DestinationRules;
use crate::standalone::state::issuers::Issuers;
use crate::standalone::state::ownership::Waypoint;
use crate::standalone::state::peer_policies::PeerPolicies;
use crate::standalone::state::place::Place;
use crate::standalone::state::telemetries::Telemetries;
use crate::standalone::state::virtual_services::{self, Merged};
use crate::standalone::translate::context::access_log::AccessLog;
use crate::standalone::translate::context::effects::Effects;

/// Address families of the waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpFamilies {
    pub v4: bool,
    pub v6: bool,
}

impl IpFamilies {
    pub const V4: IpFamilies = IpFamilies {
        v4: true,
        v6: false,
    };
    pub const BOTH: IpFamilies = IpFamilies { v4: true, v6: true };

    /// Those of the addresses in these manifests; IPv4 where there are none.
    fn of(state: &ClusterState) -> IpFamilies {
        let services = state
            .services
            .values()
            .flat_map(|service| &service.spec.addresses);
        let pods = state.pods.values().flat_map(|pod| &pod.spec.addresses);
        let addresses: Vec<&IpAddr> = services.chain(pods).collect();
        let v6 = addresses.iter().any(|address| address.is_ipv6());
        let v4 = addresses.iter().any(|address| address.is_ipv4());
        IpFamilies { v4: v4 || !v6, v6 }
    }
}

/// Problems as they are found, each once.
#[derive(Default)]
struct Found {
    in_order: Vec<Problem>,
    known: HashSet<Problem>,
}

/// What all parts of a translation need.
pub(crate) struct Mesh<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) config: MeshConfig,
    pub(super) trust_domains: Vec<String>,
    pub(super) waypoint: Waypoint<'a>,
    pub(super) families: IpFamilies,
    /// Where the waypoint runs.
    pub(super) place: Place,
    pub(super) rules: DestinationRules<'a>,
    pub(super) peers: PeerPolicies<'a>,
    pub(super) access_log: AccessLog,
    pub(super) telemetries: Telemetries<'a>,
    /// Several chains may find the same one.
    problems: RefCell<Found>,
    pub(super) effects: Effects,
    /// Names of secrets that clusters ask for.
    pub(super) credentials: RefCell<BTreeSet<String>>,
    /// Those that count in the waypoint's namespace, in the order in which they are tried.
    pub(super) virtual_services: Vec<Merged<'a>>,
    /// What closes chains: those of the manifests, and what turns out to be no use when all is known.
    pub(super) closures: Vec<Closure>,
    /// What issuers say of their keys.
    pub(super) issuers: Issuers,
}

impl<'a> Mesh<'a> {
    /// The context of this Gateway. An error is a setting that can't be used at all.
    pub(super) fn of(
        state: &'a ClusterState,
        gateway: &'a Object<Gateway>,
        families: Option<IpFamilies>,
    ) -> Result<Mesh<'a>, String> {
        let mut config = state.mesh();
        if let Some(Ok(own)) = annotated(gateway) {
            config.default_config = config.default_config.under(own);
        }
        Ok(Mesh {
            state,
            trust_domains: config.trust_domains(),
            waypoint: Waypoint::resolve(state, gateway).map_err(|value| {
                format!(
                    "Gateway {}: istio.io/waypoint-for: unknown value {value:?}",
                    gateway.name()
                )
            })?,
            families: families.unwrap_or_else(|| IpFamilies::of(state)),
            access_log: AccessLog::new(&config).map_err(|reason| {
                format!("ConfigMap istio-system/istio: data.mesh.accessLogFormat: {reason}")
            })?,
            telemetries: Telemetries::of(state),
            place: Place::of(state, gateway),
            rules: DestinationRules::of(
                state,
                &gateway.meta.namespace,
                &config.root_namespace,
                config.keeps_rules_private(),
            ),
            peers: PeerPolicies::of(state, &config.root_namespace),
            problems: RefCell::default(),
            effects: Effects::default(),
            credentials: RefCell::default(),
            virtual_services: virtual_services::visible(
                state,
                &gateway.meta.namespace,
                config.default_virtual_service_export_to.as_deref(),
            ),
            closures: state.closures.clone(),
            issuers: Issuers::default(),
            config,
        })
    }

    pub(super) fn report(&self, problem: Problem) {
        let mut found = self.problems.borrow_mut();
        if found.known.insert(problem.clone()) {
            found.in_order.push(problem);
        }
    }

    /// What was reported until now, in order.
    pub(super) fn take_problems(&self) -> Vec<Problem> {
        self.problems.take().in_order
    }
}

/// What the annotation of the Gateway's pods says, where it has one. An error is the field and the reason.
pub(super) fn annotated(
    gateway: &Object<Gateway>,
) -> Option<Result<ProxyConfig, (String, String)>> {
    let text = gateway.pod_annotation(proxy_config::ANNOTATION)?;
    Some(ProxyConfig::of_annotation(text))
}
