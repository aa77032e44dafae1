//! `CheckResponse`: what a gRPC service says.

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use http::StatusCode;

use crate::security::ext_authz::verdict::changes::{Change, Changes, How, Invalid};
use crate::security::ext_authz::verdict::denial::Denial;
use crate::security::ext_authz::verdict::{Failure, Outcome, Verdict};
use crate::xds::struct_json::struct_to_json;

/// What the answer comes to.
pub(crate) fn verdict(answer: CheckResponse) -> Verdict {
    let ok = answer.status.as_ref().is_none_or(|status| status.code == 0);
    let mut metadata = answer.dynamic_metadata.as_ref();
    if let Some(HttpResponse::OkResponse(response)) = &answer.http_response
        && response.dynamic_metadata.is_some()
    {
        // The older place for it wins.
        metadata = response.dynamic_metadata.as_ref();
    }
    let metadata = match metadata.map(struct_to_json) {
        Some(serde_json::Value::Object(metadata)) => metadata,
        _ => serde_json::Map::new(),
    };
    let outcome = match (ok, answer.http_response) {
        (true, Some(HttpResponse::OkResponse(response))) => allowed(&response),
        (true, _) => Ok(Outcome::Allowed(Box::default())),
        (false, Some(HttpResponse::ErrorResponse(failure))) => failed(&failure),
        (false, Some(HttpResponse::DeniedResponse(response))) => {
            denial(&response, false).map(|denial| Outcome::Denied(Box::new(denial)))
        }
        (false, _) => Ok(Outcome::Denied(Box::new(Denial::new(
            StatusCode::FORBIDDEN,
        )))),
    };
    Verdict {
        outcome: outcome.into(),
        metadata,
    }
}

/// What the answer comes to for a connection: it has no headers, so none can be wrong.
pub(crate) fn verdict_on_connection(mut answer: CheckResponse) -> Verdict {
    match &mut answer.http_response {
        Some(HttpResponse::OkResponse(response)) => {
            response.headers.clear();
            response.response_headers_to_add.clear();
        }
        Some(HttpResponse::DeniedResponse(response) | HttpResponse::ErrorResponse(response)) => {
            response.headers.clear();
        }
        None => {}
    }
    verdict(answer)
}

fn allowed(response: &OkHttpResponse) -> Result<Outcome, Invalid> {
    let mut changes = Changes::default();
    for option in &response.headers {
        let (name, value) = header(option);
        let how = match is_appended(option) {
            true => How::Append,
            false => How::Set,
        };
        changes.request.push(Change::new(name, value, how)?);
    }
    for option in &response.response_headers_to_add {
        let (name, value) = header(option);
        let how = How::of(option);
        changes
            .response
            .push(Change::of_response(name, value, how)?);
    }
    for name in &response.headers_to_remove {
        changes.remove(name);
    }
    let set = response.query_parameters_to_set.iter();
    changes.set_query = set.map(|p| (p.key.clone(), p.value.clone())).collect();
    changes
        .remove_query
        .clone_from(&response.query_parameters_to_remove);
    Ok(Outcome::Allowed(Box::new(changes.ordered())))
}

/// There is nothing that could be `appended` to, so Envoy leaves such headers out of denials, if not of failures.
fn denial(response: &DeniedHttpResponse, appended: bool) -> Result<Denial, Invalid> {
    let status = status(response).unwrap_or(StatusCode::FORBIDDEN);
    let mut denial = Denial::new(status).with_body(response.body.clone());
    let set = response
        .headers
        .iter()
        .filter(|option| !is_appended(option));
    let behind = response
        .headers
        .iter()
        .filter(|option| appended && is_appended(option));
    for option in set.chain(behind) {
        let (name, value) = header(option);
        denial.add(name, value)?;
    }
    Ok(denial)
}

fn failed(response: &DeniedHttpResponse) -> Result<Outcome, Invalid> {
    Ok(Outcome::Failed(Some(Box::new(Failure {
        has_status: status(response).is_some(),
        denial: denial(response, true)?,
    }))))
}

/// Of requests, Envoy reads the older field and no other.
fn is_appended(option: &HeaderValueOption) -> bool {
    option.append.is_some_and(|append| append.value)
}

