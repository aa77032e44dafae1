//! Mutations of what was recorded: a field that isn't listed, a field of a newer version, a value that an
//! enum doesn't have, a oneof that isn't set. Each must be refused, or leave out what may be left out.

use std::collections::BTreeSet;

use prost_reflect::{FieldDescriptor, Kind};
use waypoint_filters::xds::coverage::{Content, Field, Shape, Status, Table, check};

use crate::descriptors::{pool, tables};
use crate::pieces::{Applied, Piece, pieces};
use crate::sites::{Site, honoured_part, sites};
use crate::wire;

/// A field that no message has.
const NEWER: u32 = 9_999;
/// A value that no enum has.
const NO_VALUE: u64 = 9_999;

/// What is accepted all the same, and why.
struct Exception {
    mutation: &'static str,
    /// A message that it is in.
    message: &'static str,
    /// Whose; none: anybody's.
    roles: &'static [&'static str],
}

const EXCEPTIONS: [Exception; 4] = [
    // There is one null.
    Exception {
        mutation: "unknown null_value",
        message: "google.protobuf.Value",
        roles: &[],
    },
    // Clusters that lead from one of Envoy's internal listeners to the next have no endpoints here.
    Exception {
        mutation: "unknown health_status",
        message: "envoy.config.endpoint.v3.LbEndpoint",
        roles: &["main_internal", "encap", "inner_connect_originate"],
    },
    // The one chain that has it waits for a plugin that isn't here, and none of its filters is built before.
    Exception {
        mutation: "unknown ",
        message: "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        roles: &["main_internal"],
    },
    // A listener whose one chain takes everything has nothing to write of connections without a chain.
    Exception {
        mutation: "",
        message: "envoy.config.accesslog.v3.AccessLog",
        roles: &[
            "connect_terminate",
            "connect_originate",
            "inner_connect_originate",
            "outer_connect_originate",
        ],
    },
];

