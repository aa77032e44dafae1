//! What is told of a request: for people as text, for machines as JSON. The JSON's names are a contract.

use serde_json::{Value, json};
use waypoint_filters::security::rbac::denial::RuleName;
use waypoint_filters::stream::explanation::{
    ClusterStep, EndpointStep, PolicyStep, Purpose, RouteStep, RulesStep, Steps, TokenStep,
    UpstreamStep,
};

/// The way of one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) from: String,
    pub(crate) source: String,
    /// The waypoint that takes it and why, where that is known.
    pub(crate) waypoint: Option<String>,
    /// Where the tunnel goes, and the service there.
    pub(crate) destination: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) chain: Option<String>,
    pub(crate) steps: Steps,
    pub(crate) verdict: Verdict,
}

/// What comes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// The waypoint's own answer.
    pub(crate) status: Option<u16>,
    pub(crate) location: Option<String>,
    /// As `%RESPONSE_CODE_DETAILS%`, or why there is no way.
    pub(crate) details: String,
    /// The policy that denies it, as logs name it.
    pub(crate) denied_by: Option<String>,
    /// The policy that would if it weren't in dry run.
    pub(crate) dry_run_denied_by: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No chain serves it; the tunnel is refused.
    #[default]
    Unserved,
    /// A policy denies it.
    Denied,
    /// The waypoint answers it: a redirect, a direct response, no route, no cluster, a bad request.
    Answered,
    /// It goes to an upstream.
    Forwarded,
}

impl Outcome {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Unserved => "unserved",
            Outcome::Denied => "denied",
            Outcome::Answered => "answered",
            Outcome::Forwarded => "forwarded",
        }
    }
}

impl Report {
    /// The route that was chosen.
    pub(crate) fn route(&self) -> Option<&RouteStep> {
        self.steps
            .routes
            .iter()
            .find(|route| route.misses.is_empty())
    }

    pub(crate) fn to_json(&self) -> Value {
        let steps = &self.steps;
        json!({
            "from": self.from,
            "source": self.source,
            "waypoint": self.waypoint,
            "destination": self.destination,
            "service": self.service,
            "filterChain": self.chain,
            "verdict": {
                "outcome": self.verdict.outcome.name(),
                "status": self.verdict.status,
                "location": self.verdict.location,
                "details": self.verdict.details,
                "deniedBy": self.verdict.denied_by,
                "dryRunDeniedBy": self.verdict.dry_run_denied_by,
            },
            "tokens": steps.tokens.iter().map(token).collect::<Vec<_>>(),
            "policies": steps.rules.iter().map(rules).collect::<Vec<_>>(),
            "notes": steps.notes,
            "routes": steps.routes.iter().map(route).collect::<Vec<_>>(),
            "upstream": steps.upstream.as_ref().map(upstream),
        })
    }
}

fn rules(step: &RulesStep) -> Value {
    json!({
        "action": step.action,
        "enforced": step.purpose == Purpose::Decides,
        "dryRun": step.purpose == Purpose::DryRun,
        "allowed": step.purpose == Purpose::Asks || step.allowed,
        "asks": step.purpose == Purpose::Asks && !step.allowed,
        "rules": step.policies.iter().map(policy).collect::<Vec<_>>(),
    })
}

fn policy(step: &PolicyStep) -> Value {
    let name = RuleName::of(&step.name);
    json!({
        "name": step.name,
        "namespace": name.as_ref().map(|n| n.namespace),
        "policy": name.as_ref().map(|n| n.policy),
        "rule": name.as_ref().map(|n| n.rule),
        "matches": step.misses.is_empty(),
        "misses": step.misses,
    })
}

fn token(step: &TokenStep) -> Value {
    json!({
        "place": step.place,
        "issuer": step.issuer,
        "subject": step.subject,
        "good": step.failure.is_none(),
        "failure": step.failure,
        "advice": step.advice,
    })
}

fn route(step: &RouteStep) -> Value {
    json!({
        "name": step.name,
        "asks": step.matches,
        "chosen": step.misses.is_empty(),
        "misses": step.misses,
    })
}

fn upstream(step: &UpstreamStep) -> Value {
    let headers = step.headers.iter();
    json!({
        "method": step.method,
        "target": step.target,
        "headers": headers.map(|(n, v)| json!({"name": n, "value": v})).collect::<Vec<_>>(),
        "clusters": step.clusters.iter().map(cluster).collect::<Vec<_>>(),
        "mirrors": step.mirrors,
    })
}

fn cluster(step: &ClusterStep) -> Value {
    json!({
        "name": step.name,
        "percent": step.percent,
        "exists": step.exists,
        "endpoints": step.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(step: &EndpointStep) -> Value {
    json!({
        "address": step.address,
        "hbone": step.hbone,
        "healthy": step.healthy,
        "weight": step.weight,
        "priority": step.priority,
        "workload": step.workload,
    })
}
