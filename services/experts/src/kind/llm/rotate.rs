use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Llm;
use super::site::Site;
use crate::upstream::{BadFile, TlsFiles};

/// How often the files are looked at, as those of the listeners are.
const INTERVAL: Duration = Duration::from_secs(5);

/// Keeps who calls what the files say, until the token is cancelled.
pub(super) async fn run(llm: Weak<Llm>, files: TlsFiles, stop: CancellationToken) {
    // Said once, not every few seconds.
    let mut warned: Option<BadFile> = None;
    while stop.run_until_cancelled(sleep(INTERVAL)).await.is_some() {
        let Some(this) = llm.upgrade() else { return };
        let (id, files) = (this.id.clone(), files.clone());
        let Ok(renewed) = spawn_blocking(move || this.reread(&files)).await else { continue };
        match renewed {
            Ok(changed) => {
                if changed {
                    tracing::info!(expert.id = %id, "new TLS files of an expert are in use");
                }
                warned = None;
            }
            Err(problem) => {
                if warned.as_ref() != Some(&problem) {
                    let (field, error) = &problem;
                    tracing::warn!(
                        expert.id = %id,
                        setting = format!("backend.tls.{field}"),
                        %error,
                        "TLS files of an expert cannot be used, those before them stay"
                    );
                    warned = Some(problem);
                }
            }
        }
    }
}

impl Llm {
    /// Reads the TLS files again and takes them into use if they changed; says whether they did. What was in
    /// use stays in use when they cannot be read. Blocks on the files.
    pub(super) fn reread(&self, files: &TlsFiles) -> Result<bool, BadFile> {
        let Some(known) = self.servers.first().and_then(|server| server.identity()) else {
            return Ok(false);
        };
        let read = self.client.identity_again(&known, files)?.map(Arc::new);
        if let Some(identity) = &read {
            for server in &self.servers {
                server.set_identity(identity.clone());
            }
        }
        // Also those that were made of older ones while the identity was changed.
        if self.sites.load().iter().any(|site| site.renewed(&self.client).is_some()) {
            let renewed =
                |site: &Arc<Site>| site.renewed(&self.client).map_or_else(|| site.clone(), Arc::new);
            self.sites.rcu(|sites| sites.iter().map(renewed).collect::<Vec<_>>());
        }
        Ok(read.is_some())
    }
}
