//! TLS on a listener: certificates that may change while it serves, handshakes with a deadline, and what a
//! client's certificate says of the client.

mod identity;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::{ClientAuth, Config, TlsConfig, TlsVersion};
use crate::problem::Problem;

pub use identity::PeerIdentity;

/// How long a client may take for its handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// The TLS side of one listener. Clones share everything.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    listener: &'static str,
    config: TlsConfig,
    live: ArcSwap<Live>,
    metrics: TlsMetrics,
}

/// What new connections are accepted with.
struct Live {
    server: Arc<ServerConfig>,
    /// Of the files' contents. Times of change do not tell two writes within one tick apart.
    digest: [u8; 32],
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Handshakes that came to nothing.
#[derive(Clone, Debug, Default)]
pub struct TlsMetrics {
    failures: Family<Failed, Counter>,
}

/// Where a handshake failed, and why: `timeout`, `certificate` (the client's is missing or wrong),
/// `protocol` (it does not speak TLS, or none that we speak), `connection` (it went away).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    listener: &'static str,
    reason: &'static str,
}

impl TlsMetrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "TLS handshakes that failed, by listener and reason";
        let registry = registry.sub_registry_with_prefix("guildhall");
        registry.register("tls_handshake_failures", help, metrics.failures.clone());
        metrics
    }
}

impl Tls {
    /// Reads the files of a listener; `listener` names it in metrics and logs.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn open(listener: &'static str, config: TlsConfig, metrics: TlsMetrics) -> Result<Self, TlsError> {
        let live = ArcSwap::from_pointee(Files::read(&config)?.parse(&config)?);
        Ok(Self(Arc::new(Shared { listener, config, live, metrics })))
    }

    /// Reads the files again and takes them into use if they changed; says whether they did. Connections
    /// that are open stay as they are. Blocks on the files.
    ///
    /// # Errors
    /// [`TlsError`]; what was in use stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.0.config)?;
        if files.digest() == self.0.live.load().digest {
            return Ok(false);
        }
        self.0.live.store(Arc::new(files.parse(&self.0.config)?));
        Ok(true)
    }

    /// Looks at the files every few seconds, until `stop`.
    pub async fn watch(self, stop: CancellationToken) {
        // Said once, not every few seconds.
        let mut warned: Option<String> = None;
        while stop.run_until_cancelled(tokio::time::sleep(RELOAD_INTERVAL)).await.is_some() {
            let tls = self.clone();
            let Ok(reloaded) = tokio::task::spawn_blocking(move || tls.reload()).await else { continue };
            let listener = self.0.listener;
            match reloaded {
                Ok(changed) => {
                    if changed {
                        tracing::info!(listener, "new certificates are in use");
                    }
                    warned = None;
                }
                Err(error) => {
                    let error = error.to_string();
                    if warned.as_ref() != Some(&error) {
                        tracing::warn!(listener, %error, "certificates cannot be used, those before them stay");
                        warned = Some(error);
                    }
                }
            }
        }
    }

    /// Secures a connection. `None` when that failed, which is counted and of no other consequence.
    pub(super) async fn accept(
        &self,
        socket: TcpStream,
    ) -> Option<(TlsStream<TcpStream>, Option<PeerIdentity>)> {
        let acceptor = TlsAcceptor::from(self.0.live.load().server.clone());
        let error = match tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(socket)).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let identity = shown.and_then(PeerIdentity::of);
                return Some((stream, identity));
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        let (listener, reason) = (self.0.listener, reason(&error));
        self.0.metrics.failures.get_or_create(&Failed { listener, reason }).inc();
        tracing::debug!(listener, reason, %error, "a TLS handshake failed");
        None
    }
}

/// The TLS sides of both planes.
#[derive(Clone, Debug, Default)]
pub struct PlanesTls {
    /// The data plane's, where `data.tls` is set.
    pub data: Option<Tls>,
    /// The admin plane's, where `admin.tls` is set.
    pub admin: Option<Tls>,
}

impl PlanesTls {
    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// What is wrong with a file, and where the configuration names it.
    pub fn open(config: &Config, registry: &mut Registry) -> Result<Self, Problem> {
        let metrics = TlsMetrics::register(registry);
        let open = |listener, place, tls: Option<&TlsConfig>| {
            let opened = tls.map(|config| Tls::open(listener, config.clone(), metrics.clone()));
            opened.transpose().map_err(|error| Problem::at(place, error.to_string()))
        };
        Ok(Self {
            data: open("data", "data.tls", config.data.tls.as_ref())?,
            admin: open("admin", "admin.tls", config.admin.tls.as_ref())?,
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("listener", &self.0.listener).finish_non_exhaustive()
    }
}

fn reason(error: &io::Error) -> &'static str {
    use rustls::Error as E;
    if error.kind() == io::ErrorKind::TimedOut {
        return "timeout";
    }
    match error.get_ref().and_then(|e| e.downcast_ref::<E>()) {
        Some(E::NoCertificatesPresented | E::InvalidCertificate(_)) => "certificate",
        Some(_) => "protocol",
        None => "connection",
    }
}

/// The contents of a listener's files.
struct Files {
    certificates: Vec<u8>,
    key: Vec<u8>,
    client_authorities: Option<Vec<u8>>,
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
        };
        Ok(Self {
            certificates: read(&config.cert_file)?,
            key: read(&config.key_file)?,
            client_authorities: config.client_ca_file.as_deref().map(read).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let files = [Some(&self.certificates), Some(&self.key), self.client_authorities.as_ref()];
        let mut digest = Sha256::new();
        for file in files.into_iter().flatten() {
            digest.update((file.len() as u64).to_le_bytes());
            digest.update(file);
        }
        digest.finalize().into()
    }

    fn parse(&self, config: &TlsConfig) -> Result<Live, TlsError> {
        let content = |path: &Path, problem: String| TlsError::Content { path: path.to_owned(), problem };
        let chain = certificates(&self.certificates).map_err(|p| content(&config.cert_file, p))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|e| content(&config.key_file, format!("holds no private key: {e}")))?;
        // The library takes the pair or says what keeps them apart.
        let pair = |e: rustls::Error| {
            let problem = format!("cannot be used with the key {}: {e}", config.key_file.display());
            content(&config.cert_file, problem)
        };
        let versions: &[_] = match config.min_version {
            TlsVersion::V1_2 => &[&TLS13, &TLS12],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(pair)?;
        let builder = match config.client_ca_file.as_deref().zip(self.client_authorities.as_deref()) {
            None => builder.with_no_client_auth(),
            Some((path, pem)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem).map_err(|p| content(path, p))? {
                    roots.add(certificate).map_err(|e| content(path, e.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match config.client_auth.unwrap_or_default() {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| content(path, e.to_string()))?)
            }
        };
        let mut server = builder.with_single_cert(chain, key).map_err(pair)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Live { server: Arc::new(server), digest: self.digest() })
    }
}

/// The certificates of a PEM file.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("holds no PEM certificate".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