/// A final status that the service has chosen.
fn status(response: &DeniedHttpResponse) -> Option<StatusCode> {
    let code = response.status.as_ref()?.code;
    let code = u16::try_from(code).ok().filter(|code| *code >= 200)?;
    StatusCode::from_u16(code).ok()
}

fn header(option: &HeaderValueOption) -> (&str, &[u8]) {
    match &option.header {
        Some(HeaderValue {
            key,
            value,
            raw_value,
        }) => match value.is_empty() {
            true => (key, raw_value),
            false => (key, value.as_bytes()),
        },
        None => ("", &[]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::core::v3::QueryParameter;
    use envoy_types::pb::envoy::r#type::v3::HttpStatus;
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
    use envoy_types::pb::google::rpc::Status;

    use super::*;

    fn option(key: &str, value: &str) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(HeaderValue {
                key: key.into(),
                value: value.into(),
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        }
    }

    fn answer(code: i32, response: Option<HttpResponse>) -> CheckResponse {
        CheckResponse {
            status: Some(Status {
                code,
                ..Status::default()
            }),
            http_response: response,
            ..CheckResponse::default()
        }
    }

    fn text(key: &str, value: &str) -> Struct {
        let kind = Some(Kind::StringValue(value.into()));
        Struct {
            fields: HashMap::from([(key.to_owned(), Value { kind })]),
        }
    }

    #[test]
    fn ok_lets_pass_with_changes() {
        let response = OkHttpResponse {
            headers: vec![option("x-user", "a")],
            headers_to_remove: vec!["authorization".into(), "host".into()],
            response_headers_to_add: vec![option("x-seen", "1")],
            query_parameters_to_set: vec![QueryParameter {
                key: "a".into(),
                value: "b".into(),
            }],
            query_parameters_to_remove: vec!["c".into()],
            dynamic_metadata: Some(text("from", "older")),
        };
        let mut answer = answer(0, Some(HttpResponse::OkResponse(response)));
        answer.dynamic_metadata = Some(text("from", "newer"));
        let verdict = verdict(answer);
        assert_eq!(verdict.metadata["from"], "older");
        let Outcome::Allowed(changes) = verdict.outcome else {
            panic!("{verdict:?}");
        };
        assert_eq!(changes.request.len(), 1);
        assert_eq!(changes.response.len(), 1);
        assert_eq!(changes.remove, ["authorization"]);
        assert!(changes.of_request());
    }

    #[test]
    fn a_status_alone_decides() {
        let outcome = |code| verdict(answer(code, None)).outcome;
        assert!(matches!(outcome(0), Outcome::Allowed(_)));
        assert!(matches!(
            verdict(CheckResponse::default()).outcome,
            Outcome::Allowed(_)
        ));
        for code in [7, 16, 99, -1] {
            let Outcome::Denied(denial) = outcome(code) else {
                panic!("{code}");
            };
            assert_eq!(denial.status, StatusCode::FORBIDDEN);
        }
        // What a denial would say is nothing that lets pass.
        let denied = HttpResponse::DeniedResponse(DeniedHttpResponse::default());
        assert!(matches!(
            verdict(answer(0, Some(denied))).outcome,
            Outcome::Allowed(_)
        ));
        let ok = HttpResponse::OkResponse(OkHttpResponse::default());
        assert!(matches!(
            verdict(answer(7, Some(ok))).outcome,
            Outcome::Denied(_)
        ));
    }

    #[test]
    fn a_denial_has_a_final_status() {
        for (code, status) in [(401, 401), (0, 403), (200, 200), (101, 403), (5000, 403)] {
            let response = DeniedHttpResponse {
                status: Some(HttpStatus { code }),
                ..DeniedHttpResponse::default()
            };
            let response = HttpResponse::DeniedResponse(response);
            let Outcome::Denied(denial) = verdict(answer(7, Some(response))).outcome else {
                panic!("{code}");
            };
            assert_eq!(denial.status, status);
        }
    }

    #[test]
    fn what_can_not_be_done_is_told() {
        let response = OkHttpResponse {
            headers: vec![option("a b", "x")],
            ..OkHttpResponse::default()
        };
        let answer = answer(0, Some(HttpResponse::OkResponse(response)));
        let outcome = verdict(answer.clone()).outcome;
        assert!(matches!(outcome, Outcome::Invalid(_)));
        let outcome = verdict_on_connection(answer).outcome;
        assert!(matches!(outcome, Outcome::Allowed(_)));
    }
}
