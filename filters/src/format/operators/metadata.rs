//! Structured values: metadata of what a stream met on its way, and filter state.
//!
//! A path leads into a namespace; without one the namespace is meant. As the only value of a JSON field they
//! keep their structure.

use std::io::Write as _;

use super::print::text;
use crate::format::FormatContext;
use crate::stream::dynamic_metadata::Metadata;
use crate::stream::filter_state::{FilterValue, UPSTREAM_PEER};
use crate::xds::rejected::Refusal;

/// `%METADATA(OWNER:namespace:path)%` and its older forms.
#[derive(Clone, Debug)]
pub(in crate::format) struct MetadataField {
    owner: Owner,
    namespace: Box<str>,
    path: Box<[String]>,
}

#[derive(Clone, Copy, Debug)]
enum Owner {
    Stream,
    Route,
    Cluster,
    Endpoint,
    /// Virtual hosts, listeners and filter chains with metadata are refused, or theirs is of no use.
    Without,
}

impl MetadataField {
    pub(super) fn parse(name: &str, parameters: &str) -> Result<MetadataField, Refusal> {
        let (owner, rest) = match name {
            "DYNAMIC_METADATA" => (Owner::Stream, parameters),
            "CLUSTER_METADATA" => (Owner::Cluster, parameters),
            "UPSTREAM_METADATA" => (Owner::Endpoint, parameters),
            _ => {
                let (owner, rest) = parameters.split_once(':').unwrap_or((parameters, ""));
                let owner = match owner {
                    "DYNAMIC" => Owner::Stream,
                    "ROUTE" => Owner::Route,
                    "CLUSTER" => Owner::Cluster,
                    "UPSTREAM_HOST" => Owner::Endpoint,
                    "LISTENER" | "LISTENER_FILTER_CHAIN" | "VIRTUAL_HOST" => Owner::Without,
                    _ => {
                        let reason = format!("%METADATA% knows no owner {owner:?}");
                        return Err(Refusal::new("format", reason));
                    }
                };
                (owner, rest)
            }
        };
        // A list in JSON is how headers had it once.
        let path = serde_json::from_str::<Vec<String>>(rest);
        let path = path.unwrap_or_else(|_| rest.split(':').map(str::to_owned).collect());
        let mut path = path.into_iter();
        Ok(MetadataField {
            owner,
            namespace: path.next().unwrap_or_default().into(),
            path: path.collect(),
        })
    }

    pub(in crate::format) fn value(
        &self,
        context: &FormatContext<'_>,
    ) -> Option<serde_json::Value> {
        let get = |metadata: &Metadata| metadata.get(&self.namespace, &self.path).cloned();
        let state = context.state;
        let upstream = state.upstream.as_ref();
        match self.owner {
            Owner::Stream => get(&state.metadata),
            Owner::Route => get(&state.route.as_ref()?.info().metadata),
            Owner::Cluster => match upstream {
                Some(upstream) => get(&upstream.cluster_metadata),
                None => get(&state.cluster_metadata),
            },
            Owner::Endpoint => get(&upstream?.endpoint_metadata),
            Owner::Without => None,
        }
    }

    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        match self.value(context) {
            Some(serde_json::Value::String(value)) => text(out, Some(value)),
            Some(serde_json::Value::Null) | None => false,
            Some(value) => write!(out, "{value}").is_ok(),
        }
    }
}

/// `%FILTER_STATE(key:PLAIN|TYPED|FIELD:field)%`.
#[derive(Clone, Debug)]
pub(in crate::format) struct FilterStateField {
    key: Box<str>,
    field: Option<Box<str>>,
    /// Nothing is kept as Envoy keeps it for an upstream connection.
    of_upstream: bool,
}

impl FilterStateField {
    pub(super) fn parse(name: &str, parameters: &str) -> Result<FilterStateField, Refusal> {
        let mut parts = parameters.splitn(3, ':');
        let mut next = || parts.next().unwrap_or_default();
        let (key, kind, field) = (next(), next(), next());
        let refuse =
            |reason: &str| Refusal::new("format", format!("%{name}({parameters})% {reason}"));
        if key.is_empty() {
            return Err(refuse("has no key"));
        }
        let field = match (kind, field) {
            ("FIELD", "") => return Err(refuse("names no field")),
            ("FIELD", field) => Some(field.into()),
            ("" | "PLAIN" | "TYPED", "") => None,
            _ => return Err(refuse("is neither PLAIN nor TYPED nor FIELD with a field")),
        };
        Ok(FilterStateField {
            key: key.into(),
            field,
            of_upstream: name == "UPSTREAM_FILTER_STATE",
        })
    }

    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        if self.of_upstream {
            return false;
        }
        // Envoy's names for the peer as an object with fields.
        let key = self.key.strip_suffix("_obj").unwrap_or(&self.key);
        let own = context.state.filter_state.get(key);
        let own = own.or_else(|| context.stream.connection.filter_state.get(key));
        let upstream = context.state.upstream.as_ref();
        let peer = upstream.and_then(|upstream| upstream.peer.clone());
        let peer = peer.map(FilterValue::Peer).filter(|_| key == UPSTREAM_PEER);
        let Some(value) = own.or(peer.as_ref()) else {
            return false;
        };
        match (&self.field, value) {
            (None, value) => text(out, Some(value.to_plain())),
            (Some(field), FilterValue::Peer(peer)) => {
                text(out, peer.field(field).filter(|v| !v.is_empty()))
            }
            (Some(_), _) => false,
        }
    }
}
