//! `CustomTag`: tags that configuration gives to every span.

use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_kind::Kind;
use envoy_types::pb::envoy::r#type::tracing::v3::CustomTag as CustomTagProto;
use envoy_types::pb::envoy::r#type::tracing::v3::custom_tag;
use http::HeaderName;

use crate::format::{Format, FormatContext};
use crate::stream::stream_info::Capture;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static CUSTOM_TAG: Table = Table {
    name: "envoy.type.tracing.v3.CustomTag",
    fields: &[
        honoured(1, "tag"),
        honoured(2, "literal").of(&LITERAL),
        honoured(3, "environment").of(&ENVIRONMENT),
        honoured(4, "request_header").of(&HEADER),
        honoured(5, "metadata").of(&METADATA),
        honoured(6, "value"),
    ],
    refused: "",
    required: &[required("tag", &[1]), required("type", &[2, 3, 4, 5, 6])],
};

static LITERAL: Table = Table {
    name: "envoy.type.tracing.v3.CustomTag.Literal",
    fields: &[honoured(1, "value")],
    refused: "",
    required: &[required("value", &[1])],
};

static ENVIRONMENT: Table = Table {
    name: "envoy.type.tracing.v3.CustomTag.Environment",
    fields: &[honoured(1, "name"), honoured(2, "default_value")],
    refused: "",
    required: &[required("name", &[1])],
};

static HEADER: Table = Table {
    name: "envoy.type.tracing.v3.CustomTag.Header",
    fields: &[honoured(1, "name"), honoured(2, "default_value")],
    refused: "",
    required: &[required("name", &[1])],
};

static METADATA: Table = Table {
    name: "envoy.type.tracing.v3.CustomTag.Metadata",
    fields: &[
        honoured(1, "kind").of(&METADATA_KIND),
        honoured(2, "metadata_key").of(&METADATA_KEY),
        honoured(3, "default_value"),
    ],
    refused: "",
    required: &[required("kind", &[1]), required("metadata_key", &[2])],
};

static METADATA_KIND: Table = Table {
    name: "envoy.type.metadata.v3.MetadataKind",
    fields: &[
        honoured(1, "request").of(&REQUEST),
        honoured(2, "route").of(&ROUTE),
        honoured(3, "cluster").of(&CLUSTER),
        honoured(4, "host").of(&HOST),
    ],
    refused: "",
    required: &[required("kind", &[1, 2, 3, 4])],
};

static REQUEST: Table = kind("envoy.type.metadata.v3.MetadataKind.Request");
static ROUTE: Table = kind("envoy.type.metadata.v3.MetadataKind.Route");
static CLUSTER: Table = kind("envoy.type.metadata.v3.MetadataKind.Cluster");
static HOST: Table = kind("envoy.type.metadata.v3.MetadataKind.Host");

const fn kind(name: &'static str) -> Table {
    Table {
        name,
        fields: &[],
        refused: "",
        required: &[],
    }
}

static METADATA_KEY: Table = Table {
    name: "envoy.type.metadata.v3.MetadataKey",
    fields: &[
        honoured(1, "key"),
        honoured(2, "path").list().of(&PATH_SEGMENT),
    ],
    refused: "",
    required: &[required("key", &[1]), required("path", &[2])],
};

static PATH_SEGMENT: Table = Table {
    name: "envoy.type.metadata.v3.MetadataKey.PathSegment",
    fields: &[honoured(1, "key")],
    refused: "2 index",
    required: &[required("segment", &[1])],
};

/// The tags of a configuration, which all chains that say the same share.
#[derive(Debug)]
pub(crate) struct CustomTags {
    pub(crate) tags: Box<[CustomTag]>,
    /// Those that can't be sent, and why.
    pub(crate) refused: Vec<Refusal>,
}

