//! An engine that can be put to sleep, with the routes of vLLM's sleep mode: `POST /sleep`, `POST /wake_up`,
//! `GET /is_sleeping`. Inference requests that come while it sleeps wait until it is awake, as they do there.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::latency::Latency;

/// How an engine sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SleepMode {
    /// What waking up takes.
    pub wake: Latency,
    /// What falling asleep takes, when the requests under way have ended.
    pub sleep: Latency,
    /// Whether it sleeps at the start.
    pub asleep: bool,
}

/// A time during which an engine held the accelerator's memory: from the beginning of its waking up to the end of its
/// falling asleep, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwakeSpan {
    /// When it began.
    pub from_ns: u64,
    /// When it ended; absent when it has not.
    pub to_ns: Option<u64>,
}

/// What is seen of an engine that can sleep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SleepStats {
    /// Times that it woke up.
    pub wakes: u64,
    /// Inference requests that came while it slept.
    pub waited: u64,
    /// When it held memory.
    pub awake: Vec<AwakeSpan>,
}

#[derive(Debug)]
pub(crate) struct Sleeper {
    mode: SleepMode,
    asleep: watch::Sender<bool>,
    wakes: AtomicU64,
    waited: AtomicU64,
    awake: Mutex<Vec<AwakeSpan>>,
    /// Orders to sleep and to wake up are carried out one after another.
    turn: tokio::sync::Mutex<()>,
}

impl Sleeper {
    pub(crate) fn new(mode: SleepMode) -> Self {
        let awake = if mode.asleep { Vec::new() } else { vec![AwakeSpan { from_ns: now_ns(), to_ns: None }] };
        Self {
            asleep: watch::channel(mode.asleep).0,
            mode,
            wakes: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            awake: Mutex::new(awake),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Waits until the engine is awake.
    pub(crate) async fn wakes(&self) {
        let mut asleep = self.asleep.subscribe();
        if *asleep.borrow_and_update() {
            self.waited.fetch_add(1, Relaxed);
            // The sender lives as long as this.
            let _ = asleep.wait_for(|asleep| !asleep).await;
        }
    }

    /// Answers an order; `None` for a path that is none. `idle` says whether no request is being answered.
    pub(crate) async fn order(&self, path: &str, idle: impl Fn() -> bool) -> Option<(StatusCode, String)> {
        let _turn = match path {
            "/sleep" | "/wake_up" => self.turn.lock().await,
            // What a level 2 needs before it is whole; this engine keeps its weights.
            "/collective_rpc" => return Some((StatusCode::OK, r#"{"results":[null]}"#.to_owned())),
            _ => return None,
        };
        let asleep = *self.asleep.borrow();
        if path == "/wake_up" {
            if asleep {
                self.spans().push(AwakeSpan { from_ns: now_ns(), to_ns: None });
                tokio::time::sleep(self.mode.wake.sample(0, self.wakes.fetch_add(1, Relaxed))).await;
                self.asleep.send_replace(false);
            }
            return Some((StatusCode::OK, r#"{"status":"awake","tags":null}"#.to_owned()));
        }
        if !asleep {
            while !idle() {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            self.asleep.send_replace(true);
            tokio::time::sleep(self.mode.sleep.sample(1, self.wakes.load(Relaxed))).await;
            if let Some(span) = self.spans().last_mut() {
                span.to_ns = Some(now_ns());
            }
        }
        Some((StatusCode::OK, r#"{"status":"sleeping","level":1}"#.to_owned()))
    }

    pub(crate) fn is_sleeping(&self) -> bool {
        *self.asleep.borrow()
    }

    pub(crate) fn stats(&self) -> SleepStats {
        SleepStats {
            wakes: self.wakes.load(Relaxed),
            waited: self.waited.load(Relaxed),
            awake: self.spans().clone(),
        }
    }

    fn spans(&self) -> std::sync::MutexGuard<'_, Vec<AwakeSpan>> {
        self.awake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
