//! What the gateway holds when nothing is asked of it.

use std::time::Duration;

use anyhow::{Result, bail};
use e2e::{Client, Gateway};

/// Requests in progress, tasks and open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) in_flight: u64,
    pub(super) tasks: u64,
    pub(super) files: u64,
}

/// The value of a metric without labels, or with exactly these.
pub(super) fn metric(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// All metrics, over a connection of its own.
pub(super) async fn metrics(gateway: &Gateway) -> Result<String> {
    Ok(Client::default().get(&format!("{}/metrics", gateway.admin)).await?.text())
}

impl Level {
    pub(super) async fn now(gateway: &Gateway) -> Result<Self> {
        let text = metrics(gateway).await?;
        let read = |name| metric(&text, name).unwrap_or(u64::MAX);
        Ok(Self {
            in_flight: read("guildhall_in_flight_requests"),
            tasks: read("guildhall_tasks"),
            files: read("process_open_fds"),
        })
    }

    /// Waits until it is back at what it was, or the same for a while, and gives it.
    pub(super) async fn settled(gateway: &Gateway, before: Option<&Self>) -> Result<Self> {
        let (mut last, mut alike) = (Self::now(gateway).await?, 0);
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = Self::now(gateway).await?;
            alike = if now == last { alike + 1 } else { 0 };
            last = now;
            match before {
                None if alike == 10 && now.in_flight == 0 => return Ok(now),
                Some(before)
                    if now.in_flight == 0 && now.tasks <= before.tasks && now.files <= before.files =>
                {
                    return Ok(now);
                }
                _ => {}
            }
        }
        bail!("before {before:?}, ten seconds after all was over {last:?}")
    }
}
