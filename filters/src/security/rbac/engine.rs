//! The engine: a set of named policies with one action.
//!
//! Policies are tried in the order of their names (Envoy keeps them in a sorted map); the first that
//! matches is named in the verdict. `ALLOW` without any policy denies everything.

use std::sync::Arc;

use envoy_types::pb::envoy::config::rbac::v3::{Policy as PolicyProto, Rbac, rbac};
use http::Request;

use crate::security::rbac::action::Action;
use crate::security::rbac::condition::{Condition, RequestView, Subject};
use crate::security::rbac::denial::Denier;
use crate::security::rbac::permission::{self, PERMISSION};
use crate::security::rbac::principal::{self, PRINCIPAL};
use crate::security::rbac::tally::Tally;
use crate::stream::connection::Connection;
use crate::stream::dynamic_metadata::Metadata;
use crate::stream::explanation::{PolicyStep, Purpose, RulesStep};
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::rejected::Refusal;

/// Policies compiled for requests.
#[derive(Debug)]
pub struct Engine {
    action: Action,
    policies: Box<[Policy]>,
    /// Who denies where no policy matches.
    unmatched: Arc<Denier>,
    tally: Arc<Tally>,
}

/// Policies compiled for connections whose bytes nobody understands: a rule that needs a request is refused.
#[derive(Debug)]
pub(crate) struct ConnectionEngine(Engine);

#[derive(Debug)]
struct Policy {
    name: Arc<str>,
    denier: Arc<Denier>,
    /// Its place among all of the engine.
    place: usize,
    condition: Condition,
}

/// What is left of an engine for one connection.
#[derive(Debug)]
pub struct BoundEngine {
    action: Action,
    policies: Box<[Policy]>,
    unmatched: Arc<Denier>,
    needs_metadata: bool,
    tally: Arc<Tally>,
}

/// The verdict, and the policy that matched.
#[derive(Clone, Debug)]
pub struct Decision {
    pub allowed: bool,
    pub policy: Option<Arc<str>>,
    /// Its place among all of the engine.
    place: Option<usize>,
    /// Where it isn't allowed.
    pub denied_by: Option<Arc<Denier>>,
}

pub static RBAC: Table = Table {
    name: "envoy.config.rbac.v3.RBAC",
    fields: &[
        honoured(1, "action"),
        honoured(2, "policies").map().of(&POLICY),
    ],
    refused: "3 audit_logging_options",
    required: &[],
};

static POLICY: Table = Table {
    name: "envoy.config.rbac.v3.Policy",
    fields: &[
        honoured(1, "permissions").list().of(&PERMISSION),
        honoured(2, "principals").list().of(&PRINCIPAL),
    ],
    refused: "3 condition, 4 checked_condition, 5 cel_config",
    required: &[required("permissions", &[1]), required("principals", &[2])],
};

impl Engine {
    pub fn from_proto(proto: &Rbac) -> Result<Engine, Refusal> {
        Engine::of_subject(proto, Subject::Request)
    }

    fn of_subject(proto: &Rbac, subject: Subject) -> Result<Engine, Refusal> {
        let action = match rbac::Action::try_from(proto.action) {
            Ok(rbac::Action::Allow) => Action::Allow,
            Ok(rbac::Action::Deny) => Action::Deny,
            Ok(rbac::Action::Log) => Action::Log,
            Err(_) => {
                return Err(Refusal::new(
                    "action",
                    format!("unknown value {}", proto.action),
                ));
            }
        };
        if proto.audit_logging_options.is_some() {
            return Err(Refusal::unsupported("audit_logging_options"));
        }
        let mut names: Vec<&String> = proto.policies.keys().collect();
        names.sort();
        let policies = names
            .into_iter()
            .filter_map(|name| Some((name, proto.policies.get(name)?)))
            .enumerate()
            .map(|(place, (name, policy))| {
                let named = Arc::from(name.as_str());
                Ok(Policy {
                    denier: Denier::rule(action, &named),
                    name: named,
                    place,
                    condition: policy_condition(policy, subject)
                        .map_err(|e| e.within(format!("policies[{name:?}]")))?,
                })
            })
            .collect::<Result<Box<[Policy]>, Refusal>>()?;
        let names = policies.iter().map(|policy| &*policy.name);
        Ok(Engine {
            action,
            unmatched: Denier::no_rule(action, names),
            tally: Arc::new(Tally::new(action, policies.iter().map(|p| p.name.clone()))),
            policies,
        })
    }

