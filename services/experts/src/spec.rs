use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use admission::GateConfig;
use routing::{Availability, Capabilities, ExpertFacts, ExpertId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::call::Usage;
use crate::kind::Backend;
use crate::upstream::{ClientConfig, Guard, Refusal, Trust};

/// An expert as it is configured or registered.
///
/// Serialises with its secrets redacted; see [`ExpertSpec::to_stored_json`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpertSpec {
    /// Its name, unique in the fleet.
    pub id: ExpertId,
    /// What it is good at, for people and for policies that read descriptions.
    #[serde(default)]
    pub description: String,
    /// What answers.
    pub backend: Backend,
    /// Its expected score in 0..=1 for each category of the router's classifier; a category that is not
    /// named counts 0.
    #[serde(default)]
    pub skills: BTreeMap<String, f32>,
    /// What it costs.
    #[serde(default)]
    pub cost: Cost,
    /// What it can do beyond plain chat.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// The longest prompt and answer together, in tokens; 0 when not declared.
    #[serde(default)]
    pub context_tokens: u32,
    /// How long its answers may take.
    #[serde(default)]
    pub limits: Limits,
    /// How many requests it may have in progress, and how many may wait for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: GateConfig,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Prices in USD per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cost {
    /// Of the prompt.
    #[schema(minimum = 0)]
    pub input: f32,
    /// Of the answer.
    #[schema(minimum = 0)]
    pub output: f32,
}

/// How long each part of an answer may take, in milliseconds, and how large it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The whole answer, from the call to its last byte.
    #[schema(minimum = 1)]
    pub timeout_ms: u64,
    /// Opening a connection: name lookup, TCP and TLS.
    #[schema(minimum = 1)]
    pub connect_timeout_ms: u64,
    /// From the start of each try to the head of the answer, which for an answer that is not streamed means
    /// the time in which it is made.
    #[schema(minimum = 1)]
    pub first_byte_timeout_ms: u64,
    /// Between two pieces of the answer.
    #[schema(minimum = 1)]
    pub idle_timeout_ms: u64,
    /// The largest answer that is not streamed, in bytes.
    #[schema(minimum = 1)]
    pub max_response_bytes: u64,
    /// The largest event of a stream, in bytes. Events are passed on as they come and never held as a whole:
    /// this protects clients.
    #[schema(minimum = 1)]
    pub max_event_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout_ms: 600_000,
            connect_timeout_ms: 2_000,
            first_byte_timeout_ms: 60_000,
            idle_timeout_ms: 60_000,
            max_response_bytes: 64 << 20,
            max_event_bytes: 16 << 20,
        }
    }
}

/// A bad value, named by its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Problem {
    /// The place below the expert, such as `backend.endpoints[0].url`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Collects problems below a place.
pub(crate) struct Report<'a> {
    prefix: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(prefix: &'a str, problems: &'a mut Vec<Problem>) -> Self {
        Self { prefix, problems }
    }

    pub(crate) fn add(&mut self, field: impl fmt::Display, message: impl Into<String>) {
        let field = field.to_string();
        let path = match (self.prefix.is_empty(), field.is_empty()) {
            (true, _) => field,
            (false, true) => self.prefix.to_owned(),
            (false, false) => format!("{}.{field}", self.prefix),
        };
        self.problems.push(Problem { path, message: message.into() });
    }
}

/// A time-out longer than this is a mistake of units.
const LONGEST: u64 = 24 * 3_600_000;