/// Messages that no recording has in a part that is accepted. The walk over them is tested by itself, in
/// [`every_table_refuses_by_name`]; what their conversions make of values is not.
const NOT_RECORDED: &[&str] = &[
    "envoy.config.accesslog.v3.DurationFilter",
    "envoy.config.accesslog.v3.GrpcStatusFilter",
    "envoy.config.accesslog.v3.HeaderFilter",
    "envoy.config.accesslog.v3.LogTypeFilter",
    "envoy.config.accesslog.v3.MetadataFilter",
    "envoy.config.accesslog.v3.NotHealthCheckFilter",
    "envoy.config.accesslog.v3.OrFilter",
    "envoy.config.accesslog.v3.RuntimeFilter",
    "envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget",
    "envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig",
    "envoy.config.cluster.v3.Cluster.RefreshRate",
    "envoy.config.cluster.v3.Cluster.RoundRobinLbConfig",
    "envoy.config.common.mutation_rules.v3.HeaderMutation",
    "envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch",
    "envoy.config.core.v3.BackoffStrategy",
    "envoy.config.core.v3.DataSource",
    "envoy.config.core.v3.HeaderValueOption",
    "envoy.config.core.v3.HealthCheck",
    "envoy.config.core.v3.HealthCheck.GrpcHealthCheck",
    "envoy.config.core.v3.HealthCheck.HttpHealthCheck",
    "envoy.config.core.v3.HealthCheck.Payload",
    "envoy.config.core.v3.HealthCheck.TcpHealthCheck",
    "envoy.config.core.v3.Http1ProtocolOptions",
    "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat",
    "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.ProperCaseWords",
    "envoy.config.core.v3.HttpProtocolOptions",
    "envoy.config.core.v3.HttpService",
    "envoy.config.core.v3.HttpUri",
    "envoy.config.core.v3.ProxyProtocolConfig",
    "envoy.config.core.v3.RetryPolicy",
    "envoy.config.core.v3.RuntimeFeatureFlag",
    "envoy.config.core.v3.RuntimeFractionalPercent",
    "envoy.config.core.v3.TypedExtensionConfig",
    "envoy.config.core.v3.UpstreamHttpProtocolOptions",
    "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy",
    "envoy.config.endpoint.v3.Endpoint.AdditionalAddress",
    "envoy.config.endpoint.v3.Endpoint.HealthCheckConfig",
    "envoy.config.rbac.v3.Principal.Authenticated",
    "envoy.config.route.v3.RateLimit",
    "envoy.config.route.v3.RateLimit.Action",
    "envoy.config.route.v3.RateLimit.Action.GenericKey",
    "envoy.config.route.v3.RateLimit.Action.HeaderValueMatch",
    "envoy.config.route.v3.RateLimit.Action.MaskedRemoteAddress",
    "envoy.config.route.v3.RateLimit.Action.QueryParameterValueMatch",
    "envoy.config.route.v3.RateLimit.Action.QueryParameters",
    "envoy.config.route.v3.RateLimit.Action.RemoteAddress",
    "envoy.config.route.v3.RateLimit.Action.RequestHeaders",
    "envoy.config.route.v3.HedgePolicy",
    "envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff",
    "envoy.config.route.v3.RetryPolicy.ResetHeader",
    "envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties",
    "envoy.config.route.v3.RouteAction.HashPolicy.Cookie",
    "envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute",
    "envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter",
    "envoy.config.route.v3.RouteAction.MaxStreamDuration",
    "envoy.config.trace.v3.ZipkinConfig",
    "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
    "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheCircuitBreakers",
    "envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor",
    "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry",
    "envoy.extensions.filters.common.fault.v3.FaultDelay.HeaderDelay",
    "envoy.extensions.filters.http.ext_authz.v3.CheckSettings",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
    "envoy.extensions.filters.http.fault.v3.FaultAbort.HeaderAbort",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
    "envoy.extensions.filters.http.header_mutation.v3.Mutations",
    "envoy.extensions.filters.http.jwt_authn.v3.JwksAsyncFetch",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtCacheConfig",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader.PathSegment",
    "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
    "envoy.extensions.filters.http.jwt_authn.v3.ProviderWithAudiences",
    "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    "envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
    "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
    "envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper",
    "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy",
    "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
    "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
    "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
    "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
    "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput",
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
    // That of a secret.
    "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
    "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.SystemRootCerts",
    "envoy.extensions.transport_sockets.tls.v3.Secret",
    "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig",
    "envoy.type.http.v3.Cookie",
    "envoy.type.http.v3.CookieAttribute",
    "envoy.type.matcher.v3.AddressMatcher",
    "envoy.type.matcher.v3.DoubleMatcher",
    "envoy.type.matcher.v3.ValueMatcher.NullMatch",
    "envoy.type.metadata.v3.MetadataKind.Cluster",
    "envoy.type.metadata.v3.MetadataKind.Host",
    "envoy.type.metadata.v3.MetadataKind.Route",
    "envoy.type.v3.DoubleRange",
    "envoy.type.v3.FractionalPercent",
    "envoy.type.v3.HashPolicy",
    "envoy.type.v3.HashPolicy.SourceIp",
    "envoy.type.v3.HttpStatus",
    "envoy.type.v3.Int64Range",
    "opentelemetry.proto.common.v1.ArrayValue",
    "xds.type.v3.TypedStruct",
];

/// A value that isn't the default, as a field.
fn populated(field: &FieldDescriptor) -> Vec<u8> {
    match field.kind() {
        Kind::Message(_) | Kind::Bytes => wire::with_length(field.number(), &[]),
        Kind::String => wire::with_length(field.number(), b"x"),
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
            let mut out = Vec::new();
            prost::encoding::double::encode(field.number(), &1.0, &mut out);
            out
        }
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => {
            let mut out = Vec::new();
            prost::encoding::float::encode(field.number(), &1.0, &mut out);
            out
        }
        _ => wire::varint(field.number(), 1),
    }
}

/// What is changed in a message, and the message after it.
fn mutations(site: &Site) -> Vec<(String, Vec<u8>)> {
    let message = pool_message(site.table);
    let mut all = Vec::new();
    let with = |field: Vec<u8>| [site.bytes.clone(), field].concat();
    for (number, name) in site.table.refused() {
        let field = message.get_field(number).unwrap();
        all.push((name.to_owned(), with(populated(&field))));
    }
    all.push(("a newer field".to_owned(), with(wire::varint(NEWER, 1))));
    for required in site.table.required {
        let cleared = wire::without(&site.bytes, required.any_of);
        all.push((format!("no {}", required.name), cleared));
    }
    for field in site.table.fields {
        if let Content::Any(_) = field.content {
            all.extend(of_another_type(site, field));
        }
        let descriptor = message.get_field(field.number).unwrap();
        if field.status == Status::Honoured
            && let Kind::Enum(_) = descriptor.kind()
        {
            let rest = wire::without(&site.bytes, &[field.number]);
            let changed = [rest, wire::varint(field.number, NO_VALUE)].concat();
            all.push((format!("unknown {}", field.name), changed));
        }
    }
    all
}

