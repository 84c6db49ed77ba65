//! The decision record: what was asked, what the router read, what the policy planned, who answered.
//!
//! A record never holds the prompt. It holds all that the policy saw (request, fleet and seed), so that the
//! plan can be computed again. The most recent ones are kept in memory, in a ring of fixed length.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use routing::{Candidate, ExpertId, Modifier, Plan, Policy, Rejected};
use serde::Serialize;
use tiers::owner::Found;
use utoipa::ToSchema;

use crate::catalog::Route;

/// Names a decision: `d-` and 16 hexadecimal digits. It is also the policy's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionId(pub u64);

impl std::fmt::Display for DecisionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

impl DecisionId {
    /// The form that [`std::fmt::Display`] writes.
    pub fn text(self) -> String {
        self.named("d-")
    }

    /// Its 16 hexadecimal digits after a prefix. Every answer has two such names, which is why they are not
    /// left to the formatter.
    pub(crate) fn named(self, prefix: &str) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(prefix.len() + 16);
        text.push_str(prefix);
        for shift in (0..16).rev() {
            text.push(char::from(DIGITS[(self.0 >> (4 * shift)) as usize & 15]));
        }
        text
    }

    /// Reads the form that [`std::fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("d-").filter(|h| h.len() == 16)?;
        u64::from_str_radix(hex, 16).ok().map(Self)
    }
}

