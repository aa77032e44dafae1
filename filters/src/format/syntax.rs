//! The grammar of format strings, which is Envoy's: text, `%%` for a `%`, and `%NAME(parameters):length%`.
//!
//! Parameters end at the first `)` behind which the operator can end, so that they may hold a `%` (a time
//! format) or a `)`. Length is the most bytes of the value.

use crate::xds::rejected::Refusal;

/// Decides what becomes of a part of a format that can't be honoured.
pub type Complain<'a> = &'a mut dyn FnMut(Refusal) -> Result<(), Refusal>;

/// A piece of a format string.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(&'a str),
    Command(Command<'a>),
}

/// An operator as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command<'a> {
    pub(super) name: &'a str,
    /// What stands in parentheses; empty without them.
    pub(super) parameters: &'a str,
    pub(super) max_length: Option<usize>,
}

/// Complains of a `%` that begins no operator and isn't doubled.
///
/// # Errors
/// What `complain` says of that.
pub(super) fn parts<'a>(text: &'a str, complain: Complain<'_>) -> Result<Vec<Part<'a>>, Refusal> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        let after = from.get(1..).unwrap_or_default();
        if after.starts_with('%') {
            parts.push(Part::Text("%"));
            rest = after.get(1..).unwrap_or_default();
            continue;
        }
        rest = match command(after) {
            Some((command, behind)) => {
                parts.push(Part::Command(command));
                behind
            }
            None => {
                let at = text.len() - from.len();
                let reason = format!("{text:?} has a % at {at} that begins no operator; %% is a %");
                complain(Refusal::new("format", reason))?;
                parts.push(Part::Text("%"));
                after
            }
        };
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

/// The text, if no `%` in it begins an operator: a doubled one is one, and a stray one stays.
pub(super) fn without_operators(text: &str) -> Option<String> {
    let mut found = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        found.push_str(before);
        found.push('%');
        rest = match after.strip_prefix('%') {
            Some(behind) => behind,
            None if command(after).is_some() => return None,
            None => after,
        };
    }
    found.push_str(rest);
    Some(found)
}

/// The operator after a `%`, and what comes behind its end.
fn command(text: &str) -> Option<(Command<'_>, &str)> {
    let is_name = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
    let length = text.bytes().take_while(|c| is_name(*c)).count();
    let (name, rest) = text.split_at(length);
    if name.is_empty() {
        return None;
    }
    let found = |parameters, (max_length, behind)| {
        let command = Command {
            name,
            parameters,
            max_length,
        };
        (command, behind)
    };
    let Some(inner) = rest.strip_prefix('(') else {
        return end(rest).map(|end| found("", end));
    };
    let line = inner.split('\n').next().unwrap_or_default();
    line.match_indices(')').find_map(|(close, _)| {
        let end = end(inner.get(close + 1..)?)?;
        Some(found(inner.get(..close)?, end))
    })
}

/// `%` or `:length%`.
fn end(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(behind) = text.strip_prefix('%') {
        return Some((None, behind));
    }
    let (digits, behind) = text.strip_prefix(':')?.split_once('%')?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    let length = digits.parse().ok().filter(|_| all_digits)?;
    Some((Some(length), behind))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn one(text: &str) -> Command<'_> {
        match parts(text, &mut Err).unwrap().as_slice() {
            [Part::Command(command)] => *command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_parameters_and_lengths() {
        let command = |name, parameters, max_length| Command {
            name,
            parameters,
            max_length,
        };
        assert_eq!(one("%A_1%"), command("A_1", "", None));
        assert_eq!(one("%A()%"), command("A", "", None));
        assert_eq!(one("%A(b?C):007%"), command("A", "b?C", Some(7)));
        assert_eq!(one("%T((%Y) %H)%"), command("T", "(%Y) %H", None));
        assert_eq!(one("%T(%Y)%"), command("T", "%Y", None));
    }

    #[test]
    fn a_text_that_was_meant_as_one() {
        for (text, meant) in [
            ("50%", Some("50%")),
            ("50%%, 20%", Some("50%, 20%")),
            ("a%20b", Some("a%20b")),
            ("%", Some("%")),
            ("%NOPE%", None),
            ("50% of %REQ(a)%", None),
        ] {
            assert_eq!(without_operators(text).as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn doubled_and_stray_signs() {
        assert_eq!(
            parts("a%%b%A%%B(c)%", &mut Err).unwrap(),
            [
                Part::Text("a"),
                Part::Text("%"),
                Part::Text("b"),
                Part::Command(one("%A%")),
                Part::Command(one("%B(c)%")),
            ]
        );
        for stray in [
            "50%",
            "%",
            "%%%",
            "a % b",
            "%a%",
            "%A",
            "% A%",
            "%A %",
            "%A(b",
            "%A(b%",
            "%A(b)c%",
            "%A:x%",
            "%A:%",
            "%A:-1%",
            "%A(b)::3%",
            "%A:99999999999999999999999%",
            "%A(b\n)%",
        ] {
            assert!(parts(stray, &mut Err).is_err(), "{stray}");
            assert!(parts(stray, &mut |_| Ok(())).is_ok(), "{stray}");
        }
    }
}
