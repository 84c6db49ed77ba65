use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response, response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::time::Instant;

use super::Payload;
use super::connect::Io;
use super::peer::{Lease, Times};
use super::watch::Watch;
use crate::error::{CallError, CallErrorKind as Kind, Phase};

/// An HTTP/1 connection, driven by whoever holds it.
///
/// Driving it hands things to futures of the same task, and the parts of hyper between them would wake that
/// task for each: a turn through the scheduler, often on another thread. So it is first driven for nobody,
/// and again for the task only where that brought nothing, which is when the task will wait. And a task that
/// is polled for another reason, such as its client's socket, leaves the connection alone.
pub(super) struct Http1 {
    connection: http1::Connection<Io, Payload>,
    sender: http1::SendRequest<Payload>,
    bell: Arc<Bell>,
    /// The bell, as the connection sees it.
    waker: Waker,
    /// Whether whatever happens to the connection rings the bell: it was last driven for that.
    armed: bool,
    closed: bool,
    idle_since: Instant,
    /// Kept with the connection: setting a timer that is already set to a later time is one store.
    watch: Watch,
}

/// Tells a task that something has happened to its connection, and the connection's driver that it was this.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// A request without an answer.
pub(super) struct Unanswered {
    pub(super) error: CallError,
    /// Whether none of the request was sent.
    pub(super) unsent: bool,
    pub(super) lease: Lease,
}

type Sent = Result<Response<Incoming>, TrySendError<Request<Payload>>>;

impl Http1 {
    pub(super) fn new(
        sender: http1::SendRequest<Payload>,
        connection: http1::Connection<Io, Payload>,
    ) -> Self {
        let now = Instant::now();
        let bell = Arc::<Bell>::default();
        Self {
            connection,
            sender,
            waker: Waker::from(bell.clone()),
            bell,
            armed: false,
            closed: false,
            idle_since: now,
            watch: Watch::new(now + Duration::from_mins(1)),
        }
    }

    pub(super) fn idle_time(&self) -> Duration {
        self.idle_since.elapsed()
    }

    /// Whether the peer has not closed the idle connection.
    pub(super) fn is_usable(&mut self) -> bool {
        self.drive();
        !self.closed && self.sender.is_ready()
    }

    /// Does what can be done now. Nobody is told when there is more to do.
    fn drive(&mut self) {
        self.armed = false;
        if !self.closed {
            self.closed = Pin::new(&mut self.connection).poll(&mut nobody()).is_ready();
        }
    }

    /// Does what can be done now; the task that [`Http1::is_quiet`] was asked for is woken for the rest.
    fn drive_on(&mut self) {
        self.armed = true;
        self.bell.rung.store(false, Ordering::Release);
        if !self.closed {
            self.closed =
                Pin::new(&mut self.connection).poll(&mut Context::from_waker(&self.waker)).is_ready();
        }
    }

    /// Whether nothing has happened since the connection was last driven on. The task is woken for what
    /// happens from now on.
    fn is_quiet(&self, cx: &Context<'_>) -> bool {
        self.bell.task.register(cx.waker());
        self.armed && !self.bell.rung.load(Ordering::Acquire)
    }

    pub(super) async fn send(
        mut self: Box<Self>,
        request: Request<Payload>,
        times: Times,
        lease: Lease,
    ) -> Result<(response::Parts, Exchange), Unanswered> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let mut sent = false;
        let result = poll_fn(|cx| {
            if self.is_quiet(cx) {
                return overdue(&mut self.watch, times, cx).map(Err);
            }
            // Only driving the connection can bring the answer, so nobody has to be woken for it.
            if std::mem::replace(&mut sent, true) {
                self.drive();
                if let Poll::Ready(answer) = answer.as_mut().poll(&mut nobody()) {
                    return Poll::Ready(Ok(answer));
                }
            }
            self.drive_on();
            match answer.as_mut().poll(&mut nobody()) {
                Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                Poll::Pending => overdue(&mut self.watch, times, cx).map(Err),
            }
        })
        .await;
        // The body may be there already.
        self.armed = false;
        settle(result, lease, |lease, incoming| Exchange::new(incoming, Link::Http1(self), lease))
    }
}

/// A share of an HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Http2 {
    sender: http2::SendRequest<Payload>,
    streams: Arc<AtomicUsize>,
}

/// Counts a stream until it is dropped.
struct OpenStream(Arc<AtomicUsize>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Http2 {
    pub(super) fn new(sender: http2::SendRequest<Payload>) -> Self {
        Self { sender, streams: Arc::default() }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    pub(super) async fn send(
        mut self,
        request: Request<Payload>,
        times: Times,
        lease: Lease,
    ) -> Result<(response::Parts, Exchange), Unanswered> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let stream = OpenStream(self.streams.clone());
        let mut watch = Watch::new(times.head.min(times.end));
        let mut answer = pin!(self.sender.try_send_request(request));
        let result = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(sent) => Poll::Ready(Ok(sent)),
            Poll::Pending => overdue(&mut watch, times, cx).map(Err),
        })
        .await;
        settle(result, lease, |lease, incoming| {
            Exchange::new(incoming, Link::Http2 { watch, _stream: stream }, lease)
        })
    }
}

