//! `%START_TIME(format)%`: strftime with Envoy's sub-second specifiers (`%3f`, `%6f`, `%9f`), in UTC.

use std::fmt::Write as _;
use std::time::SystemTime;

use time::OffsetDateTime;

use crate::rejected::Refusal;

/// A compiled time format.
#[derive(Clone, Debug)]
pub(super) struct TimeFormat(Box<[Part]>);

#[derive(Clone, Debug)]
enum Part {
    Literal(Box<str>),
    Field(char),
    /// Digits of the fraction.
    Fraction(u8),
}

impl TimeFormat {
    /// ISO 8601 with milliseconds, Envoy's default.
    pub(super) fn iso() -> TimeFormat {
        TimeFormat::parse("%Y-%m-%dT%H:%M:%S.%3fZ").unwrap_or(TimeFormat(Box::default()))
    }

    pub(super) fn parse(text: &str) -> Result<TimeFormat, Refusal> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let unknown = || Refusal::new("format", format!("unknown time specifier in {text:?}"));
            let specifier = chars.next().ok_or_else(unknown)?;
            if specifier == '%' {
                literal.push('%');
                continue;
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(match specifier {
                'Y' | 'm' | 'd' | 'H' | 'M' | 'S' | 's' | 'b' | 'a' | 'e' | 'y' | 'j' | 'T'
                | 'F' | 'z' | 'Z' => Part::Field(specifier),
                'f' => Part::Fraction(9),
                '1'..='9' if chars.peek() == Some(&'f') => {
                    chars.next();
                    Part::Fraction(specifier as u8 - b'0')
                }
                _ => return Err(unknown()),
            });
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
                Part::Fraction(digits) => {
                    let scale = 10u32.pow(9 - u32::from(*digits));
                    let width = usize::from(*digits);
                    write!(text, "{:0width$}", time.nanosecond() / scale)
                }
                Part::Field(field) => write_field(*field, time, &mut text),
            };
        }
        out.extend_from_slice(text.as_bytes());
    }
}

fn write_field(field: char, time: OffsetDateTime, text: &mut String) -> std::fmt::Result {
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    match field {
        'Y' => write!(text, "{year:04}"),
        'y' => write!(text, "{:02}", year.rem_euclid(100)),
        'm' => write!(text, "{month:02}"),
        'd' => write!(text, "{day:02}"),
        'e' => write!(text, "{day:2}"),
        'j' => write!(text, "{:03}", time.ordinal()),
        'H' => write!(text, "{hour:02}"),
        'M' => write!(text, "{minute:02}"),
        'S' => write!(text, "{second:02}"),
        'T' => write!(text, "{hour:02}:{minute:02}:{second:02}"),
        'F' => write!(text, "{year:04}-{month:02}-{day:02}"),
        's' => write!(text, "{}", time.unix_timestamp()),
        'b' => write!(text, "{}", &time.month().to_string()[..3]),
        'a' => write!(text, "{}", &time.weekday().to_string()[..3]),
        'z' => write!(text, "+0000"),
        _ => write!(text, "UTC"),
    }
}
