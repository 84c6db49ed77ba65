use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::response;
use http::{Request, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connect::{Address, Host, Io};
use super::exchange::{Exchange, Http1, Http2, Unanswered, explain};
use super::{Identity, Payload, Shared};
use crate::error::CallError;

/// Streams on one HTTP/2 connection before another is opened, whatever the peer allows.
const MAX_STREAMS: usize = 100;
/// A connection that lay idle for longer than this and breaks before the first byte of an answer was most
/// likely closed by the peer before it saw the request.
const STALE: Duration = Duration::from_secs(1);
/// How many headers hyper takes when it is told nothing.
const HYPER_MAX_HEADERS: usize = 100;
/// The shortest and the longest time for which a peer that refuses connections is left alone.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// One host and port: its idle connections, how busy it is and whether it takes connections.
pub(crate) struct Peer {
    address: Address,
    name: String,
    shared: Arc<Shared>,
    idle: Mutex<Idle>,
    streams: Mutex<Vec<Http2>>,
    outstanding: AtomicUsize,
    /// Connections that failed since one succeeded.
    failures: AtomicU32,
    /// Until when it is left alone, in milliseconds after `born`.
    rests_until: AtomicU64,
    born: Instant,
}

/// HTTP/1 connections, the one used last at the end.
#[derive(Default)]
struct Idle {
    #[expect(clippy::vec_box, reason = "they move in and out for every request, and are large")]
    connections: Vec<Box<Http1>>,
    /// Closes those that lie too long, while there are any.
    sweeper: Option<AbortHandle>,
}

/// The limits of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// For opening a connection.
    pub(crate) connect: Duration,
    /// When the head must be there.
    pub(crate) head: Instant,
    /// When everything must be there.
    pub(crate) end: Instant,
}

/// Counts a call as outstanding until it is dropped.
pub(crate) struct Lease(Arc<Peer>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.0
    }
}

enum Connection {
    One(Box<Http1>),
    Shared(Http2),
}

impl Peer {
    pub(super) fn new(address: Address, shared: Arc<Shared>) -> Self {
        let name = match &address.host {
            Host::Ip(ip) => std::net::SocketAddr::new(*ip, address.port).to_string(),
            Host::Name(name) => format!("{name}:{}", address.port),
        };
        Self {
            address,
            name,
            shared,
            idle: Mutex::default(),
            streams: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            rests_until: AtomicU64::new(0),
            born: Instant::now(),
        }
    }

