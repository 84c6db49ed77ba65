//! What all connections of a mock share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;

use crate::fault::{Fault, InvalidFault};
use crate::latency::Latency;
use crate::messages;
use crate::render;
use crate::script::{Script, Step};
use crate::settings::{Protocol, Settings};
use crate::sleep::Sleeper;
use crate::stats::{Counters, Stats};

/// The header that asks for a fault in this one answer.
pub(crate) const FAULT_HEADER: &str = "x-mock-fault";

/// Settings, script and counters.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) counters: Arc<Counters>,
    /// The list of models, made once.
    pub(crate) models: Bytes,
    script: Mutex<Script>,
    /// Whether there is a script at all, so that the usual request takes no lock for it.
    scripted: AtomicBool,
    draws: AtomicU64,
    /// For an engine that can sleep.
    pub(crate) sleeper: Option<Sleeper>,
}

impl State {
    pub(crate) fn new(settings: Settings) -> Self {
        let state = Self {
            counters: Arc::default(),
            models: match settings.protocol {
                Protocol::ChatCompletions => render::models(&settings.models),
                Protocol::Messages => messages::models(&settings.models),
            }
            .into(),
            script: Mutex::default(),
            scripted: AtomicBool::new(false),
            draws: AtomicU64::new(0),
            sleeper: settings.sleep_mode.map(Sleeper::new),
            settings,
        };
        state.set_script(state.settings.script.clone());
        state
    }

    /// Replaces the script; counts start anew.
    pub(crate) fn set_script(&self, steps: Vec<Step>) {
        let script = Script::new(steps, self.settings.seed);
        self.scripted.store(!script.is_empty(), Relaxed);
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
    }

    /// Back to how it was at the start.
    pub(crate) fn reset(&self) {
        self.set_script(self.settings.script.clone());
        self.counters.reset();
        self.draws.store(0, Relaxed);
    }

    /// The fault for a request: its own header, else the script.
    pub(crate) fn fault(&self, model: &str, headers: &HeaderMap) -> Result<Option<Fault>, InvalidFault> {
        let fault = match headers.get(FAULT_HEADER) {
            Some(value) => Some(String::from_utf8_lossy(value.as_bytes()).parse()?),
            None if self.scripted.load(Relaxed) => {
                self.script.lock().unwrap_or_else(PoisonError::into_inner).next(model)
            }
            None => None,
        };
        if let Some(fault) = &fault {
            self.counters.fault(fault.name());
        }
        Ok(fault)
    }

    /// The next draw of a delay.
    pub(crate) fn sample(&self, latency: Latency) -> Duration {
        match latency {
            Latency::Fixed(delay) => delay,
            drawn => drawn.sample(self.settings.seed, self.draws.fetch_add(1, Relaxed)),
        }
    }

    /// What was seen until now.
    pub(crate) fn stats(&self) -> Stats {
        Stats { sleep: self.sleeper.as_ref().map(Sleeper::stats), ..self.counters.snapshot() }
    }

    pub(crate) fn knows(&self, model: &str) -> bool {
        !self.settings.strict || self.settings.models.iter().any(|known| known == model)
    }
}
