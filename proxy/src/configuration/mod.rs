//! From a configuration source to the store, and what is told of it: log lines, metrics, `/problems`.

pub(crate) mod dns;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use parking_lot::Mutex;
use tokio::sync::watch;
use waypoint_config::model::cluster::dns::{Answer, Question};
use waypoint_config::resource::{Resource, ResourceType, Update};
use waypoint_config::sources::recorded;
use waypoint_config::sources::xds::ads::{AdsError, Sink};
use waypoint_config::sources::xds::channel::ControlPlane;
use waypoint_config::standalone::told::{self, Level};
use waypoint_config::standalone::{
    LoadError, ObjectName, Pace, Polled, StandaloneSource, Translation, Watch, difference,
};
use waypoint_config::store::{Outcome, Store};
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::xds::omitted::OmittedKind;
use waypoint_hbone::identity::{Identity, IdentityError};
use waypoint_hbone::tls::{Tls, TrustDomains};

/// Where configuration comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigSource {
    /// Files and folders of Kubernetes manifests, and which Gateway this process is (`NS/NAME`;
    /// `None`: the only one of class `istio-waypoint`).
    Manifests {
        paths: Vec<PathBuf>,
        gateway: Option<String>,
    },
    /// Recorded delta discovery responses; read once.
    XdsFile(PathBuf),
    /// A live istiod, and what it is told of us.
    Istiod {
        plane: ControlPlane,
        node: Box<Node>,
    },
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--gateway {0:?}: expected NAMESPACE/NAME")]
    Gateway(String),
    #[error(transparent)]
    Manifests(#[from] LoadError),
    #[error("{}: {reason}", path.display())]
    XdsFile { path: PathBuf, reason: String },
    #[error("the configuration has no {missing}: {rejected}")]
    Incomplete {
        missing: &'static str,
        rejected: String,
    },
}

/// The first configuration, read and not yet applied.
pub(crate) struct Loaded {
    resources: Vec<Resource>,
    problems: Vec<String>,
    watch: Option<Watch>,
    gateway: Option<ObjectName>,
    trust_domain: String,
}

impl Loaded {
    /// Reads the source, which then changes at this pace. Blocks on the disk.
    pub(crate) fn read(source: &ConfigSource, pace: Pace) -> Result<Loaded, ConfigError> {
        match source {
            ConfigSource::Manifests { paths, gateway } => {
                let gateway = gateway.as_deref().map(object_name).transpose()?;
                let source = StandaloneSource::new(paths.clone(), gateway);
                let (translation, watch) = source.start(pace, Instant::now())?;
                let problems = report(&translation, &[]);
                Ok(Loaded {
                    trust_domain: translation.mesh.trust_domain.clone(),
                    gateway: Some(translation.gateway),
                    resources: translation.resources,
                    problems,
                    watch: Some(watch),
                })
            }
            ConfigSource::Istiod { .. } => Ok(Loaded {
                resources: Vec::new(),
                problems: Vec::new(),
                watch: None,
                gateway: None,
                trust_domain: "cluster.local".into(),
            }),
            ConfigSource::XdsFile(path) => {
                let failed = |reason: String| ConfigError::XdsFile {
                    path: path.clone(),
                    reason,
                };
                let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
                let resources =
                    recorded::read(&bytes).map_err(|error| failed(error.to_string()))?;
                Ok(Loaded {
                    resources,
                    problems: Vec::new(),
                    watch: None,
                    gateway: None,
                    trust_domain: "cluster.local".into(),
                })
            }
        }
    }

    /// The waypoint's own identity: Istio names a waypoint's service account as its Gateway.
    pub(crate) fn identity(&self) -> Result<Identity, IdentityError> {
        let (namespace, name) = self.gateway.as_ref().map_or(("default", "waypoint"), |g| {
            (g.namespace.as_str(), g.name.as_str())
        });
        Identity::istio(&self.trust_domain, namespace, name)
    }
}