/// The message with its first `Any` in `field` of a type that nobody has heard of.
fn of_another_type(site: &Site, field: &Field) -> Option<(String, Vec<u8>)> {
    let fields = wire::fields(&site.bytes);
    fields.iter().find(|raw| raw.number == field.number)?;
    let mut path = vec![(field.number, 0)];
    if field.shape == Shape::Map {
        path.push((2, 0));
    }
    let changed = wire::edit(&site.bytes, &path, &|any| {
        let type_url = wire::with_length(1, b"type.googleapis.com/test.Unknown");
        [wire::without(any, &[1]), type_url].concat()
    });
    Some((format!("unknown type of {}", field.name), changed))
}

pub(crate) fn pool_message(table: &Table) -> prost_reflect::MessageDescriptor {
    thread_local! {
        static POOL: prost_reflect::DescriptorPool = pool();
    }
    POOL.with(|pool| pool.get_message_by_name(table.name).unwrap())
}

#[test]
fn every_table_refuses_by_name() {
    for (table, _) in tables() {
        let message = pool_message(table);
        for (number, name) in table.refused() {
            let bytes = populated(&message.get_field(number).unwrap());
            let refusal = check(&bytes, table).unwrap_err();
            assert_eq!(refusal.to_string(), format!("{name}: is not supported"));
        }
        let newer = check(&wire::varint(NEWER, 1), table).unwrap_err();
        assert!(newer.reason.contains(&NEWER.to_string()), "{newer}");
        if let Some(required) = table.required.first() {
            let refusal = check(&[], table).unwrap_err();
            assert_eq!(refusal.field, required.name, "{}", table.name);
        }
    }
}

#[test]
fn what_is_not_listed_is_refused() {
    let mut done = BTreeSet::new();
    let mut covered = BTreeSet::new();
    let mut passed = Vec::new();
    let mut tried = 0;
    let id = |table: &Table| std::ptr::from_ref(table) as usize;
    for mut piece in pieces() {
        // What is refused anyway would hide what isn't.
        let Some(bytes) = honoured_part(piece.table, &piece.bytes) else {
            continue;
        };
        piece.bytes = bytes;
        let before = piece.apply(&piece.bytes);
        if !before.rejected.is_empty() {
            continue;
        }
        for site in sites(piece.table, &piece.bytes) {
            // Once for each way that tables lead to one another.
            let way: Vec<usize> = site.tables.iter().rev().take(3).map(|t| id(t)).collect();
            if !done.insert((piece.role().to_owned(), id(piece.table), way)) {
                continue;
            }
            covered.insert(id(site.table));
            for (what, changed) in mutations(&site) {
                tried += 1;
                let bytes = wire::edit(&piece.bytes, &site.path, &|_| changed.clone());
                if !noticed(&piece, &bytes, &before) && !is_exempt(&what, &site, &piece) {
                    let way: Vec<&str> = site.tables.iter().map(|t| t.name).collect();
                    let (way, role) = (way.join(" > "), piece.role());
                    passed.push(format!("{what} in {way} ({role} of {})", piece.recording));
                }
            }
        }
    }
    assert!(
        passed.is_empty(),
        "{} of {tried}: {passed:#?}",
        passed.len()
    );
    assert!(tried > 1000, "{tried}");
    let all = tables().into_iter().map(|(table, _)| table);
    let missed: BTreeSet<&str> = all
        .filter(|table| !covered.contains(&id(table)))
        .map(|table| table.name)
        .collect();
    assert_eq!(missed, NOT_RECORDED.iter().copied().collect());
}

/// Refused, or something else is left out than before.
fn noticed(piece: &Piece, bytes: &[u8], before: &Applied) -> bool {
    let omitted = |applied: &Applied| -> BTreeSet<String> {
        let omitted = applied.store.omitted();
        omitted.map(|(_, omitted)| omitted.to_string()).collect()
    };
    let after = piece.apply(bytes);
    !after.rejected.is_empty() || omitted(&after) != omitted(before)
}

fn is_exempt(what: &str, site: &Site, piece: &Piece) -> bool {
    EXCEPTIONS.iter().any(|exception| {
        what.starts_with(exception.mutation)
            && site.tables.iter().any(|t| t.name == exception.message)
            && (exception.roles.is_empty() || exception.roles.contains(&piece.role()))
    })
}
