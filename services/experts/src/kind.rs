//! What can stand behind an expert.
//!
//! To add a kind: a file in `kind/`, and here its module, its variants and its arms.

mod constant;
mod llm;
mod reject;

pub use constant::ConstantBackend;
pub use llm::{Discovery, Endpoint, EndpointStatus, HealthCheck, Listing, LlmBackend, Look, Protocol, Stats};
pub use reject::RejectBackend;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use routing::Live;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::call::{Call, Reply};
use crate::error::CallError;
use crate::secret::Secret;
use crate::spec::{ExpertSpec, Problem, Report};
use crate::upstream::{Client, Trust};

/// What answers for an expert, with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "settings are few and are seldom moved; most are of the large kind"
)]
pub enum Backend {
    /// An upstream that speaks the OpenAI API, or Anthropic's Messages.
    Llm(LlmBackend),
    /// A fixed text; nothing is computed.
    Constant(ConstantBackend),
    /// A refusal with a reason; nothing is computed.
    Reject(RejectBackend),
}

/// A kind at work.
pub(crate) enum Kind {
    Llm(Arc<llm::Llm>),
    Constant(constant::Constant),
    Reject(reject::Reject),
}

/// A task that runs beside the calls.
pub(crate) type Chore = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a secret stands below the backend.
type Place = Vec<String>;

impl Backend {
    /// Makes it ready to answer.
    pub(crate) fn build(&self, spec: &ExpertSpec, trust: Trust, client: &Client) -> Result<Kind, Problem> {
        Ok(match self {
            Self::Llm(settings) => Kind::Llm(Arc::new(llm::Llm::new(settings, spec, trust, client)?)),
            Self::Constant(settings) => Kind::Constant(constant::Constant::new(settings, spec, client)),
            Self::Reject(settings) => Kind::Reject(reject::Reject::new(settings)),
        })
    }

    /// The upstream that it calls; `None` for the kinds that answer by themselves.
    pub fn upstream(&self) -> Option<&LlmBackend> {
        match self {
            Self::Llm(settings) => Some(settings),
            Self::Constant(_) | Self::Reject(_) => None,
        }
    }

    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        match self {
            Self::Llm(settings) => settings.validate(report),
            Self::Constant(settings) => settings.validate(report),
            Self::Reject(settings) => settings.validate(report),
        }
    }

    /// The addresses that its URLs give, with the fields that do.
    pub(crate) fn addresses(&self) -> Vec<(String, IpAddr)> {
        match self {
            Self::Llm(settings) => settings.addresses().collect(),
            Self::Constant(_) | Self::Reject(_) => Vec::new(),
        }
    }

    pub(crate) fn secrets(&self) -> Vec<(Place, &Secret)> {
        match self {
            Self::Llm(settings) => settings.secrets(),
            Self::Constant(_) | Self::Reject(_) => Vec::new(),
        }
    }

    pub(crate) fn secrets_mut(&mut self) -> Vec<(Place, &mut Secret)> {
        match self {
            Self::Llm(settings) => settings.secrets_mut(),
            Self::Constant(_) | Self::Reject(_) => Vec::new(),
        }
    }
}

impl Kind {
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        match self {
            Self::Llm(llm) => llm.call(call).await,
            Self::Constant(constant) => constant.call(&call),
            Self::Reject(reject) => Ok(reject.call()),
        }
    }

    pub(crate) fn is_reject(&self) -> bool {
        matches!(self, Self::Reject(_))
    }

    /// Whether it takes a client's own Messages request, without a translation.
    pub(crate) fn speaks_messages(&self) -> bool {
        matches!(self, Self::Llm(llm) if llm.speaks_messages())
    }

    /// Whether it answers without an upstream.
    pub(crate) fn is_local(&self) -> bool {
        !matches!(self, Self::Llm(_))
    }

    pub(crate) fn endpoints(&self) -> Vec<EndpointStatus> {
        match self {
            Self::Llm(llm) => llm.status(),
            Self::Constant(_) | Self::Reject(_) => Vec::new(),
        }
    }

    /// How it is now. `capacity` is how many requests it may have in progress, where that is known.
    pub(crate) fn live(&self, now: Instant, capacity: Option<u32>) -> Live {
        match self {
            Self::Llm(llm) => llm.live(now, capacity),
            Self::Constant(_) | Self::Reject(_) => Live::default(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        match self {
            Self::Llm(llm) => llm.stats(),
            Self::Constant(_) | Self::Reject(_) => Stats::default(),
        }
    }

    /// Whether any endpoint takes requests.
    pub(crate) fn is_available(&self, now: Instant) -> bool {
        match self {
            Self::Llm(llm) => llm.is_available(now),
            Self::Constant(_) | Self::Reject(_) => true,
        }
    }

    /// When that may change by time alone, in the board's milliseconds.
    pub(crate) fn due_ms(&self, now: Instant) -> Option<u64> {
        match self {
            Self::Llm(llm) => llm.due_ms(now),
            Self::Constant(_) | Self::Reject(_) => None,
        }
    }

    /// What has to go on beside the calls, until the token is cancelled.
    pub(crate) fn chores(&self, stop: &CancellationToken) -> Vec<Chore> {
        match self {
            Self::Llm(llm) => llm::chores(llm, stop),
            Self::Constant(_) | Self::Reject(_) => Vec::new(),
        }
    }
}

/// A text as a JSON string literal.
fn literal(text: &str) -> Bytes {
    Bytes::from(serde_json::Value::from(text).to_string())
}
