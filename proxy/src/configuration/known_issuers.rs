//! The issuers of tokens that are to be asked where their keys are, and what of them isn't well.

use std::collections::BTreeMap;

use waypoint_config::standalone::IssuerQuestion;

/// Issuers, and the complaints about them by the address that is asked.
#[derive(Default)]
pub(super) struct KnownIssuers {
    questions: Vec<IssuerQuestion>,
    silent: BTreeMap<String, String>,
}

impl KnownIssuers {
    pub(super) fn new(questions: Vec<IssuerQuestion>) -> KnownIssuers {
        KnownIssuers {
            questions,
            silent: BTreeMap::new(),
        }
    }

    pub(super) fn questions(&self) -> &[IssuerQuestion] {
        &self.questions
    }

    /// Takes those of a new translation; complaints about others are forgotten.
    pub(super) fn replace(&mut self, questions: Vec<IssuerQuestion>) {
        let asked = |address: &String| {
            let mut questions = questions.iter();
            questions.any(|question| question.address.text == *address)
        };
        self.silent.retain(|address, _| asked(address));
        self.questions = questions;
    }

    /// One has said where its keys are.
    pub(super) fn spoke(&mut self, question: &IssuerQuestion) {
        let address = &question.address.text;
        if self.silent.remove(address).is_some() {
            tracing::info!(%address, "the issuer of tokens says where its keys are");
        }
    }

    /// One hasn't; what is new is told.
    pub(super) fn kept_silent(&mut self, question: &IssuerQuestion, reason: &str) {
        let address = &question.address.text;
        let line = format!(
            "an issuer of tokens doesn't say where its keys are: {address}: {reason}; what it said before stays, and without that \
             none of its tokens is accepted"
        );
        if self.silent.get(address) != Some(&line) {
            tracing::warn!("{line}");
            self.silent.insert(address.clone(), line);
        }
    }

    /// For `/problems`.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.silent.values()
    }
}
