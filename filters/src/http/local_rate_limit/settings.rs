//! `LocalRateLimit`: what a filter, or a route in its place, says.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as LocalRateLimitProto;
use http::StatusCode;
use std::sync::Arc;

use crate::http::rate_limit::descriptor::{
    Descriptor, RATE_LIMIT, RateLimit, RouteRateLimits, rate_limits,
};
use crate::http::rate_limit::token_bucket::{Size, TOKEN_BUCKET};
use crate::matcher::fraction::{Fraction, RUNTIME_FRACTION};
use crate::service::header_changes::{HEADER_VALUE_OPTION, HeaderChanges};
use crate::stream::connection::BindKey;
use crate::xds::coverage::well_known::{BOOL_VALUE, UINT32_VALUE};
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

#[derive(Debug)]
pub(super) struct Settings {
    /// A label of its counters.
    pub(super) name: Arc<str>,
    pub(super) status: StatusCode,
    /// `None`: without a limit.
    pub(super) all: Option<Size>,
    pub(super) always_all: bool,
    /// For which share of requests it counts, and is enforced; `None`: for none.
    pub(super) enabled: Option<Fraction>,
    pub(super) enforced: Option<Fraction>,
    pub(super) on_request: HeaderChanges,
    pub(super) on_response: HeaderChanges,
    pub(super) descriptors: Box<[DescriptorLimit]>,
    pub(super) most_open: usize,
    pub(super) stage: u32,
    /// Of the filter; the route's count where there are none.
    pub(super) own_limits: Arc<[RateLimit]>,
    host: HostLimits,
    /// Each connection has its own buckets.
    pub(super) per_connection: Option<BindKey>,
    pub(super) tells_quota: bool,
    pub(super) as_resource_exhausted: bool,
}

/// When a virtual host's limits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostLimits {
    WithoutRoute,
    Always,
    Never,
}

/// The bucket of a descriptor.
#[derive(Debug)]
pub(super) struct DescriptorLimit {
    pub(super) entries: Descriptor,
    pub(super) size: Size,
}

/// Envoy's default.
const MOST_OPEN: u32 = 20;
/// Buckets of open values cost memory.
const MOST_OPEN_OF_ALL: u32 = 100_000;

pub(super) static LOCAL_RATE_LIMIT: Table = Table {
    name: "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    fields: &[
        honoured(1, "stat_prefix"),
        honoured(2, "status").of(&HTTP_STATUS),
        honoured(3, "token_bucket").of(&TOKEN_BUCKET),
        honoured(4, "filter_enabled").of(&RUNTIME_FRACTION),
        honoured(5, "filter_enforced").of(&RUNTIME_FRACTION),
        honoured(6, "response_headers_to_add")
            .list()
            .of(&HEADER_VALUE_OPTION),
        honoured(8, "descriptors").list().of(&DESCRIPTOR),
        honoured(9, "stage"),
        honoured(10, "request_headers_to_add_when_not_enforced")
            .list()
            .of(&HEADER_VALUE_OPTION),
        honoured(11, "local_rate_limit_per_downstream_connection"),
        honoured(12, "enable_x_ratelimit_headers"),
        honoured(13, "vh_rate_limits"),
        honoured(14, "always_consume_default_token_bucket").of(&BOOL_VALUE),
        honoured(15, "rate_limited_as_resource_exhausted"),
        honoured(17, "rate_limits").list().of(&RATE_LIMIT),
        honoured(18, "max_dynamic_descriptors").of(&UINT32_VALUE),
    ],
    refused: "16 local_cluster_rate_limit, 19 enable_retry_after_header",
    required: &[required("stat_prefix", &[1])],
};

static HTTP_STATUS: Table = Table {
    name: "envoy.type.v3.HttpStatus",
    fields: &[honoured(1, "code")],
    refused: "",
    required: &[],
};

static DESCRIPTOR: Table = Table {
    name: "envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor",
    fields: &[
        honoured(1, "entries").list().of(&ENTRY),
        honoured(2, "token_bucket").of(&TOKEN_BUCKET),
    ],
    refused: "3 shadow_mode",
    required: &[required("entries", &[1]), required("token_bucket", &[2])],
};

static ENTRY: Table = Table {
    name: "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry",
    fields: &[honoured(1, "key"), honoured(2, "value")],
    refused: "",
    required: &[required("key", &[1])],
};

