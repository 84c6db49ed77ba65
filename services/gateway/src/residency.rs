//! The pools: which experts' weights have to be brought where they answer from before they are called.
//!
//! Either this process owns them, and asking for an expert is a call; or another one does, and it is an exchange over
//! that one's admin API (`remote.rs` asks, `lender.rs` answers).

mod lender;
mod remote;
pub(crate) mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use experts::Snapshot;
use routing::ExpertId;
use tiers::owner::{Ask, Denied, Found, Held, Outlook, Pool, Watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::PoolConfig;
use crate::problem::Problem;

pub use lender::Lender;
pub(crate) use remote::OwnerMetrics;
pub use remote::{Remote, RemoteLease};

/// All pools.
#[derive(Clone, Default)]
pub struct Pools {
    all: Vec<Pool>,
    by_expert: Arc<HashMap<ExpertId, Pool>>,
    /// Those of another process, in place of own ones.
    remote: Option<Remote>,
}

/// Whom to ask for an expert.
pub enum Keeper<'a> {
    /// A pool of this process.
    Here(&'a Pool),
    /// Another process.
    There(&'a Remote),
}

/// An expert that is ready, and stays where it is until this is dropped.
pub enum Lease {
    /// From a pool of this process.
    Here(Held),
    /// From another process.
    There(RemoteLease),
}

impl Keeper<'_> {
    /// Waits until an expert is ready and it is this request's turn; `None` where it is in no pool after all. Dropping
    /// the future gives the turn up.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn acquire(&self, ask: Ask<'_>) -> Result<Option<Lease>, Denied> {
        match self {
            Self::Here(pool) => pool.acquire(ask).await.map(|held| Some(Lease::Here(held))),
            Self::There(remote) => remote.acquire(ask).await.map(|lease| lease.map(Lease::There)),
        }
    }

    /// Has the drivers asked soon: somebody saw that an expert is not where it should be.
    pub fn suspect(&self, expert: &ExpertId) {
        match self {
            Self::Here(pool) => pool.suspect(expert),
            Self::There(remote) => remote.suspect(expert),
        }
    }
}

impl Lease {
    /// How long the request waited.
    pub fn waited(&self) -> Duration {
        match self {
            Self::Here(held) => held.waited(),
            Self::There(lease) => lease.waited,
        }
    }

    /// Where the expert was when the request came.
    pub fn found(&self) -> Found {
        match self {
            Self::Here(held) => held.found(),
            Self::There(lease) => lease.found,
        }
    }
}

impl Pools {
    /// Makes the pools. Their drivers are not asked anything yet.
    ///
    /// # Errors
    /// What is wrong, by its place in the configuration.
    pub fn new(
        pools: &[PoolConfig],
        now_ms: u64,
        watch: impl Fn(&ExpertId) -> Arc<dyn Watch>,
    ) -> Result<Self, Problem> {
        let pools = pools.iter().enumerate().map(|(i, config)| {
            let pool = config.pool(now_ms, watch(&config.id));
            pool.map_err(|problem| problem.below(&format!("pools[{i}]")))
        });
        let all: Vec<Pool> = pools.collect::<Result<_, _>>()?;
        let of = |pool: &Pool| pool.experts().map(|id| (id.clone(), pool.clone())).collect::<Vec<_>>();
        let by_expert = Arc::new(all.iter().flat_map(of).collect());
        Ok(Self { all, by_expert, remote: None })
    }

    /// The pools of another process.
    pub fn remote(remote: Remote) -> Self {
        Self { remote: Some(remote), ..Self::default() }
    }

    /// Whether it is known which experts are in pools.
    pub fn are_known(&self) -> bool {
        self.remote.as_ref().is_none_or(Remote::is_known)
    }

    /// The own pools, in the order of the configuration.
    pub fn all(&self) -> &[Pool] {
        &self.all
    }

    /// The own pool of that name.
    pub fn get(&self, id: &str) -> Option<&Pool> {
        self.all.iter().find(|pool| &**pool.id() == id)
    }

    /// The own pool that an expert is in.
    pub fn of(&self, expert: &ExpertId) -> Option<&Pool> {
        if self.all.is_empty() { None } else { self.by_expert.get(expert) }
    }

    /// Whom to ask for an expert; most are in no pool, and always there.
    pub fn keeper(&self, expert: &ExpertId) -> Option<Keeper<'_>> {
        match &self.remote {
            None => self.of(expert).map(Keeper::Here),
            Some(remote) => remote.may_have(expert).then_some(Keeper::There(remote)),
        }
    }

    /// Where an expert is, and how long a request would wait for it.
    pub fn outlook(&self, expert: &ExpertId) -> Option<Outlook> {
        match &self.remote {
            None => self.of(expert)?.outlook(expert),
            Some(remote) => remote.outlook(expert),
        }
    }

    /// Says which of the pools' experts no request can reach, because nobody registered them.
    pub fn warn_of_unknown(&self, experts: &Snapshot) {
        for pool in &self.all {
            let unknown = pool.experts().filter(|id| experts.get(id.as_str()).is_none());
            let unknown: Vec<_> = unknown.map(ExpertId::as_str).collect();
            if !unknown.is_empty() {
                tracing::info!(
                    pool.id = %pool.id(), experts = unknown.join(", "),
                    "experts of a pool are not registered as experts; no request reaches them until they are"
                );
            }
        }
    }

    /// Owns the pools, or keeps up with their owner, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        if let Some(remote) = self.remote {
            tasks.spawn(remote.run(stop.clone()));
        }
        for pool in self.all {
            let stop = stop.clone();
            tasks.spawn(async move { pool.run(stop.cancelled()).await });
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the owner of a pool failed; its experts are not to be had");
            }
        }
    }
}
