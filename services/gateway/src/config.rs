//! The configuration file: one YAML document, one file per section here.
//!
//! Read in four steps, each of which names the place of what is wrong: YAML to a tree, `${ENV}` and
//! `file:` references resolved in the tree, the tree into types (unknown keys refused), and the types
//! checked against each other. Without a file the defaults apply, with the built-in demo experts.

mod admin;
mod auth;
mod data;
mod feedback;
mod keys;
mod load;
mod memory;
mod pools;
mod residency;
mod router;
mod store;
mod telemetry;
mod tls;
mod traces;

pub use admin::{AdminConfig, AdminTokenConfig, OWNER, Role};
pub use auth::{AuthConfig, JwtAlgorithm, JwtConfig};
pub use data::DataConfig;
pub use feedback::FeedbackConfig;
pub use keys::{FileKey, FileSecret};
pub use load::{ConfigError, Loaded, literal_secrets, load, parse, yaml};
pub use memory::MemoryConfig;
pub use pools::{PoolConfig, PoolExpert, Size, TierConfig};
pub use residency::{OwnerConfig, ResidencyConfig};
pub use router::{RouterConfig, RouterLoad};
pub use store::StoreConfig;
pub use telemetry::{AccessTarget, LogFormat, TelemetryConfig};
pub use tls::{ClientAuth, TlsConfig, TlsVersion};
pub use traces::{SemConv, TracesConfig};

use std::time::Duration;

use admission::{GateConfig, KeySpec, Limits, TeamSpec};
use experts::{ExpertSpec, Trust};
use routing::{ExpertId, Modifiers, Policy, PolicyConfig, PolicyError, Reads};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::catalog::Declared;
use crate::problem::Problem;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The listener for chat traffic.
    pub data: DataConfig,
    /// The listener for the admin API, metrics and probes.
    pub admin: AdminConfig,
    /// Who may call the data plane.
    pub auth: AuthConfig,
    /// The router model and its encoder.
    pub router: RouterConfig,
    /// The client that calls experts.
    pub upstream: experts::ClientConfig,
    /// Where registered experts and other run-time changes are kept.
    pub store: StoreConfig,
    /// Logs and the decision log.
    pub telemetry: TelemetryConfig,
    /// What is kept of reported outcomes.
    pub feedback: FeedbackConfig,
    /// The memory of past prompts.
    pub memory: MemoryConfig,
    /// The experts. Those of the file are read-only in the admin API, which can add others.
    pub experts: Vec<ExpertSpec>,
    /// Experts that share an accelerator: whose weights are brought there, and when.
    pub pools: Vec<PoolConfig>,
    /// How processes share pools.
    pub residency: ResidencyConfig,
    /// The public virtual models. `auto` is the one used when a request names none.
    pub routes: Vec<RouteSpec>,
    /// Teams: limits and access that keys share.
    pub teams: Vec<TeamSpec>,
    /// API keys. Those of the file are read-only in the admin API, which can make others.
    pub keys: Vec<KeySpec<FileSecret>>,
}

/// A public virtual model name bound to a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// The name that clients send as `model`.
    pub id: ExpertId,
    /// What the route is for; shown by `/v1/models` tooling and the admin API.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// How a request is mapped to an expert.
    pub policy: PolicyConfig,
    /// What changes the policy's plan: load, price, the session, exploration. Docs: docs/routing.md.
    #[serde(default, skip_serializing_if = "is_default")]
    pub modifiers: Modifiers,
    /// Who answers when the router is late or broken, or when no candidate of the plan answered. Without
    /// it such a request fails with 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<ExpertId>,
    /// Longest time for a whole request, in milliseconds; the expert's own limit applies as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How long each part of an answer may take; the expert's own limits apply as well.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: RouteTimeouts,
    /// What happens when the router is late or broken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub when_router_fails: WhenRouterFails,
    /// How much all its requests together may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// How many of its requests may be in progress, and how many may wait.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: GateConfig,
}

/// How long each part of an answer may take, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteTimeouts {
    /// Opening a connection to the expert.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub connect_ms: Option<u64>,
    /// From a try's start to the head of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub first_byte_ms: Option<u64>,
    /// Between two pieces of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub idle_ms: Option<u64>,
}

impl From<RouteTimeouts> for experts::Timeouts {
    fn from(timeouts: RouteTimeouts) -> Self {
        let ms = |ms: Option<u64>| ms.map(Duration::from_millis);
        let RouteTimeouts { connect_ms, first_byte_ms, idle_ms } = timeouts;
        // The whole request's limit counts from its arrival, and is part of its deadline.
        Self { connect: ms(connect_ms), first_byte: ms(first_byte_ms), idle: ms(idle_ms), total: None }
    }
}

