//! Which logs a hop writes: those of Telemetry, else of `defaultProviders`, else MeshConfig's own file.
//!
//! Objects stand above each other as levels: the last level that names providers says which count, each level may turn
//! them off or on again, and of filters the last one counts.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;

use crate::standalone::kinds::istio::telemetry::access_logging::AccessLogging;
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::context::access_log::{Logged, filter};
use crate::standalone::translate::proto::packed::any;

/// What is said of a provider's log.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Spec<'t> {
    disabled: bool,
    expression: Option<&'t str>,
}

impl Mesh<'_> {
    /// The logs of a hop of a service's chains, or of all else of the waypoint.
    pub(crate) fn access_logs(
        &self,
        service: Option<&MeshService<'_>>,
        logged: Logged,
    ) -> Vec<accesslog::AccessLog> {
        if logged == Logged::NoRoute && self.config.disable_envoy_listener_log {
            return Vec::new();
        }
        let objects = self.telemetries(service);
        let levels = objects.iter().map(|object| &*object.spec.access_logging);
        let levels: Vec<_> = levels.filter(|level| !level.is_empty()).collect();
        let defaults = &self.config.default_providers.access_logging;
        let mut logs = Vec::new();
        for (name, spec) in merge(&levels, defaults) {
            let provider = self.config.provider_named(name);
            if let Some((provider, log)) = provider.and_then(|p| Some((p, self.log_of(p)?))) {
                logs.push((provider.name.as_str(), spec, log));
            }
        }
        // As with istiod: providers that can't be had leave the mesh's own file.
        if logs.is_empty() {
            return self.access_log.logs(logged);
        }
        logs.sort_by_key(|(name, ..)| *name);
        let on = logs.into_iter().filter(|(_, spec, _)| !spec.disabled);
        on.map(|(_, spec, log)| {
            let filters = filter(logged).into_iter();
            let filters = filters.chain(spec.expression.map(expression));
            accesslog::AccessLog {
                filter: all_of(filters.collect()),
                ..log
            }
        })
        .collect()
    }
}

/// By the providers' names.
fn merge<'t>(
    levels: &[&'t [AccessLogging]],
    defaults: &'t [String],
) -> BTreeMap<&'t str, Spec<'t>> {
    let defaults: Vec<&str> = defaults.iter().map(String::as_str).collect();
    if levels.is_empty() {
        let alone = |name| (name, Spec::default());
        return defaults.into_iter().map(alone).collect();
    }
    let mut in_scope = defaults.clone();
    let mut expressions: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for level in levels {
        let mut named = Vec::new();
        for logging in level.iter().filter(|l| l.matches.mode.is_of_servers()) {
            let expression = logging.filter.as_ref().map(|f| f.expression.as_str());
            for provider in &logging.providers {
                named.push(provider.name.as_str());
                expressions.insert(&provider.name, expression);
            }
        }
        if !named.is_empty() {
            in_scope = named;
        }
    }
    let mut above = defaults;
    let mut found = BTreeMap::new();
    for logging in levels.iter().copied().flatten() {
        if !logging.providers.is_empty() {
            above = logging.providers.iter().map(|p| p.name.as_str()).collect();
        }
        if !logging.matches.mode.is_of_servers() {
            continue;
        }
        for name in above.iter().filter(|name| in_scope.contains(name)) {
            let disabled = logging.disabled == Some(true);
            let expression = expressions.get(name).copied().flatten();
            let expression = expression.filter(|_| !disabled);
            found.insert(
                *name,
                Spec {
                    disabled,
                    expression,
                },
            );
        }
    }
    found
}

fn expression(text: &str) -> accesslog::AccessLogFilter {
    use accesslog::access_log_filter::FilterSpecifier;
    let config = ExpressionFilter {
        expression: text.to_owned(),
        ..ExpressionFilter::default()
    };
    let extension = accesslog::ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".to_owned(),
        config_type: Some(accesslog::extension_filter::ConfigType::TypedConfig(any(
            &config,
        ))),
    };
    accesslog::AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::ExtensionFilter(extension)),
    }
}

fn all_of(mut filters: Vec<accesslog::AccessLogFilter>) -> Option<accesslog::AccessLogFilter> {
    use accesslog::access_log_filter::FilterSpecifier;
    match filters.len() {
        0 | 1 => filters.pop(),
        _ => Some(accesslog::AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::AndFilter(accesslog::AndFilter { filters })),
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn merged(levels: Value, defaults: &[&str]) -> Vec<String> {
        let levels: Vec<Vec<AccessLogging>> = serde_json::from_value(levels).unwrap();
        let levels: Vec<&[AccessLogging]> = levels.iter().map(Vec::as_slice).collect();
        let defaults: Vec<String> = defaults.iter().map(ToString::to_string).collect();
        let found = merge(&levels, &defaults);
        let line = |(name, spec): (&&str, &Spec<'_>)| {
            let off = if spec.disabled { " off" } else { "" };
            let expression = spec.expression.map(|e| format!(" if {e}"));
            format!("{name}{off}{}", expression.unwrap_or_default())
        };
        found.iter().map(line).collect()
    }

    #[test]
    fn levels_stand_above_each_other() {
        assert_eq!(merged(json!([]), &["a", "b"]), ["a", "b"]);
        assert_eq!(merged(json!([[{"disabled": true}]]), &["a"]), ["a off"]);
        let two = json!([
            [{"providers": [{"name": "a"}], "filter": {"expression": "x"}}],
            [{"providers": [{"name": "b"}]}, {"providers": [{"name": "c"}], "filter": {"expression": "y"}}],
        ]);
        assert_eq!(merged(two, &["d"]), ["b", "c if y"]);
        // Without providers it is for those above; the filter is theirs that was given last.
        let inherited = json!([
            [{"providers": [{"name": "a"}], "filter": {"expression": "x"}}],
            [{"disabled": false}],
        ]);
        assert_eq!(merged(inherited, &["d"]), ["a if x"]);
        let client = json!([[{"match": {"mode": "CLIENT"}, "providers": [{"name": "a"}]}]]);
        assert_eq!(merged(client, &["d"]), Vec::<String>::new());
        let off_and_on = json!([
            [{"providers": [{"name": "a"}], "disabled": true}],
            [{"providers": [{"name": "a"}]}],
        ]);
        assert_eq!(merged(off_and_on, &[]), ["a"]);
    }
}
