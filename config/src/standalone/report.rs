//! What is reported of a configuration, as lines of the log and of `/problems`: bounded in number and in length.
//!
//! Names and reasons come from files, so that a line may be of any length, and hold line breaks. Each is one line
//! here, whatever stands in it. What is worst comes first and so is never what is left out.

use std::fmt::Display;

use crate::standalone::input::problem::Severity;
use crate::standalone::translate::Translation;

/// Lines of one list, at most.
pub const MAX_LINES: usize = 1000;
/// Lines about what is only for others, at most.
const MAX_ASIDES: usize = 100;
/// Characters of a line, at most.
const MAX_LENGTH: usize = 1000;

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Warn,
    Info,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub level: Level,
    pub text: String,
}

/// One line of bounded length.
pub fn line(what: impl Display) -> String {
    let whole = what.to_string();
    let mut characters = whole.chars();
    let shown = characters.by_ref().take(MAX_LENGTH);
    let shown: String = shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match characters.count() {
        0 => shown,
        more => format!("{shown}… and {more} more characters"),
    }
}

/// The first lines of a list, and how many more there are.
pub fn lines<T: Display>(all: impl IntoIterator<Item = T>) -> Vec<String> {
    first(MAX_LINES, all)
}

fn first<T: Display>(most: usize, all: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut all = all.into_iter();
    let mut lines: Vec<String> = all.by_ref().take(most).map(line).collect();
    match all.count() {
        0 => {}
        more => lines.push(format!("and {more} more")),
    }
    lines
}

impl Translation {
    /// What is to be reported, mistakes before what is only for others.
    pub fn report(&self) -> Vec<Line> {
        let problems = first(MAX_LINES, &self.problems);
        let asides = first(MAX_ASIDES, &self.asides);
        let of_problem = |(index, text): (usize, String)| {
            // Behind the problems stands how many there are: it is as loud as the first of those.
            let problem = self.problems.get(index);
            let level = match problem.map(|problem| problem.severity) {
                Some(Severity::NoEffect | Severity::Ignored) | None => Level::Warn,
                Some(_) => Level::Error,
            };
            Line { level, text }
        };
        let quiet = |text: String| Line {
            level: Level::Info,
            text,
        };
        let problems = problems.into_iter().enumerate().map(of_problem);
        problems.chain(asides.into_iter().map(quiet)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_of_bounded_length() {
        assert_eq!(line("a: b"), "a: b");
        assert_eq!(line("a\nb\u{1b}[31m\tc"), "a b [31m c");
        let long = line("é".repeat(MAX_LENGTH + 7));
        assert!(long.starts_with("éé") && long.ends_with("é… and 7 more characters"));
        assert_eq!(
            line("é".repeat(MAX_LENGTH)).chars().count(),
            MAX_LENGTH,
            "what fits is whole"
        );
    }

    #[test]
    fn a_list_says_how_many_more_there_are() {
        assert_eq!(first(2, ["a", "b"]), ["a", "b"]);
        assert_eq!(first(2, ["a", "b", "c", "d"]), ["a", "b", "and 2 more"]);
        assert!(lines::<String>([]).is_empty());
    }
}
