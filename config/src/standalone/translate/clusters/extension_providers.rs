//! The extension providers that policies ask: which there are, and through which cluster they are asked; and the services
//! of all providers.

use crate::standalone::kinds::core::extension_provider::ExtAuthz;
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::clusters::outbound::outbound;
use crate::standalone::translate::clusters::service_lookup::port_to_ask;
use crate::standalone::translate::context::Mesh;

/// A provider, and who serves it.
pub(crate) struct Provider<'m> {
    pub settings: ExtAuthz<'m>,
    pub hostname: String,
    pub cluster: String,
}

impl<'a> Mesh<'a> {
    /// The provider of this name; an error is why it can't be asked.
    pub(crate) fn provider(&self, name: &str) -> Result<Provider<'_>, String> {
        let all = &self.config.extension_providers;
        let deciding = || all.iter().filter_map(|p| Some((p, p.ext_authz()?)));
        let Some((_, settings)) = deciding().find(|(written, _)| written.name == name) else {
            let known: Vec<&str> = deciding().map(|(p, _)| p.name.as_str()).collect();
            return Err(match known.as_slice() {
                [] => {
                    "MeshConfig has no provider envoyExtAuthzGrpc or envoyExtAuthzHttp".to_owned()
                }
                known => format!(
                    "MeshConfig has no provider {name:?} of the kinds envoyExtAuthzGrpc and envoyExtAuthzHttp, but {}",
                    known.join(", ")
                ),
            });
        };
        if let Some(reason) = settings.unusable(name) {
            return Err(format!("of the provider {name:?} in MeshConfig {reason}"));
        }
        let of_provider = |reason| format!("the provider {name:?} in MeshConfig: {reason}");
        let service = self
            .service_named(settings.service())
            .map_err(of_provider)?;
        // Whatever was admitted is a port.
        let port = u16::try_from(settings.port()).unwrap_or(0);
        port_to_ask(&service, port).map_err(of_provider)?;
        Ok(Provider {
            settings,
            cluster: outbound(port, &service.hostname),
            hostname: service.hostname,
        })
    }

    /// Services of all providers; as with istiod also of those that nobody asks.
    pub(crate) fn provider_services(&self) -> Vec<MeshService<'a>> {
        let all = self.config.extension_providers.iter();
        let served = all.filter_map(|provider| provider.service());
        let found = served.map(|(service, _)| self.service_named(service));
        found.filter_map(Result::ok).collect()
    }
}
