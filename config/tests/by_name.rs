//! What comes by name: filters over ECDS, routes over RDS, and chains that wait for them. And what a
//! refusal, or a removal, leaves behind.
#![allow(clippy::unwrap_used)]

mod process;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ConfigSource, ExtensionConfigSource, TypedExtensionConfig,
    config_source::ConfigSourceSpecifier,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, Listener, filter};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as Rules, permission, principal, rbac,
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RouteConfiguration};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use envoy_types::pb::google::protobuf::Any;
use process::{store, store_that};
use prost::Message;
use waypoint_config::model::listener::chain::FilterChain;
use waypoint_config::resource::{Resource, ResourceType, Update};
use waypoint_config::sources::recorded;
use waypoint_config::store::{ChainState, OnRefused, Outcome, Store};

const CHAIN: &str = "inbound-vip|9080|http|details.default.svc.cluster.local";
const TCP_CHAIN: &str = "direct-tcp";
const PLUGIN: &str = "extensions.istio.io/trafficextension/default.plugin";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

/// The walk-through, with one chain's connection manager changed.
fn walkthrough(change: impl Fn(&mut HttpConnectionManager)) -> Vec<Resource> {
    let path = format!(
        "{}/tests/fixtures/walkthrough.pb",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut resources = recorded::read(&std::fs::read(path).unwrap()).unwrap();
    let is_main = |r: &&mut Resource| r.kind == ResourceType::Listener && r.name == "main_internal";
    let main = resources.iter_mut().find(is_main).unwrap();
    let mut listener = Listener::decode(main.body.clone()).unwrap();
    let mut chains = listener.filter_chains.iter_mut();
    let chain = chains.find(|chain| chain.name == CHAIN).unwrap();
    let Some(filter::ConfigType::TypedConfig(any)) = &mut chain.filters[0].config_type else {
        panic!("typed");
    };
    let mut manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    change(&mut manager);
    any.value = manager.encode_to_vec();
    main.body = listener.encode_to_vec().into();
    resources
}

/// The walk-through, with a filter before all others of one TCP chain.
fn guarded(rules: Rules) -> Vec<Resource> {
    let mut resources = walkthrough(|_| {});
    let is_main = |r: &&mut Resource| r.kind == ResourceType::Listener && r.name == "main_internal";
    let main = resources.iter_mut().find(is_main).unwrap();
    let mut listener = Listener::decode(main.body.clone()).unwrap();
    let mut chains = listener.filter_chains.iter_mut();
    let chain = chains.find(|chain| chain.name == TCP_CHAIN).unwrap();
    let config = NetworkRbac {
        rules: Some(rules),
        ..NetworkRbac::default()
    };
    let guard = Filter {
        name: "guard".into(),
        config_type: Some(filter::ConfigType::TypedConfig(Any {
            type_url: NETWORK_RBAC.into(),
            value: config.encode_to_vec(),
        })),
    };
    chain.filters.insert(0, guard);
    main.body = listener.encode_to_vec().into();
    resources
}

/// A filter before all others that comes by name.
fn plugin(manager: &mut HttpConnectionManager) {
    let source = ExtensionConfigSource {
        config_source: ads(),
        type_urls: vec![RBAC.into(), WASM.into()],
        ..ExtensionConfigSource::default()
    };
    let filter = HttpFilter {
        name: PLUGIN.into(),
        config_type: Some(http_filter::ConfigType::ConfigDiscovery(source)),
        ..HttpFilter::default()
    };
    manager.http_filters.insert(0, filter);
}

fn extension(type_url: &str, value: Vec<u8>) -> Resource {
    let proto = TypedExtensionConfig {
        name: PLUGIN.into(),
        typed_config: Some(Any {
            type_url: type_url.into(),
            value,
        }),
    };
    Resource {
        kind: ResourceType::Extension,
        name: PLUGIN.into(),
        body: proto.encode_to_vec().into(),
    }
}

/// A policy that lets nobody in.
fn deny_all() -> Resource {
    let rbac = Rbac {
        rules: Some(Rules::default()),
        ..Rbac::default()
    };
    extension(RBAC, rbac.encode_to_vec())
}

fn apply(store: &mut Store, added: Vec<Resource>) -> Outcome {
    store.apply(Update {
        added,
        ..Update::default()
    })
}

fn rejections(outcome: &Outcome) -> Vec<String> {
    outcome.rejected.iter().map(ToString::to_string).collect()
}

fn closed(store: &Store) -> Option<String> {
    is_closed(store, CHAIN)
}

fn is_closed(store: &Store, chain: &str) -> Option<String> {
    match &*store.handle().load()?.main.chains.get(chain)?.load() {
        FilterChain::Closed(reason) => Some(reason.to_string()),
        _ => None,
    }
}

fn in_state(store: &Store, state: ChainState) -> usize {
    store.chain_states()[&state]
}

#[test]
fn a_chain_waits_for_its_filter_and_is_closed_meanwhile() {
    let mut store = store();
    let outcome = apply(&mut store, walkthrough(plugin));
    assert_eq!(
        rejections(&outcome),
        Vec::<String>::new(),
        "waiting is no fault"
    );
    let wanted = store.wanted(ResourceType::Extension);
    assert_eq!(wanted.into_iter().collect::<Vec<_>>(), [PLUGIN]);
    let reason = closed(&store).unwrap();
    assert_eq!(reason, format!("waits for the filter {PLUGIN}"));

    assert!(apply(&mut store, vec![deny_all()]).rejected.is_empty());
    assert_eq!(closed(&store), None);
    assert_eq!(in_state(&store, ChainState::Closed), 0);
    // The chain is made anew with what the filter says now.
    let before = store.handle().load().unwrap().main.chains[CHAIN].load();
    assert!(
        !apply(&mut store, vec![deny_all()]).changed,
        "the same again"
    );
    let empty = extension(RBAC, Rbac::default().encode_to_vec());
    assert!(apply(&mut store, vec![empty]).changed);
    let after = store.handle().load().unwrap().main.chains[CHAIN].load();
    assert!(!std::sync::Arc::ptr_eq(&before, &after));
}

#[test]
fn a_chain_that_served_serves_on_while_it_waits_and_one_that_needs_it_no_more_lets_go() {
    let mut store = store();
    apply(&mut store, walkthrough(|_| {}));
    apply(&mut store, walkthrough(plugin));
    assert_eq!(closed(&store), None);
    assert_eq!(in_state(&store, ChainState::Stale), 1);
    apply(&mut store, vec![deny_all()]);
    assert_eq!(in_state(&store, ChainState::Stale), 0);
    let shown = |store: &Store| store.received().entries(ResourceType::Extension);
    assert_eq!(&*shown(&store)[0].0, PLUGIN);
    apply(&mut store, walkthrough(|_| {}));
    assert!(store.wanted(ResourceType::Extension).is_empty());
    assert!(shown(&store).is_empty());
    // It was forgotten: who refers to it again waits again.
    apply(&mut store, walkthrough(plugin));
    assert_eq!(in_state(&store, ChainState::Stale), 1);
}

#[test]
fn a_filter_that_is_not_built_is_refused_in_its_own_resource() {
    let mut store = store();
    apply(&mut store, walkthrough(plugin));
    let outcome = apply(&mut store, vec![extension(WASM, Vec::new())]);
    let refused = format!("{PLUGIN}: typed_config: type {WASM} is not built in");
    let standing: Vec<String> = store.rejected().iter().map(ToString::to_string).collect();
    assert_eq!(rejections(&outcome), standing);
    assert_eq!(standing, [refused]);
    assert!(closed(&store).is_some(), "it may guard");
    // What was good before it stays.
    apply(&mut store, vec![deny_all()]);
    assert!(store.rejected().is_empty());
    apply(&mut store, vec![extension(WASM, Vec::new())]);
    assert_eq!(closed(&store), None);
}

#[test]
fn the_refusal_of_a_filter_goes_when_nothing_refers_to_it_any_more() {
    let mut store = store();
    apply(&mut store, walkthrough(plugin));
    apply(&mut store, vec![extension(WASM, Vec::new())]);
    assert_eq!(store.rejected().len(), 1);
    // istiod sends no removals of extensions.
    apply(&mut store, walkthrough(|_| {}));
    assert!(store.rejected().is_empty());
}

#[test]
fn a_filter_of_a_type_that_its_place_does_not_allow_is_refused() {
    let mut store = store();
    let narrow = |manager: &mut HttpConnectionManager| {
        plugin(manager);
        let Some(http_filter::ConfigType::ConfigDiscovery(source)) =
            &mut manager.http_filters[0].config_type
        else {
            panic!("by name");
        };
        source.type_urls = vec![WASM.into()];
    };
    apply(&mut store, walkthrough(narrow));
    let outcome = apply(&mut store, vec![deny_all()]);
    assert!(
        rejections(&outcome)[0].contains("config_discovery.type_urls"),
        "{outcome:?}"
    );
    assert!(closed(&store).is_some());
}

/// The walk-through, with the routes of one chain in a resource of their own; and those.
fn with_routes_by_name(
    change: fn(&mut HttpConnectionManager),
) -> (Vec<Resource>, RouteConfiguration) {
    let routes = std::cell::RefCell::new(RouteConfiguration::default());
    let by_name = |manager: &mut HttpConnectionManager| {
        let rds = RouteSpecifier::Rds(Rds {
            config_source: ads(),
            route_config_name: "details".into(),
        });
        if let Some(RouteSpecifier::RouteConfig(config)) = manager.route_specifier.replace(rds) {
            routes.replace(config);
        }
        change(manager);
    };
    (walkthrough(by_name), routes.into_inner())
}

fn routes(proto: &RouteConfiguration) -> Resource {
    Resource {
        kind: ResourceType::Routes,
        name: "details".into(),
        body: proto.encode_to_vec().into(),
    }
}

#[test]
fn a_removal_takes_nothing_of_another_type_with_that_name() {
    let (resources, good) = with_routes_by_name(|_| {});
    for mixed in [None, Some(deny_all()), Some(routes(&good))] {
        for kind in ResourceType::ALL {
            let mut store = store();
            apply(&mut store, resources.clone());
            apply(&mut store, vec![routes(&good)]);
            store.apply(Update {
                added: mixed.iter().cloned().collect(),
                removed: vec![(kind, "details".into())],
                ..Update::default()
            });
            // Whoever looks the routes up again finds them.
            let (changed, _) = with_routes_by_name(|manager| manager.merge_slashes ^= true);
            apply(&mut store, changed);
            let is_there = in_state(&store, ChainState::Stale) == 0;
            let beside = mixed.as_ref().map(|resource| resource.kind);
            let case = format!("{kind:?} is removed, beside {beside:?}");
            assert_eq!(is_there, kind != ResourceType::Routes, "{case}");
        }
    }
}

#[test]
fn routes_may_come_by_name() {
    let mut store = store();
    let (resources, good) = with_routes_by_name(|_| {});
    assert!(apply(&mut store, resources).rejected.is_empty());
    assert!(
        closed(&store)
            .unwrap()
            .contains("route configuration details")
    );
    apply(&mut store, vec![routes(&good)]);
    assert_eq!(closed(&store), None);
    let mut bad = good;
    bad.virtual_hosts[0].include_request_attempt_count = true;
    let outcome = apply(&mut store, vec![routes(&bad)]);
    assert!(
        rejections(&outcome)[0].contains("include_request_attempt_count"),
        "{outcome:?}"
    );
    assert_eq!(closed(&store), None, "the last good version serves");
    assert_eq!(store.rejected(), outcome.rejected);
}

/// A field that isn't honoured.
fn bad(manager: &mut HttpConnectionManager) {
    manager.represent_ipv4_remote_address_as_ipv4_mapped_ipv6 = true;
}

#[test]
fn what_is_refused_is_refused_each_time_that_it_comes() {
    let mut store = store();
    apply(&mut store, walkthrough(|_| {}));
    for _ in 0..2 {
        let outcome = apply(&mut store, walkthrough(bad));
        assert_eq!(outcome.rejected.len(), 1, "{outcome:?}");
        assert!(
            rejections(&outcome)[0].contains("represent_ipv4_remote_address_as_ipv4_mapped_ipv6")
        );
    }
    assert_eq!(store.rejected().len(), 1);
    assert_eq!(in_state(&store, ChainState::Stale), 1);
    assert!(apply(&mut store, walkthrough(|_| {})).rejected.is_empty());
    assert!(store.rejected().is_empty());
    assert_eq!(in_state(&store, ChainState::Stale), 0);
}

#[test]
fn a_listener_that_has_been_replaced_is_let_go() {
    let mut store = store();
    let main = |change: fn(&mut HttpConnectionManager)| {
        let mut resources = walkthrough(change);
        resources.retain(|r| r.kind == ResourceType::Listener && r.name == "main_internal");
        resources
    };
    let first = main(|_| {});
    let held = first[0].body.clone();
    apply(&mut store, first);
    // One chain of it changes, or is refused; the others stay as they are.
    for change in [|m: &mut HttpConnectionManager| m.merge_slashes = true, bad] {
        apply(&mut store, main(change));
        assert!(held.is_unique(), "its bytes are nobody's but the test's");
    }
}

#[test]
fn a_chain_that_denies_connections_by_what_only_requests_have_is_closed_by_name() {
    let header = HeaderMatcher {
        name: ":path".into(),
        ..HeaderMatcher::default()
    };
    let policy = Policy {
        permissions: vec![Permission {
            rule: Some(permission::Rule::Header(header)),
        }],
        principals: vec![Principal {
            identifier: Some(principal::Identifier::Any(true)),
        }],
        ..Policy::default()
    };
    let rules = Rules {
        action: rbac::Action::Deny.into(),
        policies: [("no-paths".to_owned(), policy)].into(),
        ..Rules::default()
    };
    let mut store = store();
    let outcome = apply(&mut store, guarded(rules));
    let refused = format!(
        "main_internal > {TCP_CHAIN}: filters[\"guard\"].rules.policies[\"no-paths\"]\
         .permissions[0].header: needs a request, which a TCP filter has not"
    );
    assert_eq!(rejections(&outcome), [refused]);
    let reason = is_closed(&store, TCP_CHAIN).unwrap();
    assert!(reason.contains("permissions[0].header"), "{reason}");
    assert!(
        apply(&mut store, guarded(Rules::default()))
            .rejected
            .is_empty()
    );
    assert_eq!(closed(&store), None);
}

#[test]
fn the_strict_close_what_is_refused() {
    let mut store = store_that(OnRefused::Close);
    apply(&mut store, walkthrough(|_| {}));
    apply(&mut store, walkthrough(bad));
    assert!(
        closed(&store)
            .unwrap()
            .contains("represent_ipv4_remote_address_as_ipv4_mapped_ipv6")
    );
    apply(&mut store, walkthrough(|_| {}));
    assert_eq!(closed(&store), None);
    // A cluster that can't be reached as it says is reached no more.
    let name = "inbound-vip|9080|http|details.default.svc.cluster.local";
    let cluster = |change: fn(&mut Cluster)| {
        let mut resources = walkthrough(|_| {});
        resources.retain(|r| r.kind == ResourceType::Cluster && r.name == name);
        let mut proto = Cluster::decode(resources[0].body.clone()).unwrap();
        change(&mut proto);
        resources[0].body = proto.encode_to_vec().into();
        resources
    };
    let there = |store: &Store| store.wanted(ResourceType::Endpoints).contains(name);
    assert!(there(&store));
    let refused = apply(
        &mut store,
        cluster(|c| c.connection_pool_per_downstream_connection = true),
    );
    assert!(refused.changed && !there(&store));
    apply(&mut store, cluster(|_| {}));
    assert!(there(&store));
    // Waiting isn't refusal.
    apply(&mut store, walkthrough(plugin));
    assert_eq!(closed(&store), None);
}
