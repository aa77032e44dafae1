//! A case of `waypoint test`: a request, and what is expected to come of it. Keys that aren't known are mistakes.

use serde_json::{Map, Value};
use waypoint_filters::security::rbac::denial::RuleName;
use waypoint_filters::stream::explanation::{ClusterStep, Purpose};

use crate::explain::question::Words;
use crate::explain::report::Report;

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) words: Words,
    expected: Expected,
}

/// What is expected; what isn't said may be anything.
#[derive(Clone, Debug, Default, PartialEq)]
struct Expected {
    outcome: Option<String>,
    status: Option<u64>,
    /// `NAMESPACE/NAME` of the policy with the rule that decided.
    policy: Option<String>,
    /// The policy in dry run that would deny it, `NAMESPACE/NAME`; `none`: none would.
    dry_run: Option<String>,
    route: Option<String>,
    /// Percent by the service's host, or the beginning of it. All that get something are to be named.
    backends: Option<Vec<(String, f64)>>,
    path: Option<String>,
    /// Of the request as it goes up; `None`: it isn't there.
    headers: Vec<(String, Option<String>)>,
    location: Option<String>,
}

impl Case {
    /// The cases of a document, `cases: […]`.
    ///
    /// # Errors
    /// The place and what is wrong there.
    pub(crate) fn all(document: &Value) -> Result<Vec<Case>, String> {
        let fields = object(document, "")?;
        only(fields, &["cases"], "")?;
        let cases = fields.get("cases").and_then(Value::as_array);
        let cases = cases.ok_or("cases: expected a list")?;
        let cases = cases.iter().enumerate();
        cases
            .map(|(i, case)| Case::one(case, &format!("cases[{i}]")))
            .collect()
    }

    fn one(value: &Value, at: &str) -> Result<Case, String> {
        let fields = object(value, at)?;
        let known = [
            "name", "from", "sourceIP", "jwt", "to", "sni", "request", "headers", "expect",
        ];
        only(fields, &known, at)?;
        let required =
            |key: &str| text(fields, key, at)?.ok_or_else(|| format!("{at}.{key}: is missing"));
        let request = required("request")?;
        let (method, url) = request
            .split_once(' ')
            .ok_or_else(|| format!("{at}.request: expected METHOD URL"))?;
        let headers = headers(fields, "headers", at)?.into_iter();
        let lines = headers.map(|(name, value)| format!("{name}: {}", value.unwrap_or_default()));
        let expect = fields.get("expect");
        let expect = expect.ok_or_else(|| format!("{at}.expect: is missing"))?;
        Ok(Case {
            name: required("name")?,
            words: Words {
                from: required("from")?,
                source: text(fields, "sourceIP", at)?,
                jwt: text(fields, "jwt", at)?,
                to: text(fields, "to", at)?,
                sni: text(fields, "sni", at)?,
                method: method.to_owned(),
                url: url.trim().to_owned(),
                headers: lines.collect(),
            },
            expected: Expected::from_value(expect, &format!("{at}.expect"))?,
        })
    }

    /// Where the report differs from what is expected; empty: nowhere.
    pub(crate) fn differences(&self, report: &Report) -> Vec<String> {
        let (expected, verdict) = (&self.expected, &report.verdict);
        let mut found = Vec::new();
        let mut compare = |what: &str, expected: Option<String>, seen: String| {
            if let Some(expected) = expected.filter(|expected| *expected != seen) {
                found.push(format!("{what}: expected {expected}, got {seen}"));
            }
        };
        compare(
            "outcome",
            expected.outcome.clone(),
            verdict.outcome.name().into(),
        );
        let status = verdict.status.map_or("none".into(), |s| s.to_string());
        compare("status", expected.status.map(|s| s.to_string()), status);
        compare("policy", expected.policy.clone(), decided(report));
        compare("dryRun", expected.dry_run.clone(), would_deny(report));
        let route = report.route().map_or("none", |route| &route.name);
        compare("route", expected.route.clone(), route.into());
        let location = verdict.location.as_deref().unwrap_or("none");
        compare("location", expected.location.clone(), location.into());
        let upstream = report.steps.upstream.as_ref();
        let path = upstream.map_or("none", |upstream| &upstream.target);
        compare("path", expected.path.clone(), path.into());
        for (name, wanted) in &expected.headers {
            let values = upstream.into_iter().flat_map(|upstream| &upstream.headers);
            let values = values.filter(|(n, _)| n.eq_ignore_ascii_case(name));
            let values: Vec<&str> = values.map(|(_, value)| value.as_str()).collect();
            let seen = match values.is_empty() {
                true => "none".to_owned(),
                false => values.join(","),
            };
            let wanted = wanted.clone().unwrap_or_else(|| "none".into());
            compare(&format!("header {name}"), Some(wanted), seen);
        }
        if let Some(wanted) = &expected.backends {
            let clusters = upstream.map_or(&[][..], |upstream| &upstream.clusters);
            found.extend(shares(wanted, clusters));
        }
        if !found.is_empty() && !verdict.details.is_empty() {
            found.push(format!("details: {}", verdict.details));
        }
        found
    }
}

