//! The operators of format strings: those of stock Envoy 1.40, which is asked by a test.
//!
//! Each takes parameters, or a length, or neither, as in Envoy, and is refused with what it doesn't take.
//! What is known only where it is asked for is [captured](Operator::capture) then.

mod addresses;
mod certificates;
mod expression;
mod grpc;
mod heads;
mod metadata;
mod print;
mod stream;
mod times;
mod wire;

use self::addresses::Address;
use self::certificates::TlsField;
use self::expression::ExpressionField;
use self::grpc::GrpcStatus;
use self::heads::{Head, ServerName, Target};
use self::metadata::{FilterStateField, MetadataField};
use self::print::{one_word, text};
use self::stream::StreamField;
use self::times::{Clock, Span};
use super::syntax::Command;
use crate::format::FormatContext;
use crate::stream::stream_info::Capture;
use crate::xds::rejected::Refusal;

/// Operators of which the first that has a value counts, each with the most bytes that it prints.
type Alternatives = Box<[(Operator, Option<usize>)]>;

#[derive(Clone, Debug)]
pub(super) enum Operator {
    Head(Head),
    Target(Target),
    ServerName(ServerName),
    Clock(Clock),
    Span(Span),
    Address(Address),
    Metadata(MetadataField),
    FilterState(FilterStateField),
    GrpcStatus(GrpcStatus),
    /// With blanks kept, or made underscores so that a log's fields can be told apart.
    ResponseCodeDetails {
        blanks: bool,
    },
    /// Ours, and none of Envoy's: the policy that denied it. Blanks as above.
    DeniedBy {
        blanks: bool,
    },
    /// Ours as well: the policy that would have denied it.
    DryRunDeniedBy {
        blanks: bool,
    },
    Tls(TlsField),
    Stream(StreamField),
    Expression(Box<ExpressionField>),
    /// The first that has a value, each with its most bytes.
    Coalesce(Alternatives),
}

/// What an operator may be written with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parameters {
    None,
    Optional,
    Required,
}

/// Parameters, and whether a length may follow. Names that aren't here take neither.
fn rule(name: &str) -> (Parameters, bool) {
    match name {
        "REQ" | "REQUEST_HEADER" | "RESP" | "RESPONSE_HEADER" | "TRAILER" | "RESPONSE_TRAILER"
        | "STREAM_INFO_REQ" | "REQ_WITHOUT_QUERY" | "QUERY_PARAM" | "ENVIRONMENT"
        | "DYNAMIC_METADATA" | "COALESCE" => (Parameters::Required, true),
        "CLUSTER_METADATA" | "UPSTREAM_METADATA" | "COMMON_DURATION" => {
            (Parameters::Required, false)
        }
        "FILTER_STATE"
        | "UPSTREAM_FILTER_STATE"
        | "METADATA"
        | "PATH"
        | "QUERY_PARAMS"
        | "CEL"
        | "TYPED_CEL" => (Parameters::Optional, true),
        "START_TIME"
        | "START_TIME_LOCAL"
        | "EMIT_TIME"
        | "EMIT_TIME_LOCAL"
        | "GRPC_STATUS"
        | "RESPONSE_CODE_DETAILS"
        | "DENIED_BY"
        | "DRY_RUN_DENIED_BY"
        | "REQUESTED_SERVER_NAME" => (Parameters::Optional, false),
        name if is_certificate_time(name) => (Parameters::Optional, false),
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT"
        | "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT"
        | "UPSTREAM_HOST_NAME_WITHOUT_PORT" => (Parameters::None, false),
        name if name.ends_with("_ADDRESS_WITHOUT_PORT") => (Parameters::Optional, false),
        _ => (Parameters::None, false),
    }
}

