//! Small requests to the gateway's own listeners, as a client on this machine sends them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Empty;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cli::link::{Own, exchange};

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
    /// The listener at `address`, which shows `certificate` where it speaks TLS, and is shown ours where it
    /// asks for one.
    pub(super) fn new(
        address: SocketAddr,
        certificate: Option<CertificateDer<'static>>,
        own: Option<&Own>,
    ) -> Self {
        let tls = certificate.and_then(|certificate| Pinned::connector(certificate, own).ok());
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
        let answer = tokio::time::timeout(limit, exchange).await.context("no answer in time")??;
        let (head, body) = answer.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// A connection over TLS; `None` where the listener speaks none.
    async fn secured(&self) -> anyhow::Result<Option<TlsStream<TcpStream>>> {
        let Some(tls) = &self.tls else { return Ok(None) };
        let stream = TcpStream::connect(self.address).await?;
        Ok(Some(tls.connect(ServerName::from(self.address.ip()), stream).await?))
    }
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
    fn connector(
        certificate: CertificateDer<'static>,
        own: Option<&Own>,
    ) -> Result<TlsConnector, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Self { certificate, algorithms }));
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
        };
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
    use std::convert::Infallible;

    use axum::body::Body;
    use http::Response;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::http::server::{ServerConfig, serve};
    use crate::http::tls::{Tls, TlsMetrics};

    #[tokio::test]
    async fn a_listener_is_known_by_its_certificate_whoever_may_ask_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let key = KeyPair::generate().unwrap();
        let certificate = || CertificateParams::new(vec!["gw.example".to_owned()]).unwrap();
        let ours = certificate().self_signed(&key).unwrap();
        std::fs::write(at("cert.pem"), ours.pem()).unwrap();
        std::fs::write(at("key.pem"), key.serialize_pem()).unwrap();
        let other = certificate().self_signed(&KeyPair::generate().unwrap()).unwrap();
        for clients_only in [false, true] {
            let mut config = serde_json::json!({"cert_file": at("cert.pem"), "key_file": at("key.pem")});
            if clients_only {
                config["client_ca_file"] = at("cert.pem").to_str().into();
            }
            let config = serde_json::from_value(config).unwrap();
            let tls = Tls::open("admin", config, TlsMetrics::default()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let service = service_fn(async |request: Request<Incoming>| {
                let token = request.headers().get(AUTHORIZATION).map(|t| t.to_str().unwrap_or_default());
                let told = format!("{} {}", request.uri(), token.unwrap_or("none"));
                Ok::<_, Infallible>(Response::new(Body::from(told)))
            });
            let limit = Duration::from_secs(10);
            let limits = ServerConfig { max_header_bytes: 32 << 10, head_patience: limit, drain: limit };
            let stop = CancellationToken::new();
            let server = tokio::spawn(serve(listener, Some(tls), service, limits, stop.clone()));
            let plane = Plane::new(address, Some(ours.der().clone()), None);
            assert_eq!(plane.url(), format!("https://{address}"));
            assert!(plane.has_the_key(limit).await);
            match plane.get("/health", Some("t"), limit).await {
                Ok(answer) => {
                    assert!(!clients_only);
                    assert_eq!(answer.body, "/health Bearer t");
                }
                Err(error) => assert!(clients_only, "{error:#}"),
            }
            // Whoever the authority issued a certificate for is let in.
            let shown = (vec![ours.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap());
            let known = Plane::new(address, Some(ours.der().clone()), Some(&shown));
            assert_eq!(known.get("/health", None, limit).await.unwrap().body, "/health none");
            let stranger = Plane::new(address, Some(other.der().clone()), None);
            assert!(!stranger.has_the_key(limit).await);
            assert!(stranger.get("/health", Some("t"), limit).await.is_err());
            assert!(!Plane::new(address, None, None).has_the_key(limit).await);
            stop.cancel();
            server.await.unwrap();
        }
    }

    #[test]
    fn an_address_for_everybody_is_reached_by_loopback() {
        let url = |address: &str| Plane::new(address.parse().unwrap(), None, None).url();
        assert_eq!(url("0.0.0.0:80"), "http://127.0.0.1:80");
        assert_eq!(url("[::]:81"), "http://[::1]:81");
        assert_eq!(url("10.0.0.7:82"), "http://10.0.0.7:82");
    }
}
