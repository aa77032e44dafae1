//! Filters of an HTTPRoute, as the Gateway API's CRD lets them through.

use serde::Deserialize;

use crate::standalone::kinds::gateway_api::backend_object::BackendObject;
use crate::standalone::kinds::gateway_api::http_route_match::check_unique;
use crate::standalone::kinds::gateway_api::http_route_match::is_header_name;
use crate::standalone::kinds::gateway_api::http_route_others::{ExtensionRef, ExternalAuth};
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// A filter as it is written: `type` and the one field that belongs to it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WireFilter {
    r#type: String,
    request_header_modifier: Option<HeaderModifier>,
    response_header_modifier: Option<HeaderModifier>,
    request_redirect: Option<Redirect>,
    #[serde(rename = "urlRewrite")]
    url_rewrite: Option<Rewrite>,
    request_mirror: Option<Mirror>,
    cors: Option<Cors>,
    extension_ref: Option<ExtensionRef>,
    external_auth: Option<ExternalAuth>,
}

/// A filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    RequestHeaders(HeaderModifier),
    ResponseHeaders(HeaderModifier),
    Redirect(Redirect),
    Rewrite(Rewrite),
    Mirror(Mirror),
    Cors(Cors),
    /// Known to the API and not honoured, by its type: requests of the rule must not pass.
    NotHonoured(String),
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderModifier {
    pub set: Vec<Header>,
    pub add: Vec<Header>,
    pub remove: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
    pub port: Option<u16>,
    pub status_code: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rewrite {
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    r#type: PathModifierType,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
enum PathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

/// What becomes of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewPath<'a> {
    Full(&'a str),
    Prefix(&'a str),
}

impl PathModifier {
    pub fn new_path(&self) -> NewPath<'_> {
        match self.r#type {
            PathModifierType::ReplaceFullPath => {
                NewPath::Full(self.replace_full_path.as_deref().unwrap_or_default())
            }
            PathModifierType::ReplacePrefixMatch => {
                NewPath::Prefix(self.replace_prefix_match.as_deref().unwrap_or_default())
            }
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let (wanted, other) = match self.r#type {
            PathModifierType::ReplaceFullPath => {
                (&self.replace_full_path, &self.replace_prefix_match)
            }
            PathModifierType::ReplacePrefixMatch => {
                (&self.replace_prefix_match, &self.replace_full_path)
            }
        };
        if wanted.is_none() || other.is_some() {
            return Err(refusal(
                "path",
                "exactly the field named by type must be given",
            ));
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    pub backend_ref: BackendObject,
    pub percent: Option<u32>,
    pub fraction: Option<Fraction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fraction {
    pub numerator: u32,
    #[serde(default = "hundred")]
    pub denominator: u32,
}

fn hundred() -> u32 {
    100
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Cors {
    pub allow_origins: Vec<String>,
    pub allow_credentials: bool,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    pub max_age: Option<u32>,
}

impl WireFilter {
    /// The type as it is written.
    pub(crate) fn type_name(&self) -> &str {
        &self.r#type
    }

    /// The filter that `type` names; its own field must be given and no other.
    pub(crate) fn filter(self) -> Result<Filter, Refusal> {
        let given = [
            self.request_header_modifier.is_some(),
            self.response_header_modifier.is_some(),
            self.request_redirect.is_some(),
            self.url_rewrite.is_some(),
            self.request_mirror.is_some(),
            self.cors.is_some(),
            self.extension_ref.is_some(),
            self.external_auth.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err(refusal(
                "type",
                "exactly the field that belongs to the type must be given",
            ));
        }
        if let Some(auth) = &self.external_auth {
            let at = |(field, reason): Refusal| (format!("externalAuth.{field}"), reason);
            auth.check().map_err(at)?;
        }
        let missing = || refusal("type", "the field that belongs to the type is missing");
        let filter = match self.r#type.as_str() {
            "RequestHeaderModifier" => self.request_header_modifier.map(Filter::RequestHeaders),
            "ResponseHeaderModifier" => self.response_header_modifier.map(Filter::ResponseHeaders),
            "RequestRedirect" => self.request_redirect.map(Filter::Redirect),
            "URLRewrite" => self.url_rewrite.map(Filter::Rewrite),
            "RequestMirror" => self.request_mirror.map(Filter::Mirror),
            "CORS" => self.cors.map(Filter::Cors),
            "ExtensionRef" => self.extension_ref.map(|_| Filter::NotHonoured(self.r#type)),
            "ExternalAuth" => self.external_auth.map(|_| Filter::NotHonoured(self.r#type)),
            other => return Err(refusal("type", format!("unknown filter type {other:?}"))),
        };
        let filter = filter.ok_or_else(missing)?;
        filter.check()?;
        Ok(filter)
    }
}

impl Filter {
    fn check(&self) -> Result<(), Refusal> {
        let under = |name: &'static str| {
            move |(field, reason): Refusal| (format!("{name}.{field}"), reason)
        };
        match self {
            Filter::RequestHeaders(modifier) => {
                modifier.check().map_err(under("requestHeaderModifier"))
            }
            Filter::ResponseHeaders(modifier) => {
                modifier.check().map_err(under("responseHeaderModifier"))
            }
            Filter::Redirect(redirect) => redirect.check().map_err(under("requestRedirect")),
            Filter::Rewrite(rewrite) => rewrite
                .path
                .as_ref()
                .map_or(Ok(()), PathModifier::check)
                .map_err(under("urlRewrite")),
            Filter::Mirror(mirror) => mirror.check().map_err(under("requestMirror")),
            Filter::Cors(_) | Filter::NotHonoured(_) => Ok(()),
        }
    }
}

impl HeaderModifier {
    fn check(&self) -> Result<(), Refusal> {
        check_unique(
            "set",
            true,
            self.set.iter().map(|header| header.name.as_str()),
        )?;
        check_unique(
            "add",
            true,
            self.add.iter().map(|header| header.name.as_str()),
        )?;
        for (field, names) in [
            (
                "set",
                self.set
                    .iter()
                    .map(|header| &header.name)
                    .collect::<Vec<_>>(),
            ),
            ("add", self.add.iter().map(|header| &header.name).collect()),
            ("remove", self.remove.iter().collect()),
        ] {
            if let Some(index) = names.iter().position(|name| !is_header_name(name)) {
                return Err(refusal(format!("{field}[{index}]"), "is no header name"));
            }
        }
        let values = self.set.iter().chain(&self.add);
        if values
            .map(|header| &header.value)
            .any(|value| value.is_empty() || value.len() > 4096)
        {
            return Err(refusal(
                "set",
                "a header's value must have 1 to 4096 characters",
            ));
        }
        Ok(())
    }
}

impl Redirect {
    fn check(&self) -> Result<(), Refusal> {
        if let Some(scheme) = &self.scheme
            && !matches!(scheme.as_str(), "http" | "https")
        {
            return Err(refusal(
                "scheme",
                format!("{scheme:?} is neither http nor https"),
            ));
        }
        if let Some(code) = self.status_code
            && !matches!(code, 301 | 302 | 303 | 307 | 308)
        {
            return Err(refusal(
                "statusCode",
                format!("{code} is no status of a redirect"),
            ));
        }
        if self.port == Some(0) {
            return Err(refusal("port", "must be between 1 and 65535"));
        }
        self.path.as_ref().map_or(Ok(()), PathModifier::check)
    }
}

impl Mirror {
    fn check(&self) -> Result<(), Refusal> {
        if self.percent.is_some() && self.fraction.is_some() {
            return Err(refusal(
                "percent",
                "only one of percent and fraction may be given",
            ));
        }
        if self.percent.is_some_and(|percent| percent > 100) {
            return Err(refusal("percent", "must be between 0 and 100"));
        }
        if let Some(fraction) = self.fraction
            && (fraction.denominator == 0 || fraction.numerator > fraction.denominator)
        {
            return Err(refusal(
                "fraction",
                "numerator must not be above denominator",
            ));
        }
        self.backend_ref
            .check()
            .map_err(|(field, reason)| (format!("backendRef.{field}"), reason))
    }
}
