use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gate::GateConfig;
use crate::problem::Problem;
use crate::usd::Usd;

/// Limits of a key, team or route. What is left out is not limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
// Another crate's schema has the plain name.
#[schema(as = UsageLimits)]
pub struct Limits {
    /// Requests within any minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Requests per day (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_day: Option<u64>,
    /// Prompt tokens within any minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens_per_minute: Option<u64>,
    /// Prompt tokens per day (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens_per_day: Option<u64>,
    /// Answer tokens within any minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_minute: Option<u64>,
    /// Answer tokens per day (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_day: Option<u64>,
    /// Prompt and answer tokens together within any minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Prompt and answer tokens together per day (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
    /// Money per day (UTC), in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_day: Option<Usd>,
    /// Money per calendar month (UTC), in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_month: Option<Usd>,
    /// Money in all, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_total: Option<Usd>,
    /// Requests in progress at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// Requests that may wait for one of the `concurrent` places; without it none waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
}

impl Limits {
    /// What is wrong with the limits by themselves.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.concurrent == Some(0) {
            problems.push(Problem::at("concurrent", "must be above 0; disable the key to admit nothing"));
        }
        if self.queue.is_some() && self.concurrent.is_none() {
            problems.push(Problem::at("queue", "has no effect without `concurrent`, its number of places"));
        }
        problems
    }

    /// The concurrency limit as settings of a gate.
    pub fn gate(&self) -> GateConfig {
        let queue = self.queue.unwrap_or(0);
        // A key has one flow, which may fill its whole queue.
        GateConfig { concurrent: self.concurrent, queue, queue_per_key: Some(queue), ..GateConfig::default() }
    }

    /// The limits that a ledger counts, with money in nano-dollars.
    pub(super) fn counted(&self) -> [(LimitKind, Option<u64>); LimitKind::ALL.len()] {
        LimitKind::ALL.map(|kind| {
            let limit = match kind {
                LimitKind::RequestsPerMinute => self.requests_per_minute,
                LimitKind::InputTokensPerMinute => self.input_tokens_per_minute,
                LimitKind::OutputTokensPerMinute => self.output_tokens_per_minute,
                LimitKind::TokensPerMinute => self.tokens_per_minute,
                LimitKind::RequestsPerDay => self.requests_per_day,
                LimitKind::InputTokensPerDay => self.input_tokens_per_day,
                LimitKind::OutputTokensPerDay => self.output_tokens_per_day,
                LimitKind::TokensPerDay => self.tokens_per_day,
                LimitKind::UsdPerDay => self.usd_per_day.map(Usd::nanos),
                LimitKind::UsdPerMonth => self.usd_per_month.map(Usd::nanos),
                LimitKind::UsdTotal => self.usd_total.map(Usd::nanos),
            };
            (kind, limit)
        })
    }
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Requests.
    Requests,
    /// Prompt tokens.
    InputTokens,
    /// Answer tokens.
    OutputTokens,
    /// Prompt and answer tokens together.
    Tokens,
    /// Money, in nano-dollars.
    Cost,
}

/// Over which time a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Any 60 seconds.
    Minute,
    /// A calendar day, UTC.
    Day,
    /// A calendar month, UTC.
    Month,
    /// For ever.
    Total,
}

/// One counted limit, named as its setting.
// The minute limits come first: counters are laid out so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Requests within any minute.
    RequestsPerMinute,
    /// Prompt tokens within any minute.
    InputTokensPerMinute,
    /// Answer tokens within any minute.
    OutputTokensPerMinute,
    /// Prompt and answer tokens together within any minute.
    TokensPerMinute,
    /// Requests per day.
    RequestsPerDay,
    /// Prompt tokens per day.
    InputTokensPerDay,
    /// Answer tokens per day.
    OutputTokensPerDay,
    /// Prompt and answer tokens together per day.
    TokensPerDay,
    /// Money per day.
    UsdPerDay,
    /// Money per calendar month.
    UsdPerMonth,
    /// Money in all.
    UsdTotal,
}

impl LimitKind {
    /// All, in order.
    pub const ALL: [Self; 11] = [
        Self::RequestsPerMinute,
        Self::InputTokensPerMinute,
        Self::OutputTokensPerMinute,
        Self::TokensPerMinute,
        Self::RequestsPerDay,
        Self::InputTokensPerDay,
        Self::OutputTokensPerDay,
        Self::TokensPerDay,
        Self::UsdPerDay,
        Self::UsdPerMonth,
        Self::UsdTotal,
    ];

    /// How many of them slide.
    pub(super) const SLIDING: usize = 4;

    /// The name of the setting, such as `tokens_per_minute`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::InputTokensPerMinute => "input_tokens_per_minute",
            Self::OutputTokensPerMinute => "output_tokens_per_minute",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::RequestsPerDay => "requests_per_day",
            Self::InputTokensPerDay => "input_tokens_per_day",
            Self::OutputTokensPerDay => "output_tokens_per_day",
            Self::TokensPerDay => "tokens_per_day",
            Self::UsdPerDay => "usd_per_day",
            Self::UsdPerMonth => "usd_per_month",
            Self::UsdTotal => "usd_total",
        }
    }

    /// What it counts.
    pub const fn resource(self) -> Resource {
        match self {
            Self::RequestsPerMinute | Self::RequestsPerDay => Resource::Requests,
            Self::InputTokensPerMinute | Self::InputTokensPerDay => Resource::InputTokens,
            Self::OutputTokensPerMinute | Self::OutputTokensPerDay => Resource::OutputTokens,
            Self::TokensPerMinute | Self::TokensPerDay => Resource::Tokens,
            Self::UsdPerDay | Self::UsdPerMonth | Self::UsdTotal => Resource::Cost,
        }
    }

    /// Over which time.
    pub const fn window(self) -> Window {
        match self {
            Self::RequestsPerMinute
            | Self::InputTokensPerMinute
            | Self::OutputTokensPerMinute
            | Self::TokensPerMinute => Window::Minute,
            Self::RequestsPerDay
            | Self::InputTokensPerDay
            | Self::OutputTokensPerDay
            | Self::TokensPerDay
            | Self::UsdPerDay => Window::Day,
            Self::UsdPerMonth => Window::Month,
            Self::UsdTotal => Window::Total,
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
