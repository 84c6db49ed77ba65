use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::Body;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::http::server::{self, ServerConfig as Limits};

/// An authority that issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM.
struct Issued {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, name: &str) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}

/// A listener whose answers say who its client is.
struct Server {
    folder: TempDir,
    tls: Tls,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<bool>,
}

impl Server {
    async fn start(issued: &Issued, clients: Option<(&Authority, ClientAuth)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, issued);
        if let Some((authority, _)) = clients {
            std::fs::write(folder.path().join("clients.pem"), &authority.pem).unwrap();
        }
        let tls = Tls::open("data", config(&folder, clients.map(|(_, auth)| auth)), TlsMetrics::default());
        let tls = tls.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let limits = Limits {
            max_header_bytes: 32 << 10,
            head_patience: Duration::from_mins(1),
            drain: Duration::from_secs(5),
        };
        let service = service_fn(async |request: Request<Incoming>| {
            let peer = request.extensions().get::<Arc<PeerIdentity>>();
            let name = peer.and_then(|p| p.common_name.clone()).unwrap_or_else(|| "nobody".into());
            Ok::<_, Infallible>(Response::new(Body::from(name)))
        });
        let task = tokio::spawn(server::serve(listener, Some(tls.clone()), service, limits, stop.clone()));
        Self { folder, tls, address, stop, task }
    }

    async fn stop(self) -> bool {
        self.stop.cancel();
        self.task.await.unwrap()
    }

    fn failures(&self, reason: &'static str) -> u64 {
        let failed = Failed { listener: "data", reason };
        self.tls.0.metrics.failures.get_or_create(&failed).get()
    }
}

fn config(folder: &TempDir, client_auth: Option<ClientAuth>) -> TlsConfig {
    let file = |name| folder.path().join(name);
    TlsConfig {
        cert_file: file("cert.pem"),
        key_file: file("key.pem"),
        client_ca_file: client_auth.map(|_| file("clients.pem")),
        client_auth,
        min_version: TlsVersion::V1_2,
    }
}

fn write(folder: &TempDir, issued: &Issued) {
    std::fs::write(folder.path().join("cert.pem"), &issued.certificate).unwrap();
    std::fs::write(folder.path().join("key.pem"), &issued.key).unwrap();
}

