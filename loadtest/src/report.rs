//! The one JSON object that a run prints.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::exchange::Failure;
use crate::findings::{Findings, Part};
use crate::histogram::Histogram;
use crate::usage::Usage;

/// A run's result. Times are microseconds unless the name says otherwise.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the caller called this run.
    pub label: String,
    /// Length of the measured window in seconds.
    pub wall_s: f64,
    /// Requests that were begun in the window.
    pub started: u64,
    /// Whole answers with status 200 to requests of the window.
    pub ok: u64,
    /// Whole answers with another status, warm-up included.
    pub bad: u64,
    /// Requests that failed in another way, likewise.
    pub errors: u64,
    /// Workers that never ended.
    pub hung: u64,
    /// Arrivals of an open loop that found too many requests in flight.
    pub not_started: u64,
    /// Clients that left, as the mix says.
    pub left: u64,
    /// Good answers a second.
    pub rps: f64,
    /// From when a request was due (open loop) or sent (closed loop) to the end of its answer.
    pub latency: Quantiles,
    /// The same to the first byte of the body.
    pub first_byte: Quantiles,
    /// Time that chunks were under way.
    pub chunk_delay: Quantiles,
    /// Time between two arrivals of chunks of one stream.
    pub chunk_gap: Quantiles,
    /// Events of streams in the window.
    pub events: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Other failures by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// The window in equal slices, by when requests were due.
    pub slices: Vec<Stretch>,
    /// The items of the mix by name.
    pub items: BTreeMap<String, Stretch>,
    /// CPU seconds of the watched processes and their descendants inside the window.
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

/// A distribution in microseconds; all zero when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The largest.
    pub max_us: f64,
}

impl From<&Histogram> for Quantiles {
    fn from(histogram: &Histogram) -> Self {
        let micros = |share| histogram.quantile(share) as f64 / 1e3;
        Self {
            count: histogram.count(),
            mean_us: histogram.mean() / 1e3,
            p50_us: micros(0.5),
            p90_us: micros(0.9),
            p99_us: micros(0.99),
            p999_us: micros(0.999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// A part of the requests.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stretch {
    /// Requests that were begun.
    pub started: u64,
    /// Good answers.
    pub ok: u64,
    /// Failures of any kind.
    pub failed: u64,
    /// Arrivals that were not sent.
    pub not_started: u64,
    /// Their median.
    pub p50_us: f64,
    /// Their 99th percentile.
    pub p99_us: f64,
}

impl From<&Part> for Stretch {
    fn from(part: &Part) -> Self {
        Self {
            started: part.started,
            ok: part.ok,
            failed: part.failed,
            not_started: part.not_started,
            p50_us: part.latencies.quantile(0.5) as f64 / 1e3,
            p99_us: part.latencies.quantile(0.99) as f64 / 1e3,
        }
    }
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
    /// Sums up the findings of a run. `names` are those of the mix's items.
    pub fn new(label: String, names: &[String], findings: &Findings, window: Window) -> Self {
        let (before, after) = window.watched;
        let cpu_s = after.cpu_s - before.cpu_s;
        let per = |cpu: f64, count: u64, unit: f64| if count == 0 { 0.0 } else { cpu / count as f64 * unit };
        let ok = findings.all.ok;
        Self {
            label,
            wall_s: window.wall_s,
            started: findings.all.started,
            ok,
            bad: findings.statuses.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum(),
            errors: findings.failures.values().sum(),
            hung: window.hung,
            not_started: findings.all.not_started,
            left: findings.left,
            rps: ok as f64 / window.wall_s,
            latency: (&findings.latencies).into(),
            first_byte: (&findings.first_bytes).into(),
            chunk_delay: (&findings.chunk_delays).into(),
            chunk_gap: (&findings.chunk_gaps).into(),
            events: findings.events,
            statuses: findings.statuses.clone(),
            failures: findings.failures.clone(),
            slices: findings.slices.iter().map(Stretch::from).collect(),
            items: names.iter().cloned().zip(findings.items.iter().map(Stretch::from)).collect(),
            cpu_s,
            cpu_s_per_1k: per(cpu_s, ok, 1e3),
            named_cpu_s_per_1k: per(after.named_cpu_s - before.named_cpu_s, ok, 1e3),
            cpu_s_per_10k_events: per(cpu_s, findings.events, 1e4),
            rss_kib: after.rss_kib,
            peak_kib: after.peak_kib,
            client_cpu_s: window.client.1.cpu_s - window.client.0.cpu_s,
            first_bad: findings.first_bad.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_good_answer_of_the_window() {
        let mut findings = Findings::default();
        findings.all.ok = 2000;
        findings.events = 40_000;
        findings.statuses.extend([(200, 2010), (503, 3)]);
        findings.failures.insert(Failure::Cut, 4);
        let after = Usage { cpu_s: 3.0, ..Usage::default() };
        let before = Usage { cpu_s: 1.0, ..Usage::default() };
        let none = (Usage::default(), Usage::default());
        let window = Window { wall_s: 4.0, watched: (before, after), client: none, hung: 0 };
        let report = Report::new(String::new(), &[], &findings, window);
        assert!((report.cpu_s_per_1k - 1.0).abs() < 1e-9 && (report.cpu_s_per_10k_events - 0.5).abs() < 1e-9);
        assert!((report.rps - 500.0).abs() < 1e-9);
        assert_eq!((report.bad, report.errors), (3, 4));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["failures"]["cut"], &json["statuses"]["503"]), (&4.into(), &3.into()));
    }
}
