//! `%START_TIME(format)%`: strftime with Envoy's digits of a second (`%3f`, `%E6S`), in UTC.
//!
//! What is no specifier is printed as it stands, as in Envoy. A newline would break a log's line and is
//! refused.

use std::fmt::Write as _;
use std::time::SystemTime;

use time::OffsetDateTime;

use crate::xds::rejected::Refusal;

/// A compiled time format.
#[derive(Clone, Debug)]
pub(super) struct TimeFormat(Box<[Part]>);

#[derive(Clone, Debug)]
enum Part {
    Literal(Box<str>),
    Field(Field),
    /// This many digits of the second's fraction.
    Fraction(u8),
    /// Seconds with digits of their fraction.
    Seconds(u8),
}

/// A specifier of strftime, and how it is padded.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: char,
    /// `-`, `_`, `0`, `^` or `#`.
    flag: Option<char>,
}

const FIELDS: &str = "aAbBcCdDeFgGhHIjklmMpPrRsStTuUVwWxXyYzZ";

impl TimeFormat {
    pub(super) fn parse(text: &str) -> Result<TimeFormat, Refusal> {
        let mut signs = text.match_indices('%');
        if signs.any(|(at, _)| has_newline(text.get(at..).unwrap_or_default())) {
            let reason = format!("the time format {text:?} has a newline");
            return Err(Refusal::new("format", reason));
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let behind = rest.get(c.len_utf8()..).unwrap_or_default();
            let found = if c == '%' { specifier(behind) } else { None };
            match found {
                Some((part, length)) => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                    }
                    parts.push(part);
                    rest = behind.get(length..).unwrap_or_default();
                }
                None => {
                    literal.push(c);
                    rest = behind;
                }
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(TimeFormat(parts.into()))
    }

    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let time = OffsetDateTime::from(time);
        let mut text = String::with_capacity(32);
        for part in &self.0 {
            // Writing to a String doesn't fail.
            let _ = match part {
                Part::Literal(literal) => write!(text, "{literal}"),
                Part::Fraction(digits) => write_fraction(*digits, time, &mut text),
                Part::Seconds(digits) => write!(text, "{:02}.", time.second())
                    .and_then(|()| write_fraction(*digits, time, &mut text)),
                Part::Field(field) => write_field(*field, time, &mut text),
            };
        }
        out.extend_from_slice(text.as_bytes());
    }
}

/// A `%` with flags, a width and a modifier before an `n`.
fn has_newline(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('%') else {
        return false;
    };
    let rest = rest.trim_start_matches(['-', '_', '0', '^', '#']);
    let rest = rest.trim_start_matches(|c: char| ('1'..='9').contains(&c));
    let rest = rest.strip_prefix(['E', 'O']).unwrap_or(rest);
    rest.starts_with('n')
}

/// What stands behind a `%`, and its length. `None`: no specifier.
fn specifier(text: &str) -> Option<(Part, usize)> {
    let bytes = text.as_bytes();
    let at = |index: usize| bytes.get(index).copied();
    let digit = |byte: u8| byte.is_ascii_digit().then(|| byte - b'0');
    let field = |name: u8, flag: Option<u8>| {
        let name = char::from(name);
        FIELDS.contains(name).then(|| {
            Part::Field(Field {
                name,
                flag: flag.map(char::from),
            })
        })
    };
    match (at(0)?, at(1), at(2)) {
        (b'%', ..) => Some((Part::Literal("%".into()), 1)),
        (b'f', ..) => Some((Part::Fraction(9), 1)),
        (b'*', Some(b'f'), _) => Some((Part::Fraction(6), 2)),
        (digits @ b'1'..=b'9', Some(b'f'), _) => Some((Part::Fraction(digits - b'0'), 2)),
        (b'E', Some(b'*'), Some(b'S')) => Some((Part::Seconds(6), 3)),
        (b'E', Some(b'*'), Some(b'f')) => Some((Part::Fraction(6), 3)),
        (b'E', Some(b'*'), Some(b'z')) => Some((Part::Literal("+00:00:00".into()), 3)),
        (b'E', Some(digits), Some(b'S')) if digits.is_ascii_digit() => match digit(digits)? {
            0 => Some((field(b'S', None)?, 3)),
            digits => Some((Part::Seconds(digits), 3)),
        },
        (b'E', Some(digits), Some(b'f')) => Some((Part::Fraction(digit(digits)?), 3)),
        (b'E', Some(b'4'), Some(b'Y')) => Some((field(b'Y', None)?, 3)),
        (b'E', Some(b'z'), _) => Some((Part::Literal("+00:00".into()), 2)),
        (b'E', Some(b'T'), _) => Some((Part::Literal("T".into()), 2)),
        (b'E', Some(b's'), _) => Some((field(b's', None)?, 2)),
        (flag @ (b'-' | b'_' | b'0' | b'^' | b'#'), Some(name), _) => {
            Some((field(name, Some(flag))?, 2))
        }
        (name, ..) => Some((field(name, None)?, 1)),
    }
}

fn write_fraction(digits: u8, time: OffsetDateTime, text: &mut String) -> std::fmt::Result {
    let digits = digits.min(9);
    let scale = 10u32.pow(9 - u32::from(digits));
    let width = usize::from(digits);
    write!(text, "{:0width$}", time.nanosecond() / scale)
}