    /// How each policy fares with a request, and the verdict.
    pub(crate) fn explain<B>(
        &self,
        request: &Request<B>,
        stream: &StreamInfo,
        purpose: Purpose,
    ) -> RulesStep {
        let metadata = stream.state().metadata.clone();
        let view = RequestView {
            request,
            metadata: &metadata,
            source: stream.connection.source.ip(),
        };
        let decision = self.bind(&stream.connection).decide(request, stream);
        self.step(&stream.connection, &view, &decision, purpose)
    }

    fn step<B>(
        &self,
        connection: &Connection,
        view: &RequestView<'_, B>,
        decision: &Decision,
        purpose: Purpose,
    ) -> RulesStep {
        let policies = self.policies.iter().map(|policy| PolicyStep {
            name: policy.name.to_string(),
            misses: policy.condition.misses(connection, view),
        });
        RulesStep {
            action: match purpose {
                Purpose::Asks => "CUSTOM",
                Purpose::Decides | Purpose::DryRun => self.action.name(),
            },
            purpose,
            allowed: decision.allowed,
            policies: policies.collect(),
        }
    }

    /// Decides what depends on the connection alone.
    pub fn bind(&self, connection: &Connection) -> BoundEngine {
        let policies: Box<[Policy]> = self
            .policies
            .iter()
            .filter_map(|policy| {
                let condition = policy.condition.bind(connection);
                if matches!(condition, Condition::Constant(false)) {
                    return None;
                }
                Some(Policy {
                    name: policy.name.clone(),
                    denier: policy.denier.clone(),
                    place: policy.place,
                    condition,
                })
            })
            .collect();
        BoundEngine {
            action: self.action,
            unmatched: self.unmatched.clone(),
            needs_metadata: policies.iter().any(|p| p.condition.needs_metadata()),
            tally: self.tally.clone(),
            policies,
        }
    }

    /// What its decisions are counted in.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }
}

impl ConnectionEngine {
    pub(crate) fn from_proto(proto: &Rbac) -> Result<ConnectionEngine, Refusal> {
        Engine::of_subject(proto, Subject::Connection).map(ConnectionEngine)
    }

    pub(crate) fn action(&self) -> Action {
        self.0.action
    }

    /// What its decisions are counted in.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.0.tally
    }

    /// Counts a decision of its.
    pub(crate) fn count(&self, decision: &Decision) {
        self.0.tally.count(decision.place);
    }

    /// Whether any policy looks at the server name.
    pub(crate) fn asks_server_name(&self) -> bool {
        let mut policies = self.0.policies.iter();
        policies.any(|policy| policy.condition.asks_server_name())
    }

    /// Decides a connection. Without tests of requests nothing but constants is left of bound conditions.
    pub(crate) fn decide(&self, connection: &Connection) -> Decision {
        let bound = self.0.bind(connection);
        bound.verdict(|policy| matches!(policy.condition, Condition::Constant(true)))
    }

    /// How each policy fares with a connection, and the verdict.
    pub(crate) fn explain(&self, connection: &Connection, purpose: Purpose) -> RulesStep {
        let (request, metadata) = (Request::new(()), Metadata::default());
        let view = RequestView {
            request: &request,
            metadata: &metadata,
            source: connection.source.ip(),
        };
        let decision = self.decide(connection);
        self.0.step(connection, &view, &decision, purpose)
    }
}

fn policy_condition(policy: &PolicyProto, subject: Subject) -> Result<Condition, Refusal> {
    if policy.condition.is_some() || policy.checked_condition.is_some() {
        return Err(Refusal::unsupported("condition"));
    }
    if policy.permissions.is_empty() {
        return Err(Refusal::missing("permissions"));
    }
    if policy.principals.is_empty() {
        return Err(Refusal::missing("principals"));
    }
    let permissions = policy
        .permissions
        .iter()
        .enumerate()
        .map(|(i, p)| {
            permission::condition(p, subject, 0).map_err(|e| e.within(format!("permissions[{i}]")))
        })
        .collect::<Result<_, _>>()?;
    let principals = policy
        .principals
        .iter()
        .enumerate()
        .map(|(i, p)| {
            principal::condition(p, subject, 0).map_err(|e| e.within(format!("principals[{i}]")))
        })
        .collect::<Result<_, _>>()?;
    // Who first: identities are known with the connection, and what can't match is dropped then.
    Ok(Condition::All(vec![
        Condition::Any(principals),
        Condition::Any(permissions),
    ]))
}

