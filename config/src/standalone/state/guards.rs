//! Which objects of kinds that aren't honoured guard something, and so close what they target.

use serde_json::Value;

/// Whether an object with this `spec` guards anything.
pub(super) type Guards = fn(Option<&Value>) -> bool;

pub(super) fn always(_: Option<&Value>) -> bool {
    true
}

/// An extension that the user lets fail open guards nothing.
pub(super) fn unless_it_fails_open(spec: Option<&Value>) -> bool {
    let strategy = spec.and_then(|spec| spec.get("failStrategy"));
    strategy.and_then(Value::as_str) != Some("FAIL_OPEN")
}

/// An EnvoyFilter in which no guarding filter is named guards nothing.
pub(super) fn if_it_names_a_guard(spec: Option<&Value>) -> bool {
    const GUARDS: &[&str] = &[
        "rbac",
        "ext_authz",
        "jwt_authn",
        "oauth2",
        "basic_auth",
        "api_key_auth",
        "csrf",
        "ratelimit",
        "lua",
        "wasm",
        "ext_proc",
        "golang",
        "dynamic_modules",
        "credential",
    ];
    let text = spec.map(ToString::to_string).unwrap_or_default();
    let text = text.to_ascii_lowercase();
    GUARDS.iter().any(|name| text.contains(name))
}
