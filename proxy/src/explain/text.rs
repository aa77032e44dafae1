//! A report as a person reads it: from the client to the upstream, and the verdict last.

use std::fmt;

use waypoint_filters::security::rbac::denial::RuleName;
use waypoint_filters::stream::explanation::{
    ClusterStep, Purpose, RouteStep, RulesStep, TokenStep, UpstreamStep,
};

use crate::explain::report::{Outcome, Report, Verdict};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "from      {} ({})", self.from, self.source)?;
        if let Some(waypoint) = &self.waypoint {
            writeln!(f, "waypoint  {waypoint}")?;
        }
        if let Some(to) = &self.destination {
            let service = self.service.as_deref().unwrap_or("an address");
            writeln!(f, "to        {service} ({to})")?;
        }
        if let Some(chain) = &self.chain {
            writeln!(f, "chain     {chain}")?;
        }
        self.steps
            .tokens
            .iter()
            .try_for_each(|step| token(f, step))?;
        self.steps
            .rules
            .iter()
            .try_for_each(|step| rules(f, step))?;
        self.steps
            .notes
            .iter()
            .try_for_each(|note| writeln!(f, "note      {note}"))?;
        self.steps
            .routes
            .iter()
            .try_for_each(|step| route(f, step))?;
        if let Some(step) = &self.steps.upstream {
            upstream(f, step)?;
        }
        writeln!(f, "verdict   {}", self.verdict)?;
        if let Some(by) = &self.verdict.denied_by {
            writeln!(f, "  by      {by}")?;
        }
        if let Some(by) = &self.verdict.dry_run_denied_by {
            writeln!(f, "dry run   would be denied by {by}")?;
        }
        Ok(())
    }
}

fn token(f: &mut fmt::Formatter<'_>, step: &TokenStep) -> fmt::Result {
    write!(f, "token     {}: ", step.place)?;
    let subject = step.subject.as_deref().unwrap_or_default();
    match (step.failure, &step.issuer) {
        (None, issuer) => writeln!(
            f,
            "good, of {}/{subject}",
            issuer.as_deref().unwrap_or_default()
        )?,
        (Some(failure), _) => writeln!(f, "refused: {failure}")?,
    }
    match &step.advice {
        Some(advice) => writeln!(f, "  -       {advice}"),
        None => Ok(()),
    }
}

fn rules(f: &mut fmt::Formatter<'_>, step: &RulesStep) -> fmt::Result {
    let says = match (step.purpose, step.allowed) {
        (Purpose::Decides, true) => "lets it pass",
        (Purpose::Decides, false) => "denies it",
        (Purpose::DryRun, true) => "dry run, would let it pass",
        (Purpose::DryRun, false) => "dry run, would deny it",
        (Purpose::Asks, true) => "asks nobody",
        (Purpose::Asks, false) => "has its provider asked",
    };
    writeln!(f, "policy    {}: {says}", step.action)?;
    for policy in &step.policies {
        let name = match RuleName::of(&policy.name) {
            Some(name) => format!("{}/{} rule {}", name.namespace, name.policy, name.rule),
            None => policy.name.clone(),
        };
        if policy.misses.is_empty() {
            writeln!(f, "  yes     {name}")?;
        } else {
            writeln!(f, "  no      {name}: {}", policy.misses.join("; "))?;
        }
    }
    if step.policies.is_empty() {
        writeln!(f, "  -       no rule at all")?;
    }
    Ok(())
}

fn route(f: &mut fmt::Formatter<'_>, step: &RouteStep) -> fmt::Result {
    let name = match step.name.as_str() {
        "" => "without a name",
        name => name,
    };
    if step.misses.is_empty() {
        writeln!(f, "route     {name}: {}", step.matches)
    } else {
        writeln!(f, "  not     {name}: {}", step.misses.join("; "))
    }
}

fn upstream(f: &mut fmt::Formatter<'_>, step: &UpstreamStep) -> fmt::Result {
    if !step.method.is_empty() {
        writeln!(f, "request   {} {}", step.method, step.target)?;
    }
    for (name, value) in &step.headers {
        writeln!(f, "  header  {name}: {value}")?;
    }
    step.clusters.iter().try_for_each(|step| cluster(f, step))?;
    step.mirrors
        .iter()
        .try_for_each(|mirror| writeln!(f, "mirror    {mirror}"))
}

fn cluster(f: &mut fmt::Formatter<'_>, step: &ClusterStep) -> fmt::Result {
    let missing = if step.exists {
        ""
    } else {
        ", which does not exist"
    };
    writeln!(
        f,
        "cluster   {} % {}{missing}",
        Percent(step.percent),
        step.name
    )?;
    for endpoint in &step.endpoints {
        let health = if endpoint.healthy {
            "healthy"
        } else {
            "not ready"
        };
        let way = if endpoint.hbone { "HBONE" } else { "plain" };
        write!(f, "  to      {} {health}, {way}", endpoint.address)?;
        if endpoint.weight != 1 {
            write!(f, ", weight {}", endpoint.weight)?;
        }
        if endpoint.priority > 0 {
            write!(f, ", priority {}", endpoint.priority)?;
        }
        match endpoint
            .workload
            .as_deref()
            .and_then(|w| w.split(';').next())
        {
            Some(workload) => writeln!(f, ", {workload}")?,
            None => writeln!(f)?,
        }
    }
    if step.exists && step.endpoints.is_empty() {
        writeln!(f, "  -       no endpoint")?;
    }
    Ok(())
}

/// Without zeros that say nothing.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::Unserved => write!(f, "not served: {}", self.details)?,
            Outcome::Denied | Outcome::Answered => {
                f.write_str(self.outcome.name())?;
                if let Some(status) = self.status {
                    write!(f, " {status}")?;
                }
                if !self.details.is_empty() {
                    write!(f, " ({})", self.details)?;
                }
            }
            Outcome::Forwarded => f.write_str("forwarded")?,
        }
        match &self.location {
            Some(location) => write!(f, ", location {location}"),
            None => Ok(()),
        }
    }
}
