//! Telemetry as a real istiod sends it: what `config/tests/fixtures/telemetry.pb` says of logs and metrics, put into chains that
//! were made without.

use std::path::Path;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, AccessLogFilter, access_log};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier,
    substitution_format_string::Format,
};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_config::sources::recorded;

use crate::request_authentication::in_chains;

const FILE: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

/// The first connection manager of `main_internal` that counts.
fn recorded_manager() -> HttpConnectionManager {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/tests/fixtures");
    let bytes = std::fs::read(fixtures.join("telemetry.pb")).unwrap();
    let resources = recorded::read(&bytes).unwrap();
    let inner = |r: &&Resource| r.kind == ResourceType::Listener && r.name == "main_internal";
    let listener = resources.iter().find(inner).unwrap();
    let listener = Listener::decode(&*listener.body).unwrap();
    let filters = listener.filter_chains.into_iter().flat_map(|c| c.filters);
    let managers = filters.filter_map(|filter| match filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => {
            HttpConnectionManager::decode(&*any.value).ok()
        }
        _ => None,
    });
    let mut counting = managers.filter(|m| m.http_filters.iter().any(|f| f.name == "istio.stats"));
    counting.next().unwrap()
}

/// These resources, with requests logged and counted as the recorded Telemetry says.
///
/// # Panics
/// The recording has no such thing.
#[must_use]
pub fn with_recorded(resources: Vec<Resource>) -> Vec<Resource> {
    let recorded = recorded_manager();
    let stats = recorded
        .http_filters
        .iter()
        .find(|f| f.name == "istio.stats");
    let stats = stats.unwrap();
    in_chains(resources, "", &|manager| {
        manager.access_log.clone_from(&recorded.access_log);
        let filters = manager.http_filters.iter_mut();
        for filter in filters.filter(|filter| filter.name == "istio.stats") {
            filter.clone_from(stats);
        }
    })
}

/// These resources, with these logs of requests.
#[must_use]
pub fn with_logs(resources: Vec<Resource>, logs: &[AccessLog]) -> Vec<Resource> {
    in_chains(resources, "", &|manager| manager.access_log = logs.to_vec())
}

/// A log with this format, to standard output.
#[must_use]
pub fn log(format: Format, filter: Option<AccessLogFilter>) -> AccessLog {
    let file = FileAccessLog {
        path: "/dev/stdout".into(),
        access_log_format: Some(AccessLogFormat::LogFormat(SubstitutionFormatString {
            format: Some(format),
            ..SubstitutionFormatString::default()
        })),
    };
    AccessLog {
        name: "log".into(),
        filter,
        config_type: Some(access_log::ConfigType::TypedConfig(Any {
            type_url: FILE.into(),
            value: file.encode_to_vec(),
        })),
    }
}

/// A format that is a text.
#[must_use]
pub fn text(format: &str) -> Format {
    Format::TextFormatSource(DataSource {
        specifier: Some(Specifier::InlineString(format.into())),
        ..DataSource::default()
    })
}
