//! A deterministic OpenAI-compatible upstream for tests, load tests and demonstrations.
//!
//! It answers chats, completions and embeddings at once or at a set pace, says in every answer who was
//! asked what, and can be made to fail in the ways that real upstreams do: at start, while it runs
//! (`POST /__script`), or in one request (header `x-mock-fault`). A chat may dictate its answer by a field
//! `mock_answer`: the deltas of a stream, from which a whole answer is made as well, and optionally
//! `finish_reason`, `stop_reason` and `usage`. With [`Protocol::Messages`] it speaks Anthropic's Messages and
//! nothing else; `mock_answer` is then the `content` of the answer, and optionally `stop_reason`, `stop_sequence`
//! and `usage`. What the mock saw is told by `GET /__stats`.
//!
//! ```no_run
//! # async fn demo() -> std::io::Result<()> {
//! use mock_expert::{Fault, Mock, Settings, Step};
//!
//! let mock = Mock::start(Settings::default()).await?;
//! mock.script(vec![Step::times(Fault::Status { status: 503, retry_after: Some(1) }, 2)]);
//! // ... send requests to mock.url() ...
//! assert_eq!(mock.stats().faults["status"], 2);
//! # Ok(())
//! # }
//! ```

mod answer;
mod body;
mod dictated;
mod events;
mod fault;
mod handle;
mod latency;
mod messages;
mod render;
mod request;
mod schema;
mod script;
mod server;
mod settings;
mod sleep;
mod state;
mod stats;
mod wire;

pub use fault::{Fault, InvalidFault};
pub use latency::{InvalidDelay, Latency, parse_duration};
pub use script::Step;
pub use server::Mock;
pub use settings::{InvalidProtocol, Protocol, Settings};
pub use sleep::{AwakeSpan, SleepMode, SleepStats};
pub use stats::{Seen, Stats};
