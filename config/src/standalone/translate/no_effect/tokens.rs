//! RequestAuthentications that hit nothing of this waypoint, and what of their rules does nothing.

use waypoint_filters::security::jwt::keys::key_set::KeySet;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::istio::jwks;
use crate::standalone::kinds::istio::request_authentication::{Keys, RequestAuthentication};
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::clusters::subsets;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::no_effect::{Telling, Why};

const KIND: &str = "RequestAuthentication";

impl Telling<'_, '_> {
    pub(super) fn tokens(&mut self) {
        let mesh = self.mesh;
        for object in mesh.state.request_authentications.values() {
            let (targets, namespace) = (&object.spec.targets, &object.meta.namespace);
            if targets.is_empty() {
                let reason =
                    "without targetRefs no waypoint enforces it, and ztunnel looks at no tokens"
                        .to_owned();
                self.part(KIND, object, "spec", Why::Mistake(reason));
            }
            if mesh.hits_any_chain(targets, namespace) {
                self.jwt_rules(object);
            }
            for (index, target) in targets.iter().enumerate() {
                if mesh.effects.shows(target) {
                    continue;
                }
                let field = match object.spec.single_target {
                    true => "spec.targetRef".to_owned(),
                    false => format!("spec.targetRefs[{index}]"),
                };
                let why = self.missed(target, namespace);
                self.part(KIND, object, &field, why);
            }
        }
    }

    fn jwt_rules(&mut self, object: &Object<RequestAuthentication>) {
        if object.spec.rules.is_empty() {
            let reason = "is empty: no token is looked for".to_owned();
            self.part(KIND, object, "spec.jwtRules", Why::Mistake(reason));
        }
        if !self.applies_to_http(object) {
            let reason = "nothing but HTTP has tokens, and no port of what it targets carries it";
            self.part(KIND, object, "spec", Why::Mistake(reason.to_owned()));
        }
        for (index, rule) in object.spec.rules.iter().enumerate() {
            let Keys::Inline(keys) = &rule.keys else {
                continue;
            };
            let field = format!("spec.jwtRules[{index}].jwks");
            let left_out = KeySet::parse(keys.as_bytes()).map(|set| set.left_out);
            for why in left_out.iter().flatten() {
                let reason = format!("a key is left out: {why}");
                self.part(KIND, object, &field, Why::Mistake(reason));
            }
            for key in jwks::private_keys(keys) {
                let reason = format!(
                    "key {key} is a private key: only its public part is used, and it should stand nowhere else"
                );
                self.part(KIND, object, &field, Why::Mistake(reason));
            }
            if rule.timeout.is_some() {
                let field = format!("spec.jwtRules[{index}].timeout");
                let reason = "is for fetching keys, and they are given here".to_owned();
                self.part(KIND, object, &field, Why::Mistake(reason));
            }
        }
    }

    fn applies_to_http(&self, object: &Object<RequestAuthentication>) -> bool {
        let mesh = self.mesh;
        let (targets, namespace) = (&object.spec.targets, &object.meta.namespace);
        let mut services = mesh.waypoint.services.iter();
        services.any(|service| {
            carries_http(mesh, service) && mesh.targets_chain(targets, namespace, Some(service))
        }) || mesh.targets_chain(targets, namespace, None)
    }
}

/// Whether any port of a service has a chain for HTTP.
pub(super) fn carries_http(mesh: &Mesh<'_>, service: &MeshService<'_>) -> bool {
    let mut ports = service.ports.iter();
    ports.any(|port| mesh.effects.shows(port) && subsets(port.protocol).contains(&"http"))
}