fn overdue(watch: &mut Watch, times: Times, cx: &mut Context<'_>) -> Poll<CallError> {
    ready!(watch.poll(times.head.min(times.end), cx));
    let phase = if times.end <= times.head { Phase::Total } else { Phase::FirstByte };
    Poll::Ready(CallError::new(Kind::Timeout(phase)))
}

fn settle(
    result: Result<Sent, CallError>,
    lease: Lease,
    exchange: impl FnOnce(Lease, Incoming) -> Exchange,
) -> Result<(response::Parts, Exchange), Unanswered> {
    match result {
        Ok(Ok(response)) => {
            let (parts, incoming) = response.into_parts();
            Ok((parts, exchange(lease, incoming)))
        }
        Ok(Err(mut failure)) => {
            let unsent = failure.take_message().is_some();
            Err(Unanswered { error: explain(&failure.into_error()), unsent, lease })
        }
        Err(error) => Err(Unanswered { error, unsent: false, lease }),
    }
}

/// An answer whose body is still to be read. Dropping it cancels the request.
pub(crate) struct Exchange {
    incoming: Incoming,
    link: Link,
    lease: Lease,
    /// Whether the body was asked for yet, which is what makes an HTTP/1 connection read it.
    asked: bool,
}

enum Link {
    Http1(Box<Http1>),
    Http2 {
        watch: Watch,
        _stream: OpenStream,
    },
    /// The answer is complete.
    Done,
}

/// A piece of a body, its end, or its failure.
type Piece = Option<Result<Bytes, hyper::Error>>;

impl Exchange {
    fn new(incoming: Incoming, link: Link, lease: Lease) -> Self {
        Self { incoming, link, lease, asked: false }
    }

    /// The body's length, where the head tells it.
    pub(crate) fn length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// What has arrived already. Nobody is woken when more does: end with [`Exchange::poll`].
    pub(crate) fn poll_now(&mut self) -> Poll<Piece> {
        let asked = std::mem::replace(&mut self.asked, true);
        let piece = self.step(None);
        if piece.is_pending() && !asked { self.step(None) } else { piece }
    }

    /// The next piece, or `Pending` and the task is woken when there is one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if self.is_quiet(cx) {
            return Poll::Pending;
        }
        self.step(Some(cx))
    }

    /// Whether nothing can have arrived since [`Exchange::poll`] was last `Pending`. The task is woken when
    /// something does.
    pub(crate) fn is_quiet(&self, cx: &Context<'_>) -> bool {
        match &self.link {
            Link::Http1(connection) => connection.is_quiet(cx),
            Link::Http2 { .. } | Link::Done => false,
        }
    }

    /// Ready when `deadline` has passed; otherwise the task is woken then.
    pub(crate) fn poll_deadline(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.link {
            Link::Http1(connection) => connection.watch.poll(deadline, cx),
            Link::Http2 { watch, .. } => watch.poll(deadline, cx),
            Link::Done => Poll::Pending,
        }
    }

    /// The next piece. With a task, it is woken when there is one later.
    fn step(&mut self, mut cx: Option<&mut Context<'_>>) -> Poll<Piece> {
        let frame = loop {
            let frame = match &mut self.link {
                Link::Http1(connection) => {
                    if cx.is_some() {
                        connection.drive_on();
                    } else {
                        connection.drive();
                    }
                    ready!(Pin::new(&mut self.incoming).poll_frame(&mut nobody()))
                }
                Link::Http2 { .. } => {
                    let incoming = Pin::new(&mut self.incoming);
                    match &mut cx {
                        Some(cx) => ready!(incoming.poll_frame(cx)),
                        None => ready!(incoming.poll_frame(&mut nobody())),
                    }
                }
                Link::Done => None,
            };
            match frame.map(|f| f.map(hyper::body::Frame::into_data)) {
                // Trailers.
                Some(Ok(Err(_))) => {}
                Some(Ok(Ok(data))) => break Some(Ok(data)),
                Some(Err(error)) => break Some(Err(error)),
                None => break None,
            }
        };
        if let Link::Http1(connection) = &mut self.link {
            // What comes next may be there already.
            connection.armed = false;
        }
        match frame {
            Some(Err(_)) => self.link = Link::Done,
            _ if frame.is_none() || self.incoming.is_end_stream() => self.finish(),
            _ => {}
        }
        Poll::Ready(frame)
    }

    /// Gives the connection back, if it can take another request.
    fn finish(&mut self) {
        if let Link::Http1(mut connection) = std::mem::replace(&mut self.link, Link::Done)
            && connection.is_usable()
        {
            connection.idle_since = Instant::now();
            self.lease.peer().checkin(connection);
        }
    }
}

/// For polling what nobody waits for.
fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A connection's failure as a call's.
pub(super) fn explain(error: &hyper::Error) -> CallError {
    let kind = if error.is_parse_too_large() {
        Kind::HeadersTooLarge
    } else if error.is_parse() {
        Kind::Protocol
    } else {
        Kind::Reset
    };
    CallError::with(kind, chain(error))
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
