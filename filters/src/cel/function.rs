//! Functions: CEL's own, and of its extensions those for strings. Positions in texts count characters.

use std::borrow::Cow;

use time::{Duration, OffsetDateTime};

use super::budget::Budget;
use super::moment::{Part, parsed_duration, parsed_time, part};
use super::value::{List, Map, NoValue, Value, seconds, timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    UpperAscii,
    Trim,
    Replace,
    Split,
    Join,
    Substring,
    IndexOf,
    LastIndexOf,
    CharAt,
    Int,
    Uint,
    Double,
    Bool,
    String,
    Bytes,
    Dyn,
    Duration,
    Timestamp,
    Part(Part),
}

/// Most arguments, with what a function is called on.
pub(super) const MAX_ARGUMENTS: usize = 4;

/// How a function may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// `f(a)`.
    Plain,
    /// `a.f()`.
    Method,
    Both,
}

const FUNCTIONS: &[(&str, Style, usize, usize, Function)] = &[
    ("size", Style::Both, 1, 1, Function::Size),
    ("contains", Style::Both, 2, 2, Function::Contains),
    ("startsWith", Style::Both, 2, 2, Function::StartsWith),
    ("endsWith", Style::Both, 2, 2, Function::EndsWith),
    ("lowerAscii", Style::Method, 1, 1, Function::LowerAscii),
    ("upperAscii", Style::Method, 1, 1, Function::UpperAscii),
    ("trim", Style::Method, 1, 1, Function::Trim),
    ("replace", Style::Method, 3, 4, Function::Replace),
    ("split", Style::Method, 2, 3, Function::Split),
    ("join", Style::Method, 1, 2, Function::Join),
    ("substring", Style::Method, 2, 3, Function::Substring),
    ("indexOf", Style::Method, 2, 3, Function::IndexOf),
    ("lastIndexOf", Style::Method, 2, 2, Function::LastIndexOf),
    ("charAt", Style::Method, 2, 2, Function::CharAt),
    ("int", Style::Plain, 1, 1, Function::Int),
    ("uint", Style::Plain, 1, 1, Function::Uint),
    ("double", Style::Plain, 1, 1, Function::Double),
    ("bool", Style::Plain, 1, 1, Function::Bool),
    ("string", Style::Plain, 1, 1, Function::String),
    ("bytes", Style::Plain, 1, 1, Function::Bytes),
    ("dyn", Style::Plain, 1, 1, Function::Dyn),
    ("duration", Style::Plain, 1, 1, Function::Duration),
    ("timestamp", Style::Plain, 1, 1, Function::Timestamp),
    (
        "getFullYear",
        Style::Method,
        1,
        1,
        Function::Part(Part::FullYear),
    ),
    ("getMonth", Style::Method, 1, 1, Function::Part(Part::Month)),
    ("getDate", Style::Method, 1, 1, Function::Part(Part::Date)),
    (
        "getDayOfMonth",
        Style::Method,
        1,
        1,
        Function::Part(Part::DayOfMonth),
    ),
    (
        "getDayOfWeek",
        Style::Method,
        1,
        1,
        Function::Part(Part::DayOfWeek),
    ),
    (
        "getDayOfYear",
        Style::Method,
        1,
        1,
        Function::Part(Part::DayOfYear),
    ),
    ("getHours", Style::Method, 1, 1, Function::Part(Part::Hours)),
    (
        "getMinutes",
        Style::Method,
        1,
        1,
        Function::Part(Part::Minutes),
    ),
    (
        "getSeconds",
        Style::Method,
        1,
        1,
        Function::Part(Part::Seconds),
    ),
    (
        "getMilliseconds",
        Style::Method,
        1,
        1,
        Function::Part(Part::Milliseconds),
    ),
];

impl Function {
    /// # Errors
    /// Nothing has the name, or it isn't called so; with the reason.
    pub(super) fn named(name: &str, method: bool, arguments: usize) -> Result<Function, String> {
        let known = FUNCTIONS.iter().find(|(known, ..)| *known == name);
        let Some((_, style, least, most, function)) = known else {
            return Err(format!("{name} is no function that is known here"));
        };
        let other = if method { Style::Plain } else { Style::Method };
        if *style == other {
            let right = if method { "f(a)" } else { "a.f()" };
            return Err(format!("{name} is called as {right}"));
        }
        if !(*least..=*most).contains(&arguments) {
            return Err(format!("{name} doesn't take so many arguments"));
        }
        Ok(*function)
    }

