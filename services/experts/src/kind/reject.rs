use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::body::ReplyBody;
use crate::call::Reply;
use crate::spec::Report;

/// A refusal with a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectBackend {
    /// What the client is told.
    pub reason: String,
    /// The status of the answer: one that clients do not take as an invitation to try again.
    #[serde(default = "forbidden")]
    #[schema(minimum = 400, maximum = 499)]
    pub status: u16,
}

fn forbidden() -> u16 {
    403
}

impl RejectBackend {
    pub(super) fn validate(&self, report: &mut Report<'_>) {
        if self.reason.trim().is_empty() {
            report.add("reason", "is empty; say why requests are refused");
        }
        // The official clients repeat a request after these.
        if !(400..=499).contains(&self.status) || matches!(self.status, 408 | 409 | 429) {
            let message = "must be between 400 and 499, and not 408, 409 or 429, which clients retry";
            report.add("status", format!("is {}; {message}", self.status));
        }
    }
}

pub(crate) struct Reject {
    status: StatusCode,
    body: Bytes,
}

impl Reject {
    pub(super) fn new(settings: &RejectBackend) -> Self {
        let status = StatusCode::from_u16(settings.status).unwrap_or(StatusCode::FORBIDDEN);
        let kind = match status {
            StatusCode::FORBIDDEN => "permission_error",
            _ => "invalid_request_error",
        };
        let error =
            json!({ "message": settings.reason, "type": kind, "param": null, "code": "request_rejected" });
        Self { status, body: Bytes::from(json!({ "error": error }).to_string()) }
    }

    pub(super) fn call(&self) -> Reply {
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = ReplyBody::whole(self.body.clone(), None);
        Reply::local(self.status, headers, body)
    }
}
