//! Numbers with a fraction that Envoy's runtime could override. There is no runtime here.

use waypoint_filters::xds::coverage::{Table, harmless, honoured};

pub(crate) static RUNTIME_DOUBLE: Table = Table {
    name: "envoy.config.core.v3.RuntimeDouble",
    fields: &[
        honoured(1, "default_value"),
        harmless(
            2,
            "runtime_key",
            "there is no runtime that could override the value",
        ),
    ],
    refused: "",
    required: &[],
};
