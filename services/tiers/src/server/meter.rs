use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::endpoint::{Endpoint, Network, Server, pause};
use super::report::DriverError;

/// The share of an expert's bytes whose return means that it is gone: engines keep a context and graphs.
const BACK: f64 = 0.75;

/// Where the accelerator's free memory can be read, because no server's status code says when bytes are free.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MeterConfig {
    /// The server of a page in the Prometheus text format, such as a device exporter's.
    pub server: Server,
    /// The page's path.
    #[serde(default = "page")]
    pub path: String,
    /// The gauge of free memory, such as `DCGM_FI_DEV_FB_FREE`.
    pub metric: String,
    /// Text that a sample's labels must contain, such as `gpu="0"`. Samples that do are added up.
    #[serde(default)]
    pub labels: String,
    /// Bytes of one unit of the gauge: 1048576 for mebibytes.
    #[serde(default = "one")]
    pub unit_bytes: u64,
}

fn page() -> String {
    "/metrics".to_owned()
}

fn one() -> u64 {
    1
}

pub(crate) struct Meter {
    config: MeterConfig,
    endpoint: Endpoint,
}

impl Meter {
    pub(crate) fn new(config: MeterConfig, network: &Network) -> Result<Self, DriverError> {
        Ok(Self { endpoint: Endpoint::new(&config.server, network)?, config })
    }

    /// Free bytes now.
    pub(crate) async fn free(&self, deadline: Instant) -> Result<u64, DriverError> {
        let answer = self.endpoint.get(&self.config.path, deadline).await?.told()?;
        let text = String::from_utf8_lossy(&answer.body);
        let samples = text.lines().filter_map(|line| self.sample(line));
        let total = samples.fold(None, |sum: Option<f64>, value| Some(sum.unwrap_or(0.0) + value));
        total.map(|units| (units * self.config.unit_bytes as f64) as u64).ok_or_else(|| {
            DriverError::unsupported(format!(
                "{}{}: there is no sample of {} with {:?} in its labels; correct the meter's metric or labels",
                self.config.server.url, self.config.path, self.config.metric, self.config.labels
            ))
        })
    }

    fn sample(&self, line: &str) -> Option<f64> {
        let rest = line.strip_prefix(&self.config.metric)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let value = value.split_whitespace().next()?.parse().ok()?;
        labels.contains(&self.config.labels).then_some(value)
    }

    /// Waits until an expert's bytes are back.
    pub(crate) async fn freed(&self, before: u64, bytes: u64, deadline: Instant) -> Result<u64, DriverError> {
        let enough = before.saturating_add((bytes as f64 * BACK) as u64);
        loop {
            let free = self.free(deadline).await.map_err(DriverError::after_a_change)?;
            if free >= enough {
                return Ok(free);
            }
            let missing = format!("{bytes} bytes were free again: {before} before, {free} now");
            pause(deadline, &missing).await?;
        }
    }
}
