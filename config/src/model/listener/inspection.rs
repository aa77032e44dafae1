//! Listener filters: on which ports the first bytes of a stream are looked at.

use envoy_types::pb::envoy::config::listener::v3::{
    ListenerFilter, ListenerFilterChainMatchPredicate, listener_filter,
    listener_filter_chain_match_predicate::Rule,
};
use waypoint_filters::xds::coverage::well_known::INT32_RANGE;
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

const LISTENER_FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.listener.";

pub(crate) static LISTENER_FILTER: Table = Table {
    name: "envoy.config.listener.v3.ListenerFilter",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(3, "typed_config").any(&[&[&ORIGINAL_DST, &HTTP_INSPECTOR, &TLS_INSPECTOR]]),
        honoured(4, "filter_disabled")
            .only("not on the original_dst filter")
            .of(&DISABLED),
    ],
    refused: "5 config_discovery",
    required: &[required("typed_config", &[3])],
};

static ORIGINAL_DST: Table = Table {
    name: "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    fields: &[],
    refused: "",
    required: &[],
};

static HTTP_INSPECTOR: Table = Table {
    name: "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    fields: &[],
    refused: "",
    required: &[],
};

static TLS_INSPECTOR: Table = Table {
    name: "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    fields: &[harmless(
        2,
        "initial_read_buffer_size",
        "a hello is read as it comes",
    )],
    refused: "1 enable_ja3_fingerprinting, 3 enable_ja4_fingerprinting, \
              4 close_connection_on_client_hello_parsing_errors, 5 max_client_hello_size",
    required: &[],
};

static DISABLED: Table = Table {
    name: "envoy.config.listener.v3.ListenerFilterChainMatchPredicate",
    fields: &[
        honoured(1, "or_match").of(&DISABLED_SET),
        honoured(5, "destination_port_range").of(&INT32_RANGE),
    ],
    refused: "2 and_match, 3 not_match, 4 any_match",
    required: &[required("rule", &[1, 5])],
};

static DISABLED_SET: Table = Table {
    name: "envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet",
    fields: &[honoured(1, "rules").list().of(&DISABLED)],
    refused: "",
    required: &[required("rules", &[1])],
};

/// On which ports the first bytes are looked at.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    http: Inspector,
    tls: Inspector,
}

/// One inspector: it is there or isn't, and doesn't look at these ports.
#[derive(Clone, Debug, Default)]
struct Inspector {
    looks: bool,
    disabled_on: Vec<(u16, u16)>,
}

impl Inspection {
    /// From the listener filters of `main_internal`: they look, and `filter_disabled` says where not.
    pub(crate) fn from_proto(filters: &[ListenerFilter]) -> Result<Inspection, Refusal> {
        let mut inspection = Inspection::default();
        for filter in filters {
            let field = |e: Refusal| e.within(format!("listener_filters[{:?}]", filter.name));
            let Some(listener_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                return Err(field(Refusal::missing("typed_config")));
            };
            match any.type_url.strip_prefix(LISTENER_FILTERS) {
                // It would hide the destination from whom it is disabled for.
                Some("original_dst.v3.OriginalDst") if filter.filter_disabled.is_some() => {
                    return Err(field(Refusal::unsupported("filter_disabled")));
                }
                Some("original_dst.v3.OriginalDst") => {}
                Some("tls_inspector.v3.TlsInspector") => {
                    inspection.tls.add(filter).map_err(field)?;
                }
                Some("http_inspector.v3.HttpInspector") => {
                    inspection.http.add(filter).map_err(field)?;
                }
                _ => return Err(field(Refusal::unsupported(any.type_url.as_str()))),
            }
        }
        Ok(inspection)
    }

    /// Whether streams to this port are looked at, for HTTP.
    pub fn looks_at(&self, port: u16) -> bool {
        self.http.looks_at(port)
    }

    /// Whether the server name of TLS streams to this port is read.
    pub fn reads_server_name(&self, port: u16) -> bool {
        self.tls.looks_at(port)
    }
}

impl Inspector {
    fn add(&mut self, filter: &ListenerFilter) -> Result<(), Refusal> {
        self.looks = true;
        match &filter.filter_disabled {
            Some(predicate) => disabled_ports(predicate, &mut self.disabled_on)
                .map_err(|e| e.within("filter_disabled")),
            None => Ok(()),
        }
    }

    fn looks_at(&self, port: u16) -> bool {
        let disabled = |(start, end): &(u16, u16)| (*start..*end).contains(&port);
        self.looks && !self.disabled_on.iter().any(disabled)
    }
}

fn disabled_ports(
    predicate: &ListenerFilterChainMatchPredicate,
    ports: &mut Vec<(u16, u16)>,
) -> Result<(), Refusal> {
    match &predicate.rule {
        Some(Rule::DestinationPortRange(range)) => {
            let port = |value: i32| {
                u16::try_from(value)
                    .map_err(|_| Refusal::new("destination_port_range", "is no port"))
            };
            ports.push((port(range.start)?, port(range.end.min(65535))?));
            Ok(())
        }
        Some(Rule::OrMatch(set)) => set
            .rules
            .iter()
            .try_for_each(|rule| disabled_ports(rule, ports)),
        Some(_) => Err(Refusal::unsupported("rule")),
        None => Err(Refusal::missing("rule")),
    }
}
