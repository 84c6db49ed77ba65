use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::guard::{Guard, Trust};
use super::resolve::{Resolve, System};
use super::tls::{Identity, Party};
use crate::error::{CallError, CallErrorKind as Kind, Phase};

/// Opens connections.
pub(super) struct Connector {
    roots: RootCertStore,
    /// Who calls where an upstream has no settings of its own.
    party: Party,
    guard: Guard,
    resolver: Arc<dyn Resolve>,
}

/// Why the client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The extra certificate authorities cannot be used.
    #[error("extra_ca_file {}: {problem}; give a file with one or more PEM certificates", path.display())]
    ExtraCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The TLS library refused its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl Connector {
    pub(super) fn new(extra_ca: Option<&Path>, guard: Guard) -> Result<Self, ClientError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = extra_ca {
            add_roots(&mut roots, path)
                .map_err(|problem| ClientError::ExtraCa { path: path.to_owned(), problem })?;
        }
        let party = Party::new(roots.clone(), None)?;
        Ok(Self { roots, party, guard, resolver: Arc::new(System) })
    }

    pub(super) fn set_resolver(&mut self, resolver: Arc<dyn Resolve>) {
        self.resolver = resolver;
    }

    pub(super) fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(super) fn resolver(&self) -> &Arc<dyn Resolve> {
        &self.resolver
    }

    /// Opens one connection: looks the name up, tries its addresses in turn, secures it.
    pub(super) async fn connect(&self, to: &Address, limit: Duration) -> Result<Io, CallError> {
        let deadline = Instant::now() + limit;
        let slow = |_| CallError::new(Kind::Timeout(Phase::Connect));
        let addresses = match &to.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => {
                let found = timeout_at(deadline, self.resolver.resolve(name)).await;
                found.map_err(slow)?.map_err(|e| CallError::with(Kind::Dns, e))?
            }
        };
        let tcp = self.dial(&addresses, to, deadline).await?;
        // A request is written at once, and an answer's first byte is worth more than a full packet.
        tcp.set_nodelay(true).map_err(|e| CallError::with(Kind::Connect, e))?;
        let Some(name) = &to.secure else { return Ok(Io::Plain(TokioIo::new(tcp))) };
        let party = to.identity.as_ref().map_or(&self.party, |identity| &identity.party);
        let secured = timeout_at(deadline, party.connector(to.http2).connect(name.clone(), tcp)).await;
        let secured = secured.map_err(slow)?.map_err(|e| CallError::with(Kind::Tls, e))?;
        Ok(Io::Secure(Box::new(TokioIo::new(secured))))
    }

    /// Every address gets its share of the time that is left, so that one which swallows packets does not
    /// take it all.
    async fn dial(
        &self,
        addresses: &[IpAddr],
        to: &Address,
        deadline: Instant,
    ) -> Result<TcpStream, CallError> {
        let mut failure = CallError::with(Kind::Dns, "the name has no address");
        for (at, ip) in addresses.iter().enumerate() {
            if let Err(refusal) = self.guard.check(*ip, to.trust) {
                failure = CallError::with(Kind::Forbidden, format_args!("{ip} is {refusal}"));
                continue;
            }
            let address = SocketAddr::new(*ip, to.port);
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / (addresses.len() - at) as u32;
            failure = match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => CallError::with(Kind::Connect, format_args!("{address}: {error}")),
                Err(_) => CallError::with(Kind::Timeout(Phase::Connect), address),
            };
        }
        Err(failure)
    }
}

fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let mut any = false;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())? {
        roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        any = true;
    }
    if any { Ok(()) } else { Err("holds no certificate".to_owned()) }
}

/// Where to connect to, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// The name to check the certificate against, when the connection is secured.
    pub(crate) secure: Option<ServerName<'static>>,
    /// Whether HTTP/2 is spoken: offered in the TLS handshake, or known without one.
    pub(crate) http2: bool,
    /// Who named it, and so what it may turn out to be. Part of the key: a connection that was opened for the
    /// operator is none for others.
    pub(crate) trust: Trust,
    /// Who calls, where that is not this client's own party.
    pub(crate) identity: Option<Arc<Identity>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Ip(IpAddr),
    Name(Box<str>),
}

/// An open connection.
pub(super) enum Io {
    Plain(TokioIo<TcpStream>),
    Secure(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Io {
    /// What the TLS handshake agreed on; `None` without TLS.
    pub(super) fn is_http2(&self) -> Option<bool> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(stream) => Some(stream.inner().get_ref().1.alpn_protocol() == Some(b"h2")),
        }
    }

    /// The peer's own certificate; `None` without TLS.
    pub(super) fn certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(stream) => Some(stream.inner().get_ref().1.peer_certificates()?.first()?),
        }
    }
}

impl Read for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Secure(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
        }
    }
}

impl Write for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Secure(io) => Pin::new(io.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Secure(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Secure(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Secure(io) => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Secure(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, bufs),
        }
    }
}
