//! Nothing is skipped in silence: what is left of a message once its honoured fields are taken out.
//!
//! A conversion copies its message, puts the default into every field that it honours or knows to be
//! harmless, and hands the rest here: any field that is still set is refused by its name.

use std::fmt::Debug;

use waypoint_filters::rejected::Refusal;

/// Refuses a message in which a field is set.
pub(crate) fn nothing_left<M: Debug + Default + PartialEq>(rest: &M) -> Result<(), Refusal> {
    let empty = M::default();
    if *rest == empty {
        return Ok(());
    }
    Err(Refusal::unsupported(first_difference(rest, &empty)))
}

/// The first field that differs, read off the derived `Debug` form: a field is a line at depth one.
fn first_difference<M: Debug>(rest: &M, empty: &M) -> String {
    let (rest, empty) = (format!("{rest:#?}"), format!("{empty:#?}"));
    let field = |line: &str| {
        let name = line.strip_prefix("    ")?;
        (!name.starts_with(' ')).then(|| name.split(':').next().map(str::to_owned))?
    };
    let mut last = None;
    for (a, b) in rest.lines().zip(empty.lines()) {
        last = field(a).or(last);
        if a != b {
            break;
        }
    }
    last.unwrap_or_else(|| "a field".to_owned())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::VirtualHost;

    use super::*;

    #[test]
    fn names_the_field_that_is_left() {
        assert!(nothing_left(&VirtualHost::default()).is_ok());
        let rest = VirtualHost {
            include_request_attempt_count: true,
            ..VirtualHost::default()
        };
        let refused = nothing_left(&rest).map_err(|e| e.to_string());
        assert_eq!(
            refused,
            Err("include_request_attempt_count: is not supported".to_owned())
        );
    }
}