impl CustomTags {
    pub(crate) fn from_proto(
        proto: &[CustomTagProto],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> CustomTags {
        let mut refused = Vec::new();
        let tags = proto.iter().filter_map(|tag| {
            let compiled = CustomTag::from_proto(tag, environment);
            let refuse = |e: Refusal| refused.push(e.within(format!("custom_tags[{:?}]", tag.tag)));
            compiled.map_err(refuse).ok()
        });
        CustomTags {
            tags: tags.collect(),
            refused,
        }
    }
}

/// A compiled tag.
#[derive(Debug)]
pub(crate) struct CustomTag {
    name: String,
    value: Value,
    default: String,
}

#[derive(Debug)]
enum Value {
    /// Whatever stands in the default.
    Fixed,
    Format(Format),
    Metadata {
        owner: Owner,
        namespace: String,
        path: Box<[String]>,
    },
}

#[derive(Clone, Copy, Debug)]
enum Owner {
    Request,
    Route,
    Cluster,
    Host,
}

impl CustomTag {
    /// `environment` reads the process's own.
    pub(crate) fn from_proto(
        proto: &CustomTagProto,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<CustomTag, Refusal> {
        let (value, default) = match &proto.r#type {
            None => return Err(Refusal::missing("type")),
            Some(custom_tag::Type::Literal(literal)) => (Value::Fixed, literal.value.clone()),
            Some(custom_tag::Type::Environment(variable)) => {
                let value = environment(&variable.name);
                (
                    Value::Fixed,
                    value.unwrap_or_else(|| variable.default_value.clone()),
                )
            }
            Some(custom_tag::Type::RequestHeader(header)) => {
                let name = header.name.strip_prefix(':').unwrap_or(&header.name);
                HeaderName::try_from(name)
                    .ok()
                    .filter(|name| !name.as_str().contains(['%', '?']))
                    .ok_or_else(|| {
                        Refusal::new(
                            "request_header.name",
                            format!("{:?} is not a header name", header.name),
                        )
                    })?;
                let format = Format::parse(&format!("%REQ({})%", header.name))?;
                (Value::Format(format), header.default_value.clone())
            }
            Some(custom_tag::Type::Metadata(metadata)) => {
                let value = of_metadata(metadata).map_err(|e| e.within("metadata"))?;
                (value, metadata.default_value.clone())
            }
            Some(custom_tag::Type::Value(format)) => {
                let format = Format::parse(format).map_err(|e| e.within("value"))?;
                (Value::Format(format), String::new())
            }
        };
        let value = match value {
            Value::Format(format) => Value::Format(format.omitting_empty(true)),
            value => value,
        };
        Ok(CustomTag {
            name: proto.tag.clone(),
            value,
            default,
        })
    }

    pub(crate) fn capture(&self) -> Capture {
        match &self.value {
            Value::Format(format) => format.capture(),
            Value::Fixed | Value::Metadata { .. } => Capture::default(),
        }
    }