impl BoundEngine {
    /// Decides a request.
    pub fn decide<B>(&self, request: &Request<B>, stream: &StreamInfo) -> Decision {
        let metadata = if self.needs_metadata {
            stream.state().metadata.clone()
        } else {
            Metadata::default()
        };
        let view = RequestView {
            request,
            metadata: &metadata,
            source: stream.connection.source.ip(),
        };
        self.verdict(|policy| policy.condition.matches(&view))
    }

    fn verdict(&self, matches: impl Fn(&Policy) -> bool) -> Decision {
        let policy = self.policies.iter().find(|policy| matches(policy));
        let allowed = match self.action {
            Action::Allow => policy.is_some(),
            Action::Deny => policy.is_none(),
            Action::Log => true,
        };
        let denier = policy.map_or(&self.unmatched, |policy| &policy.denier);
        Decision {
            allowed,
            policy: policy.map(|policy| policy.name.clone()),
            place: policy.map(|policy| policy.place),
            denied_by: (!allowed).then(|| denier.clone()),
        }
    }

    /// Counts a decision of its.
    pub(crate) fn count(&self, decision: &Decision) {
        self.tally.count(decision.place);
    }

    pub fn action(&self) -> Action {
        self.action
    }
}

impl Decision {
    /// `%RESPONSE_CODE_DETAILS%` of a denied request, as Envoy writes it: no spaces, for a log's columns.
    pub fn details(&self) -> String {
        let name = self.policy.as_deref().unwrap_or("none");
        format!(
            "rbac_access_denied_matched_policy[{}]",
            name.replace(' ', "_")
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;
    use std::time::{Instant, SystemTime};

    use envoy_types::pb::envoy::config::core::v3::CidrRange;
    use envoy_types::pb::envoy::config::rbac::v3::{Permission, Principal, permission, principal};
    use envoy_types::pb::envoy::config::route::v3::{
        HeaderMatcher, header_matcher::HeaderMatchSpecifier,
    };
    use envoy_types::pb::envoy::r#type::matcher::v3::{
        FilterStateMatcher, StringMatcher, filter_state_matcher, string_matcher::MatchPattern,
    };
    use envoy_types::pb::google::protobuf::UInt32Value;

    use super::*;
    use crate::stream::filter_state::{FilterValue, PEER_PRINCIPAL, Sharing};
    use crate::stream::stream_info::Protocol;

    fn text(pattern: MatchPattern) -> StringMatcher {
        StringMatcher {
            ignore_case: false,
            match_pattern: Some(pattern),
        }
    }

    fn from(prefix: &str) -> Principal {
        Principal {
            identifier: Some(principal::Identifier::FilterState(FilterStateMatcher {
                key: PEER_PRINCIPAL.into(),
                matcher: Some(filter_state_matcher::Matcher::StringMatch(text(
                    MatchPattern::Prefix(prefix.into()),
                ))),
            })),
        }
    }

    fn method(name: &str) -> Permission {
        Permission {
            rule: Some(permission::Rule::Header(HeaderMatcher {
                name: ":method".into(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text(
                    MatchPattern::Exact(name.into()),
                ))),
                ..HeaderMatcher::default()
            })),
        }
    }

    fn engine(action: rbac::Action, policies: Vec<(&str, Permission, Principal)>) -> Engine {
        let policies: HashMap<_, _> = policies
            .into_iter()
            .map(|(name, permission, principal)| {
                (
                    name.to_owned(),
                    PolicyProto {
                        permissions: vec![permission],
                        principals: vec![principal],
                        ..PolicyProto::default()
                    },
                )
            })
            .collect();
        Engine::from_proto(&Rbac {
            action: action.into(),
            policies,
            audit_logging_options: None,
        })
        .unwrap()
    }

