use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::client::Client;

/// How often each member is asked whether it is ready.
const PROBE_EVERY: Duration = Duration::from_millis(50);

/// A balancer of TCP connections as a Kubernetes Service is one: new connections go in turns to the members
/// that were ready when last asked, established ones stay where they are. Ended when dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    members: Arc<Members>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Members {
    /// Each member's address and readiness probe, by name.
    all: Mutex<HashMap<String, (String, String)>>,
    /// The addresses that take new connections.
    ready: Mutex<Vec<String>>,
    next: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Members {
    async fn probe(&self) {
        let all: Vec<_> = lock(&self.all).values().cloned().collect();
        let mut ready = Vec::new();
        for (address, probe) in all {
            // A connection of its own each time: one that is kept would outlive the member.
            if Client::default().get(&probe).await.is_ok_and(|answer| answer.status == 200) {
                ready.push(address);
            }
        }
        *lock(&self.ready) = ready;
    }

    fn pick(&self) -> Option<String> {
        let ready = lock(&self.ready);
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        ready.get(turn % ready.len().max(1)).cloned()
    }
}

impl Balancer {
    /// A balancer without members on a free port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let members = Arc::<Members>::default();
        let prober = members.clone();
        let probing = tokio::spawn(async move {
            loop {
                prober.probe().await;
                tokio::time::sleep(PROBE_EVERY).await;
            }
        });
        let picker = members.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let picker = picker.clone();
                tokio::spawn(async move { forward(socket, &picker).await });
            }
        });
        Ok(Self { address, members, tasks: vec![probing, accepting] })
    }

    /// Adds a member, or replaces the one of that name: the base URLs of its data and admin planes.
    pub fn put(&self, name: &str, data: &str, admin: &str) {
        let address = data.trim_start_matches("http://").to_owned();
        lock(&self.members.all).insert(name.to_owned(), (address, format!("{admin}/readyz")));
    }

    /// How many members take new connections.
    pub fn ready(&self) -> usize {
        lock(&self.members.ready).len()
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Joins a client's connection to a new one of a member. A member that refuses is the client's to see.
async fn forward(mut client: TcpStream, members: &Members) -> io::Result<()> {
    let address = members.pick().ok_or(io::ErrorKind::NotConnected)?;
    let mut member = TcpStream::connect(address).await?;
    client.set_nodelay(true)?;
    member.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut member).await.map(|_| ())
}