    /// `arguments` begins with what it is called on.
    pub(super) fn call<'a>(
        self,
        arguments: &[Value<'a>],
        budget: &mut Budget,
    ) -> Result<Value<'a>, NoValue> {
        let (first, others) = arguments.split_first().ok_or(NoValue)?;
        match self {
            Function::Size => size(first),
            Function::Contains | Function::StartsWith | Function::EndsWith => {
                let (of, what) = (text(first)?, text(others.first().ok_or(NoValue)?)?);
                Ok(Value::Bool(match self {
                    Function::Contains => of.contains(what),
                    Function::StartsWith => of.starts_with(what),
                    _ => of.ends_with(what),
                }))
            }
            Function::LowerAscii => own(text(first)?.to_ascii_lowercase(), budget),
            Function::UpperAscii => own(text(first)?.to_ascii_uppercase(), budget),
            Function::Trim => own(text(first)?.trim().to_owned(), budget),
            Function::Replace => replace(text(first)?, others, budget),
            Function::Split => split(text(first)?, others, budget),
            Function::Join => join(first, others, budget),
            Function::Substring => substring(text(first)?, others, budget),
            Function::IndexOf | Function::LastIndexOf => {
                index_of(text(first)?, others, self == Function::LastIndexOf)
            }
            Function::CharAt => {
                let at = position(others.first())?;
                let mut rest = text(first)?.chars().skip(at.saturating_sub(1));
                if at > 0 && rest.next().is_none() {
                    return Err(NoValue);
                }
                own(rest.next().map(String::from).unwrap_or_default(), budget)
            }
            Function::Part(wanted) => part(wanted, first),
            _ => self.convert(first, budget),
        }
    }

    fn convert<'a>(self, value: &Value<'a>, budget: &mut Budget) -> Result<Value<'a>, NoValue> {
        match (self, value) {
            (Function::Dyn, value) => Ok(value.clone()),
            (Function::Int, value) => int(value).map(Value::Int),
            (Function::Uint, value) => uint(value).map(Value::Uint),
            (Function::Double, Value::Int(number)) => Ok(Value::Double(*number as f64)),
            (Function::Double, Value::Uint(number)) => Ok(Value::Double(*number as f64)),
            (Function::Double, Value::Double(number)) => Ok(Value::Double(*number)),
            (Function::Double, Value::String(text)) => {
                text.parse().map(Value::Double).map_err(|_| NoValue)
            }
            (Function::Bool, Value::Bool(value)) => Ok(Value::Bool(*value)),
            (Function::Bool, Value::String(text)) => match text.as_ref() {
                "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
                "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
                _ => Err(NoValue),
            },
            (Function::Bytes, Value::Bytes(_)) | (Function::String, Value::String(_)) => {
                Ok(value.clone())
            }
            (Function::Bytes, Value::String(text)) => {
                budget.spend(text.len())?;
                Ok(Value::Bytes(Cow::Owned(text.as_bytes().to_vec())))
            }
            (Function::String, Value::Duration(duration)) => own(seconds(*duration), budget),
            (Function::String, Value::Timestamp(at)) => own(timestamp(*at), budget),
            (Function::String, Value::Null | Value::List(_) | Value::Map(_)) => Err(NoValue),
            (Function::String, value) => {
                let mut printed = Vec::new();
                value.print(&mut printed)?;
                own(String::from_utf8(printed).map_err(|_| NoValue)?, budget)
            }
            (Function::Duration, Value::Duration(duration)) => Ok(Value::Duration(*duration)),
            (Function::Duration, Value::String(text)) => {
                parsed_duration(text).map(Value::Duration).ok_or(NoValue)
            }
            (Function::Timestamp, Value::Timestamp(at)) => Ok(Value::Timestamp(*at)),
            (Function::Timestamp, Value::String(text)) => {
                parsed_time(text).map(Value::Timestamp).ok_or(NoValue)
            }
            (Function::Timestamp, Value::Int(seconds)) => {
                let at = OffsetDateTime::from_unix_timestamp(*seconds);
                at.map(Value::Timestamp).map_err(|_| NoValue)
            }
            _ => Err(NoValue),
        }
    }
}

fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, NoValue> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(NoValue),
    }
}

fn own<'a>(text: String, budget: &mut Budget) -> Result<Value<'a>, NoValue> {
    budget.spend(text.len())?;
    Ok(Value::String(Cow::Owned(text)))
}

/// A place in a text.
fn position(value: Option<&Value<'_>>) -> Result<usize, NoValue> {
    match value {
        Some(Value::Int(at)) => usize::try_from(*at).map_err(|_| NoValue),
        _ => Err(NoValue),
    }
}

fn size<'a>(of: &Value<'_>) -> Result<Value<'a>, NoValue> {
    let size = match of {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len()?,
        _ => return Err(NoValue),
    };
    i64::try_from(size).map(Value::Int).map_err(|_| NoValue)
}

fn int(value: &Value<'_>) -> Result<i64, NoValue> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::Uint(number) => i64::try_from(*number).map_err(|_| NoValue),
        Value::Double(number) if number.abs() < i64::MAX as f64 => Ok(*number as i64),
        Value::String(text) => text.parse().map_err(|_| NoValue),
        Value::Timestamp(at) => Ok(at.unix_timestamp()),
        Value::Duration(duration) => Ok(Duration::whole_seconds(*duration)),
        _ => Err(NoValue),
    }
}

