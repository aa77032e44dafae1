//! Values in the rules of an AuthorizationPolicy, as Istio's admission checks them.

use waypoint_filters::matcher::uri_template::is_literal;

use crate::standalone::kinds::refusal::{Refusal, refusal};

pub(super) type Check = fn(&str) -> Result<(), String>;

/// Every value of every list; at least one list must have a value.
pub(super) fn check_lists(lists: &[(&str, &[String], Check)]) -> Result<(), Refusal> {
    if lists.iter().all(|(_, values, _)| values.is_empty()) {
        return Err(refusal("", "must not be empty"));
    }
    for (name, values, check) in lists {
        for (index, value) in values.iter().enumerate() {
            check(value).map_err(|reason| (format!(".{name}[{index}]"), reason))?;
        }
    }
    Ok(())
}

pub(super) fn filled(value: &str) -> Result<(), String> {
    if value.is_empty() {
        Err("must not be empty".to_owned())
    } else {
        Ok(())
    }
}

pub(super) fn port(value: &str) -> Result<(), String> {
    value
        .parse::<u16>()
        .map(drop)
        .map_err(|_| format!("{value:?} is no port"))
}

pub(super) fn ip_block(value: &str) -> Result<(), String> {
    let block = value.parse::<ipnet::IpNet>().is_ok() || value.parse::<std::net::IpAddr>().is_ok();
    if block {
        Ok(())
    } else {
        Err(format!("{value:?} is no IP address or CIDR range"))
    }
}

pub(super) fn service_account(value: &str) -> Result<(), String> {
    let parts: Vec<&str> = value.split('/').collect();
    if parts.len() > 2
        || parts.iter().any(|part| part.is_empty())
        || value.contains('*')
        || value.len() > 320
    {
        return Err(format!(
            "{value:?} is not of the form [namespace/]serviceAccount"
        ));
    }
    Ok(())
}

pub(super) fn trust_domain(value: &str) -> Result<(), String> {
    let stars = value.matches('*').count();
    let placed = stars == 0 || value.starts_with('*') || value.ends_with('*');
    if value.is_empty() || value.contains('/') || stars > 1 || !placed {
        return Err(format!("{value:?} is no trust domain"));
    }
    Ok(())
}

/// A literal or wildcard path, or a template with `{*}` and, last, `{**}`.
pub(super) fn path(value: &str) -> Result<(), String> {
    filled(value)?;
    let is_template = value.contains("{*}") || value.contains("{**}");
    let mut ended = false;
    for part in value.trim_matches('/').split('/') {
        match part {
            "{*}" | "{**}" if ended => {
                return Err(format!("{value:?}: {{**}} must be the last operator"));
            }
            "{*}" => {}
            "{**}" => ended = true,
            part if part.contains(['{', '}']) || (is_template && part.contains('*')) => {
                return Err(format!("{value:?} is no path template"));
            }
            part if is_template => {
                if let Some(c) = part.chars().find(|c| !is_literal(*c)) {
                    return Err(format!("{value:?}: a template can't have {c:?}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
