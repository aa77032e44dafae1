//! Settings of Istio's template and agent that are accepted and have no effect here. They are named in the log, so that nobody
//! waits for it.

use std::collections::BTreeMap;

use crate::pod::environment::variables::Variables;

const VARIABLES: &[&str] = &[
    "CA_PROVIDER",
    "COMPLIANCE_POLICY",
    "CREDENTIAL_FETCHER_TYPE",
    "DISABLE_ENVOY",
    "DNS_PROXY_ADDR",
    "ECC_CURVE",
    "ECC_SIGNATURE_ALGORITHM",
    "ENVOY_SECURE_MERGED_METRICS_PORT",
    "ENVOY_SECURE_METRICS_PORT",
    "ENVOY_SKIP_DEPRECATED_LOGS",
    "FILE_DEBOUNCE_DURATION",
    "FILE_MOUNTED_CERTS",
    "HOST_IP",
    "ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION",
    "ISTIO_BOOTSTRAP",
    "ISTIO_BOOTSTRAP_OVERRIDE",
    "ISTIO_DUAL_STACK",
    "ISTIO_META_CERT_SIGNER",
    "JWT_POLICY",
    "OUTPUT_CERTS",
    "PEER_METADATA_DISCOVERY",
    "PILOT_AGENT_MERGE_ENVOY_STATS",
    "PILOT_CERT_PROVIDER",
    "PKCS8_KEY",
    "PROV_CERT",
    "WORKLOAD_RSA_KEY_SIZE",
];
const VARIABLE_PREFIXES: &[&str] = &["WASM_"];
/// Of the Gateway, which are the pod's.
const ANNOTATION_PREFIXES: &[&str] = &[
    "sidecar.istio.io/bootstrapOverride",
    "sidecar.istio.io/extraStatTags",
    "sidecar.istio.io/stats",
    "traffic.sidecar.istio.io/",
];

/// Variables and annotations that were given and have no effect.
pub(crate) fn given(variables: &Variables, annotations: &BTreeMap<String, String>) -> Vec<String> {
    let variable = |name: &str| {
        VARIABLES.contains(&name) || VARIABLE_PREFIXES.iter().any(|p| name.starts_with(p))
    };
    let annotation = |name: &str| ANNOTATION_PREFIXES.iter().any(|p| name.starts_with(p));
    let variables = variables.with_prefix("").map(|(name, _)| name);
    let annotations = annotations.keys().map(String::as_str);
    variables
        .filter(|name| variable(name))
        .chain(annotations.filter(|name| annotation(name)))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_named() {
        let map = |names: &[&str]| -> BTreeMap<String, String> {
            let pairs = names
                .iter()
                .map(|name| ((*name).to_owned(), "x".to_owned()));
            pairs.collect()
        };
        let variables = map(&["POD_NAME", "JWT_POLICY", "WASM_HTTP_REQUEST_TIMEOUT"]);
        let annotations = map(&["istio.io/rev", "sidecar.istio.io/statsHistogramBuckets"]);
        assert_eq!(
            given(&Variables::new(variables), &annotations),
            [
                "JWT_POLICY",
                "WASM_HTTP_REQUEST_TIMEOUT",
                "sidecar.istio.io/statsHistogramBuckets"
            ]
        );
    }
}
