//! `envoy.filters.network.rbac`: lets a connection pass, or closes it.
//!
//! A rule that asks for a server name is never decided by guess: where the name couldn't be read, the connection is
//! closed. (Envoy goes on as without a name.)
//!
//! Rules that need a request are refused. (Envoy refuses tests of headers; other tests of a request match nothing
//! there.)

use std::fmt;
use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac;

use crate::http::filter::{Config, Registration};
use crate::network::filter::{BuiltNetworkFilter, Decision, NameUse, NetworkFilter, Verdict};
use crate::security::rbac::action::Action;
use crate::security::rbac::counters::Counters;
use crate::security::rbac::denial::Denials;
use crate::security::rbac::engine::{ConnectionEngine, RBAC};
use crate::security::rbac::rules::Rules;
use crate::stream::connection::ServerName;
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::harmless;
use crate::xds::coverage::honoured;
use crate::xds::coverage::{Table, decode_any};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration<BuiltNetworkFilter> = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |config, context| {
            let proto: Rbac = decode_any(config)?;
            let counters = Counters::new(
                context.host.metrics(),
                "network",
                &proto.stat_prefix,
                &proto.shadow_rules_stat_prefix,
            );
            build(
                &proto,
                Denials::counted_in(
                    context.host.metrics(),
                    counters,
                    context.host.denial_header(),
                ),
            )
        },
    },
    per_route: None,
};

const NAMESPACE: &str = "envoy.filters.network.rbac";

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.network.rbac.v3.RBAC",
    fields: &[
        honoured(1, "rules").of(&RBAC),
        honoured(2, "shadow_rules").of(&RBAC),
        harmless(3, "stat_prefix", "names what is counted, and nothing else"),
        honoured(5, "shadow_rules_stat_prefix"),
    ],
    refused: "4 enforcement_type, 6 matcher, 7 shadow_matcher, 8 delay_deny",
    required: &[],
};

struct RbacFilter {
    rules: Rules<ConnectionEngine>,
    denials: Denials,
}

impl fmt::Debug for RbacFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.fmt(f)
    }
}

fn build(proto: &Rbac, denials: Denials) -> Result<BuiltNetworkFilter, Refusal> {
    let rules = Rules::new(
        NAMESPACE,
        proto.rules.as_ref(),
        proto.shadow_rules.as_ref(),
        &proto.shadow_rules_stat_prefix,
        ConnectionEngine::from_proto,
    )?;
    let asks = |rules: &Option<ConnectionEngine>| {
        let rules = rules.as_ref().filter(|rules| rules.asks_server_name());
        rules.map(ConnectionEngine::action)
    };
    Ok(BuiltNetworkFilter {
        server_name: match (asks(&rules.enforced), asks(&rules.shadow)) {
            (Some(Action::Allow | Action::Deny), _) => NameUse::Decides,
            (None, None) => NameUse::Unused,
            _ => NameUse::Noted,
        },
        tallied: rules.tallied(ConnectionEngine::tally),
        filter: Some(Box::new(RbacFilter { rules, denials })),
        ..BuiltNetworkFilter::default()
    })
}

impl NetworkFilter for RbacFilter {
    fn on_connection(&self, stream: &Arc<StreamInfo>) -> Decision {
        self.decide(stream).into()
    }
}

impl RbacFilter {
    fn decide(&self, stream: &StreamInfo) -> Verdict {
        let connection = &stream.connection;
        self.rules
            .explain(stream, |rules, purpose| rules.explain(connection, purpose));
        // Questions count for nothing.
        let counts = stream.explanation().is_none();
        let decide = |engine: &ConnectionEngine| {
            let decision = engine.decide(connection);
            if counts {
                engine.count(&decision);
            }
            decision
        };
        self.rules.note_shadow(stream, &self.denials, decide);
        let Some(engine) = &self.rules.enforced else {
            return Verdict::Continue;
        };
        if self.misses_the_name(engine, stream) {
            return Verdict::Close("rbac_server_name_unknown".into());
        }
        let decision = decide(engine);
        if counts {
            self.denials.counters.enforced(decision.allowed);
        }
        if decision.allowed {
            return Verdict::Continue;
        }
        let details = decision.details();
        if let Some(denier) = &decision.denied_by {
            if counts {
                denier.count(&self.denials);
            }
            stream.state().denied_by = Some(denier.words().clone());
        }
        Verdict::Close(details.into())
    }
}

