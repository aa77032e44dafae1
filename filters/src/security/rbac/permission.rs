//! `Permission`: what may be done, as a condition.

use envoy_types::pb::envoy::config::rbac::v3::{Permission, permission::Rule};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    PathMatcher, StringMatcher as StringMatcherProto, path_matcher,
};

use crate::matcher::cidr::{self, CIDR_RANGE};
use crate::matcher::header::{HEADER_MATCHER, HeaderMatcher};
use crate::matcher::metadata::{METADATA_MATCHER, MetadataMatcher};
use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::matcher::uri_template::{URI_TEMPLATE, UriTemplateMatcher};
use crate::security::rbac::condition::{Condition, ConnectionTest, RequestTest, Subject};
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::coverage::well_known::INT32_RANGE;
use crate::xds::rejected::Refusal;

/// Conditions nested deeper than this are refused.
pub(crate) const MAX_DEPTH: usize = 64;

pub(crate) static PERMISSION: Table = Table {
    name: "envoy.config.rbac.v3.Permission",
    fields: &[
        honoured(1, "and_rules").of(&SET),
        honoured(2, "or_rules").of(&SET),
        honoured(3, "any"),
        honoured(4, "header").of(&HEADER_MATCHER),
        honoured(5, "destination_ip").of(&CIDR_RANGE),
        honoured(6, "destination_port"),
        honoured(7, "metadata").of(&METADATA_MATCHER),
        honoured(8, "not_rule").of(&PERMISSION),
        honoured(9, "requested_server_name").of(&STRING_MATCHER),
        honoured(10, "url_path").of(&PATH_MATCHER),
        honoured(11, "destination_port_range").of(&INT32_RANGE),
        honoured(13, "uri_template").of(&URI_TEMPLATE),
    ],
    refused: "12 matcher, 14 sourced_metadata",
    required: &[required("rule", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13])],
};

static SET: Table = Table {
    name: "envoy.config.rbac.v3.Permission.Set",
    fields: &[honoured(1, "rules").list().of(&PERMISSION)],
    refused: "",
    required: &[required("rules", &[1])],
};

pub(crate) static PATH_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.PathMatcher",
    fields: &[honoured(1, "path").of(&STRING_MATCHER)],
    refused: "",
    required: &[required("rule", &[1])],
};

pub(crate) fn condition(
    permission: &Permission,
    subject: Subject,
    depth: usize,
) -> Result<Condition, Refusal> {
    if depth > MAX_DEPTH {
        return Err(Refusal::new("rule", "is nested too deeply"));
    }
    let rule = permission
        .rule
        .as_ref()
        .ok_or_else(|| Refusal::missing("rule"))?;
    Ok(match rule {
        Rule::Any(any) => Condition::Constant(*any),
        Rule::AndRules(set) => Condition::All(list(&set.rules, subject, depth, "and_rules")?),
        Rule::OrRules(set) => Condition::Any(list(&set.rules, subject, depth, "or_rules")?),
        Rule::NotRule(inner) => Condition::Not(Box::new(
            condition(inner, subject, depth + 1).map_err(|e| e.within("not_rule"))?,
        )),
        Rule::Header(m) => subject.request("header", || {
            Ok(RequestTest::Header(HeaderMatcher::from_proto(m)?))
        })?,
        Rule::UrlPath(m) => subject.request("url_path", || Ok(RequestTest::Path(url_path(m)?)))?,
        Rule::UriTemplate(m) => subject.request("uri_template", || {
            let matcher = UriTemplateMatcher::from_extension(m)?;
            Ok(RequestTest::UriTemplate(matcher))
        })?,
        Rule::Metadata(m) => subject.request("metadata", || {
            Ok(RequestTest::Metadata(MetadataMatcher::from_proto(m)?))
        })?,
        Rule::DestinationIp(range) => Condition::Connection(ConnectionTest::DestinationIp(
            cidr::from_proto(range).map_err(|e| e.within("destination_ip"))?,
        )),
        Rule::DestinationPort(port) => Condition::Connection(ConnectionTest::DestinationPort(
            *port,
            port.saturating_add(1),
        )),
        Rule::DestinationPortRange(range) => {
            let bound = |value: i32| {
                u32::try_from(value)
                    .map_err(|_| Refusal::new("destination_port_range", "is negative"))
            };
            Condition::Connection(ConnectionTest::DestinationPort(
                bound(range.start)?,
                bound(range.end)?,
            ))
        }
        Rule::RequestedServerName(m) => Condition::Connection(ConnectionTest::ServerName(
            server_name(m).map_err(|e| e.within("requested_server_name"))?,
        )),
        Rule::SourcedMetadata(_) => return Err(Refusal::unsupported("sourced_metadata")),
        Rule::Matcher(m) => {
            return Err(Refusal::unsupported(format!("matcher {}", m.name)));
        }
    })
}

/// Names have no case, and those of connections are in lower case: a rule that names one otherwise would never match.
fn server_name(proto: &StringMatcherProto) -> Result<StringMatcher, Refusal> {
    StringMatcher::from_proto(&StringMatcherProto {
        ignore_case: true,
        ..proto.clone()
    })
}

pub(crate) fn url_path(proto: &PathMatcher) -> Result<StringMatcher, Refusal> {
    match &proto.rule {
        Some(path_matcher::Rule::Path(m)) => {
            StringMatcher::from_proto(m).map_err(|e| e.within("path"))
        }
        None => Err(Refusal::missing("rule")),
    }
}

fn list(
    rules: &[Permission],
    subject: Subject,
    depth: usize,
    field: &str,
) -> Result<Vec<Condition>, Refusal> {
    if rules.is_empty() {
        return Err(Refusal::missing(format!("{field}.rules")));
    }
    rules
        .iter()
        .enumerate()
        .map(|(i, rule)| {
            condition(rule, subject, depth + 1).map_err(|e| e.within(format!("{field}.rules[{i}]")))
        })
        .collect()
}
