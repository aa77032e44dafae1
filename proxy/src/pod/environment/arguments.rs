//! The container's arguments: those of Istio's agent, which tolerates flags that it doesn't know. So does this.

use tracing_subscriber::filter::LevelFilter;

use crate::pod::environment::variables::{EnvironmentError, invalid};

/// What the arguments say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) domain: Option<String>,
    pub(crate) service_cluster: Option<String>,
    pub(crate) concurrency: Option<u16>,
    pub(crate) outlier_log_path: Option<String>,
    pub(crate) log: LogSettings,
    /// Given, understood, and without effect.
    pub(crate) ignored: Vec<String>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) level: LevelFilter,
    pub(crate) json: bool,
    pub(crate) stdout: bool,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            level: LevelFilter::INFO,
            json: false,
            stdout: false,
        }
    }
}

/// Flags without a value; `--flag word` must not swallow the word.
const SWITCHES: &[&str] = &["--log_as_json", "--log_caller", "--profiling"];

impl Arguments {
    /// # Errors
    /// Another proxy type, a value that can't be read, or a flag that would weaken a pod.
    pub(crate) fn parse(words: &[String]) -> Result<Arguments, EnvironmentError> {
        let mut arguments = Arguments::default();
        let mut levels = Vec::new();
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            if !word.starts_with('-') {
                proxy_type(word)?;
                continue;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None if SWITCHES.contains(&word.as_str()) => (word.as_str(), None),
                None => {
                    let value = words.next_if(|next| !next.starts_with('-'));
                    (word.as_str(), value.map(String::as_str))
                }
            };
            match (name, value) {
                ("--domain", Some(value)) => arguments.domain = Some(value.to_owned()),
                ("--serviceCluster", Some(value)) => {
                    arguments.service_cluster = Some(value.to_owned());
                }
                ("--concurrency", Some(value)) => {
                    let threads = value.parse().map_err(|e| invalid(name, value, e))?;
                    arguments.concurrency = Some(threads);
                }
                ("--log_output_level" | "--proxyLogLevel", Some(value)) => {
                    levels.extend(arguments.levels(name, value)?);
                }
                ("--log_as_json", value) => arguments.log.json = value != Some("false"),
                ("--log_target", Some("stdout")) => arguments.log.stdout = true,
                ("--log_target", Some("stderr")) => arguments.log.stdout = false,
                ("--outlierLogPath", Some(value)) => {
                    arguments.outlier_log_path = Some(value.to_owned());
                    arguments.ignored.push(name.to_owned());
                }
                ("--dev-ca" | "--certs", _) => {
                    return Err(EnvironmentError::OnlyForRun(name.to_owned()));
                }
                (name, _) => arguments.ignored.push(name.to_owned()),
            }
        }
        // One process stands for the agent and for Envoy: whoever wants to see more does.
        if let Some(level) = levels.into_iter().max() {
            arguments.log.level = level;
        }
        Ok(arguments)
    }

    /// `LEVEL` or `SCOPE:LEVEL`, comma-separated; the scopes are not ours, but for the default one.
    fn levels(&mut self, flag: &str, text: &str) -> Result<Vec<LevelFilter>, EnvironmentError> {
        let mut levels = Vec::new();
        for part in text.split(',') {
            let (scope, name) = part.split_once(':').unwrap_or(("default", part));
            let level = level(name).ok_or_else(|| invalid(flag, text, "no such level"))?;
            if matches!(scope, "default" | "all") {
                levels.push(level);
            } else {
                self.ignored.push(format!("{flag} {scope}"));
            }
        }
        Ok(levels)
    }
}

fn proxy_type(word: &str) -> Result<(), EnvironmentError> {
    if word == "waypoint" {
        Ok(())
    } else {
        Err(EnvironmentError::ProxyType(word.to_owned()))
    }
}

/// A level as Istio's agent or Envoy calls it.
fn level(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" | "warning" => LevelFilter::WARN,
        "error" | "fatal" | "critical" => LevelFilter::ERROR,
        "none" | "off" => LevelFilter::OFF,
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, EnvironmentError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Arguments::parse(&words)
    }

    #[test]
    fn what_the_template_renders_is_understood() {
        let line = "waypoint --domain default.svc.cluster.local --serviceCluster waypoint.default \
            --proxyLogLevel warning --proxyComponentLogLevel misc:error --log_output_level default:info \
            --log_as_json --outlierLogPath=/dev/stdout";
        let expected = Arguments {
            domain: Some("default.svc.cluster.local".into()),
            service_cluster: Some("waypoint.default".into()),
            concurrency: None,
            outlier_log_path: Some("/dev/stdout".into()),
            log: LogSettings {
                level: LevelFilter::INFO,
                json: true,
                stdout: false,
            },
            ignored: vec!["--proxyComponentLogLevel".into(), "--outlierLogPath".into()],
        };
        assert_eq!(parse(line).unwrap(), expected);
    }

    #[test]
    fn the_more_talkative_level_counts() {
        let level = |line| parse(line).unwrap().log.level;
        assert_eq!(level("waypoint"), LevelFilter::INFO);
        assert_eq!(
            level("--proxyLogLevel debug --log_output_level default:info"),
            LevelFilter::DEBUG
        );
        assert_eq!(
            level("--proxyLogLevel off --log_output_level all:none"),
            LevelFilter::OFF
        );
        assert_eq!(level("--log_output_level warn"), LevelFilter::WARN);
        let scoped =
            parse("--log_output_level ads:debug,default:warn --proxyLogLevel error,rbac:debug");
        let scoped = scoped.unwrap();
        assert_eq!(scoped.log.level, LevelFilter::WARN);
        assert_eq!(
            scoped.ignored,
            ["--log_output_level ads", "--proxyLogLevel rbac"]
        );
    }

    #[test]
    fn unknown_flags_are_tolerated_and_named() {
        let arguments = parse("--stsPort=15463 --templateFile a.json --profiling waypoint --new");
        assert_eq!(
            arguments.unwrap().ignored,
            ["--stsPort", "--templateFile", "--profiling", "--new"]
        );
        let arguments = parse("waypoint --log_target stdout --concurrency 4").unwrap();
        assert!(arguments.log.stdout && arguments.ignored.is_empty());
        assert_eq!(arguments.concurrency, Some(4));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, part) in [
            ("sidecar", "sidecar"),
            ("waypoint --domain x router", "router"),
            ("waypoint --concurrency many", "--concurrency"),
            ("waypoint --log_output_level default:loud", "loud"),
            ("waypoint --dev-ca ca", "--dev-ca"),
            ("waypoint --certs=dir", "--certs"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
