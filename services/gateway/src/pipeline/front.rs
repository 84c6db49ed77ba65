//! The protocols that clients speak. All but OpenAI's own operations are translated to chat completions on
//! the way in and back on the way out; the phases between see chat completions only. An expert that speaks
//! Messages itself gets a Messages client's request as it came, and its answer goes back as it is.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use experts::Operation;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::BodyExt;
use protocols::{BadAnswer, BadRequest, Limits, Stamp, messages, responses};

use super::Context;
use crate::error::{ApiError, ErrorKind};

/// What a client asks for, and in whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// An operation of OpenAI's, as experts speak it.
    OpenAi(Operation),
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Responses.
    Responses,
}

/// What an answer in another protocol needs of its request.
pub(super) enum Dialect {
    Messages(messages::Echo),
    Responses(responses::Echo),
}

/// A request as experts understand it.
pub(super) struct Translated {
    pub(super) body: Bytes,
    /// How its answer is translated back; `None` when it need not be.
    pub(super) dialect: Option<Dialect>,
    /// Fields that could not be carried over.
    pub(super) lossy: Vec<String>,
    /// The client's own body, where some experts speak its protocol.
    pub(super) messages: Option<Bytes>,
    /// Why only those can answer it.
    pub(super) refused: Option<BadRequest>,
}

impl Front {
    /// Its name in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi(operation) => operation.name(),
            Self::Messages => "messages",
            Self::Responses => "responses",
        }
    }

    /// What experts are asked for.
    pub fn operation(self) -> Operation {
        match self {
            Self::OpenAi(operation) => operation,
            Self::Messages | Self::Responses => Operation::ChatCompletions,
        }
    }

    /// The path of the URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::OpenAi(Operation::ChatCompletions) => "/v1/chat/completions",
            Self::OpenAi(Operation::Completions) => "/v1/completions",
            Self::OpenAi(Operation::Embeddings) => "/v1/embeddings",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }

    /// Puts a request into the words of experts.
    ///
    /// # Errors
    /// 400 with the field that cannot be carried over or is not understood.
    pub(super) fn translate(self, body: Bytes) -> Result<Translated, ApiError> {
        match self {
            Self::OpenAi(_) => {
                Ok(Translated { body, dialect: None, lossy: Vec::new(), messages: None, refused: None })
            }
            Self::Messages => {
                let read = messages::request(&body).map_err(bad)?;
                let dialect = Some(Dialect::Messages(read.echo));
                let (lossy, refused) = (read.lossy, read.refused);
                Ok(Translated { body: read.body.into(), dialect, lossy, messages: Some(body), refused })
            }
            Self::Responses => {
                let read = responses::request(&body).map_err(bad)?;
                let dialect = Some(Dialect::Responses(read.echo));
                let (lossy, refused) = (read.lossy, read.refused);
                Ok(Translated { body: read.body.into(), dialect, lossy, messages: None, refused })
            }
        }
    }

    /// An error answer in the protocol's own form, of one in OpenAI's.
    pub(super) async fn error(self, response: Response<Body>, context: &Context) -> Response<Body> {
        if self != Self::Messages {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        // Ours, or an expert's that was cut to size already.
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let id = context.request_id.to_str().unwrap_or_default();
        let body = messages::error(parts.status.as_u16(), &bytes, id);
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.insert("request-id", context.request_id.clone());
        Response::from_parts(parts, Body::from(body))
    }
}

impl Dialect {
    /// A whole answer, translated back.
    ///
    /// # Errors
    /// 502 when the expert's answer is not one.
    pub(super) fn answer(&self, chat: &[u8], context: &Context) -> Result<Bytes, ApiError> {
        let stamp = self.stamp(context);
        let answer = match self {
            Self::Messages(echo) => messages::answer(chat, echo, &stamp),
            Self::Responses(echo) => responses::answer(chat, echo, &stamp),
        };
        let bad = |error: BadAnswer| {
            ApiError::new(
                ErrorKind::UpstreamFailed,
                format!("the expert's answer cannot be used: {}", error.message),
            )
        };
        Ok(answer.map_err(bad)?.into())
    }

    /// A streamed answer, translated back as it comes.
    pub(super) fn stream<B>(self, inner: B, context: &Context) -> Recast<B> {
        let stamp = self.stamp(context);
        let translator = match self {
            Self::Messages(echo) => {
                Translator::Messages(Box::new(messages::Stream::new(echo, stamp, Limits::default())))
            }
            Self::Responses(echo) => {
                Translator::Responses(Box::new(responses::Stream::new(echo, stamp, Limits::default())))
            }
        };
        Recast { inner, translator, finished: false }
    }

    /// What is peculiar to the protocol's answers.
    pub(super) fn mark(&self, headers: &mut http::HeaderMap, context: &Context) {
        headers.remove(header::CONTENT_LENGTH);
        if let Self::Messages(_) = self {
            headers.insert("request-id", context.request_id.clone());
        }
    }

    fn stamp(&self, context: &Context) -> Stamp {
        let prefix = match self {
            Self::Messages(_) => "msg",
            Self::Responses(_) => "resp",
        };
        Stamp { id: format!("{prefix}_{:016x}", context.id.0), created: context.arrival_ms / 1000 }
    }
}

/// The answer to a request that cannot be put into the words of experts.
pub(super) fn bad(error: BadRequest) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, error.message).with_param(error.path)
}

/// Fields that could not be carried over, as a header's value.
pub(super) fn lossy_header(lossy: &[String]) -> Option<HeaderValue> {
    (!lossy.is_empty()).then(|| super::respond::value(lossy.join(", ")))
}

enum Translator {
    Messages(Box<messages::Stream>),
    Responses(Box<responses::Stream>),
}

impl Translator {
    fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Messages(stream) => stream.push(chunk, out),
            Self::Responses(stream) => stream.push(chunk, out),
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Messages(stream) => stream.finish(out),
            Self::Responses(stream) => stream.finish(out),
        }
    }
}

/// A stream of chat completions on its way to a client that speaks another protocol. It always ends with the
/// protocol's own last event, also when the expert broke off.
pub(super) struct Recast<B> {
    inner: B,
    translator: Translator,
    finished: bool,
}

impl<B> http_body::Body for Recast<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let mut out = Vec::new();
        while !this.finished {
            if let Some(Ok(frame)) = ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                if let Ok(data) = frame.into_data() {
                    this.translator.push(&data, &mut out);
                }
            } else {
                // The end, or a break: the translator knows which by what came before.
                this.finished = true;
                this.translator.finish(&mut out);
            }
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.finished
    }
}
