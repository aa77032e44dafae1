//! `/logging`: log levels, shown and changed.

use http::StatusCode;

use crate::admin::answer::{Answer, text};
use crate::admin::target::Target;
use crate::logs::levels::{LogLevelError, LogLevels};

/// Whether the request asks for a change.
pub(super) fn changes(target: &Target) -> bool {
    target.parameters().next().is_some()
}

pub(super) fn answer(levels: &LogLevels, target: &Target) -> Answer {
    match change(levels, target) {
        Ok(()) => {
            let lines = levels
                .list()
                .into_iter()
                .map(|(name, level)| format!("  {name}: {level}\n"));
            text(
                StatusCode::OK,
                format!("active loggers:\n{}", lines.collect::<String>()),
            )
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("error: {error}\n")),
    }
}

/// `level=` for all, `paths=name:level,…` for some, `name=level` for one.
fn change(levels: &LogLevels, target: &Target) -> Result<(), LogLevelError> {
    for (name, value) in target.parameters() {
        match name {
            "level" => levels.set_all(value)?,
            "paths" => {
                let pair = |text: &'_ str| {
                    let pair = text.split_once([':', '=']);
                    pair.map(|(n, l)| (n.to_owned(), l.to_owned()))
                        .ok_or_else(|| LogLevelError::Pair(text.to_owned()))
                };
                let pairs: Vec<_> = value.split(',').map(pair).collect::<Result<_, _>>()?;
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(n, l)| (n.as_str(), l.as_str()))
                    .collect();
                levels.set(&pairs)?;
            }
            name => levels.set(&[(name, value)])?,
        }
    }
    Ok(())
}
