//! `%CEL(expression)%` and `%TYPED_CEL(expression)%`, which keeps its type as the only value of a JSON field.

use crate::cel::Expression;
use crate::format::FormatContext;
use crate::stream::stream_info::Capture;
use crate::xds::rejected::Refusal;

#[derive(Clone, Debug)]
pub(in crate::format) struct ExpressionField {
    expression: Expression,
    typed: bool,
}

impl ExpressionField {
    pub(super) fn parse(name: &str, parameters: &str) -> Result<ExpressionField, Refusal> {
        Ok(ExpressionField {
            expression: Expression::parse(parameters)
                .map_err(|refusal| refusal.within(format!("%{name}%")))?,
            typed: name == "TYPED_CEL",
        })
    }

    pub(super) fn capture(&self, capture: &mut Capture) {
        self.expression.capture(capture);
    }

    /// The value with its type, if that is to be kept.
    pub(super) fn structured(
        &self,
        context: &FormatContext<'_>,
    ) -> Option<Option<serde_json::Value>> {
        self.typed.then(|| self.expression.json(context))
    }

    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        self.expression.write(context, out)
    }
}
