//! Telemetry that says nothing to this waypoint, what of it does nothing, and providers of telemetry that nobody uses or that
//! can't be told anything.

use std::collections::BTreeSet;

use crate::standalone::input::manifest::Object;
use crate::standalone::input::near::meant;
use crate::standalone::kinds::core::config_map::MESH_CONFIG;
use crate::standalone::kinds::core::telemetry_provider::Purpose;
use crate::standalone::kinds::istio::telemetry::Telemetry;
use crate::standalone::kinds::istio::telemetry::access_logging::AccessLogging;
use crate::standalone::kinds::istio::telemetry::scope::{Mode, ProviderRef};
use crate::standalone::translate::no_effect::{Telling, Why};

const KIND: &str = "Telemetry";

impl Telling<'_, '_> {
    pub(super) fn telemetries(&mut self) {
        let mesh = self.mesh;
        for object in mesh.state.telemetries.values() {
            if !object.spec.targets.is_empty() {
                self.missed_targets(object);
            } else if object.spec.selects {
                let reason =
                    "with a selector: for sidecars and gateways, a waypoint knows targetRefs";
                self.part(KIND, object, "spec", Why::Elsewhere(reason.to_owned()));
            } else if !mesh.effects.shows(object) {
                let namespace = object.meta.namespace.as_str();
                let first = mesh.telemetries.wide(namespace);
                let why = match first.filter(|first| mesh.effects.shows(*first)) {
                    Some(first) => Why::Mistake(format!(
                        "of those for a whole namespace the oldest counts, and that is {}",
                        first.name()
                    )),
                    None => Why::Elsewhere("for a namespace that has no service here".to_owned()),
                };
                self.part(KIND, object, "spec", why);
            }
            if mesh.effects.shows(object) {
                self.telemetry_parts(object);
            }
        }
    }

    fn missed_targets(&mut self, object: &Object<Telemetry>) {
        let mesh = self.mesh;
        let namespace = &object.meta.namespace;
        for (index, target) in object.spec.targets.iter().enumerate() {
            if mesh.effects.shows(target) {
                continue;
            }
            let field = match object.spec.single_target {
                true => "spec.targetRef".to_owned(),
                false => format!("spec.targetRefs[{index}]"),
            };
            let why = match mesh.applies_anywhere(std::slice::from_ref(target), namespace) {
                true => Why::Mistake(
                    "a Telemetry with targets is looked for in the namespaces of services, and for all else in the waypoint's"
                        .to_owned(),
                ),
                false => self.missed(target, namespace),
            };
            self.part(KIND, object, &field, why);
        }
    }

    fn telemetry_parts(&mut self, object: &Object<Telemetry>) {
        let spec = &object.spec;
        for (index, metrics) in spec.metrics.iter().enumerate() {
            let field = format!("spec.metrics[{index}]");
            self.named_providers(object, &field, &metrics.providers, Purpose::Metrics);
            for (index, change) in metrics.overrides.iter().enumerate() {
                let field = format!("{field}.overrides[{index}].match.mode");
                self.mode(object, &field, change.matches.mode);
            }
        }
        for (index, logging) in spec.access_logging.iter().enumerate() {
            let field = format!("spec.accessLogging[{index}]");
            self.named_providers(object, &field, &logging.providers, Purpose::Logs);
            self.of_no_provider(object, &field, logging);
            self.mode(object, &format!("{field}.match.mode"), logging.matches.mode);
        }
        for (index, tracing) in spec.tracing.iter().enumerate() {
            let field = format!("spec.tracing[{index}]");
            self.named_providers(object, &field, &tracing.providers, Purpose::Traces);
            self.mode(object, &format!("{field}.match.mode"), tracing.matches.mode);
            if tracing.providers.len() > 1 {
                let reason = "spans are sent to the first provider only".to_owned();
                let field = format!("{field}.providers[1]");
                self.part(KIND, object, &field, Why::Mistake(reason));
            }
        }
    }

    fn mode(&mut self, object: &Object<Telemetry>, field: &str, mode: Mode) {
        if mode == Mode::Client {
            let reason = "CLIENT is for sidecars and gateways: a waypoint has a server's view";
            self.part(KIND, object, field, Why::Mistake(reason.to_owned()));
        }
    }

    /// Logs of no provider, where nobody says which there are.
    fn of_no_provider(&mut self, object: &Object<Telemetry>, field: &str, logging: &AccessLogging) {
        let mesh = self.mesh;
        let defaults = &mesh.config.default_providers.access_logging;
        // A wider Telemetry, or another part of this one, may name some.
        let named = |object: &Object<Telemetry>| {
            let mut all = object.spec.access_logging.iter();
            all.any(|logging| !logging.providers.is_empty())
        };
        let mut shown = mesh.state.telemetries.values();
        let is_named = shown.any(|object| mesh.effects.shows(object) && named(object));
        if logging.disabled != Some(true)
            && logging.matches.mode.is_of_servers()
            && logging.providers.is_empty()
            && defaults.is_empty()
            && !is_named
        {
            let reason =
                "without providers here or in defaultProviders.accessLogging it says nothing";
            self.part(KIND, object, field, Why::Mistake(reason.to_owned()));
        }
    }

