//! One connection from its first request to its close.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::tls::PeerIdentity;

/// How long a connection stays open when its stream has ended after the stop. The head of that answer did not
/// say that the connection would close, so that the client's next request may be on its way.
const LINGER: Duration = Duration::from_secs(1);

/// What has happened on a connection.
#[derive(Debug, Default)]
pub(super) struct History {
    spoke: AtomicBool,
    /// Event streams under way whose heads promised to keep the connection.
    streams: AtomicUsize,
    ended: Notify,
}

impl History {
    /// Ends when the connection's patience is over and no request has come by then; never otherwise. HTTP/1
    /// has a timer for each head, but that starts only with the first bytes, which tell HTTP/1 from HTTP/2.
    async fn silent(&self, patience: Duration) {
        tokio::time::sleep(patience).await;
        if self.spoke.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// Ends when the connection can be closed in good order after `stop`. What is not in the middle of a
    /// stream is, then: hyper waits for the end of other answers, and those say that they are the last.
    async fn may_close(&self, stop: &CancellationToken) {
        stop.cancelled().await;
        if self.streams.load(Ordering::Acquire) == 0 {
            return;
        }
        while self.streams.load(Ordering::Acquire) > 0 {
            self.ended.notified().await;
        }
        tokio::time::sleep(LINGER).await;
    }
}

/// Serves a connection to its end: the client's, the end of its patience for a first request, or some time
/// after `stop`.
pub(super) async fn serve<C, E>(
    connection: C,
    close: impl Fn(Pin<&mut C>),
    history: Arc<History>,
    patience: Duration,
    stop: CancellationToken,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut connection = std::pin::pin!(connection);
    let told = |end: Result<(), E>| {
        if let Err(error) = end {
            tracing::debug!(%error, "a connection ended with an error");
        }
    };
    tokio::select! {
        biased;
        end = connection.as_mut() => return told(end),
        () = history.silent(patience) => return tracing::debug!("a connection sent no request in time"),
        () = history.may_close(&stop) => {}
    }
    close(connection.as_mut());
    told(connection.await);
}

/// The service of one connection: notes what happens, and says with each request who the client is.
#[derive(Clone)]
pub(super) struct OfConnection<S> {
    pub(super) service: S,
    pub(super) peer: Option<Arc<PeerIdentity>>,
    pub(super) history: Arc<History>,
}

impl<S> Service<Request<Incoming>> for OfConnection<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.history.spoke.store(true, Ordering::Relaxed);
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        // HTTP/2 has a message of its own for the end of a connection.
        let history = (request.version() <= Version::HTTP_11).then(|| self.history.clone());
        Answer { future: self.service.call(request), history }
    }
}

pin_project_lite::pin_project! {
    /// An answer that is noted when it is a stream.
    pub(super) struct Answer<F> {
        #[pin]
        future: F,
        history: Option<Arc<History>>,
    }
}

impl<E, F: Future<Output = Result<Response<Body>, E>>> Future for Answer<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = ready!(this.future.poll(cx));
        Poll::Ready(answer.map(|answer| match this.history.take() {
            Some(history) if keeps_long(&answer) => answer.map(|body| {
                history.streams.fetch_add(1, Ordering::AcqRel);
                Body::new(Stream { body, history })
            }),
            _ => answer,
        }))
    }
}

/// Whether an answer is a stream, which may last, and promises to keep the connection. Others are done soon.
fn keeps_long(answer: &Response<Body>) -> bool {
    answer.body().size_hint().exact().is_none()
        && !answer.headers().contains_key(header::CONNECTION)
        && answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// A stream that is counted while it lasts.
struct Stream {
    body: Body,
    history: Arc<History>,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.history.streams.fetch_sub(1, Ordering::AcqRel);
        self.history.ended.notify_one();
    }
}
