//! The listener and its connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::handle::handle;
use crate::script::Step;
use crate::settings::Settings;
use crate::state::State;
use crate::stats::Stats;
use crate::wire::{Control, Wire};

/// A running mock. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct Mock {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Mock {
    /// Starts a mock on a free port of `127.0.0.1`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        Self::serve(TcpListener::bind(("127.0.0.1", 0)).await?, settings)
    }

    /// Serves on a listener that is bound already (HTTP/1.1, and HTTP/2 with prior knowledge).
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn serve(listener: TcpListener, settings: Settings) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(settings));
        let task = tokio::task::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state, task })
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL as OpenAI clients take it: `http://127.0.0.1:PORT/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Replaces the script of faults.
    pub fn script(&self, steps: Vec<Step>) {
        self.state.set_script(steps);
    }

    /// What the mock saw so far.
    pub fn stats(&self) -> Stats {
        self.state.stats()
    }

    /// Forgets what was seen and takes the script of the settings again.
    pub fn reset(&self) {
        self.state.reset();
    }

    /// Stops: no more connections, open ones are cut. Returns when the port is free again.
    pub async fn stop(mut self) {
        self.task.abort();
        // Awaited so that the listener is gone; the only error is the abort itself.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&state)));
                }
                // Out of file descriptors, most likely: wait for some to be given back.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let _open = state.counters.connection();
    // Without this, a second small write waits for the client's acknowledgement of the first.
    let _ = stream.set_nodelay(true);
    let control = Arc::new(Control::default());
    let wire = TokioIo::new(Wire::new(stream, Arc::clone(&control)));
    let service = service_fn(move |request| handle(Arc::clone(&state), Arc::clone(&control), request));
    // An error here is a client that left or a fault that was asked for.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(wire, service).await;
}
