//! Policies about backends, and credentials: what they say nothing to, and what can't be had.

use crate::{check, told};

fn tls(name: &str, target: &str, roots: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: {name}}}, \
          spec: {{targetRefs: [{target}], validation: {{hostname: a.test, {roots}}}}}}}\n---\n"
    )
}

fn traffic(name: &str, target: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {{name: {name}}}, \
          spec: {{targetRefs: [{target}], {rest}}}}}\n---\n"
    )
}

fn rule(tls: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r}}, spec: {{host: web, trafficPolicy: {{tls: {{{tls}}}}}}}}}\n---\n"
    )
}

const WEB: &str = "{group: '', kind: Service, name: web}";
const SYSTEM: &str = "wellKnownCACertificates: System";
const OF_MAP: &str = "caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]";
const MAP: &str =
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: roots}, data: {ca.crt: x}}\n---\n";
const SECRET: &str = "{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {ca.crt: x, tls.crt: hidden, tls.key: hidden}}\n---\n";
const RETRIES: &str = "retryConstraint: {budget: {percent: 5}}";

#[test]
fn what_holds_is_not_told() {
    for more in [
        tls("p", WEB, SYSTEM),
        tls(
            "p",
            "{group: '', kind: Service, name: web, sectionName: http}",
            SYSTEM,
        ),
        tls("p", WEB, OF_MAP) + MAP,
        traffic("p", WEB, RETRIES),
        rule("mode: MUTUAL, credentialName: keys") + SECRET,
        rule("mode: SIMPLE, credentialName: 'configmap://default/roots'") + MAP,
    ] {
        assert_eq!(told(&more), Vec::<String>::new(), "{more}");
    }
}

#[test]
fn targets_that_a_policy_says_nothing_to() {
    let own = "BackendTLSPolicy default/p (no effect): spec.targetRefs[0]: ";
    let traffic_own = "XBackendTrafficPolicy default/p (no effect): spec.targetRefs[0]: ";
    let pod = "{group: '', kind: Pod, name: one}";
    check(&[
        (
            tls("p", "{group: '', kind: Service, name: wep}", SYSTEM),
            &[
                own,
                "no Service default/wep is among the manifests",
                "\"web\"",
            ],
        ),
        (tls("p", pod, SYSTEM), &[own, "says nothing to a Pod"]),
        (
            tls(
                "p",
                "{group: '', kind: Service, name: web, sectionName: grpc}",
                SYSTEM,
            ),
            &[own, "no port named \"grpc\""],
        ),
        (
            tls("a", WEB, SYSTEM) + &tls("p", WEB, SYSTEM),
            &[own, "that of default/a stands"],
        ),
        (
            tls("p", WEB, SYSTEM) + &rule("mode: SIMPLE"),
            &[own, "tls of the DestinationRule default/r stands above it"],
        ),
        (
            traffic(
                "p",
                "{group: networking.istio.io, kind: ServiceEntry, name: web}",
                RETRIES,
            ),
            &[traffic_own, "for Services only"],
        ),
        (
            traffic("a", WEB, RETRIES) + &traffic("p", WEB, RETRIES),
            &[traffic_own, "that of default/a stands"],
        ),
        (
            traffic("p", WEB, "retryConstraint: {}, sessionPersistence: {}"),
            &["XBackendTrafficPolicy default/p (no effect): spec.sessionPersistence: "],
        ),
        (
            traffic(
                "p",
                WEB,
                "retryConstraint: {minRetryRate: {count: 1, interval: 1s}}",
            ),
            &[
                "XBackendTrafficPolicy default/p (no effect): spec.retryConstraint.minRetryRate.interval: ",
            ],
        ),
    ]);
}

#[test]
fn credentials_that_cannot_be_had() {
    let own = "DestinationRule default/r (closed what it targets): spec.trafficPolicy.tls.credentialName: connections fail: ";
    let policy = "BackendTLSPolicy default/p (closed what it targets): spec.validation.caCertificateRefs[0]: connections fail: ";
    let simple = |name: &str| rule(&format!("mode: SIMPLE, credentialName: '{name}'"));
    check(&[
        (
            simple("keys"),
            &[own, "no Secret default/keys is among the manifests"],
        ),
        (
            simple("kubernetes://plain/keys"),
            &[own, "may not have Secrets of namespace \"plain\""],
        ),
        (
            simple("keys")
                + "{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {tls.crt: hidden}}\n---\n",
            &[
                own,
                "Secret default/keys has no ca.crt or cacert with a value, only tls.crt",
            ],
        ),
        (
            simple("configmap://default/roots"),
            &[own, "no ConfigMap default/roots is among the manifests"],
        ),
        (
            tls("p", WEB, OF_MAP),
            &[policy, "no ConfigMap default/roots is among the manifests"],
        ),
        (
            tls(
                "p",
                WEB,
                "caCertificateRefs: [{group: '', kind: Secret, name: keys}]",
            ) + SECRET,
            &[policy, "not from a Secret"],
        ),
        (
            tls("p", WEB, "wellKnownCACertificates: example.com/mine"),
            &[
                "BackendTLSPolicy default/p (no effect): spec.validation.wellKnownCACertificates: ",
                "the system's roots count",
            ],
        ),
    ]);
    for line in told(&(simple("keys") + SECRET)) {
        assert!(!line.contains("hidden"), "{line}");
    }
}
