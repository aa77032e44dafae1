//! `/listeners`: the listeners in force and where they listen. All but one are inside the process.

use http::StatusCode;
use serde_json::{Value, json};
use waypoint_config::model::listener::CONNECT_TERMINATE;
use waypoint_config::resource::ResourceType;

use crate::admin::Admin;
use crate::admin::answer::{self, Answer, text};
use crate::admin::target::Target;

impl Admin {
    pub(super) fn listeners(&self, target: &Target) -> Answer {
        let entries = self.received.entries(ResourceType::Listener);
        let in_force = entries.iter().filter(|(_, entry)| entry.in_force.is_some());
        let names = in_force.map(|(name, _)| &**name);
        if target.get("format") == Some("json") {
            let statuses: Vec<Value> = names.map(|name| self.listener(name)).collect();
            return answer::json(&json!({"listener_statuses": statuses}));
        }
        let line = |name: &str| match name {
            CONNECT_TERMINATE => format!("{name}::{}\n", self.hbone_addr),
            _ => format!("{name}::envoy://{name}/\n"),
        };
        text(StatusCode::OK, names.map(line).collect::<String>())
    }

    fn listener(&self, name: &str) -> Value {
        let address = match name {
            CONNECT_TERMINATE => json!({"socket_address": {
                "address": self.hbone_addr.ip().to_string(),
                "port_value": self.hbone_addr.port(),
            }}),
            _ => json!({"envoy_internal_address": {"server_listener_name": name}}),
        };
        json!({"name": name, "local_address": address})
    }
}
