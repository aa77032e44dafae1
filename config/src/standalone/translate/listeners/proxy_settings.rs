//! What ProxyConfig, and the Gateway's annotations, make of a connection manager.

use envoy_types::pb::envoy::config::common::mutation_rules::v3 as mutation_rules;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3 as header_mutation;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::UInt32Value;
use hcm::http_connection_manager::{
    ForwardClientCertDetails, PathWithEscapedSlashesAction, ServerHeaderTransformation,
};

use crate::standalone::kinds::core::proxy_config::{
    ConnectionSettings, EscapedSlashesAction, ProxyHeaders, UnderscoresAction,
};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::listeners::SERVER_NAME;
use crate::standalone::translate::proto::packed::{
    any, boolean, duration, http_filter, preserving_case,
};

/// Tells applications who the client is.
const CLIENT_IDENTITY: &str = "ambient.istio.io/xfcc-include-client-identity";

impl Mesh<'_> {
    /// Of the managers of services and pods.
    pub(super) fn set_up(&self, manager: &mut hcm::HttpConnectionManager) {
        let proxy = &self.config.default_config;
        self.set_headers(manager);
        manager.append_x_forwarded_port = proxy.proxy_headers.x_forwarded_port.is_enabled();
        if proxy.proxy_headers.preserve_http1_header_case == Some(true) {
            manager.http_protocol_options = Some(preserving_case());
        }
        if proxy.takes_http_10() {
            let http1 = manager.http_protocol_options.get_or_insert_default();
            http1.accept_http_10 = true;
        }
        connection_settings(manager, &proxy.connection_settings);
        if self.tells_client_identity() {
            manager.forward_client_cert_details =
                ForwardClientCertDetails::AlwaysForwardOnly.into();
        }
    }

    /// Of these and of the one that ends tunnels.
    pub(super) fn set_headers(&self, manager: &mut hcm::HttpConnectionManager) {
        let headers: &ProxyHeaders = &self.config.default_config.proxy_headers;
        match headers.server.name(SERVER_NAME) {
            Some(name) => name.clone_into(&mut manager.server_name),
            None => {
                manager.server_name.clear();
                manager.server_header_transformation =
                    ServerHeaderTransformation::PassThrough.into();
            }
        }
        if headers.request_id.is_disabled() {
            manager.generate_request_id = boolean(false);
        }
    }

    fn tells_client_identity(&self) -> bool {
        let value = self.waypoint.gateway.pod_annotation(CLIENT_IDENTITY);
        value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Before all filters, policies included.
    pub(super) fn client_identity_filter(&self) -> Option<hcm::HttpFilter> {
        use core::header_value_option::HeaderAppendAction;
        const VALUE: &str = "By=%FILTER_STATE(io.istio.local_principal:PLAIN)%;\
            URI=%FILTER_STATE(io.istio.peer_principal:PLAIN)%";
        let header = core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: "x-forwarded-client-cert".to_owned(),
                value: VALUE.to_owned(),
                ..core::HeaderValue::default()
            }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..core::HeaderValueOption::default()
        };
        let mutation = mutation_rules::HeaderMutation {
            action: Some(mutation_rules::header_mutation::Action::Append(header)),
        };
        let config = header_mutation::HeaderMutation {
            mutations: Some(header_mutation::Mutations {
                request_mutations: vec![mutation],
                ..header_mutation::Mutations::default()
            }),
            ..header_mutation::HeaderMutation::default()
        };
        self.tells_client_identity()
            .then(|| http_filter("istio.waypoint.xfcc_client_identity", any(&config)))
    }
}

fn connection_settings(manager: &mut hcm::HttpConnectionManager, settings: &ConnectionSettings) {
    let mut common = manager.common_http_protocol_options.unwrap_or_default();
    common.idle_timeout = settings.http_idle_timeout.map(duration);
    common.max_connection_duration = settings.http_max_connection_duration.map(duration);
    common.max_stream_duration = settings.http_max_stream_duration.map(duration);
    if let Some(action) = underscores(settings.http_headers_with_underscores_action) {
        common.headers_with_underscores_action = action.into();
    }
    let says = settings.http_headers_with_underscores_action
        != UnderscoresAction::HeadersWithUnderscoresUnspecified;
    if says || common != core::HttpProtocolOptions::default() {
        manager.common_http_protocol_options = Some(common);
    }
    if let Some(idle) = settings.http_stream_idle_timeout {
        manager.stream_idle_timeout = Some(duration(idle));
    }
    manager.request_timeout = settings.http_request_timeout.map(duration);
    manager.request_headers_timeout = settings.http_request_headers_timeout.map(duration);
    manager.drain_timeout = settings.http_drain_timeout.map(duration);
    http2(manager, settings);
    if let Some(merge) = settings.http_merge_slashes {
        manager.merge_slashes = merge;
    }
    if let Some(action) = escaped_slashes(settings.http_path_with_escaped_slashes_action) {
        manager.path_with_escaped_slashes_action = action.into();
    }
}

fn http2(manager: &mut hcm::HttpConnectionManager, settings: &ConnectionSettings) {
    let given = [
        settings.http_max_concurrent_streams,
        settings.http2_initial_stream_window_size,
        settings.http2_initial_connection_window_size,
    ];
    if given == [None; 3] {
        return;
    }
    let options = manager.http2_protocol_options.get_or_insert_default();
    // Negative ones are none, to istiod, too.
    let [streams, window, connection_window] = given.map(|value| {
        let value = u32::try_from(value?).ok()?;
        Some(UInt32Value { value })
    });
    options.max_concurrent_streams = streams;
    options.initial_stream_window_size = window;
    options.initial_connection_window_size = connection_window;
}

fn underscores(
    action: UnderscoresAction,
) -> Option<core::http_protocol_options::HeadersWithUnderscoresAction> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as Action;
    match action {
        UnderscoresAction::HeadersWithUnderscoresUnspecified => None,
        UnderscoresAction::HeadersWithUnderscoresAllow => Some(Action::Allow),
        UnderscoresAction::HeadersWithUnderscoresRejectRequest => Some(Action::RejectRequest),
        UnderscoresAction::HeadersWithUnderscoresDropHeader => Some(Action::DropHeader),
    }
}

fn escaped_slashes(action: EscapedSlashesAction) -> Option<PathWithEscapedSlashesAction> {
    match action {
        EscapedSlashesAction::PathWithEscapedSlashesUnspecified => None,
        EscapedSlashesAction::KeepUnchanged => Some(PathWithEscapedSlashesAction::KeepUnchanged),
        EscapedSlashesAction::RejectRequest => Some(PathWithEscapedSlashesAction::RejectRequest),
        EscapedSlashesAction::UnescapeAndRedirect => {
            Some(PathWithEscapedSlashesAction::UnescapeAndRedirect)
        }
        EscapedSlashesAction::UnescapeAndForward => {
            Some(PathWithEscapedSlashesAction::UnescapeAndForward)
        }
    }
}
