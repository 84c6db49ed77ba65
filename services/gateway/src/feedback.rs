//! Outcomes of decisions, as callers and operators report them: kept with what training needs to learn from them.
//!
//! An outcome is durable when it is answered. A line of the export is stored as it will be sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use stores::EmbeddedStore;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::catalog::View;
use crate::config::FeedbackConfig;
use crate::decision::{Decision, DecisionId, DecisionLog, Reading};
use crate::error::{ApiError, ErrorKind};
use crate::metrics::{Name, OfExpert};
use crate::problem::hint;

/// Outcomes that may be on their way to the disk; more are refused at once.
const WRITERS: usize = 16;
/// Longest comment, in characters.
const MOST_COMMENT: usize = 2_000;
/// How often outcomes that are too old are removed.
const SWEEP_EVERY: Duration = Duration::from_hours(1);
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// A word for a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// 1.
    Good,
    /// 0.
    Bad,
}

/// An outcome as it is reported.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The decision's id, from the answer's header `x-guildhall-decision`.
    pub decision: String,
    /// How good the answer was, 0 to 1. Either this or `label`.
    pub score: Option<f32>,
    /// The same by a word.
    pub label: Option<Label>,
    /// Whose answer it was; the one that answered, when not given.
    pub expert: Option<String>,
    /// Anything worth knowing, at most 2000 characters.
    pub comment: Option<String>,
}

/// Who reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "plane", rename_all = "snake_case")]
pub enum Reporter {
    /// Whoever sent the request.
    Data {
        /// The key's id, or the token's subject; null where none is needed.
        #[schema(value_type = Option<String>)]
        key: Option<Arc<str>>,
    },
    /// A holder of an admin token.
    Admin {
        /// The token's name.
        actor: String,
    },
}

/// An outcome as it is kept and exported.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Outcome {
    /// The decision.
    #[schema(value_type = String)]
    pub decision: DecisionId,
    /// When the decision was made, in milliseconds since 1970 UTC.
    pub time_ms: u64,
    /// When the outcome was reported, in milliseconds since 1970 UTC.
    pub reported_ms: u64,
    /// Who reported it.
    pub by: Reporter,
    /// The route; absent when the client named the expert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<ExpertId>,
    /// The route's policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'static str>,
    /// The bundle that read the prompt; probabilities and embeddings of different bundles do not compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bundle: Option<Arc<str>>,
    /// p(c|x) by category; empty where the prompt was not read.
    #[schema(value_type = BTreeMap<String, f32>)]
    pub probabilities: BTreeMap<Arc<str>, f32>,
    /// The prompt's embedding, where `feedback.embeddings` has it kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<f32>>)]
    pub embedding: Option<Arc<[f32]>>,
    /// Whose answer it was.
    pub expert: ExpertId,
    /// How good it was, 0 to 1.
    pub score: f32,
    /// How probable it was that this expert led the plan, where chance took part: for estimates of what other
    /// policies would have done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propensity: Option<f32>,
    /// Anything worth knowing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Takes outcomes.
pub struct Feedback {
    store: Arc<EmbeddedStore>,
    config: FeedbackConfig,
    places: Arc<Semaphore>,
    scores: Family<OfExpert, Histogram, fn() -> Histogram>,
}

