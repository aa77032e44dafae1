//! Direct responses: what a route answers by itself.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::route::v3::DirectResponseAction;
use http::StatusCode;
use waypoint_filters::xds::coverage::{Table, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::route::context::RouteContext;

/// A compiled `DirectResponseAction`.
#[derive(Debug)]
pub struct DirectResponse {
    pub status: StatusCode,
    pub body: Bytes,
}

pub(super) static DIRECT_RESPONSE: Table = Table {
    name: "envoy.config.route.v3.DirectResponseAction",
    fields: &[honoured(1, "status"), honoured(2, "body").of(&BODY)],
    refused: "3 body_format",
    required: &[required("status", &[1])],
};

static BODY: Table = Table {
    name: "envoy.config.core.v3.DataSource",
    fields: &[honoured(2, "inline_bytes"), honoured(3, "inline_string")],
    refused: "1 filename, 4 environment_variable, 5 watched_directory",
    required: &[],
};

pub(super) fn direct_response(
    proto: &DirectResponseAction,
    context: &RouteContext<'_>,
) -> Result<DirectResponse, Refusal> {
    let status = u16::try_from(proto.status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| Refusal::new("status", format!("{} is no status", proto.status)))?;
    let body = match proto.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => Bytes::new(),
        Some(Specifier::InlineString(text)) => text.clone().into(),
        Some(Specifier::InlineBytes(bytes)) => bytes.clone().into(),
        Some(_) => return Err(Refusal::unsupported("body")),
    };
    if body.len() > context.max_direct_response as usize {
        return Err(Refusal::new(
            "body",
            format!("is larger than {} bytes", context.max_direct_response),
        ));
    }
    Ok(DirectResponse { status, body })
}
