use std::net::IpAddr;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use serde::Deserialize;

use super::settings::Base;
use super::{Endpoint, LlmBackend, template};
use crate::error::{CallError, CallErrorKind};
use crate::upstream::{Client, Payload};

/// What a look at an endpoint brought up, for the operator.
#[derive(Debug)]
pub struct Look {
    /// What the host's name stands for; empty when it was not found.
    pub addresses: Vec<IpAddr>,
    /// When the endpoint's certificate ends, in seconds since 1970 UTC; `None` without TLS.
    pub certificate_ends: Option<u64>,
    /// From the look's beginning to the head of the answer, or to the failure.
    pub elapsed: Duration,
    /// What came of asking for the models.
    pub answer: Result<Listing, CallError>,
}

/// An answer to `GET {base}/models`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its status.
    pub status: StatusCode,
    /// The models' names; `None` when the answer is no list of models.
    pub models: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl LlmBackend {
    /// Asks one of the endpoints for its models, with the expert's own key and headers, on a connection of its
    /// own. Costs nothing where models are paid for; takes `limit` at most.
    pub async fn look(&self, endpoint: &Endpoint, client: &Client, limit: Duration) -> Look {
        let prepared = Base::parse(&endpoint.url).and_then(|base| {
            let address = base.address(self.http2)?;
            let path = format!("{}/models", base.path);
            let whole = format!("{}://{}{path}", base.scheme, base.authority);
            let parse = |text: &str| Uri::try_from(text).map_err(|e| e.to_string());
            let host = HeaderValue::try_from(base.authority.as_str()).map_err(|e| e.to_string())?;
            Ok((address, template(self)?, host, parse(&path)?, parse(&whole)?))
        });
        let (address, headers, host, path, whole) = match prepared {
            Ok(prepared) => prepared,
            Err(problem) => {
                let answer = Err(CallError::with(CallErrorKind::Request, problem));
                return Look {
                    addresses: Vec::new(),
                    certificate_ends: None,
                    elapsed: Duration::ZERO,
                    answer,
                };
            }
        };
        let request = |version: Version| {
            let mut request = Request::new(Payload::default());
            *request.method_mut() = Method::GET;
            *request.version_mut() = version;
            *request.headers_mut() = headers;
            if version == Version::HTTP_2 {
                *request.uri_mut() = whole;
            } else {
                request.headers_mut().insert(HOST, host);
                *request.uri_mut() = path;
            }
            request
        };
        let (way, answer) = client.look(&address, request, limit).await;
        let answer = answer.map(|(status, body)| {
            let models: Option<Models> = serde_json::from_slice(&body).ok();
            let models = models.filter(|_| status.is_success());
            Listing { status, models: models.map(|m| m.data.into_iter().map(|m| m.id).collect()) }
        });
        Look {
            addresses: way.addresses,
            certificate_ends: way.certificate_ends,
            elapsed: way.elapsed,
            answer,
        }
    }
}
