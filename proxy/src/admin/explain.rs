//! `/explain`: what would become of a request by what is in force now.

use http::StatusCode;

use crate::admin::Admin;
use crate::admin::answer::{self, Answer, text};
use crate::admin::target::Target;
use crate::explain::explain;
use crate::explain::question::{Question, Words};

impl Admin {
    pub(super) fn explain(&self, target: &Target) -> Answer {
        let words = Words::from_parameters(target.parameters());
        let own = self.tls.certificate().map(|own| own.identity().clone());
        let trust_domain = own
            .as_ref()
            .map_or("cluster.local", |own| own.trust_domain());
        let question = match Question::new(&words, trust_domain) {
            Ok(question) => question,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let Some(snapshot) = self.snapshot.load() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "no configuration yet\n");
        };
        let report = explain(&snapshot, own, &question);
        match target.get("format") {
            Some("json") => answer::json(&report.to_json()),
            _ => text(StatusCode::OK, report.to_string()),
        }
    }
}
