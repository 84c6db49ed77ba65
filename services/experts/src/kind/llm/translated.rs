use std::future::poll_fn;
use std::pin::Pin;

use http::StatusCode;
use http::header::CONTENT_LENGTH;
use http_body::Body;
use protocols::Stamp;
use protocols::over_messages::{self, Echo};

use super::tries::OVERLOADED;
use crate::body::ReplyBody;
use crate::call::{Reply, Usage};
use crate::error::{BodyError, CallError, CallErrorKind as ErrorKind};

/// Makes a chat completion of what answers a request that was translated into Messages. A whole answer is
/// read first, so that another expert can be asked where it is none.
pub(super) async fn chat(
    mut reply: Reply,
    stream: bool,
    echo: &Echo,
    stamp: &Stamp,
) -> Result<Reply, CallError> {
    if reply.status.as_u16() == OVERLOADED {
        reply.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    if stream || !reply.status.is_success() {
        return Ok(reply);
    }
    let bad = |detail: String| CallError::with(ErrorKind::BadAnswer, detail);
    let answer = match collect(&mut reply.body).await {
        Ok(body) => over_messages::answer(&body, echo, stamp).map_err(|error| bad(error.to_string())),
        Err(error) => Err(bad(error.to_string())),
    };
    match answer {
        Ok((chat, tokens)) => {
            reply.headers.remove(CONTENT_LENGTH);
            reply.body = ReplyBody::whole(chat.into(), tokens.map(Usage::from));
            Ok(reply)
        }
        Err(error) => Err(error.having_tried(reply.tries)),
    }
}

/// The whole of a body, whose size is limited already.
async fn collect(body: &mut ReplyBody) -> Result<Vec<u8>, BodyError> {
    let mut whole = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole)
}
