//! From a configuration source to the store, and what is told of it: log lines, metrics, `/problems`.

mod awaited_secrets;
pub(crate) mod dns;
pub(crate) mod health_checks;
mod in_force;
pub(crate) mod issuers;
mod known_issuers;
pub(crate) mod link;
pub(crate) mod outliers;
mod parents;
pub(crate) mod source;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use waypoint_config::model::cluster::dns::{Answer, Question};
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::resource::{Resource, ResourceType, Update};
use waypoint_config::sources::recorded;
use waypoint_config::sources::xds::ads::{AdsError, Sink};
use waypoint_config::standalone::kinds::istio::jwks::JwksUri;
use waypoint_config::standalone::report::{self, Level};
use waypoint_config::standalone::{
    IssuerQuestion, ObjectName, Pace, Polled, StandaloneSource, Translation, Watch, difference,
};
use waypoint_config::store::{Outcome, Store};
use waypoint_filters::callout::CalloutCluster;
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::xds::omitted::OmittedKind;
use waypoint_hbone::identity::{Identity, IdentityError};
use waypoint_hbone::tls::{Tls, TrustDomains};

use crate::configuration::in_force::Closed;
use crate::configuration::known_issuers::KnownIssuers;
use crate::configuration::link::Link;
use crate::configuration::source::{ConfigError, ConfigSource};

/// The first configuration, read and not yet applied.
pub(crate) struct Loaded {
    resources: Vec<Resource>,
    problems: Vec<String>,
    watch: Option<Watch>,
    gateway: Option<ObjectName>,
    trust_domain: String,
    issuers: Vec<IssuerQuestion>,
    closed: Closed,
    parents: Vec<String>,
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
                    closed: Closed::by(&translation),
                    parents: parents::unwell(&translation),
                    gateway: Some(translation.gateway),
                    resources: translation.resources,
                    issuers: translation.issuers,
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
                issuers: Vec::new(),
                closed: Closed::default(),
                parents: Vec::new(),
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
                    issuers: Vec::new(),
                    closed: Closed::default(),
                    parents: Vec::new(),
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
    /// What manifests close.
    closed: Closed,
    /// Parents of routes of which a condition doesn't hold.
    parents: Vec<String>,
    /// Of the manifests, and of the resources that were made of them.
    translated: Vec<String>,
    /// Lines about what is left out, as last told.
    omitted: Vec<String>,
    /// Lines about secrets that haven't come, as last told.
    awaited: Vec<String>,
    problems: Arc<Mutex<Vec<String>>>,
    /// Names that have never been looked up.
    untried_names: Arc<AtomicUsize>,
    endpoints_changed: Arc<Notify>,
    watch: Option<Watch>,
    issuers: KnownIssuers,
    link: Link,
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
            closed: loaded.closed,
            parents: loaded.parents,
            translated: loaded.problems,
            omitted: Vec::new(),
            awaited: Vec::new(),
            problems: Arc::default(),
            untried_names: Arc::default(),
            endpoints_changed: Arc::default(),
            watch: loaded.watch,
            issuers: KnownIssuers::new(loaded.issuers),
            link: Link::default(),
        };
        in_force::register_updates(&configurator.metrics);
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

    /// The stream to an istiod, if there is one.
    pub(crate) fn link(&self) -> Link {
        self.link.clone()
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
        self.endpoints_changed.notify_one();
        self.count_untried_names();
    }

    /// Issuers that are to be asked where their keys are; they may be others whenever the [version](Self::version) changes.
    pub(crate) fn issuers(&self) -> &[IssuerQuestion] {
        self.issuers.questions()
    }

    /// The place of a cluster that is to be called.
    pub(crate) fn callout_cluster(&self, name: &str) -> Arc<dyn CalloutCluster> {
        self.store.callout_cluster(name)
    }

    /// Takes what an issuer says; the next poll brings it into force.
    pub(crate) fn issuer_answered(
        &mut self,
        question: &IssuerQuestion,
        answer: Result<JwksUri, String>,
    ) {
        match answer {
            Ok(keys) => {
                self.issuers.spoke(question);
                if let Some(watch) = &mut self.watch {
                    watch.tell_issuer(&question.address, keys);
                }
            }
            Err(reason) => self.issuers.kept_silent(question, &reason),
        }
        self.publish();
    }

    /// Told when endpoints may have changed and the [version](Self::version) didn't.
    pub(crate) fn endpoints_changed(&self) -> Arc<Notify> {
        self.endpoints_changed.clone()
    }

    /// The clusters whose endpoints are to be checked.
    pub(crate) fn checked_clusters(&self) -> Vec<Arc<ClusterSlot>> {
        self.store.checked_clusters()
    }

    /// Judges endpoints; when to look again, whatever comes meanwhile.
    pub(crate) fn look_for_outliers(&mut self, now: Instant) -> Option<Instant> {
        let next = self.store.look_for_outliers(now, || fastrand::u64(..));
        self.endpoints_changed.notify_one();
        next
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
        let not_in_use = report::lines(not_in_use.iter().map(|e| format!("not in use: {e}")));
        let before = std::mem::replace(&mut self.not_in_use, not_in_use);
        for line in self.not_in_use.iter().filter(|line| !before.contains(line)) {
            self.count("refused");
            tracing::error!("{line}; what it gave before stays");
        }
        match translation {
            Some(translation) => {
                self.translated = report(&translation, &self.translated);
                self.closed = Closed::by(&translation);
                self.parents = parents::unwell(&translation);
                self.issuers.replace(translation.issuers);
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
        // That was all of it.
        self.store.settle_secrets();
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
        let lines = report::lines(all.map(|(place, omitted)| format!("{place}: {omitted}")));
        let before: HashSet<String> = std::mem::replace(&mut self.omitted, lines)
            .into_iter()
            .collect();
        for line in self.omitted.iter().filter(|line| !before.contains(*line)) {
            tracing::warn!("{line}");
        }
        self.awaited = awaited_secrets::told(&self.store.awaited_secrets(), &self.metrics);
        let omitted = self.metrics.gauges(
            "waypoint_config_omitted",
            "Telemetry that configuration asks for and that is left out, by kind.",
            &["kind"],
        );
        for (kind, n) in kinds {
            omitted.with(&[kind.label().into()]).set(n);
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
        let updates = in_force::updates(&self.metrics);
        updates.with(&[result.into()]).add(1);
    }

    fn publish(&self) {
        in_force::tell(
            &self.metrics,
            &self.store,
            self.closed,
            self.not_in_use.len(),
        );
        let lines = self.not_in_use.iter().chain(&self.translated);
        let lines = lines.chain(&self.parents);
        let lines = lines.chain(self.issuers.problems());
        let lines = lines.chain(&self.omitted).chain(&self.awaited).cloned();
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
                self.link.opened();
                tracing::info!("connected to istiod");
            }
            Err(error) => {
                streams("ended");
                self.link.ended();
                tracing::warn!(%error, "the stream to istiod ended; what is configured stays");
            }
        }
    }
}

fn refused(store: &Store) -> Vec<String> {
    report::lines(store.rejected())
}

/// Logs what was not there before; gives all of it as text, mistakes before what is only for others.
fn report(translation: &Translation, before: &[String]) -> Vec<String> {
    let lines = translation.report();
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
