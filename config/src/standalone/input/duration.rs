//! Durations as Go writes them: `1m30s`, `0.5s`, `50ms`.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// A field that is a duration.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is no duration such as 10s")))
}

/// One that may be absent.
pub(crate) fn optional_duration<'de, D>(deserializer: D) -> Result<Option<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    duration(deserializer).map(Some)
}

/// A duration as Go writes it: numbers with the units h, m, s, ms, us or ns, or a bare 0.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match rest.get(..unit)? {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number * seconds;
        rest = rest.get(unit..)?;
    }
    if text.is_empty() {
        None
    } else {
        Duration::try_from_secs_f64(total).ok()
    }
}

/// Times that Istio's admission check takes: whole milliseconds, 1 at least. An error is the field and the reason.
pub(crate) fn check_whole_millis(
    field: &str,
    time: Option<Duration>,
) -> Result<(), (String, String)> {
    match time {
        Some(time) if time.is_zero() || time.as_nanos() % 1_000_000 != 0 => {
            let reason = "must be whole milliseconds, 1 at least";
            Err((field.to_owned(), reason.to_owned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("0.5s", 500),
            ("50ms", 50),
            ("0", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "10", "s", "1x", "-1s", "1..s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
