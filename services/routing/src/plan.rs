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
}

impl Plan {
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
        }
    }
}
