//! `/server_info`, `/memory` and `/runtime`: what is known of the process itself.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use serde_json::{Value, json};
use waypoint_filters::xds::struct_json::struct_to_json;

use crate::admin::Admin;
use crate::admin::answer::{self, Answer};
use crate::admin::bootstrap::version;
use crate::process::memory::Resident;

impl Admin {
    /// As `envoy.admin.v3.ServerInfo`.
    pub(super) fn server_info(&self) -> Answer {
        let uptime = seconds(self.started.instant.elapsed());
        answer::json(&json!({
            "version": version(),
            "state": self.envoy.state().0,
            "uptime_current_epoch": uptime,
            "uptime_all_epochs": uptime,
            "hot_restart_version": "disabled",
            "command_line_options": {
                "concurrency": self.concurrency,
                "service_cluster": self.node.cluster,
                "service_node": self.node.id,
                "log_level": self.log_levels.default_level(),
                "mode": "Serve",
                "disable_hot_restart": true,
            },
            "node": self.node_json(),
        }))
    }

    fn node_json(&self) -> Value {
        let node = &*self.node;
        let mut json = json!({
            "id": node.id,
            "cluster": node.cluster,
            "user_agent_name": node.user_agent_name,
        });
        if let Some(metadata) = &node.metadata {
            json["metadata"] = struct_to_json(metadata);
        }
        if let Some(locality) = &node.locality {
            json["locality"] = json!({
                "region": locality.region,
                "zone": locality.zone,
                "sub_zone": locality.sub_zone,
            });
        }
        if let Some(UserAgentVersionType::UserAgentBuildVersion(build)) =
            &node.user_agent_version_type
        {
            let number = build.version.unwrap_or_default();
            json["user_agent_build_version"] = json!({
                "version": {
                    "major_number": number.major_number,
                    "minor_number": number.minor_number,
                    "patch": number.patch,
                },
                "metadata": build.metadata.as_ref().map(struct_to_json),
            });
        }
        json
    }
}

/// As protobuf's JSON has durations.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// As `envoy.admin.v3.Memory`; from the kernel, which knows less than an allocator would.
pub(super) fn memory() -> Answer {
    let resident = Resident::now();
    answer::json(&json!({
        "heap_size": resident.anonymous.to_string(),
        "total_physical_bytes": resident.all.to_string(),
    }))
}

/// Envoy's runtime flags: there are none.
pub(super) fn runtime() -> Answer {
    answer::json(&json!({"layers": [], "entries": {}}))
}
