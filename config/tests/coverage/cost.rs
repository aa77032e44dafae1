//! What it costs to take a listener of a thousand chains.
//!
//! `cargo test --release -p waypoint-config --test coverage cost -- --ignored --nocapture`

use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use prost::Message as _;
use waypoint_config::model::listener::LISTENER;
use waypoint_config::resource::{Resource, ResourceType, Update};
use waypoint_config::sources::recorded;
use waypoint_filters::xds::coverage;

use crate::process;

const CHAINS: usize = 1_000;
const RUNS: usize = 5;

/// The walk-through's `main_internal` with its HTTP chains over and over, under other names.
fn listener() -> Bytes {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/walkthrough.pb");
    let all = recorded::read(&std::fs::read(path).unwrap()).unwrap();
    let main = all
        .iter()
        .find(|r| r.kind == ResourceType::Listener && r.name == "main_internal");
    let mut listener = Listener::decode(main.unwrap().body.clone()).unwrap();
    let model = listener.filter_chains.clone();
    let services = model.iter().filter(|chain| chain.name.contains("|http|"));
    let services: Vec<_> = services.collect();
    for i in 0..CHAINS - model.len() {
        let mut chain = services[i % services.len()].clone();
        chain.name = format!("{} {i}", chain.name);
        listener.filter_chains.push(chain);
    }
    listener.encode_to_vec().into()
}

#[test]
#[ignore = "a measurement"]
fn a_thousand_chains() {
    let body = listener();
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let mut store = process::store();
        let resource = Resource {
            kind: ResourceType::Listener,
            name: "main_internal".to_owned(),
            body: body.clone(),
        };
        let update = Update {
            added: vec![resource],
            ..Update::default()
        };
        let start = Instant::now();
        let outcome = store.apply(update);
        times.push(start.elapsed());
        assert!(outcome.rejected.is_empty(), "{outcome:?}");
    }
    times.sort();
    println!("{CHAINS} chains, {} bytes: {:?}", body.len(), times);
    let start = Instant::now();
    coverage::check(&body, &LISTENER).unwrap();
    println!("of which the walk: {:?}", start.elapsed());
}