    fn named_providers(
        &mut self,
        object: &Object<Telemetry>,
        field: &str,
        providers: &[ProviderRef],
        purpose: Purpose,
    ) {
        for (index, provider) in providers.iter().enumerate() {
            if let Some(reason) = self.no_provider(&provider.name, purpose) {
                let field = format!("{field}.providers[{index}]");
                self.part(KIND, object, &field, Why::Mistake(reason));
            }
        }
    }

    /// Why a provider of this name does nothing for this purpose.
    fn no_provider(&self, name: &str, purpose: Purpose) -> Option<String> {
        let config = &self.mesh.config;
        let Some(provider) = config.provider_named(name) else {
            let names = config.providers().map(|provider| provider.name.as_str());
            let meant = meant(name, names);
            return Some(format!("MeshConfig has no provider {name:?}{meant}"));
        };
        let (kind, other) = match (provider.telemetry(), provider.ext_authz()) {
            (Some(telemetry), _) if telemetry.purpose() == purpose => return None,
            (Some(telemetry), _) => (telemetry.kind(), telemetry.purpose().of()),
            (_, Some(asked)) => (asked.kind(), "decisions on requests"),
            // That is told of MeshConfig.
            (None, None) => return None,
        };
        let of = purpose.of();
        Some(format!(
            "{name} is a provider {kind}, which is for {other}, not for {of}"
        ))
    }

    pub(super) fn telemetry_providers(&mut self) {
        let mesh = self.mesh;
        let defaults = &mesh.config.default_providers;
        let lists = [
            ("metrics", &defaults.metrics, Purpose::Metrics),
            ("accessLogging", &defaults.access_logging, Purpose::Logs),
            ("tracing", &defaults.tracing, Purpose::Traces),
        ];
        for (list, names, purpose) in lists {
            for name in names {
                if let Some(reason) = self.no_provider(name, purpose) {
                    self.of_mesh(format!("data.mesh.defaultProviders.{list}"), reason);
                }
            }
        }
        if defaults.tracing.len() > 1 {
            let reason = "spans are sent to the first provider only".to_owned();
            self.of_mesh("data.mesh.defaultProviders.tracing".to_owned(), reason);
        }
        let used = self.used_providers();
        let (namespace, config_map) = MESH_CONFIG;
        for (index, provider) in mesh.config.extension_providers.iter().enumerate() {
            let Some(telemetry) = provider.telemetry() else {
                continue;
            };
            if !used.contains(&provider.name.to_ascii_lowercase()) {
                let reason = "extension providers that no telemetry of this waypoint names";
                let what = format!("{namespace}/{config_map} {}", provider.name);
                self.aside("ConfigMap", reason, what);
            } else if telemetry.service().is_some()
                && let Err(reason) = mesh.server_of(provider)
            {
                let field = format!("data.mesh.extensionProviders[{index}].{}", telemetry.kind());
                self.of_mesh(field, format!("{reason}: nothing is sent to it"));
            }
        }
    }

    /// In small letters: case says nothing in them.
    fn used_providers(&self) -> BTreeSet<String> {
        let mesh = self.mesh;
        let shown = mesh.state.telemetries.values();
        let shown = shown.filter(|object| mesh.effects.shows(*object));
        let named = shown.flat_map(|object| {
            let spec = &object.spec;
            let metrics = spec.metrics.iter().flat_map(|m| &m.providers);
            let logs = spec.access_logging.iter().flat_map(|l| &l.providers);
            let traces = spec.tracing.iter().flat_map(|t| &t.providers);
            let all = metrics.chain(logs).chain(traces);
            all.map(|provider| provider.name.as_str())
                .collect::<Vec<_>>()
        });
        let defaults = &mesh.config.default_providers;
        let of_mesh = [
            &defaults.metrics,
            &defaults.access_logging,
            &defaults.tracing,
        ];
        let of_mesh = of_mesh.into_iter().flatten().map(String::as_str);
        named.chain(of_mesh).map(str::to_ascii_lowercase).collect()
    }

    /// A field of MeshConfig that has no effect.
    pub(super) fn of_mesh(&self, field: String, reason: String) {
        let (namespace, name) = MESH_CONFIG;
        // Without the ConfigMap there is nothing in it.
        if let Some(origin) = &self.mesh.state.mesh_origin {
            let resource = format!("ConfigMap {namespace}/{name}");
            self.no_effect(resource, origin, &field, reason);
        }
    }
}
