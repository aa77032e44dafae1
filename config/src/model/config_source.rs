//! Where a resource is to come from that another one refers to: the stream that everything else comes from, and
//! nowhere else.

use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};

pub(crate) static CONFIG_SOURCE: Table = Table {
    name: "envoy.config.core.v3.ConfigSource",
    fields: &[
        honoured(3, "ads").of(&AGGREGATED),
        harmless(
            4,
            "initial_fetch_timeout",
            "what refers to it waits without limit",
        ),
        harmless(6, "resource_api_version", "there is one version"),
    ],
    refused: "1 path, 2 api_config_source, 5 self, 7 authorities, 8 path_config_source",
    required: &[required("config_source_specifier", &[3])],
};

pub(crate) static AGGREGATED: Table = Table {
    name: "envoy.config.core.v3.AggregatedConfigSource",
    fields: &[],
    refused: "",
    required: &[],
};