    fn connection(identity: Option<&str>) -> Arc<Connection> {
        let mut connection = Connection::new(
            ([10, 0, 0, 9], 999).into(),
            ([10, 96, 0, 1], 80).into(),
            Instant::now(),
        );
        if let Some(identity) = identity {
            connection.filter_state.set(
                &PEER_PRINCIPAL.into(),
                FilterValue::String(identity.into()),
                Sharing::None,
            );
        }
        Arc::new(connection)
    }

    fn decide(engine: &Engine, connection: &Arc<Connection>, method: &str) -> Decision {
        let stream = StreamInfo::new(
            connection.clone(),
            Protocol::Http11,
            Instant::now(),
            SystemTime::now(),
        );
        let request = Request::builder().method(method).uri("/").body(()).unwrap();
        engine.bind(connection).decide(&request, &stream)
    }

    #[test]
    fn allow_needs_a_match_and_deny_ends_with_one() {
        let policies = || vec![("viewer", method("GET"), from("spiffe://td/ns/default/"))];
        let allow = engine(rbac::Action::Allow, policies());
        let deny = engine(rbac::Action::Deny, policies());
        let friend = connection(Some("spiffe://td/ns/default/sa/a"));
        let stranger = connection(Some("spiffe://td/ns/other/sa/a"));
        let allowed = decide(&allow, &friend, "GET");
        assert!(allowed.allowed && allowed.denied_by.is_none());
        assert_eq!(allowed.policy.as_deref(), Some("viewer"));
        assert_eq!(allowed.place, Some(0));
        let denied = decide(&allow, &friend, "POST");
        assert!(!denied.allowed);
        assert_eq!(denied.details(), "rbac_access_denied_matched_policy[none]");
        assert_eq!(&**denied.denied_by.unwrap().words(), "ALLOW viewer");
        assert!(!decide(&allow, &stranger, "GET").allowed);
        assert!(!decide(&deny, &friend, "GET").allowed);
        assert_eq!(
            decide(&deny, &friend, "GET").details(),
            "rbac_access_denied_matched_policy[viewer]"
        );
        assert!(decide(&deny, &stranger, "GET").allowed);
        assert!(
            decide(&deny, &connection(None), "GET").allowed,
            "no identity, no match"
        );
    }

    #[test]
    fn allow_without_policies_denies_everybody() {
        let allow = engine(rbac::Action::Allow, vec![]);
        assert!(!decide(&allow, &connection(None), "GET").allowed);
    }

    #[test]
    fn binding_drops_what_cannot_match() {
        let many: Vec<(String, Permission, Principal)> = (0..100)
            .map(|i| {
                (
                    format!("p{i}"),
                    method("GET"),
                    from(&format!("spiffe://td/ns/n{i}/")),
                )
            })
            .collect();
        let engine = engine(
            rbac::Action::Allow,
            many.iter()
                .map(|(n, a, b)| (n.as_str(), a.clone(), b.clone()))
                .collect(),
        );
        let bound = engine.bind(&connection(Some("spiffe://td/ns/n7/sa/x")));
        assert_eq!(bound.policies.len(), 1);
    }

    #[test]
    fn source_addresses_are_the_tunnels() {
        let net = CidrRange {
            address_prefix: "10.0.0.0".into(),
            prefix_len: Some(UInt32Value { value: 24 }),
        };
        let principal = Principal {
            identifier: Some(principal::Identifier::DirectRemoteIp(net)),
        };
        let allow = engine(rbac::Action::Allow, vec![("ip", method("GET"), principal)]);
        assert!(decide(&allow, &connection(None), "GET").allowed);
    }

    #[test]
    fn what_is_not_set_is_refused_not_skipped() {
        let unset = PolicyProto {
            permissions: vec![Permission { rule: None }],
            principals: vec![from("spiffe://")],
            ..PolicyProto::default()
        };
        let proto = Rbac {
            action: rbac::Action::Deny.into(),
            policies: HashMap::from([("p".to_owned(), unset)]),
            audit_logging_options: None,
        };
        let refusal = Engine::from_proto(&proto).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "policies[\"p\"].permissions[0].rule: is required but not set"
        );
    }
}