    /// Name and value; a tag without a value isn't there.
    pub(crate) fn of(&self, context: &FormatContext<'_>) -> Option<(String, String)> {
        let value = match &self.value {
            Value::Fixed => String::new(),
            Value::Format(format) => {
                let mut text = Vec::new();
                format.write(context, &mut text);
                String::from_utf8_lossy(&text).into_owned()
            }
            Value::Metadata {
                owner,
                namespace,
                path,
            } => metadata(*owner, namespace, path, context).unwrap_or_default(),
        };
        let value = match value.is_empty() {
            true => self.default.clone(),
            false => value,
        };
        (!value.is_empty()).then(|| (self.name.clone(), value))
    }
}

fn of_metadata(proto: &custom_tag::Metadata) -> Result<Value, Refusal> {
    let owner = match proto.kind.and_then(|kind| kind.kind) {
        Some(Kind::Request(_)) => Owner::Request,
        Some(Kind::Route(_)) => Owner::Route,
        Some(Kind::Cluster(_)) => Owner::Cluster,
        Some(Kind::Host(_)) => Owner::Host,
        None => return Err(Refusal::missing("kind")),
    };
    let key = proto.metadata_key.as_ref();
    let key = key.ok_or_else(|| Refusal::missing("metadata_key"))?;
    let path = key.path.iter().map(|segment| match &segment.segment {
        Some(Segment::Key(key)) => Ok(key.clone()),
        _ => Err(Refusal::unsupported("metadata_key.path")),
    });
    Ok(Value::Metadata {
        owner,
        namespace: key.key.clone(),
        path: path.collect::<Result<_, _>>()?,
    })
}

fn metadata(
    owner: Owner,
    namespace: &str,
    path: &[String],
    context: &FormatContext<'_>,
) -> Option<String> {
    let state = context.state;
    let upstream = state.upstream.as_ref();
    let value = match owner {
        Owner::Request => state.metadata.get(namespace, path),
        Owner::Route => state.route.as_ref()?.info().metadata.get(namespace, path),
        Owner::Cluster => match upstream {
            Some(upstream) => upstream.cluster_metadata.get(namespace, path),
            None => state.cluster_metadata.get(namespace, path),
        },
        Owner::Host => upstream?.endpoint_metadata.get(namespace, path),
    };
    match value? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(match number.as_f64() {
            Some(whole) if whole.fract() == 0.0 && whole.abs() < 1e15 => (whole as i64).to_string(),
            _ => number.to_string(),
        }),
        value => Some(value.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::{Instant, SystemTime};

    use envoy_types::pb::envoy::r#type::metadata::v3 as proto;
    use http::HeaderValue;

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::{Protocol, StreamInfo};

    fn stream() -> Arc<StreamInfo> {
        let address = ([10, 0, 0, 1], 80).into();
        let connection = Connection::new(address, address, Instant::now());
        StreamInfo::new(
            connection.into(),
            Protocol::Http11,
            Instant::now(),
            SystemTime::now(),
        )
    }

    fn of(stream: &StreamInfo, kind: custom_tag::Type) -> Option<String> {
        let proto = CustomTagProto {
            tag: "t".into(),
            r#type: Some(kind),
        };
        let environment = |name: &str| (name == "POD_NAME").then(|| "waypoint-1".to_owned());
        let tag = CustomTag::from_proto(&proto, &environment).unwrap();
        let state = stream.state();
        let context = FormatContext::recorded(stream, &state, Instant::now());
        tag.of(&context).map(|(_, value)| value)
    }

    #[test]
    fn a_tag_has_a_value_or_its_default_or_is_not_there() {
        let stream = stream();
        let user = HeaderName::from_static("x-user");
        stream.state().request.headers = vec![(user, HeaderValue::from_static("ann"))];
        let header = |name: &str, default: &str| {
            custom_tag::Type::RequestHeader(custom_tag::Header {
                name: name.into(),
                default_value: default.into(),
            })
        };
        assert_eq!(of(&stream, header("x-user", "none")).unwrap(), "ann");
        assert_eq!(of(&stream, header("x-other", "none")).unwrap(), "none");
        assert_eq!(of(&stream, header("x-other", "")), None);
        let variable = |name: &str| {
            custom_tag::Type::Environment(custom_tag::Environment {
                name: name.into(),
                default_value: "d".into(),
            })
        };
        assert_eq!(of(&stream, variable("POD_NAME")).unwrap(), "waypoint-1");
        assert_eq!(of(&stream, variable("OTHER")).unwrap(), "d");
        let format = |text: &str| custom_tag::Type::Value(text.into());
        assert_eq!(of(&stream, format("%PROTOCOL%")).unwrap(), "HTTP/1.1");
        assert_eq!(of(&stream, format("%ROUTE_NAME%")), None);
    }

    #[test]
    fn metadata_of_the_request_is_found_by_its_path() {
        let stream = stream();
        stream.state().metadata.set("rbac", "id", 7.into());
        let key = |key: &str| proto::MetadataKey {
            key: "rbac".into(),
            path: vec![proto::metadata_key::PathSegment {
                segment: Some(Segment::Key(key.into())),
            }],
        };
        let tag = |name: &str| {
            custom_tag::Type::Metadata(custom_tag::Metadata {
                kind: Some(proto::MetadataKind {
                    kind: Some(Kind::Request(proto::metadata_kind::Request {})),
                }),
                metadata_key: Some(key(name)),
                default_value: String::new(),
            })
        };
        assert_eq!(of(&stream, tag("id")).unwrap(), "7");
        assert_eq!(of(&stream, tag("other")), None);
    }
}
