use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::body::ReplyBody;
use crate::call::{Call, Operation, Reply, Usage};
use crate::error::{CallError, CallErrorKind};
use crate::spec::{ExpertSpec, Report};
use crate::upstream::Client;

/// A fixed reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConstantBackend {
    /// The reply.
    pub text: String,
    /// Pause before each piece of a streamed reply, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chunk_delay_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

/// Choices that one request may ask for.
const MOST_CHOICES: u32 = 128;
/// Letters and signs per token, as a rule of thumb for English.
const BYTES_PER_TOKEN: usize = 4;

impl ConstantBackend {
    pub(super) fn validate(&self, report: &mut Report<'_>) {
        if self.chunk_delay_ms > 60_000 {
            report.add("chunk_delay_ms", format!("is {}; must be at most 60000", self.chunk_delay_ms));
        }
    }
}

pub(crate) struct Constant {
    id: ExpertId,
    text: Arc<str>,
    delay: Duration,
    client: Client,
}

/// What the fixed reply looks at in a request.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    n: Option<u32>,
}

impl Constant {
    pub(super) fn new(settings: &ConstantBackend, spec: &ExpertSpec, client: &Client) -> Self {
        Self {
            id: spec.id.clone(),
            text: settings.text.as_str().into(),
            delay: Duration::from_millis(settings.chunk_delay_ms),
            client: client.clone(),
        }
    }

    pub(super) fn call(&self, call: &Call<'_>) -> Result<Reply, CallError> {
        let chat = match call.operation {
            Operation::ChatCompletions => true,
            Operation::Completions => false,
            Operation::Embeddings => {
                return Err(CallError::with(CallErrorKind::Request, "gives a fixed text and no embeddings"));
            }
        };
        let n = serde_json::from_slice::<Wanted>(&call.body).ok().and_then(|w| w.n).unwrap_or(1);
        if !(1..=MOST_CHOICES).contains(&n) {
            let message = format!("cannot give {n} choices; `n` must be between 1 and {MOST_CHOICES}");
            return Err(CallError::with(CallErrorKind::Request, message));
        }
        let answer = Answer {
            chat,
            id: format!(
                "{}-{}",
                if chat { "chatcmpl" } else { "cmpl" },
                call.request_id.to_str().unwrap_or("0")
            ),
            created: self.client.now(),
            model: self.id.as_str(),
            usage: Usage {
                prompt_tokens: call.body.len().div_ceil(BYTES_PER_TOKEN) as u64,
                completion_tokens: u64::from(n) * self.text.len().div_ceil(BYTES_PER_TOKEN) as u64,
                cached_tokens: 0,
            },
        };
        let mut headers = HeaderMap::with_capacity(2);
        let (kind, body) = if call.stream {
            let events = answer.events(&self.text, n, call.stream_options.include_usage == Some(true));
            ("text/event-stream; charset=utf-8", ReplyBody::paced(events, self.delay, answer.usage))
        } else {
            ("application/json", ReplyBody::whole(answer.whole(&self.text, n), Some(answer.usage)))
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(Reply::local(StatusCode::OK, headers, body))
    }
}

struct Answer<'a> {
    chat: bool,
    id: String,
    created: u64,
    model: &'a str,
    usage: Usage,
}

impl Answer<'_> {
    fn whole(&self, text: &str, n: u32) -> Bytes {
        let choice = |index| {
            let (key, content) = if self.chat {
                ("message", json!({ "role": "assistant", "content": text, "refusal": null }))
            } else {
                ("text", json!(text))
            };
            json!({ "index": index, key: content, "logprobs": null, "finish_reason": "stop" })
        };
        let choices: Vec<Value> = (0..n).map(choice).collect();
        let mut answer = self.frame(if self.chat { "chat.completion" } else { "text_completion" }, &choices);
        answer["usage"] = self.usage();
        Bytes::from(answer.to_string())
    }

    fn events(&self, text: &str, n: u32, with_usage: bool) -> VecDeque<Bytes> {
        let object = if self.chat { "chat.completion.chunk" } else { "text_completion" };
        let mut events = VecDeque::new();
        let mut event = |choices: &[Value], usage: Value| {
            let mut event = self.frame(object, choices);
            if with_usage {
                event["usage"] = usage;
            }
            events.push_back(Bytes::from(format!("data: {event}\n\n")));
        };
        let choice = |index: u32, content: Value, finish: Value| {
            let key = if self.chat { "delta" } else { "text" };
            json!({ "index": index, key: content, "logprobs": null, "finish_reason": finish })
        };
        for index in 0..n {
            if self.chat {
                let role = json!({ "role": "assistant", "content": "" });
                event(&[choice(index, role, Value::Null)], Value::Null);
            }
            for word in text.split_inclusive(' ') {
                let content = if self.chat { json!({ "content": word }) } else { json!(word) };
                event(&[choice(index, content, Value::Null)], Value::Null);
            }
            let nothing = if self.chat { json!({}) } else { json!("") };
            event(&[choice(index, nothing, json!("stop"))], Value::Null);
        }
        if with_usage {
            event(&[], self.usage());
        }
        events.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        events
    }

    fn frame(&self, object: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    fn usage(&self) -> Value {
        let Usage { prompt_tokens, completion_tokens, .. } = self.usage;
        json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        })
    }
}