/// When a certificate begins and ends to be valid.
fn is_certificate_time(name: &str) -> bool {
    let end = ["DOWNSTREAM_PEER_CERT_V_", "UPSTREAM_PEER_CERT_V_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    matches!(end, Some("START" | "END"))
}

impl Operator {
    /// Has no value.
    pub(super) const NEVER: Operator = Operator::Stream(StreamField::Never);

    pub(super) fn parse(command: &Command<'_>) -> Result<Operator, Refusal> {
        let (name, parameters) = (command.name, command.parameters);
        let operator = known(name, parameters)?
            .ok_or_else(|| Refusal::new("format", format!("unknown operator %{name}%")))?;
        let refuse = |what: &str| {
            Err(Refusal::new(
                "format",
                format!("the operator %{name}% {what}"),
            ))
        };
        let (takes, length) = rule(name);
        match takes {
            Parameters::Required if parameters.is_empty() => return refuse("needs parameters"),
            Parameters::None if !parameters.is_empty() => return refuse("takes no parameters"),
            _ => {}
        }
        if command.max_length.is_some() && !length {
            return refuse("takes no length");
        }
        Ok(operator)
    }

    pub(super) fn is_number(&self) -> bool {
        match self {
            Operator::Stream(field) => field.is_number(),
            Operator::Address(address) => address.is_number(),
            Operator::GrpcStatus(status) => status.is_number(),
            Operator::Span(_) => true,
            _ => false,
        }
    }

    /// The value with its structure, where it may have one.
    pub(super) fn structured(
        &self,
        context: &FormatContext<'_>,
    ) -> Option<Option<serde_json::Value>> {
        match self {
            Operator::Metadata(field) => Some(field.value(context)),
            Operator::Expression(field) => field.structured(context),
            _ => None,
        }
    }

    pub(super) fn capture(&self, capture: &mut Capture) {
        match self {
            Operator::Head(head) => head.capture(capture),
            Operator::Target(_) => capture.request_line = true,
            Operator::ServerName(name) => name.capture(capture),
            Operator::Tls(field) => field.capture(capture),
            Operator::Span(span) => span.capture(capture),
            Operator::Stream(field) => field.capture(capture),
            Operator::Expression(field) => field.capture(capture),
            Operator::Coalesce(list) => list.iter().for_each(|(one, _)| one.capture(capture)),
            Operator::Clock(_)
            | Operator::Address(_)
            | Operator::Metadata(_)
            | Operator::FilterState(_)
            | Operator::GrpcStatus(_)
            | Operator::DeniedBy { .. }
            | Operator::DryRunDeniedBy { .. }
            | Operator::ResponseCodeDetails { .. } => {}
        }
    }

    /// Appends the value; `false`: there is none.
    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Operator::Head(head) => head.write(context, out),
            Operator::Target(target) => target.write(context, out),
            Operator::ServerName(name) => name.write(context, out),
            Operator::Clock(clock) => clock.write(context, out),
            Operator::Span(span) => span.write(context, out),
            Operator::Address(address) => address.write(context, out),
            Operator::Metadata(field) => field.write(context, out),
            Operator::FilterState(field) => field.write(context, out),
            Operator::GrpcStatus(status) => status.write(context, out),
            Operator::ResponseCodeDetails { blanks } => {
                let details = context.state.response_code_details.as_deref();
                words(*blanks, out, details)
            }
            Operator::DeniedBy { blanks } => {
                words(*blanks, out, context.state.denied_by.as_deref())
            }
            Operator::DryRunDeniedBy { blanks } => {
                words(*blanks, out, context.state.dry_run_denied_by.as_deref())
            }
            Operator::Tls(field) => field.write(context, out),
            Operator::Stream(field) => field.write(context, out),
            Operator::Expression(field) => field.write(context, out),
            Operator::Coalesce(list) => list
                .iter()
                .any(|(operator, max)| operator.write_at_most(*max, context, out)),
        }
    }

    /// The same, with no more than `max` bytes of it.
    pub(super) fn write_at_most(
        &self,
        max: Option<usize>,
        context: &FormatContext<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        let found = self.write(context, out);
        if let Some(max) = max {
            out.truncate(start.saturating_add(max));
        }
        found
    }
}

/// With its blanks, or as one word.
fn words(blanks: bool, out: &mut Vec<u8>, value: Option<&str>) -> bool {
    match blanks {
        true => text(out, value),
        false => one_word(out, value),
    }
}