impl RbacFilter {
    /// Whether the rules ask for a name that nobody could read.
    fn misses_the_name(&self, engine: &ConnectionEngine, stream: &StreamInfo) -> bool {
        if stream.connection.server_name != ServerName::Unread || !engine.asks_server_name() {
            return false;
        }
        engine.action() != Action::Log
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;
    use std::time::{Instant, SystemTime};

    use envoy_types::pb::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
    use envoy_types::pb::envoy::config::rbac::v3 as rbac;
    use envoy_types::pb::envoy::config::route::v3::{
        HeaderMatcher, header_matcher::HeaderMatchSpecifier,
    };
    use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
    use envoy_types::pb::envoy::r#type::matcher::v3::{
        MetadataMatcher, PathMatcher, StringMatcher, ValueMatcher, metadata_matcher::PathSegment,
        metadata_matcher::path_segment::Segment, path_matcher, string_matcher::MatchPattern,
        value_matcher,
    };
    use envoy_types::pb::google::protobuf::{Any, UInt32Value};
    use prost::Message as _;
    use rbac::permission::{Rule, Set as RuleSet};
    use rbac::principal::{Identifier, Set as Ids};
    use rbac::{Permission, Policy, Principal};

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::Protocol;
    use crate::xds::coverage;

    fn denials() -> Denials {
        let metrics = crate::metrics::MetricRegistry::default();
        let counters = Counters::new(&metrics, "network", "tcp.", "");
        Denials::counted_in(&metrics, counters, None)
    }

