//! The container's variables, read as what they are meant to be; an error says which one is wrong, and how.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use waypoint_hbone::identity::IdentityError;

use crate::pod::environment::go_duration;

/// What the container was started with can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    #[error("the environment variable {0} is not set")]
    Missing(&'static str),
    #[error("{name}={value:?}: {reason}")]
    Invalid {
        name: String,
        value: String,
        reason: String,
    },
    #[error("the only proxy type is `waypoint`, not {0:?}")]
    ProxyType(String),
    #[error("{0} is for `waypoint run`; a pod's certificate comes from the mesh's CA")]
    OnlyForRun(String),
    #[error("INSTANCE_IP is not set, and no network interface has an address")]
    NoAddress,
    #[error("the pod's identity: {0}")]
    Identity(#[from] IdentityError),
}

/// A value that can't be understood.
pub(crate) fn invalid(name: &str, value: &str, reason: impl Display) -> EnvironmentError {
    EnvironmentError::Invalid {
        name: name.to_owned(),
        value: value.to_owned(),
        reason: reason.to_string(),
    }
}

/// Variables by name. An empty one is as good as none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    pub(crate) fn new(variables: BTreeMap<String, String>) -> Variables {
        Variables(variables)
    }

    /// Adds those that aren't set yet.
    pub(crate) fn add_missing(&mut self, others: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in others {
            self.0.entry(name).or_insert(value);
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    /// # Errors
    /// It isn't set.
    pub(crate) fn needed(&self, name: &'static str) -> Result<&str, EnvironmentError> {
        self.text(name).ok_or(EnvironmentError::Missing(name))
    }

    /// # Errors
    /// Its value isn't of this type.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, EnvironmentError> {
        self.text(name)
            .map(|text| text.parse().map_err(|error| invalid(name, text, error)))
            .transpose()
    }

    /// # Errors
    /// It is no duration.
    pub(crate) fn duration(
        &self,
        name: &str,
        default: Duration,
    ) -> Result<Duration, EnvironmentError> {
        self.text(name).map_or(Ok(default), |text| {
            go_duration::parse(text).ok_or_else(|| invalid(name, text, go_duration::EXPECTED))
        })
    }

    /// A switch that is off unless it is set, in all the spellings that Go takes.
    ///
    /// # Errors
    /// It is neither true nor false.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, EnvironmentError> {
        match self.text(name) {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some(text) => Err(invalid(name, text, "neither true nor false")),
        }
    }

    /// Those whose name begins so, without the beginning.
    pub(crate) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        let pairs = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        Variables::new(pairs.collect())
    }

    #[test]
    fn values_are_what_they_are_meant_to_be() {
        let set = variables(&[
            ("N", "7\n"),
            ("ON", "True"),
            ("OFF", "0"),
            ("EMPTY", ""),
            ("D", "1m"),
        ]);
        assert_eq!(set.parsed::<u16>("N").unwrap(), Some(7));
        assert_eq!(set.parsed::<u16>("EMPTY").unwrap(), None);
        assert!(set.flag("ON").unwrap());
        assert!(!set.flag("OFF").unwrap() && !set.flag("UNSET").unwrap());
        let minute = Duration::from_secs(60);
        assert_eq!(set.duration("D", Duration::ZERO).unwrap(), minute);
        assert_eq!(set.duration("UNSET", minute).unwrap(), minute);
        assert!(set.needed("EMPTY").is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let set = variables(&[("N", "many"), ("B", "perhaps"), ("D", "soon")]);
        let errors = [
            set.parsed::<u16>("N").unwrap_err(),
            set.flag("B").unwrap_err(),
            set.duration("D", Duration::ZERO).unwrap_err(),
        ];
        for (error, part) in errors
            .iter()
            .zip(["N=\"many\"", "B=\"perhaps\"", "D=\"soon\""])
        {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_set_stays() {
        let mut set = variables(&[("A", "own")]);
        set.add_missing([("A", "other"), ("B", "new")].map(|(k, v)| (k.into(), v.into())));
        assert_eq!((set.text("A"), set.text("B")), (Some("own"), Some("new")));
        let all: Vec<_> = set.with_prefix("").collect();
        assert_eq!(all, [("A", "own"), ("B", "new")]);
    }
}