impl Settings {
    pub(super) fn from_proto(proto: &LocalRateLimitProto) -> Result<Settings, Refusal> {
        let bucket = |bucket, field: &str| Size::from_proto(bucket).map_err(|e| e.within(field));
        let share = |share, field: &str| Fraction::of_runtime(share).map_err(|e| e.within(field));
        let all = proto.token_bucket.as_ref();
        let enabled = proto.filter_enabled.as_ref();
        let enforced = proto.filter_enforced.as_ref();
        let descriptors = proto.descriptors.iter().enumerate();
        let descriptors = descriptors.map(|(i, descriptor)| {
            DescriptorLimit::from_proto(descriptor)
                .map_err(|e| e.within(format!("descriptors[{i}]")))
        });
        let most_open = proto.max_dynamic_descriptors.as_ref();
        let most_open = most_open.map_or(MOST_OPEN, |most| most.value);
        if !(1..=MOST_OPEN_OF_ALL).contains(&most_open) {
            let reason = format!("must be from 1 to {MOST_OPEN_OF_ALL}");
            return Err(Refusal::new("max_dynamic_descriptors", reason));
        }
        if proto.stage > 10 {
            return Err(Refusal::new("stage", "must be 10 at most"));
        }
        Ok(Settings {
            name: proto.stat_prefix.as_str().into(),
            status: status(proto),
            all: all.map(|all| bucket(all, "token_bucket")).transpose()?,
            always_all: proto
                .always_consume_default_token_bucket
                .as_ref()
                .is_none_or(|always| always.value),
            enabled: enabled.map(|s| share(s, "filter_enabled")).transpose()?,
            enforced: enforced.map(|s| share(s, "filter_enforced")).transpose()?,
            on_request: HeaderChanges::from_proto(
                &proto.request_headers_to_add_when_not_enforced,
                &[],
            )
            .map_err(|e| e.within("request_headers_to_add_when_not_enforced"))?,
            on_response: HeaderChanges::from_proto(&proto.response_headers_to_add, &[])
                .map_err(|e| e.within("response_headers_to_add"))?,
            descriptors: descriptors.collect::<Result<_, _>>()?,
            most_open: most_open as usize,
            stage: proto.stage,
            own_limits: rate_limits(&proto.rate_limits)?,
            host: match VhRateLimitsOptions::try_from(proto.vh_rate_limits) {
                Ok(VhRateLimitsOptions::Override) => HostLimits::WithoutRoute,
                Ok(VhRateLimitsOptions::Include) => HostLimits::Always,
                Ok(VhRateLimitsOptions::Ignore) => HostLimits::Never,
                Err(_) => return Err(Refusal::new("vh_rate_limits", "unknown value")),
            },
            per_connection: proto
                .local_rate_limit_per_downstream_connection
                .then(BindKey::unique),
            tells_quota: match XRateLimitHeadersRfcVersion::try_from(
                proto.enable_x_ratelimit_headers,
            ) {
                Ok(version) => version == XRateLimitHeadersRfcVersion::DraftVersion03,
                Err(_) => return Err(Refusal::new("enable_x_ratelimit_headers", "unknown value")),
            },
            as_resource_exhausted: proto.rate_limited_as_resource_exhausted,
        })
    }

    /// Whether the virtual host's limits count beside the route's.
    pub(super) fn counts_host(&self, limits: &RouteRateLimits) -> bool {
        limits.include_host
            || match self.host {
                HostLimits::Always => true,
                HostLimits::Never => false,
                HostLimits::WithoutRoute => limits.of_route.is_empty(),
            }
    }
}

/// Nothing that isn't an error says that a request was refused.
fn status(proto: &LocalRateLimitProto) -> StatusCode {
    let code = proto.status.as_ref().map_or(0, |status| status.code);
    let code = u16::try_from(code).ok().filter(|code| *code >= 400);
    code.and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::TOO_MANY_REQUESTS)
}

impl DescriptorLimit {
    fn from_proto(proto: &LocalRateLimitDescriptor) -> Result<DescriptorLimit, Refusal> {
        let bucket = proto.token_bucket.as_ref();
        let bucket = bucket.ok_or_else(|| Refusal::missing("token_bucket"))?;
        let entries = proto.entries.iter();
        let entries = entries.map(|entry| (entry.key.as_str().into(), entry.value.as_str().into()));
        Ok(DescriptorLimit {
            entries: entries.collect(),
            size: Size::from_proto(bucket).map_err(|e| e.within("token_bucket"))?,
        })
    }

    /// Whether it leaves values open.
    pub(super) fn is_open(&self) -> bool {
        self.entries.iter().any(|(_, value)| value.is_empty())
    }
}
