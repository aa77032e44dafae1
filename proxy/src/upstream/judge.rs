//! Where the outcomes of attempts at an endpoint are told, if its cluster detects outliers.

use std::sync::Arc;

use http::{HeaderName, Response};
use tokio::sync::Notify;
use waypoint_config::model::cluster::outlier_detection::OutlierDetection;
use waypoint_config::model::endpoint::EndpointState;
use waypoint_config::model::outlier::{Outcome, Outliers};

use crate::upstream::error::UpstreamErrorKind;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Keeps the record of one endpoint.
pub(crate) struct Judge {
    pub(crate) endpoint: Arc<EndpointState>,
    pub(crate) rules: Arc<OutlierDetection>,
    pub(crate) outliers: Arc<Outliers>,
    /// Wakes whoever ejects.
    pub(crate) suspects: Arc<Notify>,
}

impl Judge {
    pub(crate) fn tell(&self, outcome: Outcome) {
        if self.endpoint.monitor.count(outcome, &self.rules.thresholds) {
            self.outliers.alarm();
            self.suspects.notify_one();
        }
    }

    /// An attempt failed without an answer.
    pub(crate) fn failed(&self, kind: UpstreamErrorKind) {
        match kind {
            // Nobody at the endpoint is at fault.
            UpstreamErrorKind::Overflow | UpstreamErrorKind::NoHealthyUpstream => {}
            UpstreamErrorKind::RequestTimeout
            | UpstreamErrorKind::PerTryTimeout
            | UpstreamErrorKind::PerTryIdleTimeout => {
                self.tell(Outcome::TimedOut);
            }
            UpstreamErrorKind::Connect
            | UpstreamErrorKind::ConnectTimeout
            | UpstreamErrorKind::Terminated
            | UpstreamErrorKind::Reset
            | UpstreamErrorKind::Refused
            | UpstreamErrorKind::Protocol => self.tell(Outcome::Failed),
        }
    }
}

/// The status that an answer counts as: gRPC's where its head has one.
pub(crate) fn status<B>(response: &Response<B>, grpc: bool) -> u16 {
    let code = || {
        let status = response.headers().get(GRPC_STATUS)?;
        status.to_str().ok()?.parse().ok()
    };
    match grpc.then(code).flatten() {
        None => response.status().as_u16(),
        Some(code) => of_grpc(code),
    }
}

/// As google.rpc.Code has it, and Envoy.
fn of_grpc(code: u32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn grpcs_own_status_counts_where_the_head_has_it() {
        let answer = |grpc_status: &str| {
            let response = Response::builder().header(GRPC_STATUS, grpc_status);
            response.body(()).unwrap()
        };
        assert_eq!(status(&answer("14"), true), 503);
        assert_eq!(status(&answer("5"), true), 404);
        assert_eq!(status(&answer("99"), true), 500);
        assert_eq!(status(&answer("x"), true), 200);
        assert_eq!(status(&answer("14"), false), 200);
        assert_eq!(status(&Response::new(()), true), 200);
    }
}