fn object_name(text: &str) -> Result<ObjectName, ConfigError> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err(ConfigError::Gateway(text.to_owned())),
    }
}

/// Keeps the store in step with its source.
pub(crate) struct Configurator {
    store: Store,
    tls: Tls,
    metrics: Arc<MetricRegistry>,
    resources: Vec<Resource>,
    /// Files that aren't used as they stand, as last told.
    not_in_use: Vec<String>,
    /// Of the manifests, and of the resources that were made of them.
    translated: Vec<String>,
    /// Lines about what is left out, as last told.
    omitted: Vec<String>,
    problems: Arc<Mutex<Vec<String>>>,
    /// Names that have never been looked up.
    untried_names: Arc<AtomicUsize>,
    watch: Option<Watch>,
}

impl Configurator {
    /// Takes over the first configuration; an istiod's comes later, through [`Sink`].
    pub(crate) fn new(
        store: Store,
        loaded: Loaded,
        tls: Tls,
        metrics: Arc<MetricRegistry>,
    ) -> Configurator {
        let mut configurator = Configurator {
            store,
            tls,
            metrics,
            resources: Vec::new(),
            not_in_use: Vec::new(),
            translated: loaded.problems,
            omitted: Vec::new(),
            problems: Arc::default(),
            untried_names: Arc::default(),
            watch: loaded.watch,
        };
        configurator.replace(loaded.resources);
        configurator
    }

    /// # Errors
    /// What the data path can't do without is missing.
    pub(crate) fn complete(&self) -> Result<(), ConfigError> {
        if self.store.handle().load().is_none() {
            return Err(ConfigError::Incomplete {
                missing: "usable listener connect_terminate with main_internal",
                rejected: refused(&self.store).join("; "),
            });
        }
        Ok(())
    }

    pub(crate) fn problems(&self) -> Arc<Mutex<Vec<String>>> {
        self.problems.clone()
    }

    pub(crate) fn untried_names(&self) -> Arc<AtomicUsize> {
        self.untried_names.clone()
    }

    /// Changes whenever the names that are to be looked up may have.
    pub(crate) fn version(&self) -> watch::Receiver<u64> {
        self.store.handle().version()
    }

    /// The names that are to be looked up.
    pub(crate) fn questions(&self) -> Vec<Question> {
        self.store.questions()
    }

    /// Takes what a lookup found.
    pub(crate) fn answer(&mut self, question: &Question, answer: &Answer) {
        self.store.answer(question, answer);
        self.count_untried_names();
    }

    fn count_untried_names(&self) {
        let untried = self.store.untried_names();
        self.untried_names.store(untried, Ordering::Relaxed);
    }

    /// Looks for changed manifests once; blocks on the disk.
    pub(crate) fn poll(&mut self, now: Instant) {
        let Some(watch) = &mut self.watch else { return };
        let Some(polled) = watch.poll(now) else {
            return;
        };
        let Polled {
            translation,
            not_in_use,
        } = polled;
        let not_in_use = told::lines(not_in_use.iter().map(|e| format!("not in use: {e}")));
        let before = std::mem::replace(&mut self.not_in_use, not_in_use);
        for line in self.not_in_use.iter().filter(|line| !before.contains(line)) {
            self.count("refused");
            tracing::error!("{line}; what it gave before stays");
        }
        match translation {
            Some(translation) => {
                self.translated = report(&translation, &self.translated);
                self.replace(translation.resources);
            }
            None => self.publish(),
        }
    }

    /// Applies what leads from the resources before to these.
    fn replace(&mut self, resources: Vec<Resource>) {
        let update = difference(&self.resources, &resources);
        self.resources = resources;
        self.update(update);
    }

