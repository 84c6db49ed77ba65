use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Llm;
use super::site::Site;
use crate::resilience::{balance, check_ms};
use crate::spec::Report;
use crate::upstream;

/// Asks every endpoint regularly whether it works. One that does not gets no requests until it does, as with
/// an open breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked for with a GET, below the base URL. An answer of 2xx is a good one.
    pub path: String,
    /// Between two checks, in milliseconds.
    #[schema(minimum = 1)]
    pub interval_ms: u64,
    /// For a check, in milliseconds.
    #[schema(minimum = 1)]
    pub timeout_ms: u64,
    /// Failed checks in a row that make an endpoint unhealthy.
    #[schema(minimum = 1)]
    pub unhealthy_after: u32,
    /// Good checks in a row that make it healthy again.
    #[schema(minimum = 1)]
    pub healthy_after: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: "/models".to_owned(),
            interval_ms: 5_000,
            timeout_ms: 2_000,
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

impl HealthCheck {
    pub(super) fn validate(&self, report: &mut Report<'_>) {
        if !self.path.starts_with('/') || http::Uri::try_from(self.path.as_str()).is_err() {
            let message = "must be a path below the base URL that begins with a slash, such as /models";
            report.add("health.path", message);
        }
        check_ms(report, "health.interval_ms", self.interval_ms);
        check_ms(report, "health.timeout_ms", self.timeout_ms);
        let counts =
            [("health.unhealthy_after", self.unhealthy_after), ("health.healthy_after", self.healthy_after)];
        for (field, count) in counts {
            if count == 0 {
                report.add(field, "is 0; must be at least 1");
            }
        }
    }
}

/// The largest answer to a check.
const MAX_BYTES: usize = 1 << 20;

/// Good or failed checks in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    good: bool,
    length: u32,
}

impl Row {
    /// Takes note of a check; `Some` with the verdict once the row is long enough for one.
    fn note(&mut self, good: bool, settings: &HealthCheck) -> Option<bool> {
        *self = Self { good, length: if self.good == good { self.length.saturating_add(1) } else { 1 } };
        let enough = if good { settings.healthy_after } else { settings.unhealthy_after };
        (self.length >= enough).then_some(good)
    }
}

/// Checks the sites of an expert until the token is cancelled. Each round asks all at once; experts do not
/// all start in the same moment.
pub(super) async fn run(llm: Weak<Llm>, settings: HealthCheck, stop: CancellationToken) {
    let interval = Duration::from_millis(settings.interval_ms);
    let Some(first) = llm.upgrade().map(|llm| interval.mul_f64(fraction(llm.id.as_str()))) else { return };
    let mut next = Instant::now() + first;
    let mut rows = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep_until(next) => {}
        }
        next = Instant::now() + interval;
        if stop.run_until_cancelled(round(&llm, &settings, &mut rows)).await.flatten().is_none() {
            break;
        }
    }
    // Nobody will take the verdicts back.
    if let Some(llm) = llm.upgrade() {
        for site in llm.sites.load().iter() {
            site.vitals.set_sick(false, Instant::now());
        }
    }
}

/// A number in 0..1 that the name decides.
fn fraction(name: &str) -> f64 {
    (balance::key(name) >> 11) as f64 / (1u64 << 53) as f64
}

/// Checks every site once; `None` when the expert is gone.
async fn round(llm: &Weak<Llm>, settings: &HealthCheck, rows: &mut HashMap<Arc<str>, Row>) -> Option<()> {
    let llm = llm.upgrade()?;
    let timeout = Duration::from_millis(settings.timeout_ms);
    let mut checks = JoinSet::new();
    let sites = llm.sites.load_full();
    for site in sites.iter() {
        let site = site.clone();
        checks.spawn(async move {
            let good = check(&site, timeout).await;
            (site, good)
        });
    }
    rows.retain(|name, _| sites.iter().any(|site| site.vitals.endpoint == *name));
    while let Some(checked) = checks.join_next().await {
        let Ok((site, good)) = checked else { continue };
        let row = rows.entry(site.vitals.endpoint.clone()).or_default();
        let Some(good) = row.note(good, settings) else { continue };
        if site.vitals.set_sick(!good, Instant::now()) {
            let (expert, endpoint) = (&llm.id, &*site.vitals.endpoint);
            if good {
                tracing::info!(expert.id = %expert, endpoint.url = endpoint, "an endpoint passes its checks again");
            } else {
                tracing::warn!(expert.id = %expert, endpoint.url = endpoint, "an endpoint fails its checks");
            }
        }
    }
    Some(())
}

async fn check(site: &Site, timeout: Duration) -> bool {
    let Some(request) = site.server.health_request(http::Version::HTTP_11) else { return true };
    let request = |version| site.server.health_request(version).unwrap_or_else(|| request.clone());
    let answer = upstream::exchange(&site.peer, request, timeout, MAX_BYTES).await;
    answer.is_ok_and(|answer| answer.status.is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_check_is_no_verdict() {
        let settings = HealthCheck::default();
        let mut row = Row::default();
        let verdicts: Vec<Option<bool>> = [false, false, true, false, false, false, false, true, true, true]
            .into_iter()
            .map(|good| row.note(good, &settings))
            .collect();
        let (none, bad, good) = (None, Some(false), Some(true));
        assert_eq!(verdicts, [none, none, none, none, none, bad, bad, none, good, good]);
    }

    #[test]
    fn experts_start_at_different_times() {
        let (a, b) = (fraction("a"), fraction("b"));
        assert!((0.0..1.0).contains(&a) && (0.0..1.0).contains(&b) && (a - b).abs() > 0.01);
    }
}
