//! The one JSON object that a run prints.

use serde::Serialize;

use crate::usage::Usage;
use crate::worker::Findings;

/// A run's result. Times are microseconds unless the name says otherwise.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the caller called this run.
    pub label: String,
    /// Length of the measured window in seconds.
    pub wall_s: f64,
    /// Whole answers with status 200 inside the window.
    pub ok: u64,
    /// Other answers; a run with any is no measurement.
    pub bad: u64,
    /// Broken connections; likewise.
    pub errors: u64,
    /// Workers whose last request never ended; likewise.
    pub hung: u64,
    /// Good answers a second.
    pub rps: f64,
    /// Median time to the end of an answer.
    pub p50_us: f64,
    /// 99th percentile of the same.
    pub p99_us: f64,
    /// Longest.
    pub max_us: f64,
    /// Median time to the first byte of the body.
    pub first_byte_p50_us: f64,
    /// 99th percentile of the same.
    pub first_byte_p99_us: f64,
    /// Events of streams.
    pub events: u64,
    /// Median time that a chunk was under way.
    pub chunk_p50_us: f64,
    /// 99th percentile of the same.
    pub chunk_p99_us: f64,
    /// CPU seconds of the watched processes inside the window.
    pub cpu_s: f64,
    /// The same per thousand good answers.
    pub cpu_s_per_1k: f64,
    /// The part of it in threads with the named prefix, per thousand good answers.
    pub named_cpu_s_per_1k: f64,
    /// CPU seconds per ten thousand events.
    pub cpu_s_per_10k_events: f64,
    /// Resident memory at the end of the window, KiB.
    pub rss_kib: u64,
    /// Peak memory, KiB.
    pub peak_kib: u64,
    /// CPU seconds of this client.
    pub client_cpu_s: f64,
    /// The first failure, if there was one.
    pub first_bad: Option<String>,
}

/// What was measured around the window.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its length in seconds.
    pub wall_s: f64,
    /// The watched processes at its start and end.
    pub watched: (Usage, Usage),
    /// This client at its start and end.
    pub client: (Usage, Usage),
    /// Workers that never ended.
    pub hung: u64,
}

impl Report {
    /// Sums up the findings of a run.
    pub fn new(label: String, mut findings: Findings, window: Window) -> Self {
        let (before, after) = window.watched;
        let cpu_s = after.cpu_s - before.cpu_s;
        let per = |cpu: f64, count: u64, unit: f64| if count == 0 { 0.0 } else { cpu / count as f64 * unit };
        let (latencies, first_bytes) = (&mut findings.latencies, &mut findings.first_bytes);
        Self {
            label,
            wall_s: window.wall_s,
            ok: findings.ok,
            bad: findings.bad,
            errors: findings.errors,
            hung: window.hung,
            rps: findings.ok as f64 / window.wall_s,
            p50_us: quantile(latencies, 0.5),
            p99_us: quantile(latencies, 0.99),
            max_us: quantile(latencies, 1.0),
            first_byte_p50_us: quantile(first_bytes, 0.5),
            first_byte_p99_us: quantile(first_bytes, 0.99),
            events: findings.events,
            chunk_p50_us: quantile(&mut findings.delays, 0.5),
            chunk_p99_us: quantile(&mut findings.delays, 0.99),
            cpu_s,
            cpu_s_per_1k: per(cpu_s, findings.ok, 1e3),
            named_cpu_s_per_1k: per(after.named_cpu_s - before.named_cpu_s, findings.ok, 1e3),
            cpu_s_per_10k_events: per(cpu_s, findings.events, 1e4),
            rss_kib: after.rss_kib,
            peak_kib: after.peak_kib,
            client_cpu_s: window.client.1.cpu_s - window.client.0.cpu_s,
            first_bad: findings.first_bad,
        }
    }
}

/// A quantile of nanoseconds, in microseconds; 0 when there are none.
fn quantile(nanos: &mut [u64], share: f64) -> f64 {
    if nanos.is_empty() {
        return 0.0;
    }
    let place = ((nanos.len() - 1) as f64 * share).round() as usize;
    let (_, value, _) = nanos.select_nth_unstable(place);
    *value as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut nanos: Vec<u64> = (1..=101).rev().map(|n| n * 1000).collect();
        assert!((quantile(&mut nanos, 0.5) - 51.0).abs() < 1e-9);
        assert!((quantile(&mut nanos, 1.0) - 101.0).abs() < 1e-9);
        assert!(quantile(&mut [], 0.5).abs() < 1e-9);
    }
}
