//! Encoding that gives equal messages equal bytes.
//!
//! Protobuf maps are hash maps here and are encoded in no order, while filter chains are compared by their
//! bytes to find out which of them changed. So the entries of the map fields that the translator fills with
//! more than one entry are put into order after encoding. A table says where they stand; what it doesn't
//! name is left as it is. Packed messages (`Any`) were brought into order when they were packed.

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// Where the maps of a message are.
struct Layout {
    /// Map fields whose entries are sorted.
    maps: &'static [u32],
    /// Message fields that hold maps further down.
    inside: &'static [(u32, &'static Layout)],
}

static STRUCT: Layout = Layout {
    maps: &[1],
    inside: &[(1, &STRUCT_ENTRY)],
};
static STRUCT_ENTRY: Layout = Layout {
    maps: &[],
    inside: &[(2, &VALUE)],
};
static VALUE: Layout = Layout {
    maps: &[],
    inside: &[(5, &STRUCT), (6, &LIST_VALUE)],
};
static LIST_VALUE: Layout = Layout {
    maps: &[],
    inside: &[(1, &VALUE)],
};
static TYPED_STRUCT: Layout = Layout {
    maps: &[],
    inside: &[(2, &STRUCT)],
};
/// `filter_metadata`.
static METADATA: Layout = Layout {
    maps: &[1],
    inside: &[(1, &STRUCT_ENTRY_OF_STRUCT)],
};
static STRUCT_ENTRY_OF_STRUCT: Layout = Layout {
    maps: &[],
    inside: &[(2, &STRUCT)],
};
/// `metadata`, and the map of protocol options.
static CLUSTER: Layout = Layout {
    maps: &[36],
    inside: &[(25, &METADATA)],
};
static ENDPOINTS: Layout = Layout {
    maps: &[],
    inside: &[(2, &LOCALITY)],
};
static LOCALITY: Layout = Layout {
    maps: &[],
    inside: &[(2, &LB_ENDPOINT)],
};
static LB_ENDPOINT: Layout = Layout {
    maps: &[],
    inside: &[(3, &METADATA)],
};
/// `rules` and `shadow_rules`, of the HTTP and of the network filter alike.
static RBAC_FILTER: Layout = Layout {
    maps: &[],
    inside: &[(1, &RBAC), (2, &RBAC)],
};
static RBAC: Layout = Layout {
    maps: &[2],
    inside: &[],
};
/// `providers`.
static JWT_AUTHENTICATION: Layout = Layout {
    maps: &[1],
    inside: &[],
};
/// `metrics`, with their `dimensions`.
static STATS_CONFIG: Layout = Layout {
    maps: &[],
    inside: &[(8, &METRIC_CONFIG)],
};
static METRIC_CONFIG: Layout = Layout {
    maps: &[1],
    inside: &[],
};
static IP_MATCHER: Layout = Layout {
    maps: &[],
    inside: &[(1, &IP_RANGE_MATCHER)],
};
static IP_RANGE_MATCHER: Layout = Layout {
    maps: &[],
    inside: &[(2, &ON_MATCH)],
};
static ON_MATCH: Layout = Layout {
    maps: &[],
    inside: &[(1, &MATCHER)],
};
static MATCHER: Layout = Layout {
    maps: &[],
    inside: &[(2, &MATCHER_TREE), (3, &ON_MATCH)],
};
static MATCHER_TREE: Layout = Layout {
    maps: &[],
    inside: &[(2, &MATCH_MAP)],
};
static MATCH_MAP: Layout = Layout {
    maps: &[1],
    inside: &[(1, &MATCH_MAP_ENTRY)],
};
static MATCH_MAP_ENTRY: Layout = Layout {
    maps: &[],
    inside: &[(2, &ON_MATCH)],
};
/// `log_format.json_format`.
static FILE_ACCESS_LOG: Layout = Layout {
    maps: &[],
    inside: &[(5, &LOG_FORMAT)],
};
static LOG_FORMAT: Layout = Layout {
    maps: &[],
    inside: &[(2, &STRUCT)],
};
/// The chains' own Anys are in order; the matcher is at the top only.
static LISTENER: Layout = Layout {
    maps: &[],
    inside: &[(32, &MATCHER)],
};

