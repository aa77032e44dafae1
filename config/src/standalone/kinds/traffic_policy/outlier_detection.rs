//! `outlierDetection` of a traffic policy: when an endpoint that fails is left out for a while.

use std::time::Duration;

use serde::Deserialize;

use crate::standalone::input::duration::{check_whole_millis, optional_duration};
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OutlierDetection {
    /// Says nothing any more.
    pub consecutive_errors: i32,
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    pub consecutive_gateway_errors: Option<u32>,
    pub consecutive_local_origin_failures: Option<u32>,
    pub split_external_local_origin_errors: bool,
    #[serde(deserialize_with = "optional_duration")]
    pub interval: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub base_ejection_time: Option<Duration>,
    pub max_ejection_percent: u32,
    pub min_health_percent: u32,
    /// For sidecars and gateways only.
    pub outlier_detection_http_error_codes: Vec<u32>,
}

impl OutlierDetection {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        check_whole_millis("baseEjectionTime", self.base_ejection_time)?;
        check_whole_millis("interval", self.interval)?;
        let local = self.consecutive_local_origin_failures.unwrap_or(0);
        if local > 0 && !self.split_external_local_origin_errors {
            let reason = "needs splitExternalLocalOriginErrors";
            return Err(refusal("consecutiveLocalOriginFailures", reason));
        }
        for (field, percent) in [
            ("maxEjectionPercent", self.max_ejection_percent),
            ("minHealthPercent", self.min_health_percent),
        ] {
            if percent > 100 {
                return Err(refusal(field, "must be between 0 and 100"));
            }
        }
        let mut codes = self.outlier_detection_http_error_codes.iter();
        match codes.find(|code| !(100..600).contains(*code)) {
            Some(code) => {
                let reason = format!("{code} is not between 100 and 599");
                Err(refusal("outlierDetectionHttpErrorCodes", reason))
            }
            None => Ok(()),
        }
    }
}