impl Feedback {
    /// Keeps outcomes in a store.
    pub fn new(store: Arc<EmbeddedStore>, config: FeedbackConfig, registry: &mut Registry) -> Self {
        let scores: Family<OfExpert, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new([0.0, 0.25, 0.5, 0.75, 1.0]));
        let help = "Reported outcomes, 0 (bad) to 1 (good), by expert";
        registry.register("guildhall_feedback_score", help, scores.clone());
        Self { store, config, places: Arc::new(Semaphore::new(WRITERS)), scores }
    }

    /// The decision that a report is about.
    ///
    /// # Errors
    /// 404 that says for how long decisions are remembered.
    pub fn decision(log: &DecisionLog, report: &Report) -> Result<Arc<Decision>, ApiError> {
        let found = DecisionId::parse(&report.decision).and_then(|id| log.get(id));
        found.ok_or_else(|| Self::forgotten(log, report))
    }

    /// The answer to a report of a decision that is not there.
    pub fn forgotten(log: &DecisionLog, report: &Report) -> ApiError {
        let id: String = report.decision.chars().take(64).collect();
        let message = format!(
            "the decision `{id}` is not remembered; the latest {} are (telemetry.decisions), until a restart",
            log.capacity()
        );
        ApiError::new(ErrorKind::NotFound, message).with_param("decision")
    }

    /// Keeps what is reported of a decision, in the place of what was reported of it and the same expert before.
    ///
    /// # Errors
    /// 422 that names the field; 503 when too much is being written.
    pub async fn take(
        &self,
        report: Report,
        decision: &Decision,
        view: &View,
        by: Reporter,
        now_ms: u64,
    ) -> Result<Outcome, ApiError> {
        if self.config.max_entries == 0 {
            let message = "feedback is turned off here (feedback.max_entries: 0)";
            return Err(ApiError::new(ErrorKind::Forbidden, message));
        }
        let score = report.score()?;
        if report.comment.as_ref().is_some_and(|comment| comment.chars().count() > MOST_COMMENT) {
            return Err(wrong("comment", format!("must have at most {MOST_COMMENT} characters")));
        }
        let expert = expert_of(report.expert.as_deref(), decision, view)?;
        let features = decision.planned.as_ref().and_then(|p| Some((p, p.request.features.as_ref()?)));
        let bundle = match &decision.reading {
            Reading::Read { bundle, .. } => Some(bundle.clone()),
            Reading::NotNeeded | Reading::Failed { .. } => None,
        };
        let outcome = Outcome {
            decision: decision.id,
            time_ms: decision.time_ms,
            reported_ms: now_ms,
            by,
            route: decision.route.clone(),
            policy: decision.policy,
            bundle,
            probabilities: features.map_or_else(BTreeMap::new, |(planned, features)| {
                let named = planned.fleet.categories.iter().cloned();
                named.zip(features.probabilities.iter().copied()).collect()
            }),
            embedding: features
                .filter(|(_, features)| self.config.embeddings && !features.embedding.is_empty())
                .map(|(_, features)| features.embedding.clone()),
            // Who answered in a leader's place was not drawn, so that 1/P would weigh that outcome wrongly.
            propensity: decision
                .planned
                .as_ref()
                .and_then(|planned| planned.plan.first().filter(|c| c.expert == expert)?.propensity),
            expert,
            score,
            comment: report.comment,
        };
        self.write(&outcome).await?;
        let labels = OfExpert { expert: Name(outcome.expert.clone()) };
        self.scores.get_or_create(&labels).observe(f64::from(score));
        Ok(outcome)
    }

    async fn write(&self, outcome: &Outcome) -> Result<(), ApiError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(ErrorKind::Overloaded, "too many outcomes are being written; send it again later")
        })?;
        let key = format!("{}{}-{}", key_from(outcome.time_ms), outcome.decision, outcome.expert);
        let body = serde_json::to_vec(outcome).map_err(ApiError::internal)?;
        let (store, most) = (self.store.clone(), self.config.max_entries);
        let written = tokio::task::spawn_blocking(move || {
            let _place = place;
            store.record(&key, &body, most)
        });
        written.await.map_err(ApiError::internal)?.map_err(ApiError::internal)
    }

    /// Some lines of the export, in the order of their decisions, and what to go on with; `None` at the end.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn lines(
        &self,
        after: String,
        limit: usize,
    ) -> Result<Option<(Vec<u8>, String, usize)>, ApiError> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.records(&after, limit));
        let records = read.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        let Some((last, _)) = records.last() else { return Ok(None) };
        let (last, count) = (last.clone(), records.len());
        let mut lines = Vec::with_capacity(records.iter().map(|(_, body)| body.len() + 1).sum());
        for (_, body) in records {
            lines.extend(body);
            lines.push(b'\n');
        }
        Ok(Some((lines, last, count)))
    }

    /// Removes outcomes that are too old.
    fn sweep(store: &EmbeddedStore, config: &FeedbackConfig, now_ms: u64) {
        let oldest = now_ms.saturating_sub(u64::from(config.max_age_days) * DAY_MS);
        match store.forget_records(&key_from(oldest)) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "outcomes past feedback.max_age_days were removed"),
            Err(error) => tracing::error!(%error, "outcomes that are too old could not be removed"),
        }
    }

    /// Removes outcomes as they become too old, until `stop`.
    pub(crate) fn keep(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let (store, config) = (self.store.clone(), self.config.clone());
        async move {
            loop {
                let (store, config) = (store.clone(), config.clone());
                let sweep = move || Self::sweep(&store, &config, crate::pipeline::now_ms());
                if let Err(error) = tokio::task::spawn_blocking(sweep).await {
                    tracing::error!(%error, "outcomes that are too old could not be removed");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(SWEEP_EVERY) => {}
                }
            }
        }
    }
}

/// How the keys of decisions of this time begin. Keys sort by time.
pub(crate) fn key_from(time_ms: u64) -> String {
    format!("feedback/{time_ms:014}/")
}

fn wrong(field: &str, problem: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorKind::Unprocessable, format!("{field}: {problem}")).with_param(field)
}

impl Report {
    fn score(&self) -> Result<f32, ApiError> {
        match (self.score, self.label) {
            (Some(score), None) if (0.0..=1.0).contains(&score) => Ok(score),
            (Some(_), None) => Err(wrong("score", "must lie between 0 (bad) and 1 (good)")),
            (None, Some(Label::Good)) => Ok(1.0),
            (None, Some(Label::Bad)) => Ok(0.0),
            (Some(_), Some(_)) => Err(wrong("label", "give either a score or a label, not both")),
            (None, None) => {
                Err(wrong("score", "is missing; give a score from 0 to 1, or a label: good, bad"))
            }
        }
    }
}

/// Whose answer is judged: the expert that is named, if there is one, or the one that answered.
fn expert_of(named: Option<&str>, decision: &Decision, view: &View) -> Result<ExpertId, ApiError> {
    let answered = decision.expert.as_ref();
    let Some(name) = named else {
        let missing = || wrong("expert", "must be given: no expert answered this request");
        return answered.cloned().ok_or_else(missing);
    };
    // The one that answered may have left since.
    let known = || view.experts.get(name).map(|expert| expert.id());
    answered.filter(|expert| expert.as_str() == name).or_else(known).cloned().ok_or_else(|| {
        let shown: String = name.chars().take(128).collect();
        wrong("expert", format!("there is no expert `{shown}`{}", hint(name, view.expert_ids())))
    })
}

#[cfg(test)]
mod tests;
