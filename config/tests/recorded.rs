//! Recorded responses of a real istiod go through the store; what isn't honoured is refused by name.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use waypoint_config::model::listener::chain::FilterChain;
use waypoint_config::model::listener::filter_chain_matcher::{ChainChoice, ChainInput};
use waypoint_config::resource::Update;
use waypoint_config::sources::recorded;
use waypoint_config::store::Store;

mod process;

use process::store;

fn apply(store: &mut Store, name: &str) -> Vec<String> {
    let path = format!("{}/tests/fixtures/{name}.pb", env!("CARGO_MANIFEST_DIR"));
    let added = recorded::read(&std::fs::read(path).unwrap()).unwrap();
    let outcome = store.apply(Update {
        added,
        ..Update::default()
    });
    outcome.rejected.iter().map(ToString::to_string).collect()
}

#[test]
fn the_walk_through_is_honoured_whole() {
    let mut store = store();
    assert_eq!(apply(&mut store, "walkthrough"), Vec::<String>::new());
    let snapshot = store.handle().load().unwrap();
    let choose = |destination: &str| {
        let choice = snapshot.main.choose(ChainInput {
            destination: destination.parse().unwrap(),
            authority: destination,
            protocol: None,
        });
        match choice {
            ChainChoice::Chain(slot) => slot.name.to_string(),
            ChainChoice::NeedsProtocol => "first bytes".to_owned(),
            ChainChoice::None => "none".to_owned(),
        }
    };
    assert_eq!(
        choose("10.43.162.105:9080"),
        "inbound-vip|9080|http|reviews.default.svc.cluster.local"
    );
    assert_eq!(choose("10.43.162.105:80"), "none");
    assert_eq!(choose("10.43.9.9:80"), "none");
    assert_eq!(store.trust_domains(), ["cluster.local"]);
}

#[test]
fn pod_addresses_are_told_by_their_first_bytes() {
    let mut store = store();
    assert_eq!(apply(&mut store, "waypoint-for-all"), Vec::<String>::new());
    let snapshot = store.handle().load().unwrap();
    let choice = snapshot.main.choose(ChainInput {
        destination: "10.42.2.5:9080".parse().unwrap(),
        authority: "10.42.2.5:9080",
        protocol: None,
    });
    assert!(matches!(choice, ChainChoice::NeedsProtocol));
}

#[test]
fn the_same_update_again_changes_nothing_and_a_chain_keeps_its_slot() {
    let mut store = store();
    apply(&mut store, "walkthrough");
    let name = "inbound-vip|9080|http|details.default.svc.cluster.local";
    let before = store.handle().load().unwrap().main.chains[name].load();
    let path = format!(
        "{}/tests/fixtures/walkthrough.pb",
        env!("CARGO_MANIFEST_DIR")
    );
    let added = recorded::read(&std::fs::read(path).unwrap()).unwrap();
    assert!(
        !store
            .apply(Update {
                added,
                ..Update::default()
            })
            .changed
    );
    let after = store.handle().load().unwrap().main.chains[name].load();
    assert!(Arc::ptr_eq(&before, &after));
    assert!(matches!(&*after, FilterChain::Http(_)));
}
