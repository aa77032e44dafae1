//! What a route says of the HTTP filter (`ExtAuthzPerRoute`): that nobody is asked, or what is told besides.

use std::collections::HashMap;

use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    CheckSettings as CheckSettingsProto, ExtAuthzPerRoute,
};

use crate::security::ext_authz::request_body::{BUFFER_SETTINGS, Buffering};
use crate::xds::coverage::{Table, harmless, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static PER_ROUTE_CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
    fields: &[
        honoured(1, "disabled"),
        honoured(2, "check_settings").of(&CHECK_SETTINGS),
    ],
    refused: "",
    required: &[required("override", &[1, 2])],
};

static CHECK_SETTINGS: Table = Table {
    name: "envoy.extensions.filters.http.ext_authz.v3.CheckSettings",
    fields: &[
        honoured(1, "context_extensions").map(),
        honoured(2, "disable_request_body_buffering"),
        honoured(3, "with_request_body").of(&BUFFER_SETTINGS),
        harmless(6, "emit_client_span", "checks have no spans of their own"),
    ],
    refused: "4 grpc_service, 5 http_service",
    required: &[],
};

/// A compiled `ExtAuthzPerRoute`.
#[derive(Debug)]
pub(crate) struct OfRoute {
    pub(crate) disabled: bool,
    pub(crate) extensions: HashMap<String, String>,
    /// `None`: as the filter has it.
    pub(crate) body: Option<Option<Buffering>>,
}

impl OfRoute {
    pub(crate) fn from_proto(proto: ExtAuthzPerRoute) -> Result<OfRoute, Refusal> {
        let check = match proto.r#override {
            None => return Err(Refusal::missing("override")),
            Some(Override::Disabled(disabled)) => {
                return Ok(OfRoute {
                    disabled,
                    extensions: HashMap::new(),
                    body: None,
                });
            }
            Some(Override::CheckSettings(check)) => check,
        };
        let body = body_of_route(&check).map_err(|e| e.within("check_settings"))?;
        Ok(OfRoute {
            disabled: false,
            extensions: check.context_extensions,
            body,
        })
    }
}

fn body_of_route(check: &CheckSettingsProto) -> Result<Option<Option<Buffering>>, Refusal> {
    match (
        &check.with_request_body,
        check.disable_request_body_buffering,
    ) {
        (Some(_), true) => Err(Refusal::new(
            "disable_request_body_buffering",
            "only one of it and with_request_body may be set",
        )),
        (Some(body), false) => {
            let body = Buffering::from_proto(body).map_err(|e| e.within("with_request_body"))?;
            Ok(Some(Some(body)))
        }
        (None, disabled) => Ok(disabled.then_some(None)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::BufferSettings;

    use super::*;

    fn of_route(setting: Override) -> Result<OfRoute, Refusal> {
        OfRoute::from_proto(ExtAuthzPerRoute {
            r#override: Some(setting),
        })
    }

    #[test]
    fn a_route_says_one_thing_of_bodies() {
        let mut check = CheckSettingsProto {
            context_extensions: [("a".to_owned(), "b".to_owned())].into(),
            ..CheckSettingsProto::default()
        };
        let settings =
            |check: &CheckSettingsProto| of_route(Override::CheckSettings(check.clone()));
        let plain = settings(&check).unwrap();
        assert_eq!((plain.body, &*plain.extensions["a"]), (None, "b"));
        check.disable_request_body_buffering = true;
        assert_eq!(settings(&check).unwrap().body, Some(None));
        check.with_request_body = Some(BufferSettings {
            max_request_bytes: 5,
            ..BufferSettings::default()
        });
        let refusal = settings(&check).unwrap_err();
        assert_eq!(
            refusal.field,
            "check_settings.disable_request_body_buffering"
        );
        check.disable_request_body_buffering = false;
        assert_eq!(settings(&check).unwrap().body.unwrap().unwrap().most, 5);
        assert!(of_route(Override::Disabled(true)).unwrap().disabled);
        assert!(OfRoute::from_proto(ExtAuthzPerRoute::default()).is_err());
    }
}
