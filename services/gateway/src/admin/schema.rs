//! What a decision looks like, for the `OpenAPI` document.
//!
//! A decision serialises itself by hand where its parts are shared or shown in short, so that its schema
//! cannot be derived from it. The tests hold the two together.

use routing::{Basis, Candidate, ExpertId, Modifier, Rejected};
use utoipa::ToSchema;

use crate::decision::{Attempt, Caller, Near, Outcome, Path, Reading, Scored};

/// What was decided for one request.
#[derive(ToSchema)]
#[schema(as = Decision)]
#[expect(dead_code, reason = "only described in the document")]
pub(super) struct DecisionSchema {
    /// Its name, as in `x-guildhall-decision`; also the policy's seed.
    #[schema(pattern = "^d-[0-9a-f]{16}$")]
    id: String,
    /// The request's id, as in `x-request-id`.
    request_id: String,
    /// When, in milliseconds since 1970 UTC.
    time_ms: u64,
    /// What was asked for: `chat`, `completions`, `embeddings`, `messages` or `responses`.
    operation: String,
    /// Whether the answer was to be streamed.
    stream: bool,
    /// Whose key the request came with; null where none is needed.
    #[schema(required)]
    caller: Option<Caller>,
    /// What the client tagged the request with, by `x-guildhall-tags`.
    tags: Vec<String>,
    /// The trace that the request belongs to, when it is recorded.
    #[schema(required)]
    trace_id: Option<String>,
    /// The model that the client asked for.
    model: String,
    /// The route, unless the client named an expert.
    #[schema(required)]
    route: Option<ExpertId>,
    /// The route's policy.
    #[schema(required)]
    policy: Option<String>,
    /// What the router did.
    reading: Reading,
    /// The most probable category, where the prompt was read.
    #[schema(required)]
    category: Option<String>,
    /// What the policy saw and planned; null when it was not asked.
    #[schema(required)]
    planned: Option<PlannedSchema>,
    /// The experts that were tried, in order.
    attempts: Vec<Attempt>,
    /// Who answered.
    #[schema(required)]
    expert: Option<ExpertId>,
    /// Which way the answer came about.
    #[schema(required)]
    path: Option<Path>,
    /// The status sent to the client.
    status: u16,
    /// The code of the gateway's own error, when that was the answer.
    #[schema(required)]
    error: Option<String>,
    /// Microseconds that the gateway itself took until the answer's head.
    overhead_us: u64,
    /// Microseconds that the request waited for a place.
    queue_us: u64,
    /// What its wait for experts' weights was; null where no expert that was tried is in a pool.
    #[schema(required)]
    residency: Option<crate::decision::Residency>,
    /// How the answer ended; null while it is under way.
    #[schema(required)]
    outcome: Option<Outcome>,
}

/// A plan with what it was made from.
#[derive(ToSchema)]
#[schema(as = Planned)]
#[expect(dead_code, reason = "only described in the document")]
pub(super) struct PlannedSchema {
    /// The most probable categories, best first.
    categories: Vec<Scored>,
    /// The nearest past prompts, nearest first; only where the policy looks at them, and no more than five.
    neighbours: Vec<Near>,
    /// What the request asks of an expert.
    needs: NeedsSchema,
    /// The expert that holds the tool loop which the request is part of.
    #[schema(required)]
    held_by: Option<ExpertId>,
    /// Score points per unit of cost, where the request named them.
    #[schema(required)]
    lambda: Option<f32>,
    /// What the order of the plan rests on.
    basis: Basis,
    /// Who may answer, best first.
    candidates: Vec<Candidate>,
    /// Who may not, and why.
    rejected: Vec<Rejected>,
    /// The modifiers that changed the policy's plan, in order.
    changed_by: Vec<Modifier>,
}

/// What a request asks of whoever answers it.
#[derive(ToSchema)]
#[schema(as = Needs)]
#[expect(dead_code, clippy::struct_excessive_bools, reason = "only described in the document")]
pub(super) struct NeedsSchema {
    /// Function or tool calling.
    tools: bool,
    /// Image parts in a message.
    vision: bool,
    /// Structured output.
    json_schema: bool,
    /// A streamed answer.
    streaming: bool,
    /// Tokens that prompt and answer need together, estimated; 0 when unknown.
    context_tokens: u32,
}

/// A decision that was only thought through.
#[derive(ToSchema)]
#[schema(as = Explanation)]
#[expect(dead_code, reason = "only described in the document")]
pub(super) struct ExplanationSchema {
    /// The decision; no expert was tried, `expert` is the one that would be tried first.
    #[serde(flatten)]
    decision: DecisionSchema,
    /// The text that the router read.
    text: String,
    /// All categories with their probabilities, best first.
    probabilities: Vec<Scored>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use admission::Gates;
    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    use super::*;
    use crate::catalog::Route;
    use crate::decision::{Decision, DecisionId, Planned};
    use crate::pipeline::Explanation;

    fn keys(value: &Value) -> BTreeSet<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    /// The properties of a schema, all of which are required.
    fn properties(schema: &Value) -> BTreeSet<&str> {
        let required: BTreeSet<&str> =
            schema["required"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        assert_eq!(required, keys(&schema["properties"]));
        required
    }

    #[test]
    fn what_is_described_is_what_is_sent() {
        let spec = json!({"id": "auto", "policy": {"kind": "static", "order": [{"expert": "x"}]}});
        let route = Route::new(&serde_json::from_value(spec).unwrap(), &Gates::default()).unwrap();
        let asked = routing::Request::default();
        let planned = Planned::new(route.into(), asked, Arc::default(), DecisionId(1));
        let decision = Decision { planned: Some(Arc::new(planned)), ..Decision::example(DecisionId(1)) };
        let sent = serde_json::to_value(&decision).unwrap();
        let described = serde_json::to_value(DecisionSchema::schema()).unwrap();
        assert_eq!(keys(&sent), properties(&described));
        let described = serde_json::to_value(PlannedSchema::schema()).unwrap();
        assert_eq!(keys(&sent["planned"]), properties(&described));
        let described = serde_json::to_value(NeedsSchema::schema()).unwrap();
        assert_eq!(keys(&sent["planned"]["needs"]), properties(&described));

        let explanation = Explanation { decision, text: String::new(), probabilities: Vec::new() };
        let sent = serde_json::to_value(&explanation).unwrap();
        let decision = serde_json::to_value(DecisionSchema::schema()).unwrap();
        let described = serde_json::to_value(ExplanationSchema::schema()).unwrap();
        assert_eq!(described["allOf"][0]["$ref"], "#/components/schemas/Decision");
        let own = properties(&described["allOf"][1]);
        let all: BTreeSet<&str> = properties(&decision).union(&own).copied().collect();
        assert_eq!(keys(&sent), all);
    }
}
