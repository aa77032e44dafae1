//! `%START_TIME(format)%`: strftime with Envoy's digits of a second (`%3f`, `%E6S`), in UTC.
//!
//! What is no specifier is printed as it stands, as in Envoy. A newline would break a log's line and is
//! refused.

use std::time::SystemTime;

use time::OffsetDateTime;

use crate::decimal;
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
        for part in &self.0 {
            match part {
                Part::Literal(literal) => out.extend_from_slice(literal.as_bytes()),
                Part::Fraction(digits) => write_fraction(*digits, time, out),
                Part::Seconds(digits) => {
                    two(time.second(), out);
                    out.push(b'.');
                    write_fraction(*digits, time, out);
                }
                Part::Field(field) => write_field(*field, time, out),
            }
        }
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

fn write_fraction(digits: u8, time: OffsetDateTime, out: &mut Vec<u8>) {
    let digits = digits.min(9);
    let scale = 10u32.pow(9 - u32::from(digits));
    let fraction = time.nanosecond() / scale;
    decimal::padded(out, fraction.into(), digits.into());
}

fn write_field(field: Field, time: OffsetDateTime, out: &mut Vec<u8>) {
    let start = out.len();
    write_plain(field.name, time, out);
    let Some(flag) = field.flag else {
        return;
    };
    let plain = out.split_off(start);
    let changed = match flag {
        '^' | '#' => plain.to_ascii_uppercase(),
        flag => {
            let is_number = plain.iter().all(|c| c.is_ascii_digit() || *c == b' ');
            let zeros = plain.iter().take_while(|c| matches!(c, b' ' | b'0'));
            // Of zero, one is left.
            let number = plain.get(zeros.count()..).unwrap_or_default();
            let number = if number.is_empty() { b"0" } else { number };
            let missing = plain.len().saturating_sub(number.len());
            match flag {
                _ if !is_number => plain,
                '-' => number.to_vec(),
                '_' => [&b" ".repeat(missing)[..], number].concat(),
                _ => [&b"0".repeat(missing)[..], number].concat(),
            }
        }
    };
    out.extend_from_slice(&changed);
}

/// Two digits.
fn two(number: u8, out: &mut Vec<u8>) {
    decimal::padded(out, number.into(), 2);
}

/// Two places, the first of which may be blank.
fn blank(number: u8, out: &mut Vec<u8>) {
    if number < 10 {
        out.push(b' ');
    }
    decimal::number(out, number.into());
}

/// Numbers of two digits with something between them.
fn joined<const N: usize>(numbers: [u8; N], between: u8, out: &mut Vec<u8>) {
    for (at, number) in numbers.into_iter().enumerate() {
        if at > 0 {
            out.push(between);
        }
        two(number, out);
    }
}

fn write_plain(name: char, time: OffsetDateTime, out: &mut Vec<u8>) {
    match name {
        'Y' => year(time.year(), 1, out),
        'm' => two(time.month().into(), out),
        'd' => two(time.day(), out),
        'H' => two(time.hour(), out),
        'M' => two(time.minute(), out),
        'S' => two(time.second(), out),
        'R' => joined([time.hour(), time.minute()], b':', out),
        'T' | 'X' => joined([time.hour(), time.minute(), time.second()], b':', out),
        'F' => {
            year(time.year(), 4, out);
            out.push(b'-');
            joined([time.month().into(), time.day()], b'-', out);
        }
        'z' => out.extend_from_slice(b"+0000"),
        's' => decimal::signed(out, time.unix_timestamp()),
        _ => write_seldom(name, time, out),
    }
}

/// As printed with so many digits; years here have four, and no sign.
fn year(year: i32, digits: usize, out: &mut Vec<u8>) {
    if year < 0 {
        out.push(b'-');
    }
    let digits = digits - usize::from(year < 0).min(digits);
    decimal::padded(out, year.unsigned_abs().into(), digits);
}

/// What no format has that is printed for each request.
fn write_seldom(name: char, time: OffsetDateTime, out: &mut Vec<u8>) {
    let twelve = (time.hour() + 11) % 12 + 1;
    let half = if time.hour() < 12 { "AM" } else { "PM" };
    let of_century = |year: i32| u8::try_from(year.rem_euclid(100)).unwrap_or_default();
    let (iso_year, iso_week, _) = time.to_iso_week_date();
    let (month, weekday) = (time.month().to_string(), time.weekday().to_string());
    let short = |name: &str| name.get(..3).unwrap_or_default().to_owned();
    let text = match name {
        'a' => short(&weekday),
        'A' => weekday,
        'b' | 'h' => short(&month),
        'B' => month,
        'p' => half.to_owned(),
        'P' => half.to_lowercase(),
        't' => "\t".to_owned(),
        'c' => {
            out.extend_from_slice(format!("{} {} ", short(&weekday), short(&month)).as_bytes());
            blank(time.day(), out);
            out.push(b' ');
            write_plain('T', time, out);
            format!(" {}", time.year())
        }
        'r' => {
            joined([twelve, time.minute(), time.second()], b':', out);
            format!(" {half}")
        }
        'C' => format!("{:02}", time.year() / 100),
        'G' => iso_year.to_string(),
        'j' => format!("{:03}", time.ordinal()),
        'u' => time.weekday().number_from_monday().to_string(),
        'w' => time.weekday().number_days_from_sunday().to_string(),
        'Z' => "UTC".to_owned(),
        _ => {
            let month: u8 = time.month().into();
            match name {
                'D' | 'x' => joined([month, time.day(), of_century(time.year())], b'/', out),
                'e' => blank(time.day(), out),
                'g' => two(of_century(iso_year), out),
                'y' => two(of_century(time.year()), out),
                'I' => two(twelve, out),
                'k' => blank(time.hour(), out),
                'l' => blank(twelve, out),
                'U' => two(time.sunday_based_week(), out),
                'V' => two(iso_week, out),
                _ => two(time.monday_based_week(), out),
            }
            return;
        }
    };
    out.extend_from_slice(text.as_bytes());
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