fn write_field(field: Field, time: OffsetDateTime, text: &mut String) -> std::fmt::Result {
    let start = text.len();
    write_plain(field.name, time, text)?;
    let Some(flag) = field.flag else {
        return Ok(());
    };
    let plain = text.split_off(start);
    let changed = match flag {
        '^' | '#' => plain.to_uppercase(),
        flag => {
            let number = plain.trim_start_matches([' ', '0']);
            let is_number = plain.bytes().all(|c| c.is_ascii_digit() || c == b' ');
            let (number, width) = (if number.is_empty() { "0" } else { number }, plain.len());
            match flag {
                _ if !is_number => plain,
                '-' => number.to_owned(),
                '_' => format!("{number:>width$}"),
                _ => format!("{number:0>width$}"),
            }
        }
    };
    text.push_str(&changed);
    Ok(())
}

fn write_plain(name: char, time: OffsetDateTime, text: &mut String) -> std::fmt::Result {
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let twelve = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };
    let (month_name, day_name) = (time.month().to_string(), time.weekday().to_string());
    let (short_month, short_day) = (
        month_name.get(..3).unwrap_or_default(),
        day_name.get(..3).unwrap_or_default(),
    );
    let (iso_year, iso_week, _) = time.to_iso_week_date();
    match name {
        'a' => write!(text, "{short_day}"),
        'A' => write!(text, "{day_name}"),
        'b' | 'h' => write!(text, "{short_month}"),
        'B' => write!(text, "{month_name}"),
        'c' => write!(
            text,
            "{short_day} {short_month} {day:2} {hour:02}:{minute:02}:{second:02} {year}"
        ),
        'C' => write!(text, "{:02}", year / 100),
        'd' => write!(text, "{day:02}"),
        'D' | 'x' => write!(text, "{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
        'e' => write!(text, "{day:2}"),
        'F' => write!(text, "{year:04}-{month:02}-{day:02}"),
        'g' => write!(text, "{:02}", iso_year.rem_euclid(100)),
        'G' => write!(text, "{iso_year}"),
        'H' => write!(text, "{hour:02}"),
        'I' => write!(text, "{twelve:02}"),
        'j' => write!(text, "{:03}", time.ordinal()),
        'k' => write!(text, "{hour:2}"),
        'l' => write!(text, "{twelve:2}"),
        'm' => write!(text, "{month:02}"),
        'M' => write!(text, "{minute:02}"),
        'p' => write!(text, "{half}"),
        'P' => write!(text, "{}", half.to_lowercase()),
        'r' => write!(text, "{twelve:02}:{minute:02}:{second:02} {half}"),
        'R' => write!(text, "{hour:02}:{minute:02}"),
        's' => write!(text, "{}", time.unix_timestamp()),
        'S' => write!(text, "{second:02}"),
        't' => write!(text, "\t"),
        'T' | 'X' => write!(text, "{hour:02}:{minute:02}:{second:02}"),
        'u' => write!(text, "{}", time.weekday().number_from_monday()),
        'U' => write!(text, "{:02}", time.sunday_based_week()),
        'V' => write!(text, "{iso_week:02}"),
        'w' => write!(text, "{}", time.weekday().number_days_from_sunday()),
        'W' => write!(text, "{:02}", time.monday_based_week()),
        'y' => write!(text, "{:02}", year.rem_euclid(100)),
        'Y' => write!(text, "{year}"),
        'z' => write!(text, "+0000"),
        _ => write!(text, "UTC"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn as_envoy_prints_them() {
        // What Envoy 1.40 printed for this moment.
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_900_935_748_934);
        for (format, expected) in [
            (
                "%A %B %C %D %G %I %R %U %V %W %X",
                "Saturday November 20 11/28/26 2026 09 21:22 47 48 47 21:22:15",
            ),
            (
                "%c|%g|%h|%k|%l|%p|%r",
                "Sat Nov 28 21:22:15 2026|26|Nov|21| 9|PM|09:22:15 PM",
            ),
            (
                "%t|%u|%w|%x|%%|%Z|%z|%s|%j",
                "\t|6|6|11/28/26|%|UTC|+0000|1795900935|332",
            ),
            (
                "%E3S|%E*S|%Ez|%E*f|%E4Y|%Q|%ET|%Es",
                "15.748|15.748934|+00:00|748934|2026|%Q|T|1795900935",
            ),
            ("%f|%0f|%1f|%*f|%f3", "748934000|%0f|7|748934|7489340003"),
            ("%s%3f", "1795900935748"),
            ("%-d|%_d|%0d|%^a|%#a", "28|28|28|SAT|SAT"),
            (
                "%Y/%m/%dT%H:%M:%S%z %3f %6f %9f",
                "2026/11/28T21:22:15+0000 748 748934 748934000",
            ),
            ("%", "%"),
            ("a%", "a%"),
            ("(%Y)", "(2026)"),
        ] {
            let mut out = Vec::new();
            TimeFormat::parse(format).unwrap().write(time, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
        }
        for newline in ["%n", "%En", "%3n", "%%n", "%-n", "%Y %n"] {
            assert!(TimeFormat::parse(newline).is_err(), "{newline}");
        }
    }
}
