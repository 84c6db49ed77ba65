//! A listener that serves until it is told to stop, and then lets open requests finish.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::{self, Connection};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, History, OfConnection};
use super::inline::Inline;
use super::tls::Tls;

/// How often an HTTP/2 client is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How a listener treats its connections.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Longest request head, in bytes.
    pub max_header_bytes: usize,
    /// How long a client may take to send a request's head, and how long a connection may lie idle.
    pub head_patience: Duration,
    /// How long open requests may go on after the stop.
    pub drain: Duration,
}

/// Accepts connections until `stop`; then accepts no more, lets each connection finish the request it is
/// in, and returns when all are done or `drain` has passed. With `tls`, connections are secured first; a
/// handshake that is not done at the stop is given up.
///
/// Connections that the system has accepted by then are served as well: closing the listener would reset
/// them. An HTTP/1 connection that is idle at the stop is closed at once, and one that is busy after its
/// answer; after a stream that had begun before, a moment later, because nothing has told the client yet.
/// HTTP/2 clients are told first.
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
    // What has been accepted is told to close when the last has been.
    let (connections, closing) = (TaskTracker::new(), CancellationToken::new());
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_patience)
        .max_buf_size(config.max_header_bytes)
        .http2()
        .timer(TokioTimer::new())
        // A client that is gone without a word would otherwise be kept for ever.
        .keep_alive_interval(PING_EVERY)
        .max_header_list_size(config.max_header_bytes as u32);
    loop {
        let accepted = if stop.is_cancelled() {
            match listener.accept().now_or_never() {
                Some(Ok(accepted)) => Ok(accepted),
                Some(Err(_)) | None => break,
            }
        } else {
            tokio::select! {
                () = stop.cancelled() => continue,
                accepted = listener.accept() => accepted,
            }
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        prepare(&socket);
        let history = Arc::new(History::default());
        let (patience, closing) = (config.head_patience, closing.clone());
        let Some(tls) = &tls else {
            let service = OfConnection { service: service.clone(), peer: None, history: history.clone() };
            let served = builder.serve_connection(TokioIo::new(socket), service).into_owned();
            let close = |served: Pin<&mut _>| Connection::graceful_shutdown(served);
            connections.spawn(Inline::new(connection::serve(served, close, history, patience, closing)));
            continue;
        };
        let (tls, builder, service, stop) = (tls.clone(), builder.clone(), service.clone(), stop.clone());
        connections.spawn(Inline::new(async move {
            let Some(Some((stream, peer))) = stop.run_until_cancelled(tls.accept(socket)).await else {
                return;
            };
            let service = OfConnection { service, peer: peer.map(Arc::new), history: history.clone() };
            let served = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let close = |served: Pin<&mut _>| Connection::graceful_shutdown(served);
            connection::serve(served, close, history, patience, closing).await;
        }));
    }
    drop(listener);
    closing.cancel();
    connections.close();
    tokio::time::timeout(config.drain, connections.wait()).await.is_ok()
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
