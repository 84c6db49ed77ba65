//! Servers that speak the documented control APIs, with their faults, and what the drivers report of them.

mod basics;
mod gguf;
mod llama_server;
mod llama_swap;
mod llamacpp_router;
mod ollama;
mod ort_inproc;
mod sglang_lora;
mod sglang_memory;
mod sim;
mod triton;
mod vllm_lora;
mod vllm_sleep;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use routing::ExpertId;
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep};

use super::{Driver, DriverError, DriverSpec, Evidence, Inventory, Outcome, Residence, Step};
use crate::residency::Tier;
use crate::server::endpoint::Network;

/// What a scripted server was asked.
pub(crate) struct Call {
    /// Method and path with its query.
    pub(crate) line: String,
    /// `null` without a body.
    pub(crate) body: Value,
}

/// What a scripted server does.
pub(crate) struct Reply {
    pub(crate) after: Duration,
    /// No status: the connection is cut.
    status: Option<u16>,
    body: String,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, &body.to_string())
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self { after: Duration::ZERO, status: Some(status), body: body.to_owned() }
    }

    pub(crate) fn cut() -> Self {
        Self { after: Duration::ZERO, status: None, body: String::new() }
    }

    pub(crate) fn after(self, seconds: u64) -> Self {
        Self { after: Duration::from_secs(seconds), ..self }
    }
}

type Handler = Arc<Mutex<dyn FnMut(&Call) -> Reply + Send>>;

/// Scripted servers by host and port. The same network can be given another server later: a restart.
#[derive(Clone, Default)]
pub(crate) struct FakeNetwork {
    servers: Arc<Mutex<HashMap<String, Handler>>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl FakeNetwork {
    pub(crate) fn serve(&self, authority: &str, handler: impl FnMut(&Call) -> Reply + Send + 'static) {
        self.servers.lock().unwrap().insert(authority.to_owned(), Arc::new(Mutex::new(handler)));
    }

    pub(crate) fn stop(&self, authority: &str) {
        self.servers.lock().unwrap().remove(authority);
    }

    /// What the servers were asked for since the last time, questions aside.
    pub(crate) fn demands(&self) -> Vec<String> {
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        let is_question = |line: &String| {
            line.contains("/repository/index") || line.starts_with("GET") && !line.contains("/upstream/")
        };
        log.into_iter().filter(|line| !is_question(line)).collect()
    }

    pub(crate) fn open(&self, authority: &str) -> io::Result<DuplexStream> {
        let handler = self.servers.lock().unwrap().get(authority).cloned();
        let handler = handler.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = tokio::io::duplex(64 * 1024);
        let log = self.log.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, handler.clone(), log.clone()));
            // It ends with an error where a script cuts the connection.
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).await;
        });
        Ok(near)
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Handler,
    log: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let line = format!("{} {}", request.method(), request.uri());
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    log.lock().unwrap().push(if body.is_empty() {
        line.clone()
    } else {
        format!("{line} {}", String::from_utf8_lossy(&body))
    });
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
    let reply = (handler.lock().unwrap())(&Call { line, body });
    sleep(reply.after).await;
    let status = reply.status.ok_or(io::ErrorKind::ConnectionReset)?;
    Ok(Response::builder().status(status).body(Full::from(reply.body)).unwrap())
}

pub(crate) fn driver(spec: Value, network: &FakeNetwork) -> Driver {
    let spec: DriverSpec = serde_json::from_value(spec).unwrap();
    Driver::with_network(spec, &Network::Fake(network.clone())).unwrap()
}

fn id(name: &str) -> ExpertId {
    ExpertId::new(name).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn promote(driver: &Driver, expert: &str, to: Tier) -> Result<Outcome, DriverError> {
    driver.promote(Step { expert: &id(expert), to, deadline: soon() }).await
}

async fn demote(driver: &Driver, expert: &str, to: Tier) -> Result<Outcome, DriverError> {
    driver.demote(Step { expert: &id(expert), to, deadline: soon() }, 8_000).await
}

async fn probe(driver: &Driver) -> Inventory {
    driver.probe(soon()).await.unwrap()
}

/// Where an expert is, and who says so.
async fn place(driver: &Driver, expert: &str) -> (Residence, Evidence) {
    let placed = probe(driver).await.experts.remove(&id(expert)).unwrap();
    (placed.residence, placed.evidence)
}

/// Values that change with time: what a server shows of a model.
#[derive(Default)]
pub(crate) struct Timeline(Vec<(Instant, Value)>);

impl Timeline {
    /// Shows `value` in so many seconds.
    pub(crate) fn then(&mut self, seconds: u64, value: Value) {
        self.0.push((Instant::now() + Duration::from_secs(seconds), value));
    }

    pub(crate) fn now(&self) -> Value {
        let past = self.0.iter().rev().find(|(at, _)| *at <= Instant::now());
        past.map_or(Value::Null, |(_, value)| value.clone())
    }
}
