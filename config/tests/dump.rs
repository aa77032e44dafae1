//! What the admin port shows of the configuration: the bytes in force, and what was refused.
#![allow(clippy::unwrap_used)]

mod process;

use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{DataSource, Node, data_source::Specifier};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    Secret, TlsCertificate, secret,
};
use process::store;
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use waypoint_config::dump::descriptors;
use waypoint_config::dump::field_mask::Mask;
use waypoint_config::dump::{Dump, DumpError, HeldSecret, NamePattern, Process, Query};
use waypoint_config::resource::{Resource, ResourceType, Update};
use waypoint_config::sources::recorded;
use waypoint_config::store::Store;

const CHAIN: &str = "inbound-vip|9080|http|details.default.svc.cluster.local";

fn walkthrough() -> Vec<Resource> {
    let path = format!(
        "{}/tests/fixtures/walkthrough.pb",
        env!("CARGO_MANIFEST_DIR")
    );
    recorded::read(&std::fs::read(path).unwrap()).unwrap()
}

fn apply(store: &mut Store, added: Vec<Resource>, version: &str) -> usize {
    let update = Update {
        added,
        version: version.into(),
        ..Update::default()
    };
    store.apply(update).rejected.len()
}

fn resource(kind: ResourceType, name: &str) -> Resource {
    let is_it = |resource: &Resource| resource.kind == kind && resource.name == name;
    walkthrough().into_iter().find(is_it).unwrap()
}

/// `main_internal` with another first filter in one chain.
fn main_internal(change: impl Fn(&mut Vec<u8>, &mut String)) -> Resource {
    let mut main = resource(ResourceType::Listener, "main_internal");
    let mut listener = Listener::decode(main.body.clone()).unwrap();
    let mut chains = listener.filter_chains.iter_mut();
    let chain = chains.find(|chain| chain.name == CHAIN).unwrap();
    let Some(filter::ConfigType::TypedConfig(any)) = &mut chain.filters[0].config_type else {
        panic!("typed");
    };
    change(&mut any.value, &mut any.type_url);
    main.body = listener.encode_to_vec().into();
    main
}

fn process() -> Process {
    let source = |text: &str| DataSource {
        specifier: Some(Specifier::InlineBytes(text.into())),
        ..DataSource::default()
    };
    let certificate = TlsCertificate {
        certificate_chain: Some(source("chain")),
        private_key: Some(source("key")),
        ..TlsCertificate::default()
    };
    let held = |name: &str, version: Option<&str>, kind| HeldSecret {
        secret: Secret {
            name: name.into(),
            r#type: kind,
        },
        version: version.map(str::to_owned),
        updated: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
    };
    let tls = secret::Type::TlsCertificate(certificate);
    Process {
        bootstrap: Bootstrap {
            node: Some(Node {
                id: "waypoint~10.0.0.1~w.default~default.svc.cluster.local".into(),
                ..Node::default()
            }),
            ..Bootstrap::default()
        },
        started: SystemTime::UNIX_EPOCH,
        secrets: vec![
            held("default", Some("12"), Some(tls)),
            held("ROOTCA", None, None),
        ],
    }
}

fn query(mask: &str) -> Query {
    Query {
        mask: Mask::parse(mask),
        ..Query::default()
    }
}

fn dump(store: &Store, query: Query) -> Value {
    let mut text = Vec::new();
    let dump = Dump::new(&store.received(), &process(), query).unwrap();
    dump.write(&mut text).unwrap();
    let json: Value = serde_json::from_slice(&text).unwrap();
    // Whoever reads protobuf's JSON reads it.
    let descriptor = descriptors::pool()
        .unwrap()
        .get_message_by_name("envoy.admin.v3.ConfigDump")
        .unwrap();
    DynamicMessage::deserialize(descriptor, &json).unwrap();
    json["configs"].clone()
}

/// The section with this type.
fn section<'a>(configs: &'a Value, name: &str) -> &'a Value {
    let is_it =
        |section: &&Value| section["@type"] == format!("type.googleapis.com/envoy.admin.v3.{name}");
    configs.as_array().unwrap().iter().find(is_it).unwrap()
}

fn by_name<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut elements = list.as_array().unwrap().iter();
    elements.find(|element| element["name"] == name).unwrap()
}

