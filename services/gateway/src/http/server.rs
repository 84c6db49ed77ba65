//! A listener that serves until it is told to stop, and then lets open requests finish.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::inline::Inline;
use super::tls::{PeerIdentity, Tls};

/// How a listener treats its connections.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Longest request head, in bytes.
    pub max_header_bytes: usize,
    /// How long a client may take to send a request's head.
    pub head_patience: Duration,
    /// How long open requests may go on after the stop.
    pub drain: Duration,
}

/// Accepts connections until `stop`; then accepts no more, lets each connection finish the request it is
/// in, and returns when all are done or `drain` has passed. With `tls`, connections are secured first; a
/// handshake that is not done at the stop is given up.
///
/// The result says whether every request was finished.
pub async fn serve<S>(
    listener: TcpListener,
    tls: Option<Tls>,
    service: S,
    config: ServerConfig,
    stop: CancellationToken,
) -> bool
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_patience)
        .max_buf_size(config.max_header_bytes)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(config.max_header_bytes as u32);
    loop {
        let socket = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
        };
        prepare(&socket);
        let Some(tls) = &tls else {
            let connection = builder.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
            let connection = graceful.watch(connection);
            // Tracked by `graceful`, which is awaited below.
            tokio::spawn(Inline::new(async move { log_end(connection.await) }));
            continue;
        };
        let (tls, builder, service) = (tls.clone(), builder.clone(), service.clone());
        // Tracked by `watcher`, which `graceful` waits for, from before the handshake on.
        let (watcher, stop) = (graceful.watcher(), stop.clone());
        tokio::spawn(Inline::new(async move {
            let Some(Some((stream, peer))) = stop.run_until_cancelled(tls.accept(socket)).await else {
                return;
            };
            let service = Identified { service, peer: peer.map(Arc::new) };
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            log_end(watcher.watch(connection).await);
        }));
    }
    drop(listener);
    tokio::time::timeout(config.drain, graceful.shutdown()).await.is_ok()
}

fn log_end(end: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = end {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// A service whose requests carry who the connection's client is.
#[derive(Clone)]
struct Identified<S> {
    service: S,
    peer: Option<Arc<PeerIdentity>>,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Identified<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> S::Future {
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        self.service.call(request)
    }
}

/// A stream's first chunk must not wait for the client's delayed acknowledgement of the head.
fn prepare(socket: &TcpStream) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
}

/// A connection that is gone already is nobody's concern; without file descriptors, some must be closed
/// before another try makes sense.
async fn pause_after(error: &io::Error) {
    let gone = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    );
    if !gone {
        tracing::warn!(%error, "a connection could not be accepted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
