//! What the mock saw, for tests to look at.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hyper::http::request::Parts;
use serde::{Deserialize, Serialize};

use crate::sleep::SleepStats;

/// Longest part of a request body that is kept.
const KEPT_BODY: usize = 64 << 10;
/// Most model names that are counted one by one, so that a run with random names stays small.
const KEPT_MODELS: usize = 4096;

/// A snapshot of the counters: the answer of `GET /__stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Requests to the OpenAI endpoints, faults included.
    pub requests: u64,
    /// The same by the model that was asked for.
    pub models: BTreeMap<String, u64>,
    /// Faults that struck, by name.
    pub faults: BTreeMap<String, u64>,
    /// Requests being answered now.
    pub in_flight: u64,
    /// Requests whose client left before the answer was whole.
    pub cancelled: u64,
    /// Connections open now.
    pub open_connections: u64,
    /// Connections accepted since the start or the last reset.
    pub connections: u64,
    /// What is seen of an engine that can sleep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleep: Option<SleepStats>,
    /// The last requests, oldest first.
    pub recent: Vec<Seen>,
}

/// One request as it arrived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The request method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header names in lower case; values of a repeated header are joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The body as text, cut after 64 KiB.
    pub body: String,
    /// The body's whole length in bytes.
    pub body_bytes: usize,
}

/// The live counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    in_flight: AtomicU64,
    cancelled: AtomicU64,
    open_connections: AtomicU64,
    connections: AtomicU64,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    models: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
    recent: VecDeque<Record>,
}

/// Kept as it came: turning it into text is left to whoever asks for it.
#[derive(Debug)]
struct Record {
    parts: Parts,
    body: Bytes,
    body_bytes: usize,
}

impl Counters {
    /// Counts a request for `model` and keeps it among the last `keep`.
    pub(crate) fn request(&self, model: &str, parts: Parts, body: &Bytes, keep: usize) {
        self.requests.fetch_add(1, Relaxed);
        let mut tables = self.tables();
        if let Some(count) = tables.models.get_mut(model) {
            *count += 1;
        } else if tables.models.len() < KEPT_MODELS {
            tables.models.insert(model.to_owned(), 1);
        }
        if keep > 0 {
            while tables.recent.len() >= keep {
                tables.recent.pop_front();
            }
            // A copy, because a slice would hold on to the connection's read buffer.
            let kept = Bytes::copy_from_slice(&body[..body.len().min(KEPT_BODY)]);
            tables.recent.push_back(Record { parts, body: kept, body_bytes: body.len() });
        }
    }

    pub(crate) fn fault(&self, name: &'static str) {
        *self.tables().faults.entry(name).or_default() += 1;
    }

    /// Counts a connection as open until the guard goes.
    pub(crate) fn connection(self: &Arc<Self>) -> Open {
        self.connections.fetch_add(1, Relaxed);
        self.open_connections.fetch_add(1, Relaxed);
        Open { counters: Arc::clone(self) }
    }

    /// Whether no request is being answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
    }

    /// Counts a request as in flight until the guard goes.
    pub(crate) fn watch(self: &Arc<Self>) -> Watch {
        self.in_flight.fetch_add(1, Relaxed);
        Watch { counters: Arc::clone(self), finished: false }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let tables = self.tables();
        Stats {
            requests: self.requests.load(Relaxed),
            models: tables.models.clone(),
            faults: tables.faults.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            in_flight: self.in_flight.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            open_connections: self.open_connections.load(Relaxed),
            connections: self.connections.load(Relaxed),
            sleep: None,
            recent: tables.recent.iter().map(Record::seen).collect(),
        }
    }

    /// Back to zero, except for what is open or in flight now.
    pub(crate) fn reset(&self) {
        for counter in [&self.requests, &self.cancelled, &self.connections] {
            counter.store(0, Relaxed);
        }
        *self.tables() = Tables::default();
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn seen(&self) -> Seen {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &self.parts.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            match headers.get_mut(name.as_str()) {
                Some(all) => {
                    all.push_str(", ");
                    all.push_str(&value);
                }
                None => {
                    headers.insert(name.as_str().to_owned(), value.into_owned());
                }
            }
        }
        Seen {
            method: self.parts.method.to_string(),
            path: self.parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            headers,
            body: String::from_utf8_lossy(&self.body).into_owned(),
            body_bytes: self.body_bytes,
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Open {
    counters: Arc<Counters>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counters.open_connections.fetch_sub(1, Relaxed);
    }
}

/// A request being answered. When it goes before [`Watch::finish`], the client left.
#[derive(Debug)]
pub(crate) struct Watch {
    counters: Arc<Counters>,
    finished: bool,
}

impl Watch {
    /// The answer is whole, or it was the mock that broke it off.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.counters.in_flight.fetch_sub(1, Relaxed);
        if !self.finished {
            self.counters.cancelled.fetch_add(1, Relaxed);
        }
    }
}