#[test]
fn everything_in_force_is_in_it() {
    let mut store = store();
    assert_eq!(apply(&mut store, walkthrough(), "2026-01-01/7"), 0);
    let configs = dump(&store, Query::default());
    let names: Vec<&str> = configs
        .as_array()
        .unwrap()
        .iter()
        .map(|section| {
            section["@type"]
                .as_str()
                .unwrap()
                .rsplit('.')
                .next()
                .unwrap()
        })
        .collect();
    assert_eq!(
        names,
        [
            "BootstrapConfigDump",
            "ClustersConfigDump",
            "RoutesConfigDump",
            "ListenersConfigDump",
            "SecretsConfigDump",
            "EcdsConfigDump"
        ]
    );
    let text = configs.to_string();
    // Istio's test framework takes the mere words for something that still warms.
    assert!(!text.contains("dynamic_warming_clusters") && !text.contains("warming_state"));

    let bootstrap = section(&configs, "BootstrapConfigDump");
    assert_eq!(
        bootstrap["bootstrap"]["node"]["id"],
        "waypoint~10.0.0.1~w.default~default.svc.cluster.local"
    );
    let clusters = &section(&configs, "ClustersConfigDump")["dynamic_active_clusters"];
    let sent = walkthrough()
        .into_iter()
        .filter(|r| r.kind == ResourceType::Cluster);
    let mut sent: Vec<String> = sent.map(|r| r.name).collect();
    sent.sort();
    let shown: Vec<&str> = clusters
        .as_array()
        .unwrap()
        .iter()
        .map(|cluster| cluster["cluster"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(shown, sent);
    assert_eq!(clusters[0]["version_info"], "2026-01-01/7");
    assert!(clusters[0]["last_updated"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        clusters[0]["cluster"]["@type"],
        "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    );

    let listeners = &section(&configs, "ListenersConfigDump")["dynamic_listeners"];
    let main = by_name(listeners, "main_internal");
    assert_eq!(main["active_state"]["version_info"], "2026-01-01/7");
    assert!(main.get("error_state").is_none());
    let chains = &main["active_state"]["listener"]["filter_chains"];
    let chain = by_name(chains, CHAIN);
    let manager = &chain["filters"][0]["typed_config"];
    assert_eq!(manager["route_config"]["name"], CHAIN);
    let routes = &section(&configs, "RoutesConfigDump")["static_route_configs"];
    let names = routes
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["route_config"]["name"]);
    assert!(names.clone().any(|name| name == CHAIN), "{routes}");
    // That of connect_terminate as well.
    assert!(names.clone().any(|name| name == "default"), "{routes}");
}

#[test]
fn endpoints_come_when_they_are_asked_for() {
    let mut store = store();
    apply(&mut store, walkthrough(), "7");
    let query = Query {
        endpoints: true,
        ..query("dynamic_endpoint_configs")
    };
    let configs = dump(&store, query);
    assert_eq!(configs.as_array().unwrap().len(), 1);
    let endpoints = &section(&configs, "EndpointsConfigDump")["dynamic_endpoint_configs"];
    let one = &endpoints[0]["endpoint_config"];
    assert!(
        one["cluster_name"].as_str().unwrap().contains("|9080|"),
        "{one}"
    );
    assert!(one["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"].is_object());
}

#[test]
fn secrets_are_shown_without_keys() {
    let store = store();
    let mask = "dynamic_active_secrets,dynamic_warming_secrets";
    let configs = dump(&store, query(mask));
    assert_eq!(
        configs,
        json!([{
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": [{
                "name": "default",
                "version_info": "12",
                "last_updated": "1970-01-01T00:00:07Z",
                "secret": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                    "name": "default",
                    "tls_certificate": {
                        "certificate_chain": {"inline_bytes": "Y2hhaW4="},
                        "private_key": {"inline_bytes": "W3JlZGFjdGVkXQ=="},
                    },
                },
            }],
            "dynamic_warming_secrets": [{
                "name": "ROOTCA",
                "version_info": "uninitialized",
                "last_updated": "1970-01-01T00:00:07Z",
                "secret": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                    "name": "ROOTCA",
                },
            }],
        }])
    );
}

/// The masks that `istioctl` sends: each gives one section, whether it has anything or not.
#[test]
fn masks_choose_sections() {
    let store = store();
    for (mask, name) in [
        ("bootstrap", "BootstrapConfigDump"),
        (
            "dynamic_active_clusters,dynamic_warming_clusters,static_clusters",
            "ClustersConfigDump",
        ),
        ("dynamic_listeners,static_listeners", "ListenersConfigDump"),
        (
            "dynamic_route_configs,static_route_configs",
            "RoutesConfigDump",
        ),
        (
            "dynamic_active_secrets,dynamic_warming_secrets",
            "SecretsConfigDump",
        ),
    ] {
        let configs = dump(&store, query(mask));
        assert_eq!(configs.as_array().unwrap().len(), 1, "{mask}");
        section(&configs, name);
    }
    let configs = dump(&store, query("bootstrap"));
    assert!(configs[0].get("last_updated").is_none(), "{configs}");
}