fn layout(type_url: &str) -> Option<&'static Layout> {
    Some(match type_url.strip_prefix("type.googleapis.com/")? {
        "udpa.type.v1.TypedStruct" => &TYPED_STRUCT,
        "envoy.config.cluster.v3.Cluster" => &CLUSTER,
        "envoy.config.endpoint.v3.ClusterLoadAssignment" => &ENDPOINTS,
        "envoy.config.listener.v3.Listener" => &LISTENER,
        "envoy.extensions.filters.http.rbac.v3.RBAC" => &RBAC_FILTER,
        "envoy.extensions.filters.network.rbac.v3.RBAC" => &RBAC_FILTER,
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => &JWT_AUTHENTICATION,
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => &FILE_ACCESS_LOG,
        "stats.PluginConfig" => &STATS_CONFIG,
        "xds.type.matcher.v3.IPMatcher" => &IP_MATCHER,
        _ => return None,
    })
}

/// Encodes a message of this type.
pub(crate) fn encode<T: Message>(type_url: &str, message: &T) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    match layout(type_url) {
        Some(layout) => ordered(&encoded, layout).unwrap_or(encoded),
        None => encoded,
    }
}

/// The same message with its maps in order. `None` would be an encoding that prost doesn't write.
fn ordered(mut message: &[u8], layout: &Layout) -> Option<Vec<u8>> {
    let mut fields: Vec<(u32, Vec<u8>)> = Vec::new();
    while !message.is_empty() {
        let start = message;
        let (field, wire_type) = decode_key(&mut message).ok()?;
        let mut encoded = Vec::new();
        match wire_type {
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
                let (value, rest) = message.split_at_checked(length)?;
                message = rest;
                let inner = layout.inside.iter().find(|(inside, _)| *inside == field);
                let inner = inner.map(|(_, layout)| ordered(value, layout));
                let value = match &inner {
                    Some(ordered) => ordered.as_ref()?,
                    None => value,
                };
                encode_key(field, wire_type, &mut encoded);
                encode_varint(value.len() as u64, &mut encoded);
                encoded.extend_from_slice(value);
                fields.push((field, encoded));
                continue;
            }
            WireType::Varint => drop(decode_varint(&mut message).ok()?),
            WireType::SixtyFourBit => message = message.split_at_checked(8)?.1,
            WireType::ThirtyTwoBit => message = message.split_at_checked(4)?.1,
            WireType::StartGroup | WireType::EndGroup => return None,
        }
        encoded.extend_from_slice(start.get(..start.len() - message.len())?);
        fields.push((field, encoded));
    }
    for map in layout.maps {
        let mut entries: Vec<Vec<u8>> = Vec::new();
        for (_, entry) in fields.iter_mut().filter(|(field, _)| field == map) {
            entries.push(std::mem::take(entry));
        }
        entries.sort_unstable();
        let places = fields.iter_mut().filter(|(field, _)| field == map);
        places
            .zip(entries)
            .for_each(|((_, place), entry)| *place = entry);
    }
    Some(
        fields
            .into_iter()
            .flat_map(|(_, encoded)| encoded)
            .collect(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::google::protobuf::value::Kind;
    use envoy_types::pb::google::protobuf::{Struct, Value};
    use waypoint_filters::xds::proto::TypedStruct;

    use super::*;

    fn sample() -> TypedStruct {
        let leaf = || Value {
            kind: Some(Kind::NumberValue(1.5)),
        };
        let inner = || Struct {
            fields: (0..20).map(|n| (format!("k{n}"), leaf())).collect(),
        };
        let value = || Value {
            kind: Some(Kind::StructValue(inner())),
        };
        let fields = (0..20).map(|n| (format!("f{n}"), value())).collect();
        TypedStruct {
            type_url: "x".to_owned(),
            value: Some(Struct { fields }),
        }
    }

    #[test]
    fn equal_messages_have_equal_bytes_and_nothing_is_lost() {
        let url = waypoint_filters::xds::proto::TYPED_STRUCT;
        let first = encode(url, &sample());
        assert!((0..10).all(|_| encode(url, &sample()) == first));
        assert_eq!(TypedStruct::decode(first.as_slice()).unwrap(), sample());
    }
}