    /// Who calls, where that is not the client's own party.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.address.identity.as_deref()
    }

    /// Calls in progress.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Connections that failed since one succeeded.
    pub(crate) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether it should be spared a while, because it refused connections.
    pub(crate) fn is_resting(&self) -> bool {
        self.failures() > 0 && self.since_birth(Instant::now()) < self.rests_until.load(Ordering::Relaxed)
    }

    fn since_birth(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_millis() as u64
    }

    /// Sends a request and waits for the head of its answer. `request` makes the request for the version of
    /// the connection; it is made again when an idle connection turns out to have been closed.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: impl Fn(Version) -> Request<Payload>,
        times: Times,
    ) -> Result<(response::Parts, Exchange), CallError> {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        let mut lease = Lease(self.clone());
        let (mut reused, mut connection) = match self.checkout() {
            Some(connection) => (true, connection),
            // Boxed, because it is rare and large, and would make every request's future larger.
            None => (false, Box::pin(self.open(times)).await?),
        };
        loop {
            let stale = reused && connection.idle_time() >= STALE;
            let result = match connection {
                Connection::One(connection) => connection.send(request(Version::HTTP_11), times, lease).await,
                Connection::Shared(stream) => stream.send(request(Version::HTTP_2), times, lease).await,
            };
            let unanswered = match result {
                Ok(answer) => return Ok(answer),
                Err(unanswered) => unanswered,
            };
            let Unanswered { error, unsent, lease: again } = unanswered;
            let closed = unsent || (stale && error.kind() == crate::error::CallErrorKind::Reset);
            if !reused || !closed {
                return Err(error.at(&self.name));
            }
            tracing::debug!(peer.name = %self.name, "an idle connection was closed by the peer, opening another");
            connection = Box::pin(self.open(times)).await?;
            reused = false;
            lease = again;
        }
    }

    async fn open(&self, times: Times) -> Result<Connection, CallError> {
        let now = Instant::now();
        let left = times.head.min(times.end).saturating_duration_since(now);
        let opened = self.shared.connector.connect(&self.address, times.connect.min(left)).await;
        match opened {
            Ok(io) => {
                self.failures.store(0, Ordering::Relaxed);
                self.start(io).await.map_err(|e| explain(&e).at(&self.name))
            }
            Err(error) => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
                let rest = BACK_OFF.0.saturating_mul(1 << failures).min(BACK_OFF.1);
                self.rests_until.store(self.since_birth(Instant::now() + rest), Ordering::Relaxed);
                Err(error.at(&self.name))
            }
        }
    }

    async fn start(&self, io: Io) -> hyper::Result<Connection> {
        if io.is_http2().unwrap_or(self.address.http2) {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(30))
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .max_header_list_size(self.shared.max_head_bytes)
                .handshake(io)
                .await?;
            // Ends when the peer closes it or the last sender is gone.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %error, "an HTTP/2 connection to an upstream ended");
                }
            });
            let stream = Http2::new(sender);
            lock(&self.streams).push(stream.clone());
            Ok(Connection::Shared(stream))
        } else {
            let mut builder = http1::Builder::new();
            builder.max_header_size(self.shared.max_head_bytes as usize);
            if self.shared.max_headers != HYPER_MAX_HEADERS {
                // Any limit that is set, even this one, costs two allocations with every answer.
                builder.max_headers(self.shared.max_headers);
            }
            let (sender, connection) = builder.handshake(io).await?;
            Ok(Connection::One(Box::new(Http1::new(sender, connection))))
        }
    }

    /// A connection that is open as far as can be told.
    fn checkout(&self) -> Option<Connection> {
        if self.address.http2 {
            let mut streams = lock(&self.streams);
            streams.retain(Http2::is_open);
            if let Some(free) = streams.iter().find(|s| s.streams() < MAX_STREAMS) {
                return Some(Connection::Shared(free.clone()));
            }
        }
        loop {
            let mut connection = lock(&self.idle).connections.pop()?;
            if connection.idle_time() < self.shared.pool_idle_timeout && connection.is_usable() {
                return Some(Connection::One(connection));
            }
        }
    }

    /// Takes a connection back after a complete answer.
    pub(super) fn checkin(self: &Arc<Self>, connection: Box<Http1>) {
        let mut idle = lock(&self.idle);
        if idle.connections.len() >= self.shared.pool_max_idle {
            // Closed after the lock is gone.
            drop(idle);
            drop(connection);
            return;
        }
        idle.connections.push(connection);
        if idle.sweeper.is_none()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let sweeper = sweep(Arc::downgrade(self), self.shared.pool_idle_timeout);
            idle.sweeper = Some(runtime.spawn(sweeper).abort_handle());
        }
    }

    /// Closes what lay too long and says when the next one will have; `None` when nothing is left.
    fn close_expired(&self, timeout: Duration) -> Option<Instant> {
        let mut idle = lock(&self.idle);
        let expired = idle.connections.iter().take_while(|c| c.idle_time() >= timeout).count();
        let closed: Vec<_> = idle.connections.drain(..expired).collect();
        let next = idle.connections.first().map(|c| Instant::now() + timeout.saturating_sub(c.idle_time()));
        if next.is_none() {
            idle.sweeper = None;
        }
        drop(idle);
        drop(closed);
        next
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(sweeper) = lock(&self.idle).sweeper.take() {
            sweeper.abort();
        }
    }
}

async fn sweep(peer: Weak<Peer>, timeout: Duration) {
    let mut next = Instant::now() + timeout;
    loop {
        tokio::time::sleep_until(next).await;
        let Some(peer) = peer.upgrade() else { return };
        match peer.close_expired(timeout) {
            Some(later) => next = later,
            None => return,
        }
    }
}

impl Connection {
    fn idle_time(&self) -> Duration {
        match self {
            Self::One(connection) => connection.idle_time(),
            Self::Shared(_) => Duration::ZERO,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
