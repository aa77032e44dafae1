//! `sessionPersistence` of a rule: a client's requests stay with the endpoint that had its first one.

use std::time::Duration;

use serde::Deserialize;

use crate::standalone::input::duration::parse_duration;
use crate::standalone::kinds::refusal::Refusal;
use crate::standalone::kinds::refusal::refusal;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SessionPersistence {
    session_name: Option<String>,
    absolute_timeout: Option<String>,
    r#type: SessionType,
    cookie_config: Option<CookieConfig>,
}

/// How the client tells which session it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum SessionType {
    #[default]
    Cookie,
    Header,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct CookieConfig {
    lifetime_type: LifetimeType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum LifetimeType {
    #[default]
    Session,
    Permanent,
}

impl SessionPersistence {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let Some(cookie) = &self.cookie_config else {
            return Ok(());
        };
        if self.r#type != SessionType::Cookie {
            return Err(refusal("cookieConfig", "is only for type Cookie"));
        }
        if cookie.lifetime_type == LifetimeType::Permanent && self.absolute_timeout.is_none() {
            let reason = "is required for cookies of lifetimeType Permanent";
            return Err(refusal("absoluteTimeout", reason));
        }
        Ok(())
    }

    pub fn kind(&self) -> SessionType {
        self.r#type
    }

    /// The name of the cookie or header, if one is given.
    pub fn name(&self) -> Option<&str> {
        self.session_name.as_deref().filter(|name| !name.is_empty())
    }

    /// How long the client keeps its cookie, and the session lasts; `None`: until the client ends it.
    pub fn lifetime(&self) -> Option<Duration> {
        let cookie = self.cookie_config.as_ref()?;
        let text = self.absolute_timeout.as_deref();
        let text = text.filter(|_| cookie.lifetime_type == LifetimeType::Permanent);
        text.and_then(parse_duration)
    }

    /// Whether a time is given that nobody sees to.
    pub fn has_unheeded_timeout(&self) -> bool {
        self.absolute_timeout.is_some() && self.lifetime().is_none()
    }
}
