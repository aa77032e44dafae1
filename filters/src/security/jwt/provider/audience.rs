//! Whom tokens are for. A scheme and a slash at the end don't count, on either side, as with Envoy.

/// The audiences that are taken.
#[derive(Clone, Debug, Default)]
pub struct Audiences(Box<[Box<str>]>);

impl Audiences {
    pub fn new(audiences: &[String]) -> Audiences {
        Audiences(audiences.iter().map(|a| plain(a).into()).collect())
    }

    /// Whether one of a token's audiences is taken; where none is configured, every token is.
    pub fn allow(&self, audiences: &[Box<str>]) -> bool {
        self.0.is_empty()
            || audiences
                .iter()
                .any(|audience| self.0.iter().any(|taken| **taken == *plain(audience)))
    }
}

impl std::fmt::Display for Audiences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.0 {
            [] => f.write_str("anybody"),
            some => f.write_str(&some.join(", ")),
        }
    }
}

fn plain(audience: &str) -> &str {
    let name = audience
        .strip_prefix("http://")
        .or_else(|| audience.strip_prefix("https://"))
        .unwrap_or(audience);
    name.strip_suffix('/').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_and_slashes_do_not_count() {
        let taken = Audiences::new(&["https://api.test/".into(), "web".into()]);
        let allows = |audience: &str| taken.allow(&[audience.into()]);
        assert!(allows("api.test") && allows("http://api.test") && allows("web/"));
        assert!(!allows("api.test/x") && !allows("ftp://api.test") && !allows(""));
        assert!(!taken.allow(&[]));
        assert!(taken.allow(&["other".into(), "web".into()]));
        assert!(Audiences::default().allow(&[]));
    }
}