/// `None`: nobody knows the name.
fn known(name: &str, parameters: &str) -> Result<Option<Operator>, Refusal> {
    if let Some(head) = Head::parse(name, parameters)? {
        return Ok(Some(Operator::Head(head)));
    }
    if let Some(target) = Target::parse(name, parameters)? {
        return Ok(Some(Operator::Target(target)));
    }
    if let Some(span) = Span::parse(name, parameters)? {
        return Ok(Some(Operator::Span(span)));
    }
    if let Some(field) = TlsField::parse(name, parameters)? {
        return Ok(Some(Operator::Tls(field)));
    }
    Ok(Some(match name {
        "START_TIME" | "START_TIME_LOCAL" | "EMIT_TIME" | "EMIT_TIME_LOCAL" => {
            Operator::Clock(Clock::parse(name, parameters)?)
        }
        "REQUESTED_SERVER_NAME" => Operator::ServerName(ServerName::parse(parameters)?),
        "METADATA" | "DYNAMIC_METADATA" | "CLUSTER_METADATA" | "UPSTREAM_METADATA" => {
            Operator::Metadata(MetadataField::parse(name, parameters)?)
        }
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => {
            Operator::FilterState(FilterStateField::parse(name, parameters)?)
        }
        "GRPC_STATUS" | "GRPC_STATUS_NUMBER" => {
            Operator::GrpcStatus(GrpcStatus::parse(name, parameters)?)
        }
        "RESPONSE_CODE_DETAILS" => Operator::ResponseCodeDetails {
            blanks: parameters == "ALLOW_WHITESPACES",
        },
        "DENIED_BY" => Operator::DeniedBy {
            blanks: parameters == "ALLOW_WHITESPACES",
        },
        "DRY_RUN_DENIED_BY" => Operator::DryRunDeniedBy {
            blanks: parameters == "ALLOW_WHITESPACES",
        },
        "ENVIRONMENT" => Operator::Stream(match std::env::var(parameters) {
            Ok(value) => StreamField::Fixed(value.into()),
            Err(_) => StreamField::Never,
        }),
        "COALESCE" => Operator::Coalesce(coalesce(parameters)?),
        "CEL" | "TYPED_CEL" => {
            Operator::Expression(Box::new(ExpressionField::parse(name, parameters)?))
        }
        name => match StreamField::parse(name) {
            Some(field) => Operator::Stream(field),
            None => match Address::parse(name, parameters) {
                Some(address) => Operator::Address(address),
                None => return Ok(None),
            },
        },
    }))
}

/// `{"operators": ["NAME", {"command": "NAME", "param": "…", "max_length": 3}, …]}`.
fn coalesce(json: &str) -> Result<Alternatives, Refusal> {
    let refuse = |reason: String| Refusal::new("format", format!("%COALESCE%: {reason}"));
    let object: serde_json::Value =
        serde_json::from_str(json).map_err(|error| refuse(error.to_string()))?;
    let list = object.get("operators").and_then(|list| list.as_array());
    let list = list.filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| refuse("needs a list of operators".to_owned()))?;
    list.iter()
        .map(|entry| {
            let field = |name: &str| entry.get(name);
            let (name, parameters, max_length) = match (entry.as_str(), field("command")) {
                (Some(name), _) => (name, "", None),
                (None, Some(command)) => {
                    let name = command.as_str();
                    let name = name.ok_or_else(|| refuse("command is no text".to_owned()))?;
                    let parameters = match field("param") {
                        None => "",
                        Some(text) => text
                            .as_str()
                            .ok_or_else(|| refuse("param is no text".to_owned()))?,
                    };
                    let length = |length: &serde_json::Value| {
                        let length = length.as_u64().filter(|length| *length > 0);
                        let length = length.and_then(|length| usize::try_from(length).ok());
                        length.ok_or_else(|| refuse("max_length is no length".to_owned()))
                    };
                    let max_length = field("max_length").map(length).transpose()?;
                    (name, parameters, max_length)
                }
                _ => return Err(refuse(format!("{entry} is no operator"))),
            };
            let command = Command {
                name,
                parameters,
                max_length,
            };
            Ok((Operator::parse(&command)?, max_length))
        })
        .collect()
}
