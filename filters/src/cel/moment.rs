//! Times and durations: how they are written (RFC 3339; `1h30m`, `1.5s`), and parts of them.

use time::{Date, Duration, Month, OffsetDateTime, Time};

use super::value::{NoValue, Value};

/// Of a time, in UTC, or of a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// `2023-10-01T12:00:00.5Z`, or with an offset.
pub(super) fn parsed_time(text: &str) -> Option<OffsetDateTime> {
    let number = |at: usize, length: usize| -> Option<u32> {
        let digits = text.get(at..at + length)?;
        let all = digits.bytes().all(|c| c.is_ascii_digit());
        digits.parse().ok().filter(|_| all)
    };
    let small = |at| number(at, 2).and_then(|n| u8::try_from(n).ok());
    let signs = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
    if !signs
        .iter()
        .all(|(at, sign)| text.get(*at..*at + 1) == Some(sign))
    {
        return None;
    }
    let year = i32::try_from(number(0, 4)?).ok()?;
    let date = Date::from_calendar_date(year, Month::try_from(small(5)?).ok()?, small(8)?).ok()?;
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, behind) = fraction.split_at(length);
        nanos = format!("{digits:0<9}")
            .parse()
            .ok()
            .filter(|_| (1..=9).contains(&length))?;
        rest = behind;
    }
    let time = Time::from_hms_nano(small(11)?, small(14)?, small(17)?, nanos).ok()?;
    let at = date.with_time(time).assume_utc();
    if rest == "Z" {
        return Some(at);
    }
    let sign = match rest.get(..1)? {
        "+" => -1,
        "-" => 1,
        _ => return None,
    };
    let (hours, minutes) = rest.get(1..)?.split_once(':')?;
    let two = |digits: &str| digits.parse::<u8>().ok().filter(|_| digits.len() == 2);
    let minutes = i64::from(two(hours)?) * 60 + i64::from(two(minutes)?);
    at.checked_add(Duration::minutes(sign * minutes))
}

/// Numbers with units, one after the other.
pub(super) fn parsed_duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() || nanos == 0 {
        let length = rest
            .bytes()
            .take_while(|c| c.is_ascii_digit() || *c == b'.')
            .count();
        let (digits, behind) = rest.split_at(length);
        let units: [(&str, i128); 7] = [
            ("ns", 1),
            ("us", 1_000),
            ("µs", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        let (unit, size) = units.iter().find(|(unit, _)| behind.starts_with(unit))?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if digits.len() > 24 || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let number = |text: &str| {
            if text.is_empty() {
                Some(0)
            } else {
                text.parse::<i128>().ok()
            }
        };
        let part = number(whole)?.checked_mul(*size)?;
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = part.checked_add(number(fraction)?.checked_mul(*size)? / scale)?;
        nanos = nanos.checked_add(part)?;
        rest = behind.get(unit.len()..)?;
        if rest.is_empty() {
            break;
        }
    }
    let seconds = i64::try_from(nanos / 1_000_000_000).ok()?;
    let duration = Duration::new(seconds, i32::try_from(nanos % 1_000_000_000).ok()?);
    Some(if negative { -duration } else { duration })
}

/// Months, days of a month, of a week and of a year begin at 0; dates at 1.
pub(super) fn part<'a>(part: Part, of: &Value<'_>) -> Result<Value<'a>, NoValue> {
    let number = match of {
        Value::Timestamp(at) => of_time(part, *at),
        Value::Duration(duration) => match part {
            Part::Hours => duration.whole_hours(),
            Part::Minutes => duration.whole_minutes(),
            Part::Seconds => duration.whole_seconds(),
            Part::Milliseconds => duration.subsec_milliseconds().into(),
            _ => return Err(NoValue),
        },
        _ => return Err(NoValue),
    };
    Ok(Value::Int(number))
}

fn of_time(part: Part, at: OffsetDateTime) -> i64 {
    match part {
        Part::FullYear => at.year().into(),
        Part::Month => i64::from(u8::from(at.month())) - 1,
        Part::Date => at.day().into(),
        Part::DayOfMonth => i64::from(at.day()) - 1,
        Part::DayOfWeek => at.weekday().number_days_from_sunday().into(),
        Part::DayOfYear => i64::from(at.ordinal()) - 1,
        Part::Hours => at.hour().into(),
        Part::Minutes => at.minute().into(),
        Part::Seconds => at.second().into(),
        Part::Milliseconds => at.millisecond().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_are_read_and_nothing_else() {
        let time = |text: &str| parsed_time(text).map(|at| at.unix_timestamp_nanos());
        assert_eq!(time("1970-01-01T00:00:01.5Z"), Some(1_500_000_000));
        assert_eq!(time("1970-01-01T01:00:00+01:00"), Some(0));
        for wrong in [
            "",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "1970-01-01T00:00:00",
            "ä",
        ] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
        let duration = |text: &str| parsed_duration(text).map(Duration::whole_milliseconds);
        assert_eq!(duration("1h30m"), Some(5_400_000));
        assert_eq!(duration("-1.5s"), Some(-1_500));
        assert_eq!(duration("0s"), Some(0));
        for wrong in ["", "1", "s", "1x", "1..5s", "9999999999999999999999999h"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