/// What happens to a request when the router is late or broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenRouterFails {
    /// The route's default expert answers, and the answer's headers say so.
    #[default]
    Default,
    /// It is refused with 503. For routes whose policy is there to refuse: they must not let through what
    /// nobody has looked at.
    Refuse,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RouteSpec {
    /// The policy under the modifiers, ready to plan.
    ///
    /// # Errors
    /// The setting that cannot be, by its place below the route.
    pub fn planner(&self) -> Result<Box<dyn Policy>, Problem> {
        let place =
            |part: &'static str| move |e: PolicyError| Problem::at(format!("{part}.{}", e.field), e.problem);
        let policy = self.policy.build().map_err(place("policy"))?;
        self.modifiers.over(policy).map_err(place("modifiers"))
    }

    /// Whether planning looks at the prompt. A route whose settings cannot be does not plan at all.
    pub fn reads_prompts(&self) -> bool {
        self.planner().is_ok_and(|policy| policy.reads() > Reads::Nothing)
    }

    /// Checks the route by itself; whether its experts exist is the catalogue's to say.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Err(problem) = self.planner() {
            problems.push(problem);
        }
        if self.timeout_ms == Some(0) {
            problems.push(Problem::at("timeout_ms", "must be above 0; leave it out for no limit of its own"));
        }
        let RouteTimeouts { connect_ms, first_byte_ms, idle_ms } = self.timeouts;
        for (field, ms) in
            [("connect_ms", connect_ms), ("first_byte_ms", first_byte_ms), ("idle_ms", idle_ms)]
        {
            if ms == Some(0) {
                problems.push(Problem::at(format!("timeouts.{field}"), "must be above 0"));
            }
        }
        let own = |p: admission::Problem| Problem::at(p.path, p.message);
        problems.extend(self.limits.problems().into_iter().map(|p| own(p).below("limits")));
        if self.limits.concurrent.is_some() || self.limits.queue.is_some() {
            let message = "belongs to `concurrency` on a route, which says more about waiting";
            problems.push(Problem::at("limits.concurrent", message));
        }
        problems.extend(self.concurrency.problems().into_iter().map(|p| own(p).below("concurrency")));
        problems
    }
}

impl Config {
    /// The settings that serve when there is no file: loopback listeners, the default bundle and demo
    /// experts that say what they are.
    pub fn demo() -> Self {
        load::parse(include_str!("config/demo.yaml"), &|_| None).unwrap_or_default()
    }

    /// The objects that can change while the gateway runs.
    pub fn declared(&self) -> Declared {
        Declared {
            experts: self.experts.clone(),
            routes: self.routes.clone(),
            teams: self.teams.clone(),
            keys: self.keys.iter().map(keys::declared).collect(),
        }
    }

    /// Takes over another configuration's objects of [`Config::declared`].
    pub fn take_declared(&mut self, other: Self) {
        self.experts = other.experts;
        self.routes = other.routes;
        self.teams = other.teams;
        self.keys = other.keys;
    }

    /// The sections that differ from another configuration's and are read at the start only.
    pub fn need_restart(&self, other: &Self) -> Vec<&'static str> {
        let sections = [
            ("data", self.data == other.data),
            ("admin", self.admin == other.admin),
            ("auth", self.auth == other.auth),
            ("router", self.router == other.router),
            ("upstream", self.upstream == other.upstream),
            ("store", self.store == other.store),
            ("telemetry", self.telemetry == other.telemetry),
            ("feedback", self.feedback == other.feedback),
            ("memory", self.memory == other.memory),
            ("pools", self.pools == other.pools),
            ("residency", self.residency == other.residency),
        ];
        sections.into_iter().filter(|(_, same)| !same).map(|(section, _)| section).collect()
    }

    /// What can be checked without the router bundle and the store.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        problems.extend(self.data.problems().into_iter().map(|p| p.below("data")));
        problems.extend(self.admin.problems().into_iter().map(|p| p.below("admin")));
        problems.extend(self.auth.problems().into_iter().map(|p| p.below("auth")));
        problems.extend(self.router.problems().into_iter().map(|p| p.below("router")));
        let traces = self.telemetry.traces.iter().flat_map(TracesConfig::problems);
        problems.extend(traces.map(|p| p.below("telemetry.traces")));
        if self.data.listen == self.admin.listen && self.data.listen.port() != 0 {
            problems.push(Problem::at(
                "admin.listen",
                "is the same address as data.listen; give it another port",
            ));
        }
        for (i, expert) in self.experts.iter().enumerate() {
            let found =
                expert.validate().into_iter().chain(expert.forbidden(&self.upstream, Trust::Operator));
            let own = found.map(|p| Problem::at(p.path, p.message));
            problems.extend(own.map(|p| p.below(&format!("experts[{i}]"))));
            if let Some(first) = self.experts[..i].iter().position(|e| e.id == expert.id) {
                let message = format!("expert `{}` is already defined at experts[{first}]", expert.id);
                problems.push(Problem::at(format!("experts[{i}].id"), message));
            }
        }
        problems.extend(pools::problems(&self.pools));
        problems.extend(self.residency.problems(&self.pools).into_iter().map(|p| p.below("residency")));
        problems.extend(keys::problems(&self.keys, &self.teams));
        for (i, route) in self.routes.iter().enumerate() {
            problems.extend(route.problems().into_iter().map(|p| p.below(&format!("routes[{i}]"))));
            if let Some(first) = self.routes[..i].iter().position(|r| r.id == route.id) {
                let message = format!("route `{}` is already defined at routes[{first}]", route.id);
                problems.push(Problem::at(format!("routes[{i}].id"), message));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests;