/// The policy with the rule that decided: a DENY that matches, or the ALLOW without which nothing passes.
fn decided(report: &Report) -> String {
    let rules = report.steps.rules.iter();
    let rules = rules.filter(|step| step.purpose == Purpose::Decides);
    let mut last = "none".to_owned();
    for step in rules {
        let matched = step.policies.iter().find(|policy| policy.misses.is_empty());
        let name = matched.map(|policy| match RuleName::of(&policy.name) {
            Some(name) => format!("{}/{}", name.namespace, name.policy),
            None => policy.name.clone(),
        });
        last = name.unwrap_or(last);
        if !step.allowed {
            let denies = step.action == "DENY";
            return if denies { last } else { "none".to_owned() };
        }
    }
    last
}

/// The policy in dry run that would deny it: the one with the rule that matches, or the first of those without which nothing
/// would pass.
fn would_deny(report: &Report) -> String {
    let rules = report.steps.rules.iter();
    let mut denying = rules.filter(|step| step.purpose == Purpose::DryRun && !step.allowed);
    let Some(step) = denying.next() else {
        return "none".to_owned();
    };
    let policies = step.policies.iter();
    let mut named = policies.filter(|policy| step.action != "DENY" || policy.misses.is_empty());
    match named
        .next()
        .map(|policy| (policy, RuleName::of(&policy.name)))
    {
        Some((_, Some(name))) => format!("{}/{}", name.namespace, name.policy),
        Some((policy, None)) => policy.name.clone(),
        None => step.action.to_owned(),
    }
}

fn shares(wanted: &[(String, f64)], clusters: &[ClusterStep]) -> Vec<String> {
    let of = |cluster: &ClusterStep, name: &str| {
        let host = cluster.name.rsplit('|').next().unwrap_or_default();
        host.strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut found = Vec::new();
    for (name, percent) in wanted {
        let own = clusters.iter().filter(|cluster| of(cluster, name));
        // From 0.0, for the sum of nothing is -0.0.
        let seen = own
            .map(|cluster| cluster.percent)
            .fold(0.0, |sum, part| sum + part);
        if (seen - percent).abs() > 0.01 {
            found.push(format!(
                "backend {name}: expected {percent} %, got {seen} %"
            ));
        }
    }
    let unnamed = clusters
        .iter()
        .filter(|cluster| !wanted.iter().any(|(name, _)| of(cluster, name)));
    for cluster in unnamed {
        let (name, percent) = (&cluster.name, cluster.percent);
        found.push(format!("backend {name}: not expected, got {percent} %"));
    }
    found
}

impl Expected {
    fn from_value(value: &Value, at: &str) -> Result<Expected, String> {
        let fields = object(value, at)?;
        let known = [
            "outcome", "status", "policy", "dryRun", "route", "backends", "path", "headers",
            "location",
        ];
        only(fields, &known, at)?;
        let outcome = text(fields, "outcome", at)?;
        let outcomes = ["forwarded", "denied", "answered", "unserved"];
        if let Some(unknown) = outcome.as_deref().filter(|o| !outcomes.contains(o)) {
            let all = outcomes.join(", ");
            return Err(format!("{at}.outcome: {unknown:?} is none of {all}"));
        }
        let status = match fields.get("status") {
            None => None,
            Some(status) => {
                let number = status.as_u64();
                Some(number.ok_or_else(|| format!("{at}.status: expected a number"))?)
            }
        };
        let backends = match fields.get("backends") {
            None => None,
            Some(backends) => {
                let at = format!("{at}.backends");
                let backends = object(backends, &at)?.iter();
                let backends = backends.map(|(name, percent)| {
                    let percent = percent.as_f64();
                    let percent = percent.ok_or_else(|| format!("{at}.{name}: expected percent"));
                    Ok((name.clone(), percent?))
                });
                Some(backends.collect::<Result<Vec<_>, String>>()?)
            }
        };
        let expected = Expected {
            outcome,
            status,
            backends,
            policy: text(fields, "policy", at)?,
            dry_run: text(fields, "dryRun", at)?,
            route: text(fields, "route", at)?,
            path: text(fields, "path", at)?,
            headers: headers(fields, "headers", at)?,
            location: text(fields, "location", at)?,
        };
        match expected == Expected::default() {
            true => Err(format!("{at}: nothing is expected, so nothing can fail")),
            false => Ok(expected),
        }
    }
}

fn object<'a>(value: &'a Value, at: &str) -> Result<&'a Map<String, Value>, String> {
    let object = value.as_object();
    object.ok_or_else(|| {
        format!("{at}: expected an object")
            .trim_start_matches(": ")
            .into()
    })
}