impl Serialize for DecisionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which way an answer came about; the value of `x-guildhall-path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// An expert of the plan answered.
    Upstream,
    /// A fixed reply.
    Constant,
    /// A refusal by an expert of kind `reject`.
    Reject,
    /// The route's default expert answered, because the router was late or broken or nobody else did.
    Fallback,
}

impl Path {
    /// The header's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Constant => "constant",
            Self::Reject => "reject",
            Self::Fallback => "fallback",
        }
    }
}

/// What the router did for a request.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Reading {
    /// The policy does not look at the prompt, or the client named the expert.
    NotNeeded,
    /// The prompt was read.
    Read {
        /// The id of the bundle that read it.
        #[schema(value_type = String)]
        bundle: Arc<str>,
        /// Who decided: `first`, the bundle's first stage, from tokens alone; `encoder`, the neural encoder.
        stage: &'static str,
        /// `hit`: decided before and remembered; `joined`: another request was asking the same; `miss`.
        cache: &'static str,
        /// Tokens of the prompt.
        tokens: u32,
        /// Tokens that the router did not see, between head and tail.
        truncated_tokens: u32,
        /// Microseconds in the encoder's queue.
        queue_us: u64,
        /// Microseconds of the forward pass.
        forward_us: u64,
    },
    /// The router was late or broken; the default expert answers.
    Failed {
        /// Why.
        reason: String,
    },
}

/// One try of one expert, at one of its endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Attempt {
    /// Who.
    pub expert: ExpertId,
    /// Where; absent for an expert without an upstream and for one that was not called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<Arc<str>>,
    /// The HTTP status it answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong, when there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub error: Option<Cow<'static, str>>,
    /// Microseconds from the request's arrival to its start.
    pub started_us: u64,
    /// Microseconds until its head was there or the try was given up.
    pub duration_us: u64,
    /// Whether it was a second try beside one that had not answered yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hedge: bool,
    /// Microseconds that were waited before it.
    #[serde(skip_serializing_if = "is_zero")]
    pub backoff_us: u64,
}

impl Attempt {
    /// A try of an expert of which nothing is known yet.
    pub fn new(expert: ExpertId) -> Self {
        Self {
            expert,
            endpoint: None,
            status: None,
            error: None,
            started_us: 0,
            duration_us: 0,
            hedge: false,
            backoff_us: 0,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Caller {
    /// The key's id, or the token's subject.
    #[schema(value_type = String)]
    pub key: Arc<str>,
    /// The team that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub team: Option<Arc<str>>,
}

/// A category with its probability.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Scored {
    /// The label.
    #[schema(value_type = String)]
    pub category: Arc<str>,
    /// p(c|x).
    pub probability: f32,
}

/// A past prompt that the policy looked at.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Neighbour)]
pub struct Near {
    /// Its name in the memory.
    #[schema(value_type = String)]
    pub id: Arc<str>,
    /// Cosine of its embedding and the prompt's.
    pub similarity: f32,
    /// Scores from 0 to 1 that experts had on it.
    pub outcomes: BTreeMap<ExpertId, f32>,
}

/// What was decided for one request.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// Its name, and the policy's seed.
    pub id: DecisionId,
    /// The request's id.
    pub request_id: String,
    /// When, in milliseconds since 1970 UTC.
    pub time_ms: u64,
    /// What was asked for: `chat`, `completions`, `embeddings`, `messages` or `responses`.
    pub operation: &'static str,
    /// Whether the answer was to be streamed.
    pub stream: bool,
    /// Whose key the request came with; null where none is needed.
    pub caller: Option<Caller>,
    /// What the client tagged the request with.
    pub tags: Vec<String>,
    /// The trace that the request belongs to, when it is recorded.
    pub trace_id: Option<String>,
    /// The model that the client asked for.
    pub model: String,
    /// The route, unless the client named an expert.
    pub route: Option<ExpertId>,
    /// The route's policy.
    pub policy: Option<&'static str>,
    /// What the router did.
    pub reading: Reading,
    /// The most probable category, where the prompt was read.
    pub category: Option<Arc<str>>,
    /// What the policy saw, and the plan it made of it.
    pub planned: Option<Arc<Planned>>,
    /// The experts that were tried, in order.
    pub attempts: Vec<Attempt>,
    /// Who answered.
    pub expert: Option<ExpertId>,
    /// Which way.
    pub path: Option<Path>,
    /// The status sent to the client.
    pub status: u16,
    /// The code of the gateway's own error, when that was the answer.
    pub error: Option<&'static str>,
    /// Microseconds that the gateway itself took until the answer's head.
    pub overhead_us: u64,
    /// Microseconds that the request waited for a place.
    pub queue_us: u64,
    /// What its wait for experts' weights was; none where no expert that was tried is in a pool.
    pub residency: Option<Residency>,
    /// How the answer ended; absent while it is under way.
    #[serde(serialize_with = "when_set")]
    pub outcome: OnceLock<Outcome>,
}

#[cfg(test)]
impl Decision {
    /// A record of a request that nothing is known of yet.
    pub(crate) fn example(id: DecisionId) -> Self {
        Self {
            id,
            request_id: "r".into(),
            time_ms: 0,
            operation: "chat",
            stream: false,
            caller: None,
            tags: Vec::new(),
            trace_id: None,
            model: "auto".into(),
            route: None,
            policy: None,
            reading: Reading::NotNeeded,
            category: None,
            planned: None,
            attempts: Vec::new(),
            expert: None,
            path: None,
            status: 200,
            error: None,
            overhead_us: 0,
            queue_us: 0,
            residency: None,
            outcome: OnceLock::new(),
        }
    }
}

fn when_set<S: serde::Serializer>(outcome: &OnceLock<Outcome>, serializer: S) -> Result<S::Ok, S::Error> {
    outcome.get().serialize(serializer)
}

/// A request's wait for weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Residency {
    /// Where the last expert that was waited for was when the request came to it.
    pub found: Found,
    /// Microseconds waited, for all experts together.
    pub waited_us: u64,
}

/// A plan with all that it was made from.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The route whose policy planned, as it was then.
    pub route: Arc<Route>,
    /// What the policy knew about the request.
    pub request: routing::Request,
    /// What it knew about the experts.
    pub fleet: Arc<routing::Fleet>,
    /// What it answered.
    pub plan: Plan,
}

impl Planned {
    /// Lets the route's policy plan, and keeps what it was asked with.
    pub fn new(
        route: Arc<Route>,
        request: routing::Request,
        fleet: Arc<routing::Fleet>,
        seed: DecisionId,
    ) -> Self {
        let plan = route.policy.plan(&request, &fleet, seed.0);
        Self { route, request, fleet, plan }
    }

    /// What a policy makes of the same request, fleet and seed: the same plan, if it is the same policy.
    pub fn replay(&self, policy: &dyn Policy, seed: DecisionId) -> Plan {
        policy.plan(&self.request, &self.fleet, seed.0)
    }

    /// The most probable categories, best first.
    pub fn top_categories(&self, n: usize) -> Vec<Scored> {
        let Some(features) = &self.request.features else { return Vec::new() };
        let named = self.fleet.categories.iter().zip(features.probabilities.iter());
        let mut scored: Vec<Scored> =
            named.map(|(c, p)| Scored { category: c.clone(), probability: *p }).collect();
        scored.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        scored.truncate(n);
        scored
    }

    /// The nearest past prompts that the policy looked at.
    fn nearest(&self, n: usize) -> Vec<Near> {
        let near = self.request.neighbours.iter().take(n).map(|neighbour| Near {
            id: neighbour.id.clone(),
            similarity: neighbour.similarity,
            outcomes: neighbour.outcomes.iter().cloned().collect(),
        });
        near.collect()
    }
}

impl Serialize for Planned {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            categories: Vec<Scored>,
            neighbours: Vec<Near>,
            needs: &'a routing::Needs,
            held_by: &'a Option<ExpertId>,
            lambda: Option<f32>,
            basis: routing::Basis,
            candidates: &'a [Candidate],
            rejected: &'a [Rejected],
            changed_by: &'a [Modifier],
        }
        Shown {
            categories: self.top_categories(5),
            neighbours: self.nearest(5),
            needs: &self.request.needs,
            held_by: &self.request.held_by,
            lambda: self.request.lambda,
            basis: self.plan.basis,
            candidates: &self.plan.candidates,
            rejected: &self.plan.rejected,
            changed_by: &self.plan.changed_by,
        }
        .serialize(serializer)
    }
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Outcome {
    /// Microseconds from the request's arrival to the answer's last byte.
    pub duration_us: u64,
    /// Microseconds from the request's arrival to the first byte of the answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_us: Option<u64>,
    /// How it ended.
    pub end: End,
    /// Tokens of the prompt, as the expert counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer, as the expert counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u64>,
    /// What the tokens cost in USD, by the expert's declared prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

/// How an answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was sent whole.
    Complete,
    /// The expert broke off.
    Cut,
    /// The client left.
    ClientLeft,
}

impl End {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Complete, Self::Cut, Self::ClientLeft];

    /// The word for it in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cut => "cut",
            Self::ClientLeft => "client_left",
        }
    }
}

/// The most recent decisions, and the most recent of those that somebody has judged.
pub struct DecisionLog {
    capacity: usize,
    recent: Mutex<VecDeque<Arc<Decision>>>,
    judged: Mutex<VecDeque<Arc<Decision>>>,
}

impl DecisionLog {
    /// A log that keeps the last `capacity` decisions.
    pub fn new(capacity: usize) -> Self {
        let recent = Mutex::new(VecDeque::with_capacity(capacity));
        Self { capacity, recent, judged: Mutex::default() }
    }

    /// How many are remembered.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Remembers a judged decision longer than the others: until as many have been judged after it.
    pub fn keep(&self, decision: &Arc<Decision>) {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        judged.retain(|known| known.id != decision.id);
        let dropped = if judged.len() >= self.capacity { judged.pop_front() } else { None };
        judged.push_back(decision.clone());
        // The record is freed after the lock: it may own the last reference to a fleet.
        drop(judged);
        drop(dropped);
    }

    /// Adds a decision; the oldest one goes when the log is full.
    pub fn push(&self, decision: Arc<Decision>) {
        let dropped;
        {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            // The record is freed after the lock: it may own the last reference to a fleet.
            dropped = if recent.len() >= self.capacity { recent.pop_front() } else { None };
            if self.capacity > 0 {
                recent.push_back(decision);
            }
        }
        drop(dropped);
    }

    /// The latest decisions, newest first, for which `wanted` holds.
    pub fn recent(&self, limit: usize, wanted: impl Fn(&Decision) -> bool) -> Vec<Arc<Decision>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().rev().filter(|d| wanted(d)).take(limit).cloned().collect()
    }

    /// One decision, while it is remembered.
    pub fn get(&self, id: DecisionId) -> Option<Arc<Decision>> {
        let find = |log: &Mutex<VecDeque<Arc<Decision>>>| {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.iter().rev().find(|d| d.id == id).cloned()
        };
        find(&self.recent).or_else(|| find(&self.judged))
    }
}

#[cfg(test)]
mod tests;
