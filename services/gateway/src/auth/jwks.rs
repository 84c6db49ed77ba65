//! An issuer's keys, kept fresh in the background. A slow or dead issuer costs a request nothing: what was
//! read last stays in use, and only a token with an unknown key waits, for a bounded time.

mod keys;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, StatusCode};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::JwtConfig;
use crate::outbound::{Bounds, Outbound, is_trusted};

pub(crate) use keys::{Checked, KeySet, name};

/// Keys are not read more often than this, whoever asks.
const PAUSE: Duration = Duration::from_secs(10);

/// One exchange with the issuer. Two of them find an address and read the keys there.
const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(5), max_body_bytes: 256 << 10 };

/// The keys of one issuer.
#[derive(Debug)]
pub(crate) struct Jwks {
    issuer: String,
    source: Source,
    interval: Duration,
    live: ArcSwapOption<KeySet>,
    wanted: Notify,
    round: watch::Sender<Round>,
}

/// Where the keys come from.
#[derive(Clone, Debug)]
enum Source {
    File(PathBuf),
    Url(String),
    /// The address is in the provider's metadata (`OpenID` Connect Discovery 1.0 section 4).
    Discovery,
}

/// How often the keys were read, well or not, and when they may be read again.
#[derive(Clone, Copy, Debug)]
struct Round {
    count: u64,
    next: Instant,
}

impl Jwks {
    pub(crate) fn new(config: &JwtConfig) -> Self {
        let source = match (&config.jwks_file, &config.jwks_url) {
            (Some(path), _) => Source::File(path.clone()),
            (None, Some(url)) => Source::Url(url.clone()),
            (None, None) => Source::Discovery,
        };
        Self {
            issuer: config.issuer.clone(),
            source,
            interval: Duration::from_secs(config.refresh_s).max(PAUSE),
            live: ArcSwapOption::empty(),
            wanted: Notify::new(),
            round: watch::Sender::new(Round { count: 0, next: Instant::now() }),
        }
    }

    /// The keys as they were read last; `None` until that went well for the first time.
    pub(crate) fn keys(&self) -> Option<Arc<KeySet>> {
        self.live.load_full()
    }

    /// Asks for the keys to be read again and waits for that, but not longer than `patience`, and not at
    /// all when they were read a moment ago.
    pub(crate) async fn renew(&self, patience: Duration) {
        let mut round = self.round.subscribe();
        let Round { count, next } = *round.borrow_and_update();
        if Instant::now() < next {
            return;
        }
        self.wanted.notify_one();
        // Late or ended: the caller looks at the keys in either case.
        let _ = tokio::time::timeout(patience, round.wait_for(|r| r.count > count)).await;
    }

    /// Reads the keys now, then at every interval and when they are asked for, until `stop`. The one place
    /// that reads them, so that nobody reads twice at a time.
    pub(crate) async fn run(self: Arc<Self>, outbound: Arc<dyn Outbound>, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            let Some(read) = stop.run_until_cancelled(self.read(&*outbound)).await else { return };
            let issuer = &self.issuer;
            match read {
                Ok(keys) => {
                    if failures > 0 {
                        tracing::info!(issuer, "the keys of an issuer of tokens can be read again");
                    }
                    failures = 0;
                    if self.keys().is_none_or(|before| *before != keys) {
                        self.live.store(Some(Arc::new(keys)));
                    }
                }
                Err(error) => {
                    // Said once, not at every try.
                    if failures == 0 {
                        let last =
                            if self.keys().is_some() { "those read before stay" } else { "there are none" };
                        tracing::warn!(issuer, error, last, "the keys of an issuer of tokens cannot be read");
                    }
                    failures = failures.saturating_add(1);
                }
            }
            let now = Instant::now();
            self.round.send_modify(|round| *round = Round { count: round.count + 1, next: now + PAUSE });
            let wait = match failures {
                0 => self.interval,
                n => self.interval.min(PAUSE * 2_u32.saturating_pow(n.min(10) - 1)),
            };
            let asked = async {
                tokio::time::sleep_until(now + PAUSE).await;
                self.wanted.notified().await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = asked => {}
                () = tokio::time::sleep_until(now + wait) => {}
            }
        }
    }

    /// Reads the keys once.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub(crate) async fn read(&self, outbound: &dyn Outbound) -> Result<KeySet, String> {
        let json = match &self.source {
            Source::Url(url) => get(outbound, url).await?,
            Source::Discovery => get(outbound, &self.discover(outbound).await?).await?,
            Source::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
                read.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?.into()
            }
        };
        KeySet::parse(&json).map_err(|problem| format!("what was read {problem}"))
    }

    /// The address of the keys in the provider's metadata.
    async fn discover(&self, outbound: &dyn Outbound) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Metadata {
            issuer: String,
            jwks_uri: String,
        }
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let json = get(outbound, &url).await?;
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(|_| "the provider's metadata cannot be read".to_owned())?;
        if metadata.issuer != self.issuer {
            return Err("the provider's metadata is of another issuer".to_owned());
        }
        if !metadata.jwks_uri.parse().is_ok_and(|uri| is_trusted(&uri)) {
            return Err("the provider's metadata gives no https address of its keys".to_owned());
        }
        Ok(metadata.jwks_uri)
    }
}

async fn get(outbound: &dyn Outbound, url: &str) -> Result<Bytes, String> {
    let request = Request::get(url).header(http::header::ACCEPT, "application/json").body(Bytes::new());
    let exchange = outbound.exchange(request.map_err(|e| e.to_string())?, BOUNDS);
    let answer = match tokio::time::timeout(BOUNDS.timeout, exchange).await {
        Ok(answer) => answer.map_err(|e| e.to_string())?,
        Err(_) => return Err(crate::outbound::OutboundError::Timeout.to_string()),
    };
    if answer.status() != StatusCode::OK {
        return Err(format!("the answer is {}", answer.status()));
    }
    if answer.body().len() > BOUNDS.max_body_bytes {
        return Err(crate::outbound::OutboundError::TooLong.to_string());
    }
    Ok(answer.into_body())
}