fn only(fields: &Map<String, Value>, known: &[&str], at: &str) -> Result<(), String> {
    let unknown = fields.keys().find(|key| !known.contains(&key.as_str()));
    match unknown {
        None => Ok(()),
        Some(key) => Err(
            format!("{at}.{key}: is not known; known are {}", known.join(", "))
                .trim_start_matches('.')
                .into(),
        ),
    }
}

fn text(fields: &Map<String, Value>, key: &str, at: &str) -> Result<Option<String>, String> {
    match fields.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("{at}.{key}: expected text")),
    }
}

/// Names and values; `null` stands for none.
fn headers(
    fields: &Map<String, Value>,
    key: &str,
    at: &str,
) -> Result<Vec<(String, Option<String>)>, String> {
    let Some(headers) = fields.get(key) else {
        return Ok(Vec::new());
    };
    let at = format!("{at}.{key}");
    let headers = object(headers, &at)?.iter();
    headers
        .map(|(name, value)| match value {
            Value::Null => Ok((name.clone(), None)),
            Value::String(text) => Ok((name.clone(), Some(text.clone()))),
            _ => Err(format!("{at}.{name}: expected text")),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(case: Value) -> String {
        Case::all(&json!({"cases": [case]})).unwrap_err()
    }

    #[test]
    fn a_mistake_in_a_case_is_named_with_its_place() {
        let good = json!({"name": "a", "from": "a/b", "request": "GET http://a/", "expect": {"status": 200}});
        assert!(Case::all(&json!({"cases": [good]})).is_ok());
        let with = |key: &str, value: Value| {
            let mut case = good.clone();
            case.as_object_mut().unwrap().insert(key.into(), value);
            error(case)
        };
        assert!(with("request", json!("GET")).starts_with("cases[0].request: "));
        assert!(with("expects", json!({})).starts_with("cases[0].expects: is not known"));
        for nothing in [json!({}), json!({"headers": {}})] {
            assert!(with("expect", nothing).contains("nothing is expected"));
        }
        assert!(with("expect", json!({"outcome": "ok"})).contains("none of forwarded"));
        assert!(with("expect", json!({"backends": {"a": "x"}})).contains("backends.a"));
        assert_eq!(Case::all(&json!([])).unwrap_err(), "expected an object");
    }

    #[test]
    fn shares_of_backends_are_compared_by_host() {
        let cluster = |host: &str, percent| ClusterStep {
            name: format!("inbound-vip|80|http|{host}"),
            percent,
            exists: true,
            endpoints: Vec::new(),
        };
        let clusters = [
            cluster("a-v1.shop.svc", 90.0),
            cluster("a-v2.shop.svc", 10.0),
        ];
        let wanted = |shares: &[(&str, f64)]| -> Vec<(String, f64)> {
            shares
                .iter()
                .map(|(name, share)| ((*name).to_owned(), *share))
                .collect()
        };
        assert!(shares(&wanted(&[("a-v1", 90.0), ("a-v2.shop", 10.0)]), &clusters).is_empty());
        let found = shares(&wanted(&[("a-v1", 80.0), ("a", 10.0)]), &clusters);
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
