//! Durations by route or expert, with a trace to look at for each bucket (exemplars).
//!
//! `prometheus_client` has such a histogram, but takes a write lock and a mutex for each value. Here a request
//! pays two atomic additions; only a sampled one takes a lock, to leave its trace. In exchange these series write
//! themselves.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use routing::ExpertId;

use super::exposition::Format;

/// The durations of one series. Clones share it.
#[derive(Clone, Debug)]
pub struct Timing(Arc<Series>);

#[derive(Debug)]
struct Series {
    bounds: &'static [f64],
    /// One for each bound, and one for what is longer.
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
    /// The latest of each bucket.
    exemplars: Mutex<Box<[Option<Exemplar>]>>,
}

/// A request that shows what a bucket is about.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Exemplar {
    trace_id: u128,
    seconds: f64,
    at_ms: u64,
}

/// Where a sampled request can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its trace.
    pub trace_id: u128,
    /// When it was measured, in milliseconds since 1970 UTC.
    pub at_ms: u64,
}

impl Timing {
    fn new(bounds: &'static [f64]) -> Self {
        let buckets = bounds.len() + 1;
        Self(Arc::new(Series {
            bounds,
            counts: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            nanoseconds: AtomicU64::new(0),
            exemplars: Mutex::new(vec![None; buckets].into()),
        }))
    }

    /// Counts a duration; `seen` says where the request is traced, if it is sampled.
    pub fn observe(&self, duration: Duration, seen: Option<Seen>) {
        let series = &*self.0;
        let seconds = duration.as_secs_f64();
        let bucket = series.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(series.bounds.len());
        series.counts[bucket].fetch_add(1, Ordering::Relaxed);
        series.nanoseconds.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
        if let Some(Seen { trace_id, at_ms }) = seen {
            let mut exemplars = series.exemplars.lock().unwrap_or_else(PoisonError::into_inner);
            exemplars[bucket] = Some(Exemplar { trace_id, seconds, at_ms });
        }
    }
}

/// One metric: a [`Timing`] for each value of its label. Clones share it.
#[derive(Clone, Debug)]
pub struct Timings {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    bounds: &'static [f64],
    series: Arc<RwLock<BTreeMap<Option<ExpertId>, Timing>>>,
}

impl Timings {
    /// `name` is whole, with its prefix and its unit, which is seconds.
    pub(super) fn new(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        bounds: &'static [f64],
    ) -> Self {
        Self { name, help, label, bounds, series: Arc::default() }
    }

    /// The series of a route or expert; `None` where there is none, shown as an empty label. Takes locks: to be
    /// asked once, not for each value.
    pub fn of(&self, id: Option<&ExpertId>) -> Timing {
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&id.cloned()).cloned();
        known.unwrap_or_else(|| {
            let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
            series.entry(id.cloned()).or_insert_with(|| Timing::new(self.bounds)).clone()
        })
    }

    /// Writes all series in a text format.
    pub(super) fn write(&self, out: &mut String, format: Format) -> std::fmt::Result {
        let Self { name, help, label, .. } = self;
        writeln!(out, "# HELP {name} {help}.\n# TYPE {name} histogram")?;
        if format == Format::OpenMetrics {
            writeln!(out, "# UNIT {name} seconds")?;
        }
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (id, Timing(series)) in &series {
            // Ids need no escapes.
            let of = format!("{label}=\"{}\"", id.as_ref().map_or("", ExpertId::as_str));
            let exemplars = series.exemplars.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let bounds = series.bounds.iter().map(|bound| format!("{bound:?}"));
            let bounds = bounds.chain([String::from("+Inf")]);
            let mut count = 0;
            for (at, bound) in bounds.enumerate() {
                count += series.counts[at].load(Ordering::Relaxed);
                write!(out, "{name}_bucket{{le=\"{bound}\",{of}}} {count}")?;
                if let Some(Exemplar { trace_id, seconds, at_ms }) = exemplars[at]
                    && format == Format::OpenMetrics
                {
                    let (s, ms) = (at_ms / 1000, at_ms % 1000);
                    write!(out, " # {{trace_id=\"{trace_id:032x}\"}} {seconds} {s}.{ms:03}")?;
                }
                out.push('\n');
            }
            let sum = series.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
            writeln!(out, "{name}_sum{{{of}}} {sum}\n{name}_count{{{of}}} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(timings: &Timings, format: Format) -> String {
        let mut out = String::new();
        timings.write(&mut out, format).unwrap();
        out
    }

    #[test]
    fn a_histogram_with_the_traces_of_those_that_were_sampled() {
        let timings = Timings::new("t_seconds", "Time", "route", &[0.1, 1.0]);
        let auto = ExpertId::new("auto").unwrap();
        let seen = |trace_id| Some(Seen { trace_id, at_ms: 1_800_000_000_250 });
        timings.of(Some(&auto)).observe(Duration::from_millis(100), None);
        timings.of(Some(&auto)).observe(Duration::from_millis(500), seen(1));
        timings.of(Some(&auto)).observe(Duration::from_millis(250), seen(0xabc));
        timings.of(Some(&auto)).observe(Duration::from_millis(300), None);
        timings.of(None).observe(Duration::from_secs(3), seen(2));
        let expected = "\
# HELP t_seconds Time.
# TYPE t_seconds histogram
# UNIT t_seconds seconds
t_seconds_bucket{le=\"0.1\",route=\"\"} 0
t_seconds_bucket{le=\"1.0\",route=\"\"} 0
t_seconds_bucket{le=\"+Inf\",route=\"\"} 1 # {trace_id=\"00000000000000000000000000000002\"} 3 1800000000.250
t_seconds_sum{route=\"\"} 3
t_seconds_count{route=\"\"} 1
t_seconds_bucket{le=\"0.1\",route=\"auto\"} 1
t_seconds_bucket{le=\"1.0\",route=\"auto\"} 4 # {trace_id=\"00000000000000000000000000000abc\"} 0.25 1800000000.250
t_seconds_bucket{le=\"+Inf\",route=\"auto\"} 4
t_seconds_sum{route=\"auto\"} 1.15
t_seconds_count{route=\"auto\"} 4
";
        assert_eq!(written(&timings, Format::OpenMetrics), expected);
        let plain: String = expected
            .lines()
            .filter(|line| !line.starts_with("# UNIT"))
            .fold(String::new(), |all, line| all + line.split(" # {").next().unwrap() + "\n");
        assert_eq!(written(&timings, Format::Text), plain);
    }
}
