//! Small requests to the gateway's own listeners, as a client on this machine sends them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A listener as this machine reaches it.
#[derive(Clone)]
pub(super) struct Plane {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

/// An answer that was read whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Plane {
    /// The listener at `address`, which shows `certificate` where it speaks TLS.
    pub(super) fn new(address: SocketAddr, certificate: Option<CertificateDer<'static>>) -> Self {
        let tls = certificate.and_then(|certificate| Pinned::connector(certificate).ok());
        Self { address: reachable(address), tls }
    }

    pub(super) fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// Whether whoever listens there has the private key of the listener's certificate. Without TLS nobody
    /// can show that.
    pub(super) async fn has_the_key(&self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.secured()).await, Ok(Ok(Some(_))))
    }

    /// Asks for a path.
    pub(super) async fn get(
        &self,
        path: &str,
        token: Option<&str>,
        limit: Duration,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::get(path).header(HOST, self.address.to_string());
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::new())?;
        let exchange = async {
            match self.secured().await? {
                Some(stream) => exchange(stream, request).await,
                None => exchange(TcpStream::connect(self.address).await?, request).await,
            }
        };
        tokio::time::timeout(limit, exchange).await.context("no answer in time")?
    }

    /// A connection over TLS; `None` where the listener speaks none.
    async fn secured(&self) -> anyhow::Result<Option<TlsStream<TcpStream>>> {
        let Some(tls) = &self.tls else { return Ok(None) };
        let stream = TcpStream::connect(self.address).await?;
        Ok(Some(tls.connect(ServerName::from(self.address.ip()), stream).await?))
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this function.
    let mut connection = JoinSet::new();
    connection.spawn(driver);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|e| anyhow::anyhow!("the answer broke off: {e}"))?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// An address that stands for all of this machine's is reached by loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Accepts one certificate and no other, whoever issued it and for whatever name: what stands in the listener's
/// own file is known to be right, and its names are those that clients use, not this machine's address.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn connector(certificate: CertificateDer<'static>) -> Result<TlsConnector, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Self { certificate, algorithms }))
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *shown == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_everybody_is_reached_by_loopback() {
        let url = |address: &str| Plane::new(address.parse().unwrap(), None).url();
        assert_eq!(url("0.0.0.0:80"), "http://127.0.0.1:80");
        assert_eq!(url("[::]:81"), "http://[::1]:81");
        assert_eq!(url("10.0.0.7:82"), "http://10.0.0.7:82");
    }
}
