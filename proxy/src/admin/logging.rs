//! `/logging`: log levels, shown and changed.

use http::StatusCode;

use crate::admin::answer::{Answer, text};
use crate::admin::target::Target;
use crate::logs::levels::{LogLevelError, LogLevels};

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
levels: trace debug info warning error critical off
";

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
        Err(error) => text(
            StatusCode::BAD_REQUEST,
            format!("error: {error}\n\n{USAGE}"),
        ),
    }
}

/// `level=` for all, `paths=name:level,…` for some, `group=name:level` and `name=level` for one.
fn change(levels: &LogLevels, target: &Target) -> Result<(), LogLevelError> {
    for (name, value) in target.parameters() {
        match name {
            "level" => levels.set_all(value)?,
            // Of Envoy's groups, which are parts of its source, there are none but those of one.
            "paths" | "group" => {
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