#[test]
fn one_resource_by_its_name() {
    let mut store = store();
    apply(&mut store, walkthrough(), "7");
    let query = |resource: &str, names: &str| Query {
        resource: Some(resource.into()),
        names: Some(NamePattern::new(names).unwrap()),
        ..query("cluster.name,version_info")
    };
    let configs = dump(
        &store,
        query(
            "dynamic_active_clusters",
            r".*\|x|inbound-vip\|9080.*\|reviews\..*",
        ),
    );
    assert_eq!(
        configs,
        json!([{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster",
            "version_info": "7",
            "cluster": {
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": "inbound-vip|9080|http|reviews.default.svc.cluster.local",
            },
        }])
    );
    // The whole name has to match.
    assert_eq!(
        dump(&store, query("dynamic_active_clusters", "reviews")),
        json!([])
    );
    assert!(NamePattern::new("a)|(b").is_err());
    let received = store.received();
    let unknown = Dump::new(&received, &process(), query("dynamic_active_cluster", ".*"));
    assert!(matches!(unknown, Err(DumpError::NoSuchResource(_))));
}

#[test]
fn a_refused_cluster_shows_its_last_good_version_and_why() {
    let mut store = store();
    apply(&mut store, walkthrough(), "1");
    let name = "inbound-vip|9080|http|details.default.svc.cluster.local";
    let mut bad = resource(ResourceType::Cluster, name);
    let mut proto = Cluster::decode(bad.body.clone()).unwrap();
    proto.lb_policy = 99;
    bad.body = proto.encode_to_vec().into();
    let mut never = bad.clone();
    never.name = "never".into();
    assert_eq!(apply(&mut store, vec![bad, never], "2"), 2);
    let configs = dump(&store, query("dynamic_active_clusters"));
    let clusters = configs[0]["dynamic_active_clusters"].as_array().unwrap();
    let is_it = |cluster: &&Value| cluster["cluster"]["name"] == name;
    let shown = clusters.iter().find(is_it).unwrap();
    assert_eq!(shown["version_info"], "1");
    assert_ne!(shown["cluster"]["lb_policy"], 99);
    assert_eq!(shown["error_state"]["version_info"], "2");
    let details = shown["error_state"]["details"].as_str().unwrap();
    assert!(
        details.starts_with(name) && details.contains("lb_policy"),
        "{details}"
    );
    // istioctl would take one without a cluster for a broken dump.
    assert!(
        clusters
            .iter()
            .all(|cluster| cluster["cluster"].is_object())
    );
    let updates = store.received().updates(ResourceType::Cluster);
    assert_eq!((updates.accepted, updates.refused), (1, 1));
    assert_eq!(store.received().updates(ResourceType::Listener).refused, 0);
}

#[test]
fn a_refused_chain_shows_its_last_good_version_in_the_new_listener() {
    let mut store = store();
    apply(&mut store, walkthrough(), "1");
    let unknown =
        main_internal(|_, type_url| *type_url = "type.googleapis.com/no.such.Filter".into());
    assert_eq!(apply(&mut store, vec![unknown], "2"), 1);
    let configs = dump(&store, query("dynamic_listeners,static_route_configs"));
    let listeners = &section(&configs, "ListenersConfigDump")["dynamic_listeners"];
    let main = by_name(listeners, "main_internal");
    assert_eq!(main["active_state"]["version_info"], "2");
    let details = main["error_state"]["details"].as_str().unwrap();
    assert!(
        details.contains(CHAIN) && details.contains("no.such.Filter"),
        "{details}"
    );
    let chains = &main["active_state"]["listener"]["filter_chains"];
    let manager = &by_name(chains, CHAIN)["filters"][0]["typed_config"];
    assert_eq!(
        manager["route_config"]["name"], CHAIN,
        "the last good version"
    );
    assert!(main["active_state"]["listener"]["filter_chain_matcher"].is_object());
    let sent = Listener::decode(resource(ResourceType::Listener, "main_internal").body).unwrap();
    let sent: Vec<&str> = sent.filter_chains.iter().map(|c| c.name.as_str()).collect();
    let shown = chains.as_array().unwrap().iter();
    let shown: Vec<&str> = shown.map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(shown, sent, "in the order that they came in");

    // Accepted again, it is the bytes as they were received.
    apply(
        &mut store,
        vec![resource(ResourceType::Listener, "main_internal")],
        "3",
    );
    let configs = dump(&store, query("dynamic_listeners"));
    let main = by_name(&configs[0]["dynamic_listeners"], "main_internal");
    assert!(main.get("error_state").is_none(), "{}", main["error_state"]);
    assert_eq!(main["active_state"]["version_info"], "3");
}

#[test]
fn a_chain_that_never_was_good_is_not_shown() {
    let mut store = store();
    let mut resources = walkthrough();
    resources.retain(|r| !(r.kind == ResourceType::Listener && r.name == "main_internal"));
    resources.push(main_internal(|value, _| *value = vec![0xff]));
    apply(&mut store, resources, "1");
    let configs = dump(&store, query("dynamic_listeners"));
    let main = by_name(&configs[0]["dynamic_listeners"], "main_internal");
    let chains = main["active_state"]["listener"]["filter_chains"]
        .as_array()
        .unwrap();
    assert!(chains.iter().all(|chain| chain["name"] != CHAIN));
    assert!(
        main["error_state"]["details"]
            .as_str()
            .unwrap()
            .contains(CHAIN)
    );
}
