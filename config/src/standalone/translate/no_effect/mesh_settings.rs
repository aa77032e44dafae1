//! What MeshConfig says of all clusters and is nothing to a waypoint.

use crate::standalone::kinds::core::config_map::{Encoding, MESH_CONFIG};
use crate::standalone::translate::no_effect::Telling;
use crate::standalone::translate::no_effect::destination_rules::UNKNOWN_PLACE;

impl Telling<'_, '_> {
    pub(super) fn mesh_settings(&mut self) {
        let mesh = self.mesh;
        if mesh.config.zone_aware_lb_setting.is_some() {
            let (namespace, name) = MESH_CONFIG;
            let reason = "is for sidecars: waypoints balance without it, and by no distance either";
            let what = format!("{namespace}/{name} zoneAwareLbSetting");
            self.aside("ConfigMap", reason, what);
        }
        self.log_of_nobody();
        let Some(setting) = &mesh.config.locality_lb_setting else {
            return;
        };
        // What ejects endpoints is a rule's, and tells there of what is farther off.
        let anywhere = |from: &str| from.starts_with('*');
        let mut distribute = setting.distribute.iter();
        let needs_place = distribute.any(|own| !anywhere(&own.from));
        if setting.enabled != Some(false) && needs_place && !mesh.place.is_known() {
            let field = "data.mesh.localityLbSetting.distribute".to_owned();
            self.of_mesh(field, UNKNOWN_PLACE.to_owned());
        }
    }

    /// How lines are written, where nothing asks for any.
    fn log_of_nobody(&self) {
        let config = &self.mesh.config;
        let mut telemetries = self.mesh.state.telemetries.values();
        if !config.access_log_file.is_empty()
            || !config.default_providers.access_logging.is_empty()
            || telemetries.any(|telemetry| !telemetry.spec.access_logging.is_empty())
        {
            return;
        }
        for (field, given) in [
            (
                "accessLogEncoding",
                config.access_log_encoding != Encoding::Text,
            ),
            ("accessLogFormat", !config.access_log_format.is_empty()),
            ("disableEnvoyListenerLog", config.disable_envoy_listener_log),
        ] {
            if given {
                let reason = "without accessLogFile, or a Telemetry, no access log is written";
                self.of_mesh(format!("data.mesh.{field}"), reason.to_owned());
            }
        }
    }
}
