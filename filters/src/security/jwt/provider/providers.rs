//! All providers that are in use: equal ones are shared, and the keys of those that fetch them are fetched.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtProvider, jwt_provider::JwksSourceSpecifier,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;

use crate::callout::Callout;
use crate::metrics::{CounterFamily, MetricRegistry};
use crate::security::jwt::provider::Provider;
use crate::security::jwt::provider::remote::Fetching;
use crate::security::jwt::token::verified::Room;
use crate::xds::rejected::Refusal;

/// How often tokens that are over are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// The providers of the process.
pub struct Providers {
    /// By what they say. A provider is gone with the last chain that has it.
    shared: Mutex<HashMap<Vec<u8>, Weak<Provider>>>,
    room: Arc<Room>,
    /// Whose keys nobody fetches yet.
    unfetched: Mutex<Vec<Fetching>>,
    wake: Notify,
    fetches: Arc<CounterFamily>,
}

impl Providers {
    pub fn new(metrics: &MetricRegistry) -> Providers {
        Providers {
            shared: Mutex::default(),
            room: Arc::default(),
            unfetched: Mutex::default(),
            wake: Notify::new(),
            fetches: metrics.counters(
                "waypoint_jwks_fetches_total",
                "Attempts to fetch the keys of tokens, by cluster and by what came of them.",
                &["cluster", "result"],
            ),
        }
    }

    /// The provider that says this. `cluster` leads to where keys are fetched.
    pub fn get(
        &self,
        proto: &JwtProvider,
        cluster: &dyn Fn(&str) -> Callout,
    ) -> Result<Arc<Provider>, Refusal> {
        let said = proto.encode_to_vec();
        let mut shared = self.shared.lock();
        // What is read beside the configuration may say something else by now.
        if !reads_files(proto)
            && let Some(provider) = shared.get(&said).and_then(Weak::upgrade)
        {
            return Ok(provider);
        }
        let (provider, fetching) = Provider::from_proto(proto, cluster, &self.room)?;
        let provider = Arc::new(provider);
        shared.retain(|_, provider| provider.strong_count() > 0);
        shared.insert(said, Arc::downgrade(&provider));
        if let Some(fetching) = fetching {
            let mut unfetched = self.unfetched.lock();
            unfetched.retain(Fetching::is_used);
            unfetched.push(fetching);
            self.wake.notify_one();
        }
        Ok(provider)
    }

    /// What of the providers in use isn't well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.in_use().iter().filter_map(|p| p.problem()).collect();
        problems.sort();
        problems
    }

    /// Fetches keys, as long as they are used, and forgets tokens that are over.
    pub async fn run(self: Arc<Self>) {
        let fetching = async {
            loop {
                let new = std::mem::take(&mut *self.unfetched.lock());
                for keys in new {
                    tokio::spawn(keys.run(self.fetches.clone()));
                }
                self.wake.notified().await;
            }
        };
        let sweeping = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.unwrap_or_default().as_secs();
                self.in_use()
                    .iter()
                    .for_each(|provider| provider.sweep(now));
            }
        };
        tokio::join!(fetching, sweeping);
    }

    fn in_use(&self) -> Vec<Arc<Provider>> {
        let shared = self.shared.lock();
        shared.values().filter_map(Weak::upgrade).collect()
    }
}

/// Whether its keys stand in a file or in the environment.
fn reads_files(proto: &JwtProvider) -> bool {
    let Some(JwksSourceSpecifier::LocalJwks(source)) = &proto.jwks_source_specifier else {
        return false;
    };
    !matches!(
        source.specifier,
        Some(Specifier::InlineString(_) | Specifier::InlineBytes(_))
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::security::jwt::provider::tests::proto;

    #[test]
    fn providers_that_say_the_same_are_one_as_long_as_somebody_has_it() {
        let providers = Providers::new(&MetricRegistry::default());
        let nowhere = |_: &str| -> Callout { unreachable!("these keys aren't fetched") };
        let get = |proto: &JwtProvider| providers.get(proto, &nowhere).unwrap();
        let (first, second, other) = (get(&proto("a")), get(&proto("a")), get(&proto("b")));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
        assert_eq!(providers.in_use().len(), 2);
        drop((first, second));
        assert_eq!(providers.in_use().len(), 1);
        let _again = get(&proto("a"));
        assert_eq!(providers.shared.lock().len(), 2);
        assert!(providers.problems().is_empty());
    }

    #[test]
    fn keys_in_a_file_are_read_for_each() {
        let path = std::env::temp_dir().join(format!("waypoint-keys-{}", std::process::id()));
        let mut proto = proto("a");
        if let Some(JwksSourceSpecifier::LocalJwks(source)) = &mut proto.jwks_source_specifier {
            let Some(Specifier::InlineString(keys)) = &source.specifier else {
                panic!("inline keys");
            };
            std::fs::write(&path, keys).unwrap();
            source.specifier = Some(Specifier::Filename(path.to_str().unwrap().into()));
        }
        let providers = Providers::new(&MetricRegistry::default());
        let nowhere = |_: &str| -> Callout { unreachable!("these keys aren't fetched") };
        let first = providers.get(&proto, &nowhere).unwrap();
        std::fs::write(&path, "{}").unwrap();
        assert!(providers.get(&proto, &nowhere).is_err());
        std::fs::remove_file(path).unwrap();
        assert!(first.problem().is_none());
    }
}
