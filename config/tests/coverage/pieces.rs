//! What a real istiod sent, in the pieces that are compiled one by one: resources, and the chains of listeners.

use std::path::Path;

use envoy_types::pb::envoy::config::listener::v3::Listener;
use prost::Message as _;
use waypoint_config::model::balance::endpoint_set;
use waypoint_config::model::cluster;
use waypoint_config::model::discovered;
use waypoint_config::model::listener;
use waypoint_config::model::listener::originate;
use waypoint_config::resource::{Resource, ResourceType, Update};
use waypoint_config::sources::recorded;
use waypoint_config::store::Store;
use waypoint_filters::xds::coverage::Table;

use crate::{process, wire};

/// The recordings, and what of Istio's configuration each is about.
pub(crate) const RECORDINGS: [(&str, &str); 14] = [
    ("walkthrough", "the Bookinfo walk-through"),
    ("waypoint-for-all", "traffic for services and pods"),
    ("authorization", "AuthorizationPolicy"),
    ("jwt", "RequestAuthentication"),
    ("guards", "extension providers, and keys of services"),
    ("httproute", "HTTPRoute"),
    ("ports", "GRPCRoute, TCPRoute, TLSRoute, protocols of ports"),
    ("traffic-policy", "VirtualService and DestinationRule"),
    (
        "virtual-service",
        "VirtualServices beside each other and beside HTTPRoutes",
    ),
    ("telemetry", "Telemetry"),
    ("egress", "ServiceEntry"),
    ("extensions", "WasmPlugin, TrafficExtension, EnvoyFilter"),
    ("mesh-defaults", "MeshConfig"),
    ("dual-stack", "dual stack and headless services"),
];

/// The field of `Listener` that holds its chains.
/// The field of a cluster that says where its endpoints come from; 1 and 2 are the types with DNS.
const TYPE: u32 = 2;
const FILTER_CHAINS: u32 = 3;

/// A piece, and how a configuration is made of it.
pub(crate) struct Piece {
    pub(crate) recording: &'static str,
    pub(crate) table: &'static Table,
    pub(crate) bytes: Vec<u8>,
    resource: String,
    place: Place,
}

enum Place {
    Whole(ResourceType),
    /// A listener without its chains, which are these.
    Listener {
        chains: Vec<u8>,
    },
    /// A chain of a listener that is otherwise this.
    Chain {
        rest: Vec<u8>,
    },
}

pub(crate) fn resources(recording: &str) -> Vec<Resource> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let bytes = std::fs::read(folder.join(recording).with_extension("pb")).unwrap();
    recorded::read(&bytes).unwrap()
}

/// All pieces of all recordings. Workloads are telemetry's names for peers and have no table.
pub(crate) fn pieces() -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (recording, _) in RECORDINGS {
        for resource in resources(recording) {
            let table = match resource.kind {
                ResourceType::Cluster => &cluster::CLUSTER,
                ResourceType::Endpoints => &endpoint_set::CLUSTER_LOAD_ASSIGNMENT,
                ResourceType::Extension => &discovered::EXTENSION,
                ResourceType::Listener => {
                    split(recording, &resource, &mut pieces);
                    continue;
                }
                ResourceType::Workload => continue,
                other => panic!("{other:?} in {recording}"),
            };
            pieces.push(Piece {
                recording,
                table,
                bytes: resource.body.to_vec(),
                resource: resource.name,
                place: Place::Whole(resource.kind),
            });
        }
    }
    pieces
}

fn split(recording: &'static str, resource: &Resource, pieces: &mut Vec<Piece>) {
    let rest = wire::without(&resource.body, &[FILTER_CHAINS]);
    let all = wire::fields(&resource.body);
    let chains = all.iter().filter(|field| field.number == FILTER_CHAINS);
    let bodies: Vec<&[u8]> = chains.map(|field| field.content.unwrap()).collect();
    let is_main = resource.name == "main_internal";
    let names = bodies.iter().map(|body| name_of(body));
    pieces.push(Piece {
        recording,
        table: &listener::LISTENER,
        bytes: rest.clone(),
        resource: resource.name.clone(),
        place: Place::Listener {
            chains: if is_main {
                names.flat_map(|name| stub(&name)).collect()
            } else {
                let all = bodies.iter();
                all.flat_map(|body| wire::with_length(FILTER_CHAINS, body))
                    .collect()
            },
        },
    });
    for body in bodies {
        let is_originate = resource.name.ends_with("connect_originate");
        pieces.push(Piece {
            recording,
            table: if is_originate {
                &originate::ORIGINATE_CHAIN
            } else {
                &listener::FILTER_CHAIN
            },
            bytes: body.to_vec(),
            resource: resource.name.clone(),
            place: Place::Chain {
                rest: if is_main {
                    leading_to(&name_of(body))
                } else {
                    rest.clone()
                },
            },
        });
    }
}

fn name_of(chain: &[u8]) -> String {
    let fields = wire::fields(chain);
    let name = fields.iter().find(|field| field.number == 7);
    let name = name.and_then(|field| field.content).unwrap_or_default();
    String::from_utf8(name.to_vec()).unwrap()
}

