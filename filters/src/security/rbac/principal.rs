//! `Principal`: who may do it, as a condition.

use envoy_types::pb::envoy::config::rbac::v3::{Principal, principal::Identifier};
use envoy_types::pb::envoy::r#type::matcher::v3::filter_state_matcher;

use crate::matcher::cidr::{self, CIDR_RANGE};
use crate::matcher::filter_state::FILTER_STATE_MATCHER;
use crate::matcher::header::{HEADER_MATCHER, HeaderMatcher};
use crate::matcher::metadata::{METADATA_MATCHER, MetadataMatcher};
use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::security::rbac::condition::{Condition, ConnectionTest, RequestTest, Subject};
use crate::security::rbac::permission::{MAX_DEPTH, PATH_MATCHER, url_path};
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::rejected::Refusal;

pub(crate) static PRINCIPAL: Table = Table {
    name: "envoy.config.rbac.v3.Principal",
    fields: &[
        honoured(1, "and_ids").of(&SET),
        honoured(2, "or_ids").of(&SET),
        honoured(3, "any"),
        honoured(4, "authenticated").of(&AUTHENTICATED),
        honoured(5, "source_ip").of(&CIDR_RANGE),
        honoured(6, "header").of(&HEADER_MATCHER),
        honoured(7, "metadata").of(&METADATA_MATCHER),
        honoured(8, "not_id").of(&PRINCIPAL),
        honoured(9, "url_path").of(&PATH_MATCHER),
        honoured(10, "direct_remote_ip").of(&CIDR_RANGE),
        honoured(11, "remote_ip").of(&CIDR_RANGE),
        honoured(12, "filter_state").of(&FILTER_STATE_MATCHER),
    ],
    refused: "13 sourced_metadata, 14 custom",
    required: &[required(
        "identifier",
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    )],
};

static SET: Table = Table {
    name: "envoy.config.rbac.v3.Principal.Set",
    fields: &[honoured(1, "ids").list().of(&PRINCIPAL)],
    refused: "",
    required: &[required("ids", &[1])],
};

static AUTHENTICATED: Table = Table {
    name: "envoy.config.rbac.v3.Principal.Authenticated",
    fields: &[honoured(2, "principal_name").of(&STRING_MATCHER)],
    refused: "",
    required: &[],
};

pub(crate) fn condition(
    principal: &Principal,
    subject: Subject,
    depth: usize,
) -> Result<Condition, Refusal> {
    if depth > MAX_DEPTH {
        return Err(Refusal::new("identifier", "is nested too deeply"));
    }
    let identifier = principal
        .identifier
        .as_ref()
        .ok_or_else(|| Refusal::missing("identifier"))?;
    Ok(match identifier {
        Identifier::Any(any) => Condition::Constant(*any),
        Identifier::AndIds(set) => Condition::All(list(&set.ids, subject, depth, "and_ids")?),
        Identifier::OrIds(set) => Condition::Any(list(&set.ids, subject, depth, "or_ids")?),
        Identifier::NotId(inner) => Condition::Not(Box::new(
            condition(inner, subject, depth + 1).map_err(|e| e.within("not_id"))?,
        )),
        Identifier::Authenticated(authenticated) => {
            let name = authenticated
                .principal_name
                .as_ref()
                .map(|m| StringMatcher::from_proto(m).map_err(|e| e.within("authenticated")))
                .transpose()?;
            Condition::Connection(ConnectionTest::Authenticated(name))
        }
        Identifier::SourceIp(range) | Identifier::DirectRemoteIp(range) => {
            Condition::Connection(ConnectionTest::SourceIp(
                cidr::from_proto(range).map_err(|e| e.within("direct_remote_ip"))?,
            ))
        }
        Identifier::RemoteIp(range) => {
            subject.remote_ip(cidr::from_proto(range).map_err(|e| e.within("remote_ip"))?)
        }
        Identifier::Header(m) => subject.request("header", || {
            Ok(RequestTest::Header(HeaderMatcher::from_proto(m)?))
        })?,
        Identifier::UrlPath(m) => {
            subject.request("url_path", || Ok(RequestTest::Path(url_path(m)?)))?
        }
        Identifier::Metadata(m) => subject.request("metadata", || {
            Ok(RequestTest::Metadata(MetadataMatcher::from_proto(m)?))
        })?,
        Identifier::FilterState(m) => {
            let Some(filter_state_matcher::Matcher::StringMatch(value)) = &m.matcher else {
                return Err(Refusal::unsupported("filter_state.matcher"));
            };
            Condition::Connection(ConnectionTest::FilterState {
                key: m.key.as_str().into(),
                value: StringMatcher::from_proto(value).map_err(|e| e.within("filter_state"))?,
            })
        }
        Identifier::SourcedMetadata(_) => return Err(Refusal::unsupported("sourced_metadata")),
        Identifier::Custom(m) => return Err(Refusal::unsupported(format!("custom {}", m.name))),
    })
}

fn list(
    ids: &[Principal],
    subject: Subject,
    depth: usize,
    field: &str,
) -> Result<Vec<Condition>, Refusal> {
    if ids.is_empty() {
        return Err(Refusal::missing(format!("{field}.ids")));
    }
    ids.iter()
        .enumerate()
        .map(|(i, id)| {
            condition(id, subject, depth + 1).map_err(|e| e.within(format!("{field}.ids[{i}]")))
        })
        .collect()
}
