//! Extension providers that nobody asks, and connections that nobody is asked about.

use std::collections::BTreeSet;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::core::config_map::MESH_CONFIG;
use crate::standalone::kinds::core::extension_provider::ExtAuthz;
use crate::standalone::kinds::istio::authorization_policy::{Action, AuthorizationPolicy};
use crate::standalone::translate::no_effect::rules::first;
use crate::standalone::translate::no_effect::{Telling, Why};

impl Telling<'_, '_> {
    pub(super) fn providers(&mut self) {
        let (namespace, name) = MESH_CONFIG;
        let mesh = self.mesh;
        let own = mesh
            .state
            .policies
            .values()
            .filter(|policy| mesh.hits_any_chain(&policy.spec.targets, &policy.meta.namespace));
        let asked: BTreeSet<&str> = own.filter_map(|p| p.spec.provider.as_deref()).collect();
        for provider in &mesh.config.extension_providers {
            if provider.ext_authz().is_some() && !asked.contains(provider.name.as_str()) {
                let reason = "extension providers that no policy of this waypoint asks";
                let what = format!("{namespace}/{name} {}", provider.name);
                self.aside("ConfigMap", reason, what);
            }
        }
    }

    /// Whether a policy's provider is asked about requests only; the ports with other connections are told.
    pub(super) fn asks_of_requests_only(
        &mut self,
        policy: &Object<AuthorizationPolicy>,
        ports: &[String],
    ) -> bool {
        let name = match policy.spec.action {
            Action::Custom => policy.spec.provider.as_deref().unwrap_or_default(),
            Action::Allow | Action::Deny | Action::Audit => return false,
        };
        let Ok(ExtAuthz::Http(_)) = self.mesh.provider(name).map(|found| found.settings) else {
            return false;
        };
        if !ports.is_empty() {
            let reason = format!(
                "a provider over HTTP is asked about requests: on other connections nobody is ({})",
                first(ports)
            );
            let field = "spec.provider.name";
            self.part("AuthorizationPolicy", policy, field, Why::Mistake(reason));
        }
        true
    }
}
