use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Gate, GateConfig, Stats};
use crate::subject::Subject;

/// The gates of all subjects that have one. They outlive changes of settings, with what is in progress and
/// what waits.
#[derive(Debug, Default)]
pub struct Gates {
    gates: Mutex<HashMap<Subject, Gate>>,
}

impl Gates {
    /// The gate of a subject, with these settings from now on; `None` when they limit nothing. What waits at a
    /// gate that is opened so is let in.
    pub fn get(&self, subject: &Subject, config: &GateConfig) -> Option<Gate> {
        let mut gates = self.lock();
        let gate = match gates.entry(subject.clone()) {
            Entry::Vacant(_) if config.is_open() => None,
            Entry::Vacant(entry) => return Some(entry.insert(Gate::new(config)).clone()),
            Entry::Occupied(entry) if config.is_open() => Some(entry.remove()),
            Entry::Occupied(entry) => Some(entry.get().clone()),
        };
        drop(gates);
        if let Some(gate) = &gate {
            gate.configure(config);
        }
        gate.filter(|_| !config.is_open())
    }

    /// Drops the gates that nobody holds or waits at; returns how many. To be called after settings changed.
    pub fn sweep(&self) -> usize {
        let mut gates = self.lock();
        let before = gates.len();
        gates.retain(|_, gate| gate.is_shared());
        before - gates.len()
    }

    /// What each gate counts, for metrics.
    pub fn stats(&self) -> Vec<(Subject, Stats)> {
        let gates: Vec<_> =
            self.lock().iter().map(|(subject, gate)| (subject.clone(), gate.clone())).collect();
        gates.into_iter().map(|(subject, gate)| (subject, gate.stats())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Gate>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
