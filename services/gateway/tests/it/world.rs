//! A gateway in process with everything that is real, and clients that are not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admission::Priority;
use axum::body::Body;
use experts::Operation;
use gateway::app::{App, Role, World};
use gateway::config;
use gateway::pipeline::{Front, Pipeline};
use http::Request;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep_until};

/// What happened, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A client sends its request.
    Sends { request: usize },
    /// The request comes to an endpoint of this expert.
    Arrives { request: usize, expert: &'static str },
    /// The client has its answer, or leaves.
    Ends { request: usize },
}

/// All events with their times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(Instant, Event)>>>);

impl Log {
    pub(crate) fn push(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), event));
    }

    pub(crate) fn events(&self) -> Vec<(Instant, Event)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One request of a simulation; times in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    pub(crate) at: u64,
    /// Whose it is.
    pub(crate) key: usize,
    pub(crate) class: Priority,
    pub(crate) stream: bool,
    /// Its deadline after it was sent.
    pub(crate) timeout: u64,
    /// When its client leaves, counted from when it was sent.
    pub(crate) leaves: Option<u64>,
}

/// How a visit ended, as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A whole answer, or a stream with `[DONE]`.
    Whole,
    /// An answer that began and broke off.
    Cut,
    /// An error, with its status and code.
    Error(u16, String),
    /// The client left before the head of an answer.
    LeftEarly,
    /// The client left in the middle of an answer.
    LeftLate,
}

/// The token of a key of the configuration.
pub(crate) fn token(key: usize) -> String {
    format!("sk-guildhall-k{key}-{}", "a1b2c3d4".repeat(5))
}

/// A gateway with this configuration; its store lies in `folder`. Errors of clients are not logged.
pub(crate) fn gateway(text: &str, folder: &std::path::Path, seed: u64) -> App {
    let text = format!(
        "store: {{path: '{}'}}\nrouter: {{load: never}}\nadmin: {{token: a-token-for-simulations}}\n\
         telemetry: {{access_log: 'off', decisions: 10000}}\n{text}",
        folder.join("store.redb").display()
    );
    let config = config::parse(&text, &|_| None).unwrap();
    let world = World { ort_dylib_path: None, seed, token_bytes: [0; 24], role: Role::All };
    App::build(config, &world).unwrap()
}

/// Runs a simulation in a runtime whose clock moves only when everybody waits.
pub(crate) fn in_paused_time<T>(simulation: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(simulation)
}

impl Visit {
    /// The request that a client sends.
    pub(crate) fn request(&self, number: usize) -> Request<Body> {
        let body = format!(
            r#"{{"model":"auto","messages":[{{"role":"user","content":"n"}}],"max_tokens":20,"stream":{}}}"#,
            self.stream
        );
        Request::post("/v1/chat/completions")
            .header("authorization", format!("Bearer {}", token(self.key)))
            .header("x-request-id", number.to_string())
            .header("x-guildhall-timeout-ms", self.timeout.to_string())
            .header("x-guildhall-priority", self.class.name())
            .body(Body::from(body))
            .unwrap()
    }

    /// Sends the request when its time has come and reads the answer, or leaves before.
    pub(crate) async fn make(self, number: usize, start: Instant, pipeline: Arc<Pipeline>, log: Log) -> End {
        let sent = start + Duration::from_millis(self.at);
        sleep_until(sent).await;
        let (parts, body) = self.request(number).into_parts();
        log.push(Event::Sends { request: number });
        let mut began = false;
        let visit = async {
            let response = pipeline.answer(Front::OpenAi(Operation::ChatCompletions), parts, body).await;
            let status = response.status().as_u16();
            began = status == 200;
            let mut body = response.into_body();
            let mut bytes = Vec::new();
            let mut broke = false;
            while let Some(frame) = body.frame().await {
                match frame.map(http_body::Frame::into_data) {
                    Ok(data) => bytes.extend_from_slice(&data.unwrap_or_default()),
                    Err(_) => broke = true,
                }
            }
            let text = String::from_utf8(bytes).unwrap();
            // Noted before the body is dropped, and with it what the request held.
            log.push(Event::Ends { request: number });
            drop(body);
            if status != 200 {
                let error: serde_json::Value = serde_json::from_str(&text).unwrap();
                return End::Error(status, error["error"]["code"].as_str().unwrap_or_default().to_owned());
            }
            let whole = if self.stream { text.ends_with("data: [DONE]\n\n") } else { !broke };
            if whole { End::Whole } else { End::Cut }
        };
        let leaves =
            self.leaves.map_or(sent + Duration::from_hours(1), |ms| sent + Duration::from_millis(ms));
        {
            let mut visit = Box::pin(visit);
            tokio::select! {
                biased;
                end = &mut visit => return end,
                () = sleep_until(leaves) => log.push(Event::Ends { request: number }),
            }
        }
        if began { End::LeftLate } else { End::LeftEarly }
    }
}
