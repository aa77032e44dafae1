//! Whether one rule of a policy takes in all that another does. Where that can't be seen from what is written, it doesn't.

use crate::standalone::kinds::istio::authorization_condition::Condition;
use crate::standalone::kinds::istio::authorization_rule::{Operation, Rule, Source};

/// Of a source or an operation each attribute: the values of which it must be one, and those that it must not be.
type Attributes<'r> = Vec<(&'r [String], &'r [String])>;

/// Whether whatever the second matches, the first does, too.
pub(super) fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let mut conditions = wide.when.iter();
    ways_cover(&sources(wide), &sources(narrow))
        && ways_cover(&operations(wide), &operations(narrow))
        && conditions.all(|condition| is_asked(condition, &narrow.when))
}

fn sources(rule: &Rule) -> Vec<Attributes<'_>> {
    rule.sources.iter().map(of_source).collect()
}

fn operations(rule: &Rule) -> Vec<Attributes<'_>> {
    rule.operations.iter().map(of_operation).collect()
}

fn of_source(source: &Source) -> Attributes<'_> {
    vec![
        (&source.principals, &source.not_principals),
        (&source.request_principals, &source.not_request_principals),
        (&source.namespaces, &source.not_namespaces),
        (&source.service_accounts, &source.not_service_accounts),
        (&source.trust_domains, &source.not_trust_domains),
        (&source.ip_blocks, &source.not_ip_blocks),
        (&source.remote_ip_blocks, &source.not_remote_ip_blocks),
    ]
}

fn of_operation(operation: &Operation) -> Attributes<'_> {
    vec![
        (&operation.hosts, &operation.not_hosts),
        (&operation.ports, &operation.not_ports),
        (&operation.methods, &operation.not_methods),
        (&operation.paths, &operation.not_paths),
    ]
}

/// Whether each of the narrow ways is taken in by one of the wide; where none is given, any will do.
fn ways_cover(wide: &[Attributes<'_>], narrow: &[Attributes<'_>]) -> bool {
    let all_of = |wide: &Attributes<'_>, narrow: &Attributes<'_>| {
        let mut pairs = wide.iter().zip(narrow);
        pairs.all(|(wide, narrow)| attribute_covers(*wide, *narrow))
    };
    let taken = |narrow| wide.iter().any(|wide| all_of(wide, narrow));
    wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(taken))
}

/// Whether a condition of the wide rule is one of the narrow rule's, too.
fn is_asked(wide: &Condition, narrow: &[Condition]) -> bool {
    let of_same = narrow
        .iter()
        .filter(|narrow| narrow.attribute == wide.attribute);
    let mut covered = of_same.map(|narrow| {
        let wide = (&*wide.values, &*wide.not_values);
        attribute_covers(wide, (&narrow.values, &narrow.not_values))
    });
    covered.any(|covered| covered)
}

fn attribute_covers(
    (wide, wide_not): (&[String], &[String]),
    (narrow, narrow_not): (&[String], &[String]),
) -> bool {
    let positive = wide.is_empty()
        || (!narrow.is_empty() && narrow.iter().all(|value| is_one_of(value, wide)));
    positive && wide_not.iter().all(|value| is_one_of(value, narrow_not))
}

fn is_one_of(value: &str, patterns: &[String]) -> bool {
    patterns
        .iter()
        .any(|pattern| pattern_covers(pattern, value))
}

/// `*`, `begins*`, `*ends`, or the text itself; path templates mean themselves alone.
fn pattern_covers(wide: &str, narrow: &str) -> bool {
    if wide == narrow {
        return true;
    }
    if wide.contains('{') || narrow.contains('{') {
        return false;
    }
    match (wide.strip_suffix('*'), wide.strip_prefix('*')) {
        (Some(""), _) => true,
        (Some(prefix), _) => !narrow.starts_with('*') && narrow.starts_with(prefix),
        (None, Some(suffix)) => !narrow.ends_with('*') && narrow.ends_with(suffix),
        (None, None) => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::standalone::input::manifest::Manifest;
    use crate::standalone::kinds::istio::authorization_policy::AuthorizationPolicy;

    fn rule(text: &str) -> Rule {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {{rules: [{text}]}}"
        );
        AuthorizationPolicy::read(&Manifest::of(&text))
            .unwrap()
            .spec
            .rules
            .remove(0)
    }

    #[test]
    fn a_rule_that_asks_for_less_takes_in_more() {
        let get = "{to: [{operation: {methods: [GET]}}]}";
        let paths = "{to: [{operation: {methods: [GET], paths: ['/a/*']}}]}";
        let path = "{to: [{operation: {methods: [GET], paths: ['/a/b', '/a/c*']}}]}";
        let from = "{from: [{source: {namespaces: [a]}}], to: [{operation: {methods: [GET]}}]}";
        let either = "{to: [{operation: {methods: [GET]}}, {operation: {methods: [PUT]}}]}";
        let not = "{to: [{operation: {notPaths: [/x]}}]}";
        let nots = "{to: [{operation: {methods: [GET], notPaths: [/x, /y]}}]}";
        let when = "{when: [{key: 'request.headers[x]', values: [a*]}]}";
        let whens = "{when: [{key: 'request.headers[x]', values: [ab]}, {key: source.ip, values: [10.0.0.1]}]}";
        for (wide, narrow) in [
            ("{}", get),
            (get, paths),
            (paths, path),
            (get, from),
            (either, get),
            (not, nots),
            (when, whens),
            (get, get),
        ] {
            assert!(covers(&rule(wide), &rule(narrow)), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            (get, "{}"),
            (paths, get),
            (path, paths),
            (from, get),
            (get, either),
            (nots, not),
            (whens, when),
            (when, get),
            (
                "{from: [{source: {principals: ['*/a']}}]}",
                "{from: [{source: {principals: ['x*']}}]}",
            ),
            (
                "{to: [{operation: {paths: ['/{*}']}}]}",
                "{to: [{operation: {paths: ['/a']}}]}",
            ),
        ] {
            assert!(!covers(&rule(wide), &rule(narrow)), "{wide} {narrow}");
        }
    }
}