fn uint(value: &Value<'_>) -> Result<u64, NoValue> {
    match value {
        Value::Uint(number) => Ok(*number),
        Value::Int(number) => u64::try_from(*number).map_err(|_| NoValue),
        Value::Double(number) if *number >= 0.0 && *number < u64::MAX as f64 => Ok(*number as u64),
        Value::String(text) => text.parse().map_err(|_| NoValue),
        _ => Err(NoValue),
    }
}

/// `text.replace(old, new, limit)`. How long it gets is known before it is made.
fn replace<'a>(of: &str, others: &[Value<'_>], budget: &mut Budget) -> Result<Value<'a>, NoValue> {
    let (Some(old), Some(new)) = (others.first(), others.get(1)) else {
        return Err(NoValue);
    };
    let (old, new) = (text(old)?, text(new)?);
    let limit = match others.get(2) {
        None => usize::MAX,
        // Below zero: all.
        Some(Value::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
        Some(_) => return Err(NoValue),
    };
    let count = of.matches(old).take(limit).count();
    let longest = of.len().saturating_add(count.saturating_mul(new.len()));
    budget.spend(longest)?;
    Ok(Value::String(Cow::Owned(of.replacen(old, new, limit))))
}

fn split<'a>(of: &str, others: &[Value<'_>], budget: &mut Budget) -> Result<Value<'a>, NoValue> {
    let by = text(others.first().ok_or(NoValue)?)?;
    let limit = match others.get(1) {
        None => usize::MAX,
        Some(Value::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
        Some(_) => return Err(NoValue),
    };
    let mut list = Vec::new();
    let mut add = |part: &str| {
        budget.spend(part.len() + size_of::<Value<'_>>())?;
        list.push(Value::String(Cow::Owned(part.to_owned())));
        Ok(())
    };
    if by.is_empty() {
        let mut rest = of;
        for taken in 1.. {
            let next = rest.chars().next().map_or(0, char::len_utf8);
            let whole = taken >= limit || next == rest.len();
            let (part, behind) = rest.split_at(if whole { rest.len() } else { next });
            if limit > 0 && !(part.is_empty() && taken > 1) {
                add(part)?;
            }
            rest = behind;
            if whole || limit == 0 {
                break;
            }
        }
    } else {
        of.splitn(limit, by).try_for_each(add)?;
    }
    Ok(Value::List(List::Own(list)))
}

fn join<'a>(
    of: &Value<'_>,
    others: &[Value<'_>],
    budget: &mut Budget,
) -> Result<Value<'a>, NoValue> {
    let Value::List(list) = of else {
        return Err(NoValue);
    };
    let between = others.first().map_or(Ok(""), text)?;
    let mut joined = String::new();
    for at in 0..list.len() {
        let part = list.get(at).ok_or(NoValue)?;
        let part = text(&part)?;
        budget.spend(part.len().saturating_add(between.len()))?;
        if at > 0 {
            joined.push_str(between);
        }
        joined.push_str(part);
    }
    Ok(Value::String(Cow::Owned(joined)))
}

fn substring<'a>(
    of: &str,
    others: &[Value<'_>],
    budget: &mut Budget,
) -> Result<Value<'a>, NoValue> {
    let length = of.chars().count();
    let begin = position(others.first())?;
    let end = match others.get(1) {
        None => length,
        end => position(end)?,
    };
    if begin > end || end > length {
        return Err(NoValue);
    }
    own(of.chars().skip(begin).take(end - begin).collect(), budget)
}

fn index_of<'a>(of: &str, others: &[Value<'_>], last: bool) -> Result<Value<'a>, NoValue> {
    let what = text(others.first().ok_or(NoValue)?)?;
    let from = match others.get(1) {
        None => 0,
        from => position(from)?,
    };
    let mut begins = of.char_indices().map(|(at, _)| at).chain([of.len()]);
    let from = begins.nth(from).ok_or(NoValue)?;
    let rest = of.get(from..).unwrap_or_default();
    let found = if last {
        rest.rfind(what)
    } else {
        rest.find(what)
    };
    let characters = found
        .and_then(|at| of.get(..from + at))
        .map(|before| before.chars().count());
    let index = characters.and_then(|at| i64::try_from(at).ok());
    Ok(Value::Int(index.unwrap_or(-1)))
}

/// A list or a map that holds it.
///
/// # Errors
/// Nothing can be in it.
pub(super) fn is_in(value: &Value<'_>, container: &Value<'_>) -> Result<bool, NoValue> {
    match container {
        Value::List(list) => Ok((0..list.len())
            .filter_map(|at| list.get(at))
            .any(|one| one.equals(value) == Ok(true))),
        Value::Map(Map::Metadata(_)) => Err(NoValue),
        Value::Map(map) => Ok(map.get(value).is_some()),
        _ => Err(NoValue),
    }
}