/// A client that trusts an authority and may show a certificate.
fn client(trusted: &Authority, shown: Option<&Issued>, alpn: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let chain = certificates(issued.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// Asks over a new connection; the answer's version and text.
async fn ask(server: &Server, client: &TlsConnector) -> Result<(Version, String), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let socket = TcpStream::connect(server.address).await.map_err(|e| text(&e))?;
    let name = ServerName::try_from("gateway.example").unwrap();
    let stream = client.connect(name, socket).await.map_err(|e| text(&e))?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let request = Request::get("https://gateway.example/").body(Empty::<Bytes>::new()).unwrap();
    let response = if h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| text(&e))?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let response = response.map_err(|e| text(&e))?;
    let version = response.version();
    let body = response.into_body().collect().await.map_err(|e| text(&e))?.to_bytes();
    Ok((version, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn both_protocols_are_spoken_over_tls() {
    let authority = Authority::new();
    let server = Server::start(&authority.issue("gateway.example"), None).await;
    for (alpn, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let answer = ask(&server, &client(&authority, None, alpn)).await.unwrap();
        assert_eq!(answer, (version, "nobody".to_owned()));
    }
    let stranger = Authority::new();
    assert!(ask(&server, &client(&stranger, None, &[])).await.is_err());
    assert!(server.stop().await);
}

#[tokio::test]
async fn a_required_certificate_lets_its_owner_in_and_nobody_else() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let issued = authority.issue("gateway.example");
    let server = Server::start(&issued, Some((&clients, ClientAuth::Required))).await;
    let own = clients.issue("web.example");
    let answer = ask(&server, &client(&authority, Some(&own), &["h2"])).await.unwrap();
    assert_eq!(answer.1, "web.example");
    let forged = Authority::new().issue("web.example");
    ask(&server, &client(&authority, Some(&forged), &[])).await.unwrap_err();
    ask(&server, &client(&authority, None, &[])).await.unwrap_err();
    assert_eq!(server.failures("certificate"), 2);
}

#[tokio::test]
async fn an_optional_certificate_is_still_verified() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let issued = authority.issue("gateway.example");
    let server = Server::start(&issued, Some((&clients, ClientAuth::Optional))).await;
    let answer = async |shown: Option<&Issued>| ask(&server, &client(&authority, shown, &[])).await;
    assert_eq!(answer(None).await.unwrap().1, "nobody");
    assert_eq!(answer(Some(&clients.issue("web.example"))).await.unwrap().1, "web.example");
    answer(Some(&Authority::new().issue("web.example"))).await.unwrap_err();
}

#[tokio::test]
async fn new_files_are_taken_up_and_broken_ones_are_not() {
    let (before, after) = (Authority::new(), Authority::new());
    let server = Server::start(&before.issue("gateway.example"), None).await;
    let trusts = async |authority: &Authority| ask(&server, &client(authority, None, &[])).await.is_ok();
    assert!(!server.tls.reload().unwrap());
    // A certificate without its key, as between the two writes of a rotation.
    let next = after.issue("gateway.example");
    std::fs::write(server.folder.path().join("cert.pem"), &next.certificate).unwrap();
    let error = server.tls.reload().unwrap_err().to_string();
    assert!(error.contains("cert.pem") && error.contains("key.pem"), "{error}");
    assert!(trusts(&before).await);
    write(&server.folder, &next);
    assert!(server.tls.reload().unwrap());
    assert!(trusts(&after).await && !trusts(&before).await);
}

#[tokio::test(start_paused = true)]
async fn files_are_looked_at_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(&folder, &authority.issue("a.example"));
    let tls = Tls::open("data", config(&folder, None), TlsMetrics::default()).unwrap();
    let first = tls.0.live.load().digest;
    let stop = CancellationToken::new();
    let watch = tokio::spawn(tls.clone().watch(stop.clone()));
    std::fs::remove_file(folder.path().join("key.pem")).unwrap();
    tokio::time::sleep(2 * RELOAD_INTERVAL).await;
    assert_eq!(tls.0.live.load().digest, first);
    write(&folder, &authority.issue("a.example"));
    tokio::time::sleep(2 * RELOAD_INTERVAL).await;
    assert_ne!(tls.0.live.load().digest, first);
    stop.cancel();
    watch.await.unwrap();
}

#[tokio::test]
async fn plain_http_is_not_answered() {
    let authority = Authority::new();
    let server = Server::start(&authority.issue("gateway.example"), None).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: gateway.example\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as any.
    let _ = socket.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(server.failures("protocol"), 1);
    // And others are served.
    assert!(ask(&server, &client(&authority, None, &[])).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_sent_away_in_time() {
    let authority = Authority::new();
    let server = Server::start(&authority.issue("gateway.example"), None).await;
    let begun = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer).await;
    assert_eq!(begun.elapsed().as_secs(), HANDSHAKE_PATIENCE.as_secs());
    assert_eq!(server.failures("timeout"), 1);
}

#[tokio::test]
async fn a_handshake_under_way_holds_up_neither_others_nor_the_stop() {
    let authority = Authority::new();
    let server = Server::start(&authority.issue("gateway.example"), None).await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    // Accepted after the silent one, so that its handshake is under way.
    assert!(ask(&server, &client(&authority, None, &["http/1.1"])).await.is_ok());
    let begun = std::time::Instant::now();
    assert!(server.stop().await);
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let open = |auth| {
        let opened = Tls::open("data", config(&folder, auth), TlsMetrics::default());
        opened.unwrap_err().to_string()
    };
    assert!(open(None).contains("cannot read"));
    let issued = Authority::new().issue("a.example");
    write(&folder, &issued);
    assert!(open(Some(ClientAuth::Required)).contains("clients.pem"));
    std::fs::write(folder.path().join("clients.pem"), "nothing").unwrap();
    assert!(open(Some(ClientAuth::Required)).ends_with("clients.pem: holds no PEM certificate"));
    std::fs::write(folder.path().join("key.pem"), "nothing").unwrap();
    assert!(open(None).contains("key.pem: holds no private key"));
    write(&folder, &Issued { key: Authority::new().issue("a.example").key, ..issued });
    assert!(open(None).contains("cannot be used with the key"));
}
