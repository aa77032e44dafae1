//! `HTTPMatchRequest`: which requests a rule is for.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::standalone::input::labels::check_label;
use crate::standalone::kinds::gateway_api::http_route_match::is_header_name;
use crate::standalone::kinds::istio::host_name::is_label;
use crate::standalone::kinds::istio::virtual_service::gateways::{check_gateways, check_port};
use crate::standalone::kinds::istio::virtual_service::string_match::StringMatch;
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// Pseudo-headers that may be matched as headers.
const PSEUDO: &[&str] = &[":method", ":scheme", ":authority", ":path", ":status"];
/// How a claim of a token is written as a header; for gateways only.
const CLAIMS: &str = "@request.auth.claims";

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpMatch {
    pub name: String,
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: BTreeMap<String, StringMatch>,
    pub without_headers: BTreeMap<String, StringMatch>,
    pub query_params: BTreeMap<String, StringMatch>,
    pub ignore_uri_case: bool,
    /// Of the service; 0: any.
    pub port: u32,
    pub source_labels: BTreeMap<String, String>,
    pub source_namespace: String,
    pub gateways: Vec<String>,
    pub stat_prefix: String,
}

impl HttpMatch {
    /// The field of a claim that it asks for.
    pub(super) fn claim(&self) -> Option<String> {
        let find = |list: &str, headers: &BTreeMap<String, StringMatch>| {
            let name = headers.keys().find(|name| is_claim(name))?;
            Some(format!("{list}.{name}"))
        };
        find("headers", &self.headers).or_else(|| find("withoutHeaders", &self.without_headers))
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        if let Some(uri) = &self.uri {
            uri.check_uri("uri")?;
        }
        for (field, found) in [
            ("scheme", &self.scheme),
            ("method", &self.method),
            ("authority", &self.authority),
        ] {
            if let Some(found) = found {
                found.check(field)?;
            }
        }
        for (name, found) in &self.headers {
            let field = format!("headers.{name}");
            check_name(&field, name)?;
            found.check(&field)?;
        }
        for (name, found) in &self.without_headers {
            let field = format!("withoutHeaders.{name}");
            check_name(&field, name)?;
            if !found.is_present() {
                found.check(&field)?;
            }
        }
        for (name, found) in &self.query_params {
            found.check(&format!("queryParams.{name}"))?;
        }
        if self.port != 0 {
            check_port("port", self.port)?;
        }
        for (name, value) in &self.source_labels {
            let field = format!("sourceLabels.{name}");
            check_label(name, value).map_err(|reason| (field, reason))?;
        }
        if !self.source_namespace.is_empty() && !is_label(&self.source_namespace) {
            let reason = format!("{:?} is no name of a namespace", self.source_namespace);
            return Err(refusal("sourceNamespace", reason));
        }
        check_gateways(&self.gateways)
    }
}

/// Whether a header stands for a claim of a token.
fn is_claim(name: &str) -> bool {
    name.starts_with(CLAIMS)
}

fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    if is_header_name(name) || PSEUDO.contains(&name) || is_claim(name) {
        return Ok(());
    }
    Err(refusal(field, format!("{name:?} is no name of a header")))
}
