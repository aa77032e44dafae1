//! VirtualServices: what of them has no effect.

use super::{TO_WEB, check, named_route, told};

const TO: &str = "route: [{destination: {host: api}}]";

fn virtual_service(name: &str, meta: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}{meta}}}, spec: {{{spec}}}}}\n---\n"
    )
}

fn http(rules: &str) -> String {
    virtual_service("v", "", &format!("hosts: [web], http: [{rules}]"))
}

#[test]
fn what_has_an_effect_is_not_told() {
    for text in [
        http(&format!("{{{TO}}}")),
        http(&format!(
            "{{match: [{{uri: {{prefix: /a}}, port: 80}}], {TO}}}, {{{TO}}}"
        )),
        http("{match: [{method: {exact: GET}}], redirect: {uri: /a}}, {directResponse: {status: 204}}"),
        virtual_service("v", "", &format!("hosts: ['*.default.svc.cluster.local'], gateways: [mesh, edge], exportTo: ['.'], http: [{{{TO}}}]")),
        virtual_service("v", "", &format!("hosts: [web], tcp: [{{match: [{{port: 81}}], {TO}}}]")),
        virtual_service("v", "", &format!("hosts: [web], tls: [{{match: [{{sniHosts: [web.default.svc.cluster.local]}}], {TO}}}]"))
            .replace("hosts: [web]", "hosts: [web.default.svc.cluster.local]"),
        virtual_service("v", "", "hosts: [web], http: [{match: [{uri: {prefix: /a}}], delegate: {name: d}}]")
            + &virtual_service("d", "", &format!("http: [{{match: [{{uri: {{prefix: /a/b}}}}], {TO}}}, {{{TO}}}]")),
        // Of several destinations those that take nothing needn't be there.
        http("{route: [{destination: {host: gone}}, {destination: {host: api}, weight: 1}]}"),
    ] {
        assert_eq!(told(&text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn whom_it_is_not_for() {
    let field = "VirtualService default/v (no effect): spec.";
    let plain = ", namespace: plain";
    check(&[
        (
            virtual_service(
                "v",
                "",
                &format!("hosts: [web], gateways: [edge], http: [{{{TO}}}]"),
            ),
            &["VirtualService (not for this waypoint): for gateways, not for the mesh: default/v"],
        ),
        (
            virtual_service(
                "v",
                plain,
                &format!(
                    "hosts: [web.default.svc.cluster.local], exportTo: ['.'], http: [{{{TO}}}]"
                ),
            ),
            &[
                "(not for this waypoint): not exported to the waypoint's namespace \"default\": plain/v",
            ],
        ),
        (
            virtual_service(
                "v",
                plain,
                &format!("hosts: [web.default.svc.cluster.local], http: [{{{TO}}}]"),
            ),
            &[
                "VirtualService plain/v (no effect): spec.hosts[0]: ",
                "from another namespace",
            ],
        ),
        (
            virtual_service("v", "", &format!("hosts: [wep], http: [{{{TO}}}]")),
            &[field, "hosts[0]: ", "is \"web\" meant?"],
        ),
        (
            virtual_service(
                "v",
                "",
                &format!("hosts: [elsewhere.test], http: [{{{TO}}}]"),
            ),
            &["(not for this waypoint): for hosts that no service of this waypoint has: default/v"],
        ),
        (
            virtual_service("v", "", &format!("http: [{{{TO}}}]")),
            &[field, "hosts: ", "it is a delegate, and no VirtualService"],
        ),
        (
            http("{match: [{uri: {prefix: /a}}], delegate: {name: d}}"),
            &[field, "http[0].delegate: no VirtualService default/d"],
        ),
        (
            http("{match: [{uri: {prefix: /a}}], delegate: {name: d}}")
                + &virtual_service(
                    "d",
                    "",
                    &format!("http: [{{match: [{{uri: {{prefix: /b}}}}], {TO}}}]"),
                ),
            &[
                "VirtualService default/d (no effect): spec.http[0].match: ",
                "not all of it is within spec.http[0].match of VirtualService default/v",
            ],
        ),
    ]);
}

#[test]
fn matches_that_no_request_reaches() {
    let field = "VirtualService default/v (no effect): spec.http";
    let older = ", creationTimestamp: '2026-01-01T00:00:00Z'";
    let all = format!("hosts: [web], http: [{{{TO}}}]");
    let younger = virtual_service("v", ", creationTimestamp: '2026-02-01T00:00:00Z'", &all);
    check(&[
        (
            http(&format!(
                "{{match: [{{sourceLabels: {{app: a}}}}], {TO}}}, {{{TO}}}"
            )),
            &[field, "[0].match[0]: sourceLabels: "],
        ),
        (
            http(&format!(
                "{{match: [{{sourceNamespace: plain}}], {TO}}}, {{{TO}}}"
            )),
            &[field, "[0].match[0]: sourceNamespace: ", "is left out"],
        ),
        (
            http(&format!(
                "{{match: [{{uri: {{prefix: /a}}, sourceNamespace: default}}], {TO}}}, {{{TO}}}"
            )),
            &[
                field,
                "[0].match[0].sourceNamespace: ",
                "is for all of them",
            ],
        ),
        (
            http(&format!("{{match: [{{port: 81}}], {TO}}}, {{{TO}}}"))
                .replace("port: 81", "port: 83"),
            &[field, "[0].match[0]: port: no HTTP port of its hosts is 83"],
        ),
        (
            http(&format!(
                "{{match: [{{uri: {{prefix: /a}}, gateways: [edge]}}], {TO}}}, {{{TO}}}"
            )),
            &["(not for this waypoint): for gateways, not for the mesh: default/v"],
        ),
        (
            http(&format!("{{{TO}}}, {{{TO}}}")),
            &[
                field,
                "[1]: no request gets here: spec.http[0] of VirtualService default/v stands before it",
            ],
        ),
        (
            http(&format!(
                "{{match: [{{uri: {{regex: '.*'}}}}], {TO}}}, {{{TO}}}"
            )),
            &[field, "[1]: no request gets here: spec.http[0]"],
        ),
        (
            virtual_service("a", older, &all) + &younger,
            &[
                field,
                "[0]: no request gets here: spec.http[0] of VirtualService default/a",
            ],
        ),
        (
            named_route(
                "r",
                older,
                &format!("{{{TO_WEB}}}"),
                ", rules: [{backendRefs: [{name: api, port: 80}]}]",
            )
            .replace(
                ", creationTimestamp",
                ", namespace: default, creationTimestamp",
            ) + &younger,
            &[
                field,
                "[0]: no request gets here: spec.rules[0] of HTTPRoute default/r",
            ],
        ),
    ]);
}

#[test]
fn destinations_and_faults_that_are_nothing() {
    let field = "VirtualService default/v (no effect): spec.";
    check(&[
        (
            http("{route: [{destination: {host: apj}}]}"),
            &[
                field,
                "http[0].route[0].destination: ",
                "is \"api\" meant?",
                "answered 503",
            ],
        ),
        (
            http("{route: [{destination: {host: api, port: {number: 8}}}]}"),
            &[
                field,
                "http[0].route[0].destination: ",
                "has no TCP port 8; it has 80/TCP \"http\"",
            ],
        ),
        (
            http("{route: [{destination: {host: api, subset: v1}}]}"),
            &[
                field,
                "http[0].route[0].destination: ",
                "has no subset \"v1\"",
            ],
        ),
        (
            http(&format!("{{{TO}, mirror: {{host: gone.test}}}}")),
            &[
                field,
                "http[0].mirrors: ",
                "has the host \"gone.test\": nothing is mirrored",
            ],
        ),
        (
            http(&format!("{{{TO}, mirrorPercentage: {{value: 5}}}}")),
            &[
                field,
                "http[0].mirrorPercentage: is of mirror, which isn't given",
            ],
        ),
        (
            http(&format!(
                "{{{TO}, mirror: {{host: api}}, mirrorPercent: 0}}"
            )),
            &[field, "http[0].mirrorPercent: is none: nothing is mirrored"],
        ),
        (
            http(&format!(
                "{{{TO}, mirrors: [{{destination: {{host: api}}, percentage: {{value: 0}}}}]}}"
            )),
            &[field, "http[0].mirrors[0].percentage: is none"],
        ),
        (
            http(&format!("{{{TO}, fault: {{abort: {{httpStatus: 500}}}}}}")),
            &[field, "http[0].fault.abort: ", "no request is aborted"],
        ),
        (
            http(&format!(
                "{{{TO}, fault: {{delay: {{percentage: {{value: 1}}}}}}}}"
            )),
            &[field, "http[0].fault.delay: ", "no request is delayed"],
        ),
        (
            http("{redirect: {uri: /a, redirectCode: 305}}"),
            &[
                "VirtualService default/v (closed what it targets): spec.http[0]: its requests are answered 500",
            ],
        ),
        (
            http(&format!(
                "{{{TO}, headers: {{request: {{set: {{a: '%NOBODY%'}}}}}}}}"
            )),
            &[
                "VirtualService default/v (closed what it targets): spec.http[0]: its requests are answered 500",
            ],
        ),
    ]);
}

#[test]
fn rules_that_no_connection_follows() {
    let field = "VirtualService default/v (no effect): spec.";
    let streams = |rules: &str| {
        virtual_service(
            "v",
            "",
            &format!("hosts: [web.default.svc.cluster.local], {rules}"),
        )
    };
    check(&[
        (
            streams(&format!("tcp: [{{match: [{{port: 80}}], {TO}}}]")),
            &[field, "tcp[0]: no port of its hosts", "there are 81/TCP"],
        ),
        (
            streams(&format!(
                "tcp: [{{match: [{{sourceLabels: {{a: b}}}}], {TO}}}]"
            )),
            &[field, "tcp[0]: sourceLabels: "],
        ),
        (
            streams(&format!(
                "tcp: [{{match: [{{destinationSubnets: [10.0.0.0/8]}}], {TO}}}]"
            )),
            &[field, "tcp[0].match[0]: networks choose nothing"],
        ),
        (
            streams(&format!("tcp: [{{{TO}}}, {{{TO}}}]")),
            &[field, "tcp[1]: no connection gets here"],
        ),
        (
            virtual_service(
                "v",
                "",
                &format!(
                    "hosts: ['*.default.svc.cluster.local'], tls: [{{match: [{{sniHosts: ['*.default.svc.cluster.local']}}], {TO}}}]"
                ),
            ),
            &[field, "tls[0]: sniHosts: ", "the service's own alone"],
        ),
        (
            streams("tcp: [{route: [{destination: {host: gone}}]}]"),
            &[
                field,
                "tcp[0].route[0].destination: no Service default/gone",
                "are closed",
            ],
        ),
    ]);
}

#[test]
fn the_mesh_says_where_those_count_that_do_not() {
    let mesh = |export: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{{defaultVirtualServiceExportTo: [{export}]}}'}}}}\n---\n"
        )
    };
    let own = http(&format!("{{{TO}}}"));
    for export in ["\"*\"", "\".\"", "default"] {
        let lines = told(&(mesh(export) + &own));
        assert_eq!(lines, Vec::<String>::new(), "{export}");
    }
    for export in ["\"~\"", "elsewhere"] {
        let lines = told(&(mesh(export) + &own));
        assert!(
            lines[0].contains("not exported to the waypoint's namespace"),
            "{lines:?}"
        );
    }
}
