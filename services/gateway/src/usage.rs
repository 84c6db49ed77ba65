//! What keys, teams and routes have used of their days, months and budgets, kept over a restart.
//!
//! The counters live in memory and are written to the store when they have changed, every few seconds and at
//! the end. A crash costs at most what was used since the last write.

use std::sync::Arc;
use std::time::Duration;

use admission::{Embedded, limit};
use stores::{Change, EmbeddedStore, Kind, StoreError, Write};
use tokio_util::sync::CancellationToken;

use crate::pipeline::now_ms;

/// How often changed counters are written.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How many saves lie between two sweeps of counters that nobody uses any more.
const SWEEP_EVERY: u32 = 12;
/// The counters' name in the store.
const ID: &str = "usage";

/// A ledger with what the store remembers.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn restore(store: &EmbeddedStore) -> Result<Embedded, StoreError> {
    let ledger = Embedded::new();
    if let Some(document) = store.load(Kind::Setting, ID)? {
        match document.parse() {
            Ok(snapshot) => ledger.restore(&snapshot),
            Err(error) => {
                tracing::warn!(%error, "what was used of budgets cannot be read and counts from zero");
            }
        }
    }
    Ok(ledger)
}

/// Writes the counters while they change, and a last time at `stop`.
pub(crate) async fn keep(ledger: Arc<Embedded>, store: Arc<EmbeddedStore>, stop: CancellationToken) {
    // Not what the ledger holds now: the first requests may have come before this task's first turn.
    let mut saved = limit::Snapshot::default();
    let mut turn = 0_u32;
    loop {
        let last = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(SAVE_EVERY) => false,
        };
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(SWEEP_EVERY) {
            ledger.sweep(now_ms());
        }
        let now = sorted(ledger.export());
        if now != saved {
            let (store, snapshot) = (store.clone(), now.clone());
            let written = tokio::task::spawn_blocking(move || save(&store, &snapshot)).await;
            match written {
                Ok(Ok(())) => saved = now,
                Ok(Err(error)) => tracing::error!(%error, "what was used of budgets could not be stored"),
                Err(error) => tracing::error!(%error, "what was used of budgets could not be stored"),
            }
        }
        if last {
            return;
        }
    }
}

/// Snapshots come in no order.
fn sorted(mut snapshot: limit::Snapshot) -> limit::Snapshot {
    snapshot.counters.sort_unstable_by(|a, b| (&a.subject, a.kind).cmp(&(&b.subject, b.kind)));
    snapshot
}

fn save(store: &EmbeddedStore, snapshot: &limit::Snapshot) -> Result<(), stores::CommitError> {
    let change = Change { writes: vec![Write::put(Kind::Setting, ID, snapshot)?], audit: Vec::new() };
    store.commit(&change)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use admission::{Account, Accounts, Ledger, Limits, Subject, Usage};
    use stores::Options;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_not_new_after_a_restart() {
        let store = Arc::new(EmbeddedStore::in_memory(Options::default()).unwrap());
        let limits = Limits { requests_per_day: Some(3), ..Limits::default() };
        let account = Account::new(Subject::Key("k".into()), &limits);
        let ask = async |ledger: &Embedded| {
            let accounts = Accounts { key: account.as_ref(), ..Accounts::default() };
            let now = 1_790_000_000_000;
            match ledger.reserve(accounts, Usage::default(), now).await {
                Ok(reservation) => {
                    ledger.settle(reservation, Usage::default(), now);
                    true
                }
                Err(_) => false,
            }
        };
        let ledger = Arc::new(restore(&store).unwrap());
        assert!(ask(&ledger).await);
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keep(ledger.clone(), store.clone(), stop.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(ask(&ledger).await);
        tokio::time::sleep(2 * SAVE_EVERY).await;
        assert!(ask(&restore(&store).unwrap()).await, "two of three are used");
        // What comes after the last regular save is written at the end.
        assert!(ask(&ledger).await);
        stop.cancel();
        keeper.await.unwrap();
        assert!(!ask(&restore(&store).unwrap()).await, "all three are used");
    }
}
