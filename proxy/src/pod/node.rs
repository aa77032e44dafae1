//! The node that istiod is told: id, metadata and locality, as Istio's agent would.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::google::protobuf::{
    ListValue, NullValue, Struct, Value as ProtoValue, value::Kind,
};
use serde_json::{Map, Value, json};

use crate::pod::environment::Environment;

/// Labels that carry the pod's locality, `.` for `/`.
const LOCALITY: [&str; 2] = ["topology.istio.io/locality", "istio-locality"];

/// The node of this pod.
pub(crate) fn node(environment: &Environment) -> Node {
    let Environment {
        pod_name,
        namespace,
        domain,
        ..
    } = environment;
    let address = environment
        .addresses
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    Node {
        id: format!("waypoint~{address}~{pod_name}.{namespace}~{domain}"),
        cluster: environment.service_cluster.clone(),
        metadata: Some(to_struct(&metadata(environment))),
        locality: locality(&environment.labels),
        ..Node::default()
    }
}

fn metadata(environment: &Environment) -> Map<String, Value> {
    let addresses: Vec<String> = environment
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut labels = environment.labels.clone();
    labels.remove("pod-template-hash");
    let mut metadata = environment.metadata.clone();
    let mut own = json!({
        "NAME": environment.pod_name,
        "NAMESPACE": environment.namespace,
        "SERVICE_ACCOUNT": environment.service_account(),
        "INSTANCE_IPS": addresses.join(","),
        "ISTIO_VERSION": environment.istio_version,
        // istiod leaves nodes without it out of `istioctl proxy-status`.
        "PROXY_CONFIG": environment.proxy_config.fields(),
        "LABELS": labels,
        "ANNOTATIONS": environment.annotations,
        "ENVOY_STATUS_PORT": environment.ports.readiness.port(),
        "ENVOY_PROMETHEUS_PORT": environment.ports.prometheus.port(),
        "PILOT_SAN": [environment.discovery.name()],
    });
    if environment.drain.until_unused {
        own["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] = "true".into();
    }
    if let Some(path) = &environment.outlier_log_path {
        own["OUTLIER_LOG_PATH"] = path.as_str().into();
    }
    metadata
        .entry("METADATA_DISCOVERY")
        .or_insert_with(|| "true".into());
    if let Value::Object(own) = own {
        metadata.extend(own);
    }
    metadata
}

fn locality(labels: &BTreeMap<String, String>) -> Option<Locality> {
    let text = LOCALITY
        .iter()
        .find_map(|label| labels.get(*label))?
        .replace('.', "/");
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    Some(Locality {
        region: parts.next().unwrap_or_default(),
        zone: parts.next().unwrap_or_default(),
        sub_zone: parts.next().unwrap_or_default(),
    })
}

fn to_struct(map: &Map<String, Value>) -> Struct {
    Struct {
        fields: map
            .iter()
            .map(|(key, value)| (key.clone(), to_value(value)))
            .collect(),
    }
}

fn to_value(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(NullValue::NullValue as i32),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(list) => Kind::ListValue(ListValue {
            values: list.iter().map(to_value).collect(),
        }),
        Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    ProtoValue { kind: Some(kind) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::pod::environment::{ISTIO_VERSION, Sources};

    use super::*;

    fn environment(more: &[(&str, &str)]) -> Environment {
        let needed = [
            ("POD_NAME", "waypoint-0"),
            ("POD_NAMESPACE", "default"),
            ("SERVICE_ACCOUNT", "waypoint"),
            ("INSTANCE_IP", "10.0.0.7,fd00::7"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_NETWORK", "net-1"),
        ];
        let all = needed.iter().chain(more);
        Environment::read(Sources {
            arguments: &["waypoint".to_owned(), "--outlierLogPath=/out".to_owned()],
            variables: all.map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            root: &std::env::temp_dir().join("waypoint-no-such-root"),
        })
        .unwrap()
    }

    #[test]
    fn the_node_is_told_as_istios_agent_would() {
        let mut environment = environment(&[("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true")]);
        environment.labels = [("app", "waypoint"), ("pod-template-hash", "5d9c")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let node = node(&environment);
        assert_eq!(
            node.id,
            "waypoint~10.0.0.7~waypoint-0.default~default.svc.cluster.local"
        );
        assert_eq!(node.cluster, "waypoint.default");
        let metadata = waypoint_filters::xds::struct_json::struct_to_json(&node.metadata.unwrap());
        let expected = json!({
            "NAME": "waypoint-0",
            "NAMESPACE": "default",
            "SERVICE_ACCOUNT": "waypoint",
            "CLUSTER_ID": "Kubernetes",
            "NETWORK": "net-1",
            "INSTANCE_IPS": "10.0.0.7,fd00::7",
            "ISTIO_VERSION": ISTIO_VERSION,
            "LABELS": {"app": "waypoint"},
            "ANNOTATIONS": {},
            "METADATA_DISCOVERY": "true",
            "ENVOY_STATUS_PORT": 15021.0,
            "ENVOY_PROMETHEUS_PORT": 15090.0,
            "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true",
            "OUTLIER_LOG_PATH": "/out",
            "PILOT_SAN": ["istiod.istio-system.svc"],
            "PROXY_CONFIG": {
                "binaryPath": "/usr/local/bin/envoy",
                "configPath": "./etc/istio/proxy",
                "controlPlaneAuthPolicy": "MUTUAL_TLS",
                "discoveryAddress": "istiod.istio-system.svc:15012",
                "drainDuration": "45s",
                "proxyAdminPort": 15000.0,
                "serviceCluster": "istio-proxy",
                "statNameLength": 189.0,
                "statusPort": 15020.0,
                "terminationDrainDuration": "5s",
            },
        });
        assert_eq!(metadata, expected);
    }

    #[test]
    fn locality_comes_from_a_label_with_dots_for_slashes() {
        let labels = BTreeMap::from([("istio-locality".to_owned(), "r1.z1.s1".to_owned())]);
        let found = locality(&labels).unwrap();
        assert_eq!(
            (
                found.region.as_str(),
                found.zone.as_str(),
                found.sub_zone.as_str()
            ),
            ("r1", "z1", "s1")
        );
        assert!(locality(&BTreeMap::new()).is_none());
    }

    #[test]
    fn json_becomes_a_struct() {
        let Value::Object(map) = json!({"a": [1, null, {"b": true}]}) else {
            panic!("object")
        };
        let text = waypoint_filters::xds::struct_json::struct_to_json(&to_struct(&map));
        assert_eq!(text, json!({"a": [1.0, null, {"b": true}]}));
    }
}
