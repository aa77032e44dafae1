//! Values of expressions: types, equality, order, and how Envoy prints them.
//!
//! Numbers of different types are compared by what they say. Values borrow from the stream; only what functions make is
//! of their own. What can't be said is [`NoValue`]: an error and a missing value are the same here.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value as Json;
use time::{Duration, OffsetDateTime};

use crate::decimal;
use crate::stream::dynamic_metadata::Metadata;
use crate::stream::filter_state::{FilterState, FilterValue, UPSTREAM_PEER};
use crate::stream::peer::Peer;

/// An error, or nothing that could be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoValue;

#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Duration(Duration),
    Timestamp(OffsetDateTime),
    List(List<'a>),
    Map(Map<'a>),
}

#[derive(Clone, Debug)]
pub(super) enum List<'a> {
    Own(Vec<Value<'a>>),
    Json(&'a [Json]),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct States<'a> {
    pub(super) stream: &'a FilterState,
    pub(super) connection: &'a FilterState,
    /// What the endpoint says of itself.
    pub(super) upstream: Option<&'a Peer>,
}

#[derive(Clone, Debug)]
pub(super) enum Map<'a> {
    Own(Vec<(Value<'a>, Value<'a>)>),
    Json(&'a serde_json::Map<String, Json>),
    /// The message; `filter_metadata` is all that is kept of it.
    Metadata(&'a Metadata),
    Namespaces(&'a Metadata),
    FilterState(States<'a>),
    Peer(&'a Peer),
}

impl<'a> Value<'a> {
    pub(super) fn text(text: &'a str) -> Value<'a> {
        Value::String(Cow::Borrowed(text))
    }

    pub(super) fn json(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            // All numbers of a protobuf Struct are doubles.
            Json::Number(number) => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            Json::String(text) => Value::text(text),
            Json::Array(list) => Value::List(List::Json(list)),
            Json::Object(map) => Value::Map(Map::Json(map)),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        matches!(self, Value::Bool(true))
    }

    /// # Errors
    /// Types that can't be compared for order.
    pub(super) fn order(&self, other: &Value<'_>) -> Result<Option<Ordering>, NoValue> {
        Ok(match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (a, b) => match (a.whole(), b.whole()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.double().zip(b.double()).ok_or(NoValue)?.compare(),
            },
        })
    }

    /// # Errors
    /// Of maps that aren't written in the expression: they are looked into, not compared.
    pub(super) fn equals(&self, other: &Value<'_>) -> Result<bool, NoValue> {
        Ok(match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::List(a), Value::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                let pairs = (0..a.len()).map(|at| a.get(at).zip(b.get(at)));
                for (a, b) in pairs.flatten() {
                    if !a.equals(&b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Map(_), Value::Map(_)) => return Err(NoValue),
            // Of different types: they differ.
            (a, b) => matches!(a.order(b), Ok(Some(Ordering::Equal))),
        })
    }

    fn whole(&self) -> Option<i128> {
        match self {
            Value::Int(number) => Some((*number).into()),
            Value::Uint(number) => Some((*number).into()),
            _ => None,
        }
    }

    fn double(&self) -> Option<f64> {
        match self {
            Value::Int(number) => Some(*number as f64),
            Value::Uint(number) => Some(*number as f64),
            Value::Double(number) => Some(*number),
            _ => None,
        }
    }

    /// Appends it as Envoy prints it in a text.
    ///
    /// # Errors
    /// Messages: metadata as a whole.
    pub(super) fn print(&self, out: &mut Vec<u8>) -> Result<(), NoValue> {
        let mut text = |text: &[u8]| out.extend_from_slice(text);
        match self {
            Value::Null => text(b"NULL"),
            Value::Bool(true) => text(b"true"),
            Value::Bool(false) => text(b"false"),
            Value::Int(number) => decimal::signed(out, *number),
            Value::Uint(number) => decimal::number(out, *number),
            Value::Double(number) => text(six_digits(*number).as_bytes()),
            Value::String(value) => text(value.as_bytes()),
            Value::Bytes(bytes) => text(bytes),
            Value::Duration(duration) => text(printed_duration(*duration).as_bytes()),
            Value::Timestamp(at) => {
                let fraction = match at.nanosecond() {
                    0 => String::new(),
                    nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
                };
                text(printed_time(*at, &fraction, "+00:00").as_bytes());
            }
            Value::List(_) => text(b"CelList value"),
            Value::Map(Map::Metadata(_)) => return Err(NoValue),
            Value::Map(_) => text(b"CelMap value"),
        }
        Ok(())
    }

    /// With its type, as proto3 has it in JSON.
    pub(super) fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null => Json::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(number) => (*number).into(),
            Value::Uint(number) => (*number).into(),
            Value::Double(number) => {
                let whole = number.fract() == 0.0 && number.abs() < 9e15;
                match whole {
                    true => (*number as i64).into(),
                    false => serde_json::Number::from_f64(*number)?.into(),
                }
            }
            Value::String(text) => text.as_ref().into(),
            Value::Bytes(bytes) => {
                use base64::Engine as _;
                let engine = base64::engine::general_purpose::STANDARD;
                engine.encode(bytes).into()
            }
            Value::Duration(duration) => seconds(*duration).into(),
            Value::Timestamp(at) => timestamp(*at).into(),
            Value::List(list) => {
                let all = (0..list.len()).filter_map(|at| list.get(at)?.to_json());
                Json::Array(all.collect())
            }
            Value::Map(Map::Json(map)) => Json::Object((*map).clone()),
            Value::Map(Map::Own(entries)) => Json::Object(
                entries
                    .iter()
                    .filter_map(|(key, value)| match key {
                        Value::String(key) => Some((key.to_string(), value.to_json()?)),
                        _ => None,
                    })
                    .collect(),
            ),
            Value::Map(_) => return None,
        })
    }
}

trait Compare {
    fn compare(self) -> Option<Ordering>;
}

impl Compare for (f64, f64) {
    fn compare(self) -> Option<Ordering> {
        self.0.partial_cmp(&self.1)
    }
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            List::Own(list) => list.len(),
            List::Json(list) => list.len(),
        }
    }

    pub(super) fn get(&self, at: usize) -> Option<Value<'a>> {
        match self {
            List::Own(list) => list.get(at).cloned(),
            List::Json(list) => list.get(at).map(Value::json),
        }
    }
}

impl<'a> Map<'a> {
    pub(super) fn get(&self, key: &Value<'_>) -> Option<Value<'a>> {
        if let Map::Own(entries) = self {
            let mut entries = entries.iter();
            let found = entries.find(|(own, _)| own.equals(key) == Ok(true));
            return found.map(|(_, value)| value.clone());
        }
        match key {
            Value::String(name) => self.field(name),
            _ => None,
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Own(_) => self.get(&Value::String(Cow::Borrowed(name))),
            Map::Json(map) => map.get(name).map(Value::json),
            Map::Metadata(metadata) => {
                (name == "filter_metadata").then_some(Value::Map(Map::Namespaces(metadata)))
            }
            Map::Namespaces(metadata) => metadata.get(name, &[""; 0]).map(Value::json),
            Map::FilterState(states) => states.get(name),
            Map::Peer(peer) => {
                let value = peer.field(name).filter(|value| !value.is_empty());
                value.map(Value::text)
            }
        }
    }

    pub(super) fn len(&self) -> Result<usize, NoValue> {
        match self {
            Map::Own(entries) => Ok(entries.len()),
            Map::Json(map) => Ok(map.len()),
            Map::Namespaces(metadata) => Ok(metadata.len()),
            Map::Metadata(_) | Map::FilterState(_) | Map::Peer(_) => Err(NoValue),
        }
    }
}

impl<'a> States<'a> {
    /// Strings are bytes, as Envoy shows objects that have no fields.
    fn get(self, key: &str) -> Option<Value<'a>> {
        let found = self.stream.get(key).or_else(|| self.connection.get(key));
        Some(match found {
            Some(FilterValue::String(text)) => Value::Bytes(Cow::Borrowed(text.as_bytes())),
            Some(FilterValue::Address(address)) => {
                let mut text = Vec::new();
                decimal::socket(&mut text, *address);
                Value::Bytes(Cow::Owned(text))
            }
            Some(FilterValue::Peer(peer)) => Value::Map(Map::Peer(peer)),
            None if key == UPSTREAM_PEER => Value::Map(Map::Peer(self.upstream?)),
            None => return None,
        })
    }
}

/// A double with six digits at most, as C's `%g`.
fn six_digits(number: f64) -> String {
    if !number.is_finite() {
        let infinite = if number < 0.0 { "-inf" } else { "inf" };
        return if number.is_nan() { "nan" } else { infinite }.to_owned();
    }
    let scientific = format!("{number:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return trimmed(&format!("{number:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(digits), exponent.unsigned_abs())
}

/// In the unit that fits, as Envoy prints one: `1.5ms`, `1h2m3.5s`, `0`.
fn printed_duration(duration: Duration) -> String {
    let nanos = duration.whole_nanoseconds().unsigned_abs();
    let sign = if duration.is_negative() { "-" } else { "" };
    let fraction = |whole: u128, rest: u128, digits: usize| match rest {
        0 => whole.to_string(),
        rest => format!("{whole}.{rest:0digits$}")
            .trim_end_matches('0')
            .to_owned(),
    };
    match nanos {
        0 => "0".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}us", fraction(nanos / 1_000, nanos % 1_000, 3)),
        1_000_000..1_000_000_000 => {
            let millis = fraction(nanos / 1_000_000, nanos % 1_000_000, 6);
            format!("{sign}{millis}ms")
        }
        _ => {
            let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            let mut text = sign.to_owned();
            if seconds >= 3_600 {
                text.push_str(&format!("{}h", seconds / 3_600));
            }
            if seconds / 60 % 60 > 0 {
                text.push_str(&format!("{}m", seconds / 60 % 60));
            }
            if seconds % 60 > 0 || rest > 0 {
                text.push_str(&format!("{}s", fraction(seconds % 60, rest, 9)));
            }
            text
        }
    }
}

/// In seconds, as proto3 has one in JSON.
pub(super) fn seconds(duration: Duration) -> String {
    let nanos = duration.whole_nanoseconds();
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (whole, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    format!("{sign}{whole}{}s", thousands(rest))
}

/// As proto3 has a time in JSON.
pub(super) fn timestamp(at: OffsetDateTime) -> String {
    printed_time(at, &thousands(at.nanosecond().into()), "Z")
}

/// A fraction of three, six or nine digits; nothing where it is zero.
fn thousands(nanos: u128) -> String {
    match nanos {
        0 => String::new(),
        nanos if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
        nanos if nanos % 1_000 == 0 => format!(".{:06}", nanos / 1_000),
        nanos => format!(".{nanos:09}"),
    }
}

fn printed_time(at: OffsetDateTime, fraction: &str, zone: &str) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}{zone}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_have_six_digits() {
        for (number, text) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (1.0 / 3.0, "0.333333"),
            (123_456.7, "123457"),
            (1_234_567.0, "1.23457e+06"),
            (0.000_012, "1.2e-05"),
            (-0.5, "-0.5"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(six_digits(number), text);
        }
    }

    #[test]
    fn durations_in_the_unit_that_fits() {
        for (nanos, text) in [
            (0, "0"),
            (7, "7ns"),
            (1_500, "1.5us"),
            (72_100_000, "72.1ms"),
            (3_723_500_000_000, "1h2m3.5s"),
            (3_600_000_000_000, "1h"),
            (-1_000_000_000, "-1s"),
        ] {
            assert_eq!(printed_duration(Duration::nanoseconds(nanos)), text);
        }
        assert_eq!(seconds(Duration::milliseconds(1_500)), "1.500s");
        assert_eq!(seconds(Duration::microseconds(-7)), "-0.000007s");
        assert_eq!(seconds(Duration::hours(1)), "3600s");
    }

    #[test]
    fn numbers_of_different_types() {
        let equal = |a: Value<'_>, b: Value<'_>| a.equals(&b);
        assert_eq!(equal(Value::Int(1), Value::Double(1.0)), Ok(true));
        assert_eq!(equal(Value::Int(-1), Value::Uint(u64::MAX)), Ok(false));
        assert_eq!(equal(Value::text("1"), Value::Int(1)), Ok(false));
        assert_eq!(
            equal(Value::Double(f64::NAN), Value::Double(f64::NAN)),
            Ok(false)
        );
        assert!(Value::text("a").order(&Value::Int(1)).is_err());
    }
}
