//! What of `xds.type.matcher.v3.Matcher` is honoured, and of the messages that it holds and that hold it again.

use waypoint_filters::matcher::cidr::XDS_CIDR_RANGE;
use waypoint_filters::xds::coverage::well_known::STRING_VALUE;
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};

pub(crate) static MATCHER: Table = Table {
    name: "xds.type.matcher.v3.Matcher",
    fields: &[
        honoured(2, "matcher_tree").of(&TREE),
        honoured(3, "on_no_match").of(&ON_MATCH),
    ],
    refused: "1 matcher_list",
    required: &[required("matcher_type", &[2])],
};

static ON_MATCH: Table = Table {
    name: "xds.type.matcher.v3.Matcher.OnMatch",
    fields: &[
        honoured(1, "matcher").of(&MATCHER),
        honoured(2, "action").of(&ACTION),
    ],
    refused: "3 keep_matching",
    required: &[required("on_match", &[1, 2])],
};

static ACTION: Table = Table {
    name: "xds.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&STRING_VALUE]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

static TREE: Table = Table {
    name: "xds.type.matcher.v3.Matcher.MatcherTree",
    fields: &[
        honoured(1, "input").of(&INPUT),
        honoured(2, "exact_match_map").of(&MATCH_MAP),
        honoured(4, "custom_match").of(&CUSTOM_MATCH),
    ],
    refused: "3 prefix_match_map",
    required: &[required("input", &[1]), required("tree_type", &[2, 4])],
};

static MATCH_MAP: Table = Table {
    name: "xds.type.matcher.v3.Matcher.MatcherTree.MatchMap",
    fields: &[honoured(1, "map").map().of(&ON_MATCH)],
    refused: "",
    required: &[],
};

static INPUT: Table = Table {
    name: "xds.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[
            &DESTINATION_IP,
            &DESTINATION_PORT,
            &APPLICATION_PROTOCOL,
            &FILTER_STATE,
        ]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

static DESTINATION_IP: Table = Table {
    name: "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput",
    fields: &[],
    refused: "",
    required: &[],
};

static DESTINATION_PORT: Table = Table {
    name: "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput",
    fields: &[],
    refused: "",
    required: &[],
};

static APPLICATION_PROTOCOL: Table = Table {
    name: "envoy.extensions.matching.common_inputs.network.v3.ApplicationProtocolInput",
    fields: &[],
    refused: "",
    required: &[],
};

static FILTER_STATE: Table = Table {
    name: "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput",
    fields: &[honoured(1, "key").only("io.istio.connect_authority")],
    refused: "2 field",
    required: &[required("key", &[1])],
};

static CUSTOM_MATCH: Table = Table {
    name: "xds.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&IP_MATCHER]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

static IP_MATCHER: Table = Table {
    name: "xds.type.matcher.v3.IPMatcher",
    fields: &[honoured(1, "range_matchers").list().of(&RANGE_MATCHER)],
    refused: "",
    required: &[],
};

static RANGE_MATCHER: Table = Table {
    name: "xds.type.matcher.v3.IPMatcher.IPRangeMatcher",
    fields: &[
        honoured(1, "ranges").list().of(&XDS_CIDR_RANGE),
        honoured(2, "on_match").of(&ON_MATCH),
    ],
    refused: "3 exclusive",
    required: &[required("ranges", &[1]), required("on_match", &[2])],
};