impl ExpertSpec {
    /// Everything that is wrong with the expert by itself, all at once; empty when it can be used.
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = Report::new("", &mut problems);
        if self.description.len() > 4096 {
            report.add("description", "is longer than 4096 bytes; shorten it");
        }
        for (category, score) in &self.skills {
            if !(0.0..=1.0).contains(score) {
                report.add(format_args!("skills.{category}"), format!("is {score}; must be between 0 and 1"));
            }
        }
        for (field, price) in [("cost.input", self.cost.input), ("cost.output", self.cost.output)] {
            if !price.is_finite() || price < 0.0 {
                report
                    .add(field, format!("is {price}; must be a price in USD per million tokens, 0 or more"));
            }
        }
        let limits = [
            ("limits.timeout_ms", self.limits.timeout_ms),
            ("limits.connect_timeout_ms", self.limits.connect_timeout_ms),
            ("limits.first_byte_timeout_ms", self.limits.first_byte_timeout_ms),
            ("limits.idle_timeout_ms", self.limits.idle_timeout_ms),
        ];
        for (field, ms) in limits {
            if !(1..=LONGEST).contains(&ms) {
                report.add(field, format!("is {ms}; must be between 1 and {LONGEST} milliseconds"));
            }
        }
        let sizes = [
            ("limits.max_response_bytes", self.limits.max_response_bytes),
            ("limits.max_event_bytes", self.limits.max_event_bytes),
        ];
        for (field, bytes) in sizes {
            if bytes == 0 {
                report.add(field, "is 0; must be at least 1 byte");
            }
        }
        let gate = self.concurrency.problems().into_iter();
        problems
            .extend(gate.map(|p| Problem { path: format!("concurrency.{}", p.path), message: p.message }));
        self.backend.validate(&mut Report::new("backend", &mut problems));
        problems
    }

    /// The addresses in the expert's URLs that may not be called: see [`ClientConfig::allow_private`] and
    /// [`ClientConfig::allow_link_local`]. What host names stand for is checked when they are called.
    pub fn forbidden(&self, upstream: &ClientConfig, trust: Trust) -> Vec<Problem> {
        self.refused(&upstream.guard(), trust)
    }

    pub(crate) fn refused(&self, guard: &Guard, trust: Trust) -> Vec<Problem> {
        let refused = |(field, ip): (String, IpAddr)| {
            let refusal = guard.check(ip, trust).err()?;
            let path = format!("backend.{field}");
            let remedy = match refusal {
                Refusal::Never(_) => String::new(),
                Refusal::Private(_) => {
                    let block = if ip.is_ipv4() { format!("{ip}/32") } else { format!("{ip}/128") };
                    format!(
                        "; put a block that holds it there, such as {block}, and restart, or define the expert in the configuration file"
                    )
                }
            };
            Some(Problem { path, message: format!("has the address {ip}, {refusal}{remedy}") })
        };
        self.backend.addresses().into_iter().filter_map(refused).collect()
    }

    /// The skills of categories that the router does not have: they never take effect.
    pub fn unknown_skills(&self, categories: &[Arc<str>]) -> Vec<Problem> {
        let unknown = self.skills.keys().filter(|skill| !categories.iter().any(|c| **c == ***skill));
        let problem = |skill: &String| Problem {
            path: format!("skills.{skill}"),
            message: format!("the router has no category `{skill}`; this skill has no effect"),
        };
        unknown.map(problem).collect()
    }

    /// The expert as JSON with its secrets in clear, to be kept where it outlives the process, and nowhere
    /// else. Reads back by `Deserialize`.
    pub fn to_stored_json(&self) -> Value {
        // Serialising a tree of plain structs with string keys cannot fail.
        let mut stored = serde_json::to_value(self).unwrap_or_default();
        for (place, secret) in self.backend.secrets() {
            let at = place.iter().try_fold(&mut stored["backend"], |at, key| at.get_mut(key.as_str()));
            if let Some(at) = at {
                *at = Value::String(secret.expose().to_owned());
            }
        }
        stored
    }

    /// Puts the previous version's secrets where this one has the `***` that stood for them when it was
    /// read, so that what was read can be written back.
    pub fn inherit_secrets(&mut self, previous: &Self) {
        let known: BTreeMap<_, _> = previous.backend.secrets().into_iter().collect();
        for (place, secret) in self.backend.secrets_mut() {
            if let Some(old) = known.get(&place).filter(|_| secret.is_redacted()) {
                *secret = (*old).clone();
            }
        }
    }

    /// What a policy may know about the expert, with its skills in the order of `categories`.
    pub fn facts(&self, categories: &[Arc<str>], availability: Availability) -> ExpertFacts {
        ExpertFacts {
            id: self.id.clone(),
            skills: categories.iter().map(|c| self.skills.get(&**c).copied().unwrap_or(0.0)).collect(),
            cost: self.cost.blended(),
            capabilities: self.capabilities,
            context_tokens: self.context_tokens,
            availability,
            signals: Arc::default(),
        }
    }
}

impl Cost {
    /// What tokens cost, in USD.
    pub fn of(self, usage: Usage) -> f64 {
        let part = |price: f32, tokens: u64| f64::from(price) * tokens as f64 / 1e6;
        part(self.input, usage.prompt_tokens) + part(self.output, usage.completion_tokens)
    }

    /// One price for comparisons: three parts prompt to one part answer.
    pub fn blended(self) -> f32 {
        0.75 * self.input + 0.25 * self.output
    }
}

impl Limits {
    pub(crate) fn total(self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(crate) fn connect(self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn first_byte(self) -> Duration {
        Duration::from_millis(self.first_byte_timeout_ms)
    }

    pub(crate) fn idle(self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }
}
