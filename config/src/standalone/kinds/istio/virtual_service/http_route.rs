//! A rule of `http`: which requests, and what becomes of them.

use std::time::Duration;

use serde::Deserialize;

use crate::standalone::input::duration::optional_duration;
use crate::standalone::kinds::core::config_map::RetryPolicy;
use crate::standalone::kinds::istio::virtual_service::answer::{DirectResponse, Redirect};
use crate::standalone::kinds::istio::virtual_service::destination::{
    Destination, Headers, HttpDestination, check_weights, is_authority,
};
use crate::standalone::kinds::istio::virtual_service::http_match::HttpMatch;
use crate::standalone::kinds::istio::virtual_service::http_policy::{
    CorsPolicy, Fault, Mirror, Percent, Rewrite, check_duration, check_retries, check_share,
};
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpRoute {
    pub name: String,
    /// Empty: all requests.
    pub r#match: Vec<HttpMatch>,
    pub route: Vec<HttpDestination>,
    pub redirect: Option<Redirect>,
    pub direct_response: Option<DirectResponse>,
    pub delegate: Option<Delegate>,
    pub rewrite: Option<Rewrite>,
    #[serde(deserialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
    pub retries: Option<RetryPolicy>,
    pub fault: Option<Fault>,
    pub mirror: Option<Destination>,
    pub mirrors: Vec<Mirror>,
    /// Of a hundred; where there is no `mirrorPercentage`.
    #[serde(alias = "mirror_percent")]
    pub mirror_percent: Option<u32>,
    pub mirror_percentage: Option<Percent>,
    pub cors_policy: Option<CorsPolicy>,
    pub headers: Option<Headers>,
}

/// The VirtualService without hosts whose rules stand in for this one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delegate {
    pub name: String,
    pub namespace: String,
}

impl HttpRoute {
    /// `in_delegate`: it stands in a VirtualService without hosts.
    pub(super) fn check(&self, in_delegate: bool) -> Result<(), Refusal> {
        self.check_action(in_delegate)?;
        for (index, found) in self.r#match.iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("match[{index}].{field}"), reason);
            found.check().map_err(at)?;
        }
        let at = |name: &'static str| {
            move |(field, reason): Refusal| match field.as_str() {
                "" => (name.to_owned(), reason),
                field => (format!("{name}.{field}"), reason),
            }
        };
        if let Some(headers) = &self.headers {
            headers.check().map_err(at("headers"))?;
        }
        if let Some(cors) = &self.cors_policy {
            cors.check().map_err(at("corsPolicy"))?;
        }
        if let Some(fault) = &self.fault {
            fault.check().map_err(at("fault"))?;
        }
        if let Some(redirect) = &self.redirect {
            redirect.check(&self.r#match).map_err(at("redirect"))?;
        }
        if let Some(response) = &self.direct_response {
            response.check().map_err(at("directResponse"))?;
        }
        if let Some(retries) = &self.retries {
            check_retries(retries).map_err(at("retries"))?;
        }
        if let Some(rewrite) = &self.rewrite {
            rewrite.check().map_err(at("rewrite"))?;
        }
        self.check_mirrors()?;
        self.check_authority()?;
        for (index, destination) in self.route.iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("route[{index}].{field}"), reason);
            destination.check().map_err(at)?;
        }
        let weights: Vec<i32> = self.route.iter().map(|to| to.weight).collect();
        check_weights(&weights)?;
        check_duration("timeout", self.timeout)
    }

    /// What excludes what.
    fn check_action(&self, in_delegate: bool) -> Result<(), Refusal> {
        let given = [
            ("route", !self.route.is_empty()),
            ("fault", self.fault.is_some()),
            ("rewrite", self.rewrite.is_some()),
            ("directResponse", self.direct_response.is_some()),
            ("redirect", self.redirect.is_some()),
        ];
        let one_of = |names: &[&str]| {
            let found = given
                .iter()
                .find(|(name, given)| *given && names.contains(name));
            found.map(|(name, _)| *name)
        };
        if self.delegate.is_some() && in_delegate {
            return Err(refusal("delegate", "a delegate has none of its own"));
        }
        if self.delegate.is_some() {
            return match one_of(&["route", "redirect"]) {
                Some(name) => Err(refusal(name, "must not be given with delegate")),
                None => Ok(()),
            };
        }
        let (action, others) = if self.redirect.is_some() {
            (
                "redirect",
                &["route", "fault", "rewrite", "directResponse"][..],
            )
        } else if self.direct_response.is_some() {
            ("directResponse", &["route", "fault", "rewrite"][..])
        } else if self.route.is_empty() {
            return Err(refusal(
                "route",
                "route, redirect or directResponse is required",
            ));
        } else {
            ("route", &[][..])
        };
        match one_of(others) {
            Some(name) => Err(refusal(name, format!("must not be given with {action}"))),
            None => Ok(()),
        }
    }

    fn check_mirrors(&self) -> Result<(), Refusal> {
        if self.mirror.is_some() && !self.mirrors.is_empty() && self.delegate.is_none() {
            return Err(refusal("mirrors", "must not be given with mirror"));
        }
        if self.mirror_percent.is_some_and(|percent| percent > 100) {
            return Err(refusal("mirrorPercent", "is above 100"));
        }
        check_share("mirrorPercentage", self.mirror_percentage)?;
        if let Some(mirror) = &self.mirror {
            let at = |(field, reason): Refusal| (format!("mirror.{field}"), reason);
            mirror.check().map_err(at)?;
        }
        for (index, mirror) in self.mirrors.iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("mirrors[{index}].{field}"), reason);
            mirror.check().map_err(at)?;
        }
        Ok(())
    }

    /// One place may say what the authority becomes.
    fn check_authority(&self) -> Result<(), Refusal> {
        let rewritten = self.rewrite.iter().map(|rewrite| &rewrite.authority);
        let request = self.headers.iter().map(|headers| &headers.request);
        let headers = request.flat_map(|request| request.set.iter().chain(&request.add));
        let set = headers.filter(|(name, _)| is_authority(name));
        let all = rewritten.chain(set.map(|(_, value)| value));
        if all.filter(|value| !value.is_empty()).count() > 1 {
            return Err(refusal(
                "headers.request",
                "the authority may be set only once",
            ));
        }
        Ok(())
    }

    /// Every destination, of mirrors, too.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let route = self.route.iter().map(|to| &to.destination);
        let mirrors = self.mirrors.iter().map(|mirror| &mirror.destination);
        route.chain(&self.mirror).chain(mirrors)
    }

    pub(super) fn resolve(&mut self, namespace: &str) {
        let route = self.route.iter_mut().map(|to| &mut to.destination);
        let mirrors = self
            .mirrors
            .iter_mut()
            .map(|mirror| &mut mirror.destination);
        let all = route.chain(&mut self.mirror).chain(mirrors);
        all.for_each(|to| to.resolve(namespace));
    }
}
