//! Files of Kubernetes' downward API: lines `key="value"`, the value quoted as Go quotes.

use std::collections::BTreeMap;
use std::path::Path;

/// Reads a file; one that isn't there is empty.
pub(crate) fn read(path: &Path) -> BTreeMap<String, String> {
    parse(&std::fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (key, value) = line.split_once('=')?;
        // Go's quoting is JSON's but for a few escapes of control characters.
        let value =
            serde_json::from_str(value).unwrap_or_else(|_| value.trim_matches('"').to_owned());
        Some((key.to_owned(), value))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        let labels = parse("app=\"waypoint\"\nodd=\"a\\\"b=c\\nd\"\n\nbroken\n");
        assert_eq!(labels["app"], "waypoint");
        assert_eq!(labels["odd"], "a\"b=c\nd");
        assert_eq!(labels.len(), 2);
        assert!(read(Path::new("/no/such/file")).is_empty());
    }
}
