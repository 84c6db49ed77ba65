//! The HTTP client for upstreams: hyper's connections with a pool of our own.
//!
//! An HTTP/1.1 connection has no task of its own. Whoever uses it polls it: the call until the head, the
//! reply's body until its end; in between it lies in its peer's pool. A request thus costs no hand-over
//! between tasks, and dropping a call or a body closes its connection at once, which is how the upstream
//! learns that nobody waits. HTTP/2 connections are shared and have a task each, which ends with the last
//! of their users.

mod certificate;
mod connect;
mod exchange;
mod fetch;
mod guard;
mod look;
mod origin;
mod payload;
mod peer;
mod resolve;
mod tls;
mod watch;

pub use certificate::not_after as certificate_end;
pub(crate) use connect::Address;
pub use connect::ClientError;
pub(crate) use exchange::{Exchange, chain};
pub(crate) use fetch::exchange;
pub use fetch::{Fetch, Fetched};
pub use guard::{Cidr, Trust};
pub(crate) use guard::{Guard, Refusal};
pub(crate) use origin::Origin;
pub(crate) use payload::Payload;
pub(crate) use peer::{Peer, Times};
pub use resolve::{Resolve, Resolving};
pub use tls::TlsFiles;
pub(crate) use tls::{BadFile, Identity};

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::vitals::Board;
use connect::Connector;

/// Settings of the upstream client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// Idle connections kept for each host and port.
    pub pool_max_idle: usize,
    /// How long a connection may lie idle, in milliseconds.
    #[schema(minimum = 1)]
    pub pool_idle_timeout_ms: u64,
    /// Headers that an answer may have.
    #[schema(minimum = 1)]
    pub max_response_headers: usize,
    /// Bytes that the head of an answer may have.
    #[schema(minimum = 8192)]
    pub max_response_head_bytes: u32,
    /// A PEM file with certificate authorities to trust besides the public ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub extra_ca_file: Option<PathBuf>,
    /// Whether upstreams may have link-local and similar addresses. Those give away credentials in clouds.
    pub allow_link_local: bool,
    /// Blocks of private and loopback addresses that experts registered at run time may have, such as
    /// `127.0.0.0/8` or `10.0.0.0/8`. Those of the configuration file may have any.
    #[schema(value_type = Vec<String>)]
    pub allow_private: Vec<Cidr>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            pool_max_idle: 256,
            pool_idle_timeout_ms: 50_000,
            max_response_headers: 100,
            max_response_head_bytes: 64 * 1024,
            extra_ca_file: None,
            allow_link_local: false,
            allow_private: Vec::new(),
        }
    }
}

impl ClientConfig {
    pub(crate) fn guard(&self) -> Guard {
        Guard::new(self.allow_private.clone(), self.allow_link_local)
    }
}

/// The client that all experts share. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    peers: Arc<Mutex<HashMap<Address, Weak<Peer>>>>,
    clock: fn() -> SystemTime,
    board: Arc<Board>,
}

/// What every peer needs.
pub(crate) struct Shared {
    connector: Connector,
    pool_max_idle: usize,
    pool_idle_timeout: Duration,
    max_headers: usize,
    max_head_bytes: u32,
}

impl Client {
    /// A client. Opens nothing yet.
    ///
    /// # Errors
    /// [`ClientError`] when the extra certificate authorities cannot be read.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let shared = Shared {
            connector: Connector::new(config.extra_ca_file.as_deref(), config.guard())?,
            pool_max_idle: config.pool_max_idle,
            pool_idle_timeout: Duration::from_millis(config.pool_idle_timeout_ms.max(1)),
            max_headers: config.max_response_headers.max(1),
            max_head_bytes: config.max_response_head_bytes.max(8192),
        };
        Ok(Self {
            shared: Arc::new(shared),
            peers: Arc::default(),
            clock: SystemTime::now,
            board: Arc::default(),
        })
    }

    /// The same client with another wall clock: for the `created` of answers that are made here, and for
    /// `Retry-After` with a date.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> SystemTime) -> Self {
        self.clock = clock;
        self
    }

    /// A client with these settings that looks names up with `resolver`.
    ///
    /// # Errors
    /// [`ClientError`] when the extra certificate authorities cannot be read.
    pub fn with_resolver(config: &ClientConfig, resolver: Arc<dyn Resolve>) -> Result<Self, ClientError> {
        let mut client = Self::new(config)?;
        // Nobody else has it yet.
        if let Some(shared) = Arc::get_mut(&mut client.shared) {
            shared.connector.set_resolver(resolver);
        }
        Ok(client)
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.wall().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }

    pub(crate) fn wall(&self) -> SystemTime {
        (self.clock)()
    }

    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    pub(crate) fn guard(&self) -> &Guard {
        self.shared.connector.guard()
    }

    pub(crate) fn resolver(&self) -> &Arc<dyn Resolve> {
        self.shared.connector.resolver()
    }

    /// Reads the files of an identity.
    pub(crate) fn identity(&self, files: &TlsFiles) -> Result<Identity, BadFile> {
        Identity::read(files, self.shared.connector.roots())
    }

    /// Reads the files of an identity again; `None` while they hold the same. Blocks on the files.
    pub(crate) fn identity_again(
        &self,
        known: &Identity,
        files: &TlsFiles,
    ) -> Result<Option<Identity>, BadFile> {
        known.reread(files, self.shared.connector.roots())
    }

    /// The peer at an address: the same one for all experts that are served there.
    pub(crate) fn peer(&self, address: Address) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&address).and_then(Weak::upgrade) {
            return peer;
        }
        peers.retain(|_, peer| peer.strong_count() > 0);
        let peer = Arc::new(Peer::new(address.clone(), self.shared.clone()));
        peers.insert(address, Arc::downgrade(&peer));
        peer
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
