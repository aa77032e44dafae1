//! Durations as Go writes them: `5s`, `24h0m0s`, `1.5s`, `250ms`.

use std::time::Duration;

/// What an error says was expected.
pub(crate) const EXPECTED: &str = "not a duration such as 5s or 24h0m0s";

/// Hours, minutes, seconds and milliseconds; finer units and negative durations mean nothing here.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let (factor, length) = match unit {
            u if u.starts_with("ms") => (0.001, 2),
            u if u.starts_with('h') => (3600.0, 1),
            u if u.starts_with('m') => (60.0, 1),
            u if u.starts_with('s') => (1.0, 1),
            _ => return None,
        };
        total += number * factor;
        rest = unit.get(length..).unwrap_or_default();
    }
    (!text.is_empty())
        .then(|| Duration::try_from_secs_f64(total).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up() {
        let millis = |text| parse(text).map(|d| d.as_millis());
        assert_eq!(millis("24h0m0s"), Some(86_400_000));
        assert_eq!(millis("1.5s"), Some(1500));
        assert_eq!(millis("250ms"), Some(250));
        for wrong in ["", "5", "soon", "-5s", "5d", "1..5s", "1e400h"] {
            assert_eq!(millis(wrong), None, "{wrong}");
        }
    }
}
