//! HTTP/2 and TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use experts::{CallErrorKind, Client, ClientConfig, Expert, Trust};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::*;

/// Tells what it saw of a request.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let seen = json!({
        "http2": head.version == Version::HTTP_2,
        "authority": head.uri.authority().map(ToString::to_string),
        "path": head.uri.path(),
        "host": head.headers.get("host").map(|h| h.to_str().unwrap()),
        "body": body,
    });
    Ok(Response::builder()
        .header("content-type", "application/json")
        .body(Full::from(seen.to_string()))
        .unwrap())
}

pub(crate) fn tls_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// An echo server for both versions, with TLS where it gets protocols to offer.
async fn server(protocols: Option<&[&[u8]]>) -> (SocketAddr, Arc<AtomicUsize>) {
    serve(protocols.map(|protocols| acceptor(protocols, false))).await
}

/// An echo server for those who show a certificate of the clients' authority.
pub(crate) async fn server_for_clients() -> (SocketAddr, Arc<AtomicUsize>) {
    serve(Some(acceptor(&[b"http/1.1"], true))).await
}

fn acceptor(protocols: &[&[u8]], clients_only: bool) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = |name: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(tls_file(name)).unwrap().map(Result::unwrap).collect()
    };
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if clients_only {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(certificates("client-ca.pem"));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(tls_file("server.key")).unwrap();
    let mut config = builder.with_single_cert(certificates("server.pem"), key).unwrap();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(acceptor: Option<TlsAcceptor>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                // A client may refuse the certificate.
                let _ = match acceptor {
                    None => server.serve_connection(TokioIo::new(stream), service_fn(echo)).await,
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => server.serve_connection(TokioIo::new(stream), service_fn(echo)).await,
                        Err(_) => Ok(()),
                    },
                };
            });
        }
    });
    (address, count)
}

fn expert_at(url: &str, http2: bool, trusting: bool) -> Expert {
    let config =
        ClientConfig { extra_ca_file: trusting.then(|| tls_file("ca.pem")), ..ClientConfig::default() };
    let backend = json!({ "kind": "llm", "endpoints": [{ "url": url }], "http2": http2 });
    let spec = spec(json!({ "id": "e", "backend": backend }));
    Expert::new(spec, Trust::Operator, &Client::new(&config).unwrap()).unwrap()
}

#[tokio::test]
async fn many_calls_share_one_http2_connection() {
    let (address, connections) = server(None).await;
    let expert = Arc::new(expert_at(&format!("http://{address}/v1"), true, false));
    ask(&expert, PLAIN).await.unwrap();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let expert = expert.clone();
            tokio::spawn(async move { text(ask(&expert, PLAIN).await.unwrap().body).await })
        })
        .collect();
    for call in calls {
        let seen: serde_json::Value = serde_json::from_str(&call.await.unwrap()).unwrap();
        let expected = json!({
            "http2": true,
            "authority": address.to_string(),
            "path": "/v1/chat/completions",
            "host": null,
            "body": PLAIN.replace("auto", "e"),
        });
        assert_eq!(seen, expected);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert_eq!(expert.endpoints()[0].outstanding, 0);
}

#[tokio::test]
async fn tls_negotiates_the_version() {
    let both: &[&[u8]] = &[b"h2", b"http/1.1"];
    let old: &[&[u8]] = &[b"http/1.1"];
    for (offered, wanted, expected) in [(both, true, true), (both, false, false), (old, true, false)] {
        let (address, connections) = server(Some(offered)).await;
        let expert = expert_at(&format!("https://localhost:{}/v1", address.port()), wanted, true);
        for _ in 0..3 {
            let body = text(ask(&expert, PLAIN).await.unwrap().body).await;
            let seen: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(seen["http2"], expected);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn an_unknown_certificate_is_refused() {
    let (address, _) = server(Some(&[b"http/1.1"])).await;
    let url = format!("https://localhost:{}/v1", address.port());
    let error = ask(&expert_at(&url, false, false), PLAIN).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Tls, "{error}");
    // The certificate is not for this name.
    let url = format!("https://127.0.0.1:{}/v1", address.port());
    let error = ask(&expert_at(&url, false, true), PLAIN).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Tls, "{error}");
}

#[test]
fn a_missing_or_empty_authority_file_is_named() {
    for (file, problem) in [("nothing.pem", "No such file"), ("README.md", "holds no certificate")] {
        let config = ClientConfig { extra_ca_file: Some(tls_file(file)), ..ClientConfig::default() };
        let error = Client::new(&config).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(problem), "{error}");
    }
}

#[tokio::test]
async fn a_look_at_an_endpoint_tells_the_whole_way() {
    let both: &[&[u8]] = &[b"h2", b"http/1.1"];
    for (protocols, http2) in [(Some(both), true), (Some(both), false), (None, false), (None, true)] {
        let (address, _) = server(protocols).await;
        let (scheme, trusted) = (protocols.map_or("http", |_| "https"), tls_file("ca.pem"));
        let url = format!("{scheme}://localhost:{}/v1/", address.port());
        let backend = json!({ "kind": "llm", "endpoints": [{ "url": url }], "http2": http2 });
        let expert = spec(json!({ "id": "e", "backend": backend }));
        let backend = expert.backend.upstream().unwrap();
        let config = ClientConfig { extra_ca_file: Some(trusted), ..ClientConfig::default() };
        let client = Client::new(&config).unwrap();
        let looks = backend.look(&backend.endpoints[0], &client, Duration::from_secs(10)).await.unwrap();
        let [look] = looks.try_into().unwrap();
        assert!(look.addresses.iter().all(std::net::IpAddr::is_loopback) && !look.addresses.is_empty());
        // `openssl x509 -in tests/tls/server.pem -noout -enddate`
        assert_eq!(look.certificate_ends, protocols.map(|_| 4_948_955_885), "{url}");
        // The echo server lists no models.
        let listing = look.answer.unwrap();
        assert_eq!((listing.status.as_u16(), listing.models), (200, None), "{url} {http2}");
    }
}