    fn update(&mut self, update: Update) -> Outcome {
        if update.added.is_empty() && update.removed.is_empty() {
            self.publish();
            return Outcome::default();
        }
        let touched = update.added.len() + update.removed.len();
        let outcome = self.store.apply(update);
        self.count_untried_names();
        for rejected in &outcome.rejected {
            tracing::error!(%rejected, "configuration refused; what it had before stays, or is closed");
        }
        self.count(match (outcome.rejected.is_empty(), outcome.changed) {
            (false, _) => "refused",
            (true, true) => "accepted",
            (true, false) => "unchanged",
        });
        self.set_trust_domains();
        self.tell_state();
        self.publish();
        tracing::info!(
            resources = touched,
            rejected = outcome.rejected.len(),
            "configuration applied"
        );
        outcome
    }

    /// Tells of what is left out now and wasn't before, and sets the gauges.
    fn tell_state(&mut self) {
        let mut kinds = OmittedKind::ALL.map(|kind| (kind, 0));
        let all = self.store.omitted().inspect(|(_, omitted)| {
            if let Some((_, n)) = kinds.iter_mut().find(|(kind, _)| *kind == omitted.kind) {
                *n += 1;
            }
        });
        let lines = told::lines(all.map(|(place, omitted)| format!("{place}: {omitted}")));
        let before: HashSet<String> = std::mem::replace(&mut self.omitted, lines)
            .into_iter()
            .collect();
        for line in self.omitted.iter().filter(|line| !before.contains(*line)) {
            tracing::warn!("{line}");
        }
        let omitted = self.metrics.gauges(
            "waypoint_config_omitted",
            "Telemetry that configuration asks for and that is left out, by kind.",
            &["kind"],
        );
        for (kind, n) in kinds {
            omitted.with(&[kind.label().into()]).set(n);
        }
        let chains = self.metrics.gauges(
            "waypoint_filter_chains",
            "Filter chains: current; stale, their last version is refused or waits; closed.",
            &["state"],
        );
        for (state, n) in self.store.chain_states() {
            chains.with(&[state.label().into()]).set(n as u64);
        }
    }

    fn set_trust_domains(&self) {
        match TrustDomains::new(self.store.trust_domains()) {
            Ok(domains) => {
                if !domains.iter().eq(self.tls.trust_domains().iter()) {
                    self.tls.set_trust_domains(domains);
                }
            }
            Err(error) => tracing::error!(%error, "trust domains can't be used; those in use stay"),
        }
    }

    fn count(&self, result: &'static str) {
        self.metrics
            .counters(
                "waypoint_config_updates_total",
                "Configuration updates, by whether all of it was accepted, and whether anything in it was new.",
                &["result"],
            )
            .with(&[result.into()])
            .add(1);
    }

    fn publish(&self) {
        let lines = self.not_in_use.iter().chain(&self.translated);
        let lines = lines.chain(&self.omitted).cloned();
        *self.problems.lock() = lines.chain(refused(&self.store)).collect();
    }
}

impl Sink for Configurator {
    fn apply(&mut self, update: Update) -> Outcome {
        self.update(update)
    }

    fn wanted(&self, kind: ResourceType) -> BTreeSet<String> {
        self.store.wanted(kind)
    }

    fn connected(&mut self, state: Result<(), &AdsError>) {
        let streams = |state: &'static str| {
            self.metrics
                .counters(
                    "waypoint_xds_streams_total",
                    "Streams to istiod that began, and that ended or failed to begin.",
                    &["state"],
                )
                .with(&[state.into()])
                .add(1);
        };
        match state {
            Ok(()) => {
                streams("opened");
                tracing::info!("connected to istiod");
            }
            Err(error) => {
                streams("ended");
                tracing::warn!(%error, "the stream to istiod ended; what is configured stays");
            }
        }
    }
}

fn refused(store: &Store) -> Vec<String> {
    told::lines(store.rejected())
}

/// Logs what was not there before; gives all of it as text, mistakes before what is only for others.
fn report(translation: &Translation, before: &[String]) -> Vec<String> {
    let lines = translation.told();
    for line in lines.iter().filter(|line| !before.contains(&line.text)) {
        let text = &line.text;
        match line.level {
            Level::Error => tracing::error!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
            Level::Info => tracing::info!("{text}"),
        }
    }
    lines.into_iter().map(|line| line.text).collect()
}
