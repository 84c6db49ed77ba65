use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, Uri, Version};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::settings::Base;
use super::site::Server;
use super::{Endpoint, LlmBackend, identity, problem, template};
use crate::error::{CallError, CallErrorKind, Phase};
use crate::spec::Problem;
use crate::upstream::{Client, Trust};

/// What a look at an endpoint brought up, for the operator.
#[derive(Debug)]
pub struct Look {
    /// What the host's name stands for, or the one address that was looked at; empty when none was found.
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
    /// Asks one of the endpoints for its models, as the operator's, with the expert's own key, headers and
    /// certificates, on connections of its own. Where addresses are discovered, each is looked at, in their
    /// order; otherwise there is one look. Costs nothing where models are paid for; takes `limit` for the
    /// name and `limit` for the rest at most.
    ///
    /// # Errors
    /// A setting that cannot be used, such as a file that cannot be read, with its place below the expert.
    pub async fn look(
        &self,
        endpoint: &Endpoint,
        client: &Client,
        limit: Duration,
    ) -> Result<Vec<Look>, Problem> {
        let template = template(self).map_err(|message| problem("headers", message))?;
        let identity = identity(self, client)?;
        let url = |message: String| problem("endpoints", format!("{}: {message}", endpoint.url));
        let server = Server::new(endpoint, self, &template, Trust::Operator, identity).map_err(url)?;
        let models = Base::parse(&endpoint.url).and_then(|base| base.target("/models")).map_err(url)?;
        let server = Arc::new(server);
        if !server.is_discovered() {
            return Ok(vec![look(server, None, models, client.clone(), limit).await]);
        }
        let begun = Instant::now();
        let failed = |error| Look {
            addresses: Vec::new(),
            certificate_ends: None,
            elapsed: begun.elapsed(),
            answer: Err(error),
        };
        let found = match timeout(limit, client.resolver().resolve(&server.origin.host)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Ok(vec![failed(CallError::with(CallErrorKind::Dns, error))]),
            Err(_) => return Ok(vec![failed(CallError::new(CallErrorKind::Timeout(Phase::Connect)))]),
        };
        let found: BTreeSet<IpAddr> = found.into_iter().map(|ip| ip.to_canonical()).collect();
        if found.is_empty() {
            return Ok(vec![failed(CallError::with(CallErrorKind::Dns, "the name has no address"))]);
        }
        let mut under_way = JoinSet::new();
        for ip in found {
            under_way.spawn(look(server.clone(), Some(ip), models.clone(), client.clone(), limit));
        }
        let mut looks = Vec::with_capacity(under_way.len());
        while let Some(done) = under_way.join_next().await {
            looks.extend(done);
        }
        looks.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        Ok(looks)
    }
}

async fn look(
    server: Arc<Server>,
    at: Option<IpAddr>,
    models: (Uri, Uri),
    client: Client,
    limit: Duration,
) -> Look {
    let to = match server.address(at) {
        Ok(to) => to,
        Err(message) => {
            let answer = Err(CallError::with(CallErrorKind::Request, message));
            return Look {
                addresses: at.into_iter().collect(),
                certificate_ends: None,
                elapsed: Duration::ZERO,
                answer,
            };
        }
    };
    let request = |version: Version| server.get(&models, version);
    let (way, answer) = client.look(&to, request, limit).await;
    let answer = answer.map(|(status, body)| {
        let models: Option<Models> = serde_json::from_slice(&body).ok();
        let models = models.filter(|_| status.is_success());
        Listing { status, models: models.map(|m| m.data.into_iter().map(|m| m.id).collect()) }
    });
    Look { addresses: way.addresses, certificate_ends: way.certificate_ends, elapsed: way.elapsed, answer }
}