/// A chain with this name that does next to nothing, as a field of its listener.
fn stub(name: &str) -> Vec<u8> {
    chain_to(name, "nowhere")
}

/// A TCP chain to `cluster`, as a field of its listener.
fn chain_to(name: &str, cluster: &str) -> Vec<u8> {
    use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, filter::ConfigType};
    use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
        TcpProxy, tcp_proxy::ClusterSpecifier,
    };
    use envoy_types::pb::google::protobuf::Any;
    let proxy = TcpProxy {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    let any = Any {
        type_url: "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
            .to_owned(),
        value: proxy.encode_to_vec(),
    };
    let chain = FilterChain {
        name: name.to_owned(),
        filters: vec![Filter {
            name: "tcp".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any)),
        }],
        ..FilterChain::default()
    };
    wire::with_length(FILTER_CHAINS, &chain.encode_to_vec())
}

/// `main_internal` without chains, whose port 80 leads to the chain `name`.
fn leading_to(name: &str) -> Vec<u8> {
    use envoy_types::pb::google::protobuf::Any;
    use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
    use envoy_types::pb::xds::r#type::matcher::v3::{Matcher, matcher};
    let extension = |type_name: &str, value: Vec<u8>| TypedExtensionConfig {
        name: "x".to_owned(),
        typed_config: Some(Any {
            type_url: format!("type.googleapis.com/{type_name}"),
            value,
        }),
    };
    let action = extension(
        "google.protobuf.StringValue",
        name.to_owned().encode_to_vec(),
    );
    let on_match = matcher::OnMatch {
        on_match: Some(matcher::on_match::OnMatch::Action(action)),
        ..matcher::OnMatch::default()
    };
    let port = "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput";
    let tree = matcher::MatcherTree {
        input: Some(extension(port, Vec::new())),
        tree_type: Some(matcher::matcher_tree::TreeType::ExactMatchMap(
            matcher::matcher_tree::MatchMap {
                map: [("80".to_owned(), on_match)].into(),
            },
        )),
    };
    Listener {
        name: "main_internal".to_owned(),
        filter_chain_matcher: Some(Matcher {
            matcher_type: Some(matcher::MatcherType::MatcherTree(tree)),
            ..Matcher::default()
        }),
        ..Listener::default()
    }
    .encode_to_vec()
}

impl Piece {
    fn resource(&self, bytes: &[u8]) -> Resource {
        let (kind, body) = match &self.place {
            Place::Whole(kind) => (*kind, bytes.to_vec()),
            Place::Listener { chains } => (ResourceType::Listener, [bytes, chains].concat()),
            Place::Chain { rest } => {
                let chain = wire::with_length(FILTER_CHAINS, bytes);
                (ResourceType::Listener, [rest.as_slice(), &chain].concat())
            }
        };
        Resource {
            kind,
            name: self.resource.clone(),
            body: body.into(),
        }
    }

    /// What of the configuration it is: what is compiled differs with it.
    pub(crate) fn role(&self) -> &str {
        let is_named = |raw: &wire::RawField<'_>| raw.number == TYPE && matches!(raw.varint, 1 | 2);
        match self.place {
            Place::Whole(ResourceType::Cluster)
                if wire::fields(&self.bytes).iter().any(is_named) =>
            {
                "service by DNS"
            }
            Place::Whole(_) if self.resource.contains('|') => "service",
            _ => &self.resource,
        }
    }

    /// Applies a version of the piece by itself to a new store.
    pub(crate) fn apply(&self, bytes: &[u8]) -> Applied {
        let mut store = process::store();
        let outcome = store.apply(Update {
            added: vec![self.resource(bytes)],
            ..Update::default()
        });
        let rejected = outcome.rejected.iter().map(ToString::to_string).collect();
        Applied { store, rejected }
    }
}

/// A store after a piece was applied.
pub(crate) struct Applied {
    pub(crate) store: Store,
    pub(crate) rejected: Vec<String>,
}

impl Applied {
    /// Adds what a snapshot needs, and prints what the data path reads, line by line and sorted: maps
    /// have no order.
    pub(crate) fn model(mut self, piece: &Piece) -> Vec<String> {
        let mut added = Vec::new();
        if piece.resource != "main_internal" {
            let chain = chain_to("c", &piece.resource);
            added.push(Resource {
                kind: ResourceType::Listener,
                name: "main_internal".to_owned(),
                body: [leading_to("c"), chain].concat().into(),
            });
        }
        if piece.resource != "connect_terminate" {
            let all = resources(RECORDINGS[0].0).into_iter();
            added.extend(all.filter(|resource| resource.name == "connect_terminate"));
        }
        self.store.apply(Update {
            added,
            ..Update::default()
        });
        let Some(snapshot) = self.store.handle().load() else {
            return Vec::new();
        };
        let mut text = format!("{snapshot:#?}\n");
        for slot in snapshot.main.chains.values() {
            let chain = slot.load();
            text += &format!("{chain:#?}\n");
            if let waypoint_config::model::listener::chain::FilterChain::Tcp(chain) = &*chain {
                for slot in chain.proxy.clusters.iter() {
                    text += &format!("{:#?}\n", slot.cluster());
                    text += &format!("{:#?}\n", slot.endpoints());
                }
            }
        }
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}
