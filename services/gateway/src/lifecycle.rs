//! Serving from the first request to the last: bind, serve both planes, drain on a signal.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::http::server::{ServerConfig, serve};
use crate::outbound::Outbound;

/// The bound sockets.
pub(crate) struct Listeners {
    /// None where there is no data plane.
    data: Option<TcpListener>,
    admin: TcpListener,
}

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({setting}): {source}; stop what uses it, or set another address")]
pub(crate) struct BindError {
    setting: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl Listeners {
    /// Binds both planes, or the admin plane alone.
    pub(crate) async fn bind(data: Option<SocketAddr>, admin: SocketAddr) -> Result<Self, BindError> {
        let bind = |setting, address| async move {
            TcpListener::bind(address).await.map_err(|source| BindError { setting, address, source })
        };
        let data = match data {
            Some(address) => Some(bind("data.listen", address).await?),
            None => None,
        };
        Ok(Self { data, admin: bind("admin.listen", admin).await? })
    }

    /// The addresses, with the ports that were picked.
    pub(crate) fn addresses(&self) -> io::Result<(Option<SocketAddr>, SocketAddr)> {
        let data = self.data.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok((data, self.admin.local_addr()?))
    }
}

/// Serves until a stop signal, then drains: not ready first and still open to requests for the drain delay,
/// then no new connections, and open requests finish within the drain time. A second signal ends at once.
/// The admin plane answers until the end.
///
/// `file` is the configuration file, whose changes are taken over meanwhile.
pub(crate) async fn run(app: Arc<App>, listeners: Listeners, file: Option<PathBuf>) -> io::Result<()> {
    let config = app.current.config();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    let (stop_data, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let drain = Duration::from_millis(config.data.drain_ms);
    let server = ServerConfig {
        max_header_bytes: config.data.max_header_bytes,
        head_patience: Duration::from_millis(config.data.head_timeout_ms),
        drain,
    };
    app.pipeline.catalog.registry().start();
    app.bundles.start(crate::pipeline::now_ms());
    let data = listeners.data.map(|listener| {
        let data = crate::http::DataPlane::new(app.pipeline.clone(), app.ready.clone());
        tokio::spawn(serve(listener, app.tls.data.clone(), data, server, stop_data.clone()))
    });
    let admin_config = ServerConfig { drain: Duration::from_secs(1), ..server };
    let admin = TowerToHyperService::new(crate::admin::router(app.clone()));
    let admin =
        tokio::spawn(serve(listeners.admin, app.tls.admin.clone(), admin, admin_config, stop_admin.clone()));
    // What looks after the world outside ends with the first signal; what keeps accounts, when the last
    // request is over.
    let (watches, accounts) = (Background::default(), Background::default());
    if let Some(file) = file {
        watches.spawn(|stop| crate::reload::watch(app.clone(), file, hangup, stop));
    }
    for tls in [&app.tls.data, &app.tls.admin].into_iter().flatten() {
        watches.spawn(|stop| tls.clone().watch(stop));
    }
    watches.spawn(|stop| app.pipeline.catalog.clone().describe(stop));
    let outbound: Arc<dyn Outbound> = Arc::new(app.pipeline.catalog.registry().client().clone());
    app.pipeline.gatekeeper.spawn(&outbound, &watches.tasks, &watches.stop);
    let store = app.pipeline.catalog.store().clone();
    if let Some(export) = app.export.lock().unwrap_or_else(PoisonError::into_inner).take() {
        accounts.spawn(|stop| export.run(stop));
    }
    // Requests under way hold leases to the last.
    accounts.spawn(|stop| app.pipeline.pools.clone().run(stop));
    if let Some(lender) = app.lender.clone() {
        accounts.spawn(|stop| lender.keep(stop));
    }
    accounts.spawn(|stop| app.pipeline.feedback.keep(stop));
    accounts.spawn(|stop| crate::usage::keep(app.pipeline.ledger.clone(), store, stop));
    app.ready.set(true);
    let mut stopped = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    stopped().await;
    app.ready.set(false);
    tracing::info!(
        drain.delay.ms = config.data.drain_delay_ms,
        drain.ms = config.data.drain_ms,
        "stopping: open requests finish, a second signal ends them"
    );
    watches.stop();
    let drained = async {
        let Some(data) = data else { return Ok(true) };
        // Whoever sends traffic here learns by and by that it should not. Until then it finds an open door,
        // and its connections end with their next answer: see `DataPlane`.
        tokio::time::sleep(Duration::from_millis(config.data.drain_delay_ms)).await;
        stop_data.cancel();
        data.await
    };
    tokio::select! {
        finished = drained => match finished {
            Ok(true) => tracing::info!("all requests finished"),
            Ok(false) => tracing::warn!("the drain time is over, open requests are ended"),
            Err(error) => tracing::error!(%error, "the data plane failed"),
        },
        () = stopped() => tracing::warn!("second signal, open requests are ended"),
    }
    stop_data.cancel();
    watches.stopped().await;
    accounts.stop();
    accounts.stopped().await;
    stop_admin.cancel();
    if let Err(error) = admin.await {
        tracing::error!(%error, "the admin plane failed");
    }
    app.pipeline.catalog.registry().shutdown().await;
    app.bundles.shutdown().await;
    Ok(())
}

/// Tasks that are stopped and awaited together.
#[derive(Default)]
struct Background {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Background {
    fn spawn<F>(&self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task(self.stop.clone()));
    }

    fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    async fn stopped(&self) {
        self.tasks.wait().await;
    }
}