    fn header() -> HeaderMatcher {
        HeaderMatcher {
            name: "x-user".into(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..HeaderMatcher::default()
        }
    }

    fn url_path() -> PathMatcher {
        PathMatcher {
            rule: Some(path_matcher::Rule::Path(StringMatcher {
                match_pattern: Some(MatchPattern::Prefix("/admin".into())),
                ..StringMatcher::default()
            })),
        }
    }

    fn metadata() -> MetadataMatcher {
        MetadataMatcher {
            filter: "envoy.filters.http.jwt_authn".into(),
            path: vec![PathSegment {
                segment: Some(Segment::Key("iss".into())),
            }],
            value: Some(ValueMatcher {
                match_pattern: Some(value_matcher::MatchPattern::PresentMatch(true)),
            }),
            ..MetadataMatcher::default()
        }
    }

    fn permission(rule: Rule) -> Permission {
        Permission { rule: Some(rule) }
    }

    fn principal(identifier: Identifier) -> Principal {
        Principal {
            identifier: Some(identifier),
        }
    }

    /// Every permission that needs a request, by its field.
    #[allow(deprecated)] // istiod sends `metadata`
    fn permissions() -> Vec<(&'static str, Rule)> {
        let template = UriTemplateMatchConfig {
            path_template: "/a/*".into(),
        };
        let template = TypedExtensionConfig {
            name: "uri-template".into(),
            typed_config: Some(Any {
                type_url: "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.\
                           UriTemplateMatchConfig"
                    .into(),
                value: template.encode_to_vec(),
            }),
        };
        vec![
            ("header", Rule::Header(header())),
            ("url_path", Rule::UrlPath(url_path())),
            ("uri_template", Rule::UriTemplate(template)),
            ("metadata", Rule::Metadata(metadata())),
        ]
    }

    /// Every principal that needs a request, by its field.
    #[allow(deprecated)] // istiod sends `metadata`
    fn principals() -> Vec<(&'static str, Identifier)> {
        vec![
            ("header", Identifier::Header(header())),
            ("url_path", Identifier::UrlPath(url_path())),
            ("metadata", Identifier::Metadata(metadata())),
        ]
    }

    fn deny(permission: Permission, principal: Principal) -> rbac::Rbac {
        let policy = Policy {
            permissions: vec![permission],
            principals: vec![principal],
            ..Policy::default()
        };
        rbac::Rbac {
            action: rbac::rbac::Action::Deny.into(),
            policies: HashMap::from([("p".to_owned(), policy)]),
            ..rbac::Rbac::default()
        }
    }

    /// What is said of these rules, enforced and as shadows.
    fn refusals(rules: &rbac::Rbac) -> [String; 2] {
        let said = |proto: &Rbac| {
            build(proto, denials())
                .err()
                .map_or("taken".into(), |e| e.to_string())
        };
        let enforced = Rbac {
            rules: Some(rules.clone()),
            ..Rbac::default()
        };
        let shadow = Rbac {
            shadow_rules: Some(rules.clone()),
            ..Rbac::default()
        };
        [said(&enforced), said(&shadow)]
    }

    fn assert_refused(rules: &rbac::Rbac, path: &str) {
        let start = |side: &str| format!("{side}.policies[\"p\"].{path}: ");
        let [enforced, shadow] = refusals(rules);
        assert!(enforced.starts_with(&start("rules")), "{path}: {enforced}");
        assert!(
            shadow.starts_with(&start("shadow_rules")),
            "{path}: {shadow}"
        );
    }

    #[test]
    fn what_needs_a_request_is_refused_wherever_it_stands() {
        let (anything, anybody) = (Rule::Any(true), Identifier::Any(true));
        for (field, rule) in permissions() {
            let set = |rule| RuleSet {
                rules: vec![permission(anything.clone()), permission(rule)],
            };
            let not = |rule| Rule::NotRule(Box::new(permission(rule)));
            for (path, rule) in [
                (field.to_owned(), rule.clone()),
                (format!("not_rule.{field}"), not(rule.clone())),
                (
                    format!("and_rules.rules[1].{field}"),
                    Rule::AndRules(set(rule.clone())),
                ),
                (
                    format!("or_rules.rules[1].not_rule.{field}"),
                    Rule::OrRules(set(not(rule))),
                ),
            ] {
                let rules = deny(permission(rule), principal(anybody.clone()));
                assert_refused(&rules, &format!("permissions[0].{path}"));
            }
        }
        for (field, id) in principals() {
            let set = |id| Ids {
                ids: vec![principal(anybody.clone()), principal(id)],
            };
            let not = |id| Identifier::NotId(Box::new(principal(id)));
            for (path, id) in [
                (field.to_owned(), id.clone()),
                (format!("not_id.{field}"), not(id.clone())),
                (
                    format!("and_ids.ids[1].{field}"),
                    Identifier::AndIds(set(id.clone())),
                ),
                (
                    format!("or_ids.ids[1].not_id.{field}"),
                    Identifier::OrIds(set(not(id))),
                ),
            ] {
                let rules = deny(permission(anything.clone()), principal(id));
                assert_refused(&rules, &format!("principals[0].{path}"));
            }
        }
    }

    #[test]
    fn rules_as_a_tree_of_matchers_are_refused() {
        use envoy_types::pb::xds::r#type::matcher::v3::Matcher;
        let tree = Some(Matcher::default());
        for (field, proto) in [
            (
                "matcher",
                Rbac {
                    matcher: tree.clone(),
                    ..Rbac::default()
                },
            ),
            (
                "shadow_matcher",
                Rbac {
                    shadow_matcher: tree,
                    ..Rbac::default()
                },
            ),
        ] {
            let refused = coverage::check(&proto.encode_to_vec(), &CONFIG).unwrap_err();
            assert_eq!(refused, Refusal::unsupported(field));
        }
    }

    #[test]
    fn a_client_without_requests_is_where_its_connection_is_from() {
        let range = |address: &str| CidrRange {
            address_prefix: address.into(),
            prefix_len: Some(UInt32Value { value: 32 }),
        };
        let verdict = |address: &str| {
            let from = principal(Identifier::RemoteIp(range(address)));
            let proto = Rbac {
                rules: Some(deny(permission(Rule::Any(true)), from)),
                ..Rbac::default()
            };
            let source = ([10, 0, 0, 9], 999).into();
            let connection = Connection::new(source, ([10, 0, 0, 1], 80).into(), Instant::now());
            let stream = StreamInfo::new(
                Arc::new(connection),
                Protocol::Tcp,
                Instant::now(),
                SystemTime::now(),
            );
            let filter = build(&proto, denials()).unwrap().filter.unwrap();
            match filter.on_connection(&stream) {
                Decision::Made(verdict) => verdict,
                Decision::Awaited(_) => panic!("nobody is asked"),
            }
        };
        let denied = "rbac_access_denied_matched_policy[p]";
        assert_eq!(verdict("10.0.0.9"), Verdict::Close(denied.into()));
        assert_eq!(verdict("10.0.0.8"), Verdict::Continue);
    }
}
