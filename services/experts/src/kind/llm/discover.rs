use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Llm;
use super::site::Site;

/// How the servers behind a URL are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// By all A and AAAA records of the host.
    Dns,
}

/// However many connections fail, names are not looked up more often than this.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a lookup may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the sites of one server what its host name says, until the token is cancelled.
pub(super) async fn run(llm: Weak<Llm>, server: usize, stop: CancellationToken) {
    loop {
        let Some(next) = stop.run_until_cancelled(look(&llm, server)).await.flatten() else { return };
        let Some(this) = llm.upgrade() else { return };
        let Some(server) = this.servers.get(server).cloned() else { return };
        drop(this);
        let asked = async {
            sleep_until(Instant::now() + PAUSE).await;
            server.look.notified().await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(next) => {}
            () = asked => {}
        }
    }
}

/// Looks once, and says when to look again; `None` when the expert is gone.
async fn look(llm: &Weak<Llm>, server: usize) -> Option<Instant> {
    let llm = llm.upgrade()?;
    let server = llm.servers.get(server)?;
    let next = Instant::now() + server.refresh?;
    let host = &server.origin.host;
    let problem = match timeout(PATIENCE, llm.client.resolver().resolve(host)).await {
        Ok(Ok(found)) if !found.is_empty() => {
            llm.take_addresses(server, &found.into_iter().map(|ip| ip.to_canonical()).collect());
            return Some(next);
        }
        Ok(Ok(_)) => "it has no address".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} ms", PATIENCE.as_millis()),
    };
    // What was found before is more likely to be right than nothing.
    tracing::warn!(expert.id = %llm.id, host.name = %host, error = %problem, "a name cannot be looked up");
    Some(next)
}

impl Llm {
    /// Makes the sites of one server those of these addresses. Sites that stay keep what is known of them;
    /// those that go finish what they have.
    pub(super) fn take_addresses(&self, server: &Arc<super::site::Server>, found: &BTreeSet<IpAddr>) {
        let before = self.sites.load_full();
        let mine = |site: &&Arc<Site>| Arc::ptr_eq(&site.server, server);
        let known: BTreeSet<IpAddr> = before.iter().filter(mine).filter_map(|s| s.address).collect();
        if known == *found {
            return;
        }
        let of_address = |ip: &IpAddr| {
            let same = before.iter().filter(mine).find(|site| site.address == Some(*ip)).cloned();
            same.or_else(|| self.site(server, Some(*ip)).ok())
        };
        let fresh: Vec<Arc<Site>> = found.iter().filter_map(of_address).collect();
        if fresh.is_empty() {
            return;
        }
        // Several servers have a task each; what another one changed meanwhile stays.
        self.sites.rcu(|sites| {
            let mut next: Vec<Arc<Site>> = sites.iter().filter(|site| !mine(site)).cloned().collect();
            next.extend(fresh.iter().cloned());
            next
        });
        self.client.board().announce();
        tracing::info!(
            expert.id = %self.id,
            host.name = %server.origin.host,
            added = found.difference(&known).count(),
            removed = known.difference(found).count(),
            total = found.len(),
            "the addresses of an endpoint have changed"
        );
    }
}
