//! The pools: which experts' weights have to be brought where they answer from before they are called.

use std::collections::HashMap;
use std::sync::Arc;

use experts::Snapshot;
use routing::ExpertId;
use tiers::owner::{Outlook, Pool, Watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::PoolConfig;
use crate::problem::Problem;

/// All pools.
#[derive(Clone, Default)]
pub struct Pools {
    all: Vec<Pool>,
    by_expert: Arc<HashMap<ExpertId, Pool>>,
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
        Ok(Self { all, by_expert })
    }

    /// The pools, in the order of the configuration.
    pub fn all(&self) -> &[Pool] {
        &self.all
    }

    /// The pool of that name.
    pub fn get(&self, id: &str) -> Option<&Pool> {
        self.all.iter().find(|pool| &**pool.id() == id)
    }

    /// The pool that an expert is in; most are in none, and always there.
    pub fn of(&self, expert: &ExpertId) -> Option<&Pool> {
        if self.all.is_empty() { None } else { self.by_expert.get(expert) }
    }

    /// Where an expert is, and how long a request would wait for it.
    pub fn outlook(&self, expert: &ExpertId) -> Option<Outlook> {
        self.of(expert)?.outlook(expert)
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

    /// Owns the pools until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
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
