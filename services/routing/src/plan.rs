use serde::{Deserialize, Serialize};

use crate::id::ExpertId;

/// A policy's answer: who may answer, best first, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// Best first. The caller tries them in this order until one has sent its first byte.
    pub candidates: Vec<Candidate>,
    /// Experts that were not considered, and what spoke against each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
    /// What the order rests on.
    pub basis: Basis,
    /// The modifiers that changed what the policy had planned, in the order in which they did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed_by: Vec<Modifier>,
}

/// One expert that may answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Candidate {
    /// Who.
    pub expert: ExpertId,
    /// The policy's score; comparable within one plan only.
    pub score: f32,
    /// What put it here.
    pub reason: Reason,
    /// How probable it was that this expert leads, over all seeds. Only where chance takes part: experts drawn by
    /// weight, and exploration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propensity: Option<f32>,
}

/// What changes a policy's plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Modifier {
    /// The previous turn's scores moved an expert.
    Stickiness,
    /// The share of requests that experts had lately moved one.
    Balance,
    /// Candidates were left out, because those before them are probably enough.
    Adaptive,
    /// Experts that are as good as each other were put in another order.
    Ties,
    /// Another expert than the best one leads, by chance.
    Exploration,
}

/// One expert that may not answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Rejected {
    /// Who.
    pub expert: ExpertId,
    /// What spoke against it.
    pub obstacle: Obstacle,
}

/// What the order of a plan rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The classifier was sure enough, and the mapping decided.
    Confident,
    /// The classifier was in doubt, and the robust expert leads.
    Uncertain,
    /// The session is inside a tool loop, and its expert leads.
    Session,
    /// The policy does not look at the prompt.
    Fixed,
    /// There were no features to look at.
    Unread,
}

impl Basis {
    /// The word for it in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confident => "confident",
            Self::Uncertain => "uncertain",
            Self::Session => "session",
            Self::Fixed => "fixed",
            Self::Unread => "unread",
        }
    }
}

/// Why a candidate stands where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Score by the soft mapping: sum over categories of p(c|x) w(c,e), minus lambda times cost.
    ExpectedSkill,
    /// Score by the most probable category alone: w(c*,e), minus lambda times cost.
    CategorySkill,
    /// It is the route's robust expert, and the classifier was in doubt.
    Robust,
    /// It asked for the tool call whose result this request carries.
    HeldSession,
    /// It comes at this place of the configured order.
    Listed,
    /// It was drawn by its weight.
    Weight,
    /// Score by predicted quality (mapping, learnt scorer, or both), minus lambda times cost.
    PredictedQuality,
    /// Score by the outcomes of similar prompts.
    Neighbours,
    /// Score by its gate.
    Gate,
    /// Score by its gate and, mildly, its description.
    GateAndDescription,
    /// Score by its description, which fits some expert so well that it outweighs the gates.
    Description,
    /// Score by similarity to its pilots.
    Pilots,
}

/// What speaks against an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// The request has tools and the expert cannot call them.
    Tools,
    /// The request has images and the expert does not see.
    Vision,
    /// The request wants structured output and the expert does not offer it.
    JsonSchema,
    /// The request wants a stream and the expert does not stream.
    Streaming,
    /// The request does not fit the expert's context.
    Context,
    /// The expert is being drained.
    Draining,
    /// None of the expert's endpoints answers.
    Unhealthy,
    /// The expert is named by the route and not registered.
    Missing,
    /// The expert has no skill in any of the prompt's categories.
    Unskilled,
    /// There is neither a skill nor a scorer from which its quality could be predicted.
    NoEstimate,
    /// No similar prompt with an outcome of the expert is remembered.
    NoNeighbours,
    /// The expert has no gate for this router's encoder.
    NoGate,
    /// The expert has no pilots for this router's encoder.
    NoPilots,
    /// The expert has no description that was embedded.
    NoDescription,
    /// The prompt was not read, or not as far as the policy needs it.
    Unread,
    /// The expert is not one of the two that the policy chooses from.
    NotInPair,
    /// The candidates before it are probably enough.
    Improbable,
}

impl Plan {
    /// How many of the leading candidates are there by rule and not by score: the session's, the robust one.
    /// Modifiers leave them where they are.
    pub(crate) fn pinned(&self) -> usize {
        let by_rule = |c: &&Candidate| matches!(c.reason, Reason::HeldSession | Reason::Robust);
        self.candidates.iter().take_while(by_rule).count()
    }

    /// The leading candidate.
    pub fn first(&self) -> Option<&Candidate> {
        self.candidates.first()
    }
}

impl Obstacle {
    /// The obstacle as it is named in records, and in messages after "the expert ...".
    pub fn describe(self) -> &'static str {
        match self {
            Self::Tools => "does not call tools",
            Self::Vision => "does not accept images",
            Self::JsonSchema => "does not offer structured output",
            Self::Streaming => "does not stream",
            Self::Context => "has too short a context for this request",
            Self::Draining => "is being drained",
            Self::Unhealthy => "is not healthy",
            Self::Missing => "is not registered",
            Self::Unskilled => "has no skill for this prompt",
            Self::NoEstimate => "has neither a skill nor a scorer to predict its quality from",
            Self::NoNeighbours => "has no remembered outcome near this prompt",
            Self::NoGate => "has no gate for this encoder",
            Self::NoPilots => "has no pilots for this encoder",
            Self::NoDescription => "has no embedded description",
            Self::Unread => "was not scored, because the prompt was not read",
            Self::NotInPair => "is not one of the route's pair",
            Self::Improbable => "was cut, because those before it are probably enough",
        }
    }
}
