//! HTTPS on the listeners, clients' certificates, and certificates that change.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use e2e::{Client, Gateway, binary};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{ask, until};

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
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}

impl Issued {
    fn write(&self, folder: &Path) {
        std::fs::write(folder.join("tls.crt"), &self.certificate).unwrap();
        std::fs::write(folder.join("tls.key"), &self.key).unwrap();
    }
}

/// A client that trusts one authority, and may have a certificate of its own.
fn client(trusted: &Authority, own: Option<&Issued>, protocol: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// The status of a GET over TLS by HTTP/1.1.
async fn get(connector: &TlsConnector, url: &str, path: &str) -> anyhow::Result<u16> {
    let mut connection = open(connector, url).await?;
    Ok(request(&mut connection, path).await?.status().as_u16())
}

async fn open(connector: &TlsConnector, url: &str) -> anyhow::Result<http1::SendRequest<Empty<Bytes>>> {
    let socket = TcpStream::connect(url.trim_start_matches("https://")).await?;
    let stream = connector.connect(ServerName::try_from("localhost")?, socket).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection.
    tokio::spawn(connection);
    Ok(sender)
}

async fn request(
    connection: &mut http1::SendRequest<Empty<Bytes>>,
    path: &str,
) -> anyhow::Result<Response<Bytes>> {
    let get = Request::get(path).header("host", "localhost").body(Empty::new())?;
    let (parts, body) = connection.send_request(get).await?.into_parts();
    Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
}

/// A gateway whose data plane has the certificate of the folder.
fn gateway(folder: &Path, more: &str) -> Gateway {
    let file = |name: &str| folder.join(name).display().to_string();
    let tls = format!("{{cert_file: '{}', key_file: '{}'{more}}}", file("tls.crt"), file("tls.key"));
    let expert = "experts:\n  - {id: one, backend: {kind: constant, text: first}}\n";
    Gateway::start(&format!("data: {{listen: '127.0.0.1:0', tls: {tls}}}\n{expert}")).unwrap()
}

#[tokio::test]
async fn a_listener_with_a_certificate_speaks_https_in_both_versions_and_nothing_else() {
    let (ours, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    ours.issue("localhost").write(folder.path());
    let gateway = gateway(folder.path(), "");
    assert!(gateway.url.starts_with("https://"), "{}", gateway.url);
    assert_eq!(get(&client(&ours, None, "http/1.1"), &gateway.url, "/v1/models").await.unwrap(), 200);
    assert!(get(&client(&Authority::new(), None, "http/1.1"), &gateway.url, "/v1/models").await.is_err());

    let socket = TcpStream::connect(gateway.url.trim_start_matches("https://")).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = client(&ours, None, "h2").connect(name, socket).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("{}/v1/models", gateway.url)).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);

    // Who does not speak TLS is turned away, and nobody else suffers.
    let plain = gateway.url.replace("https://", "http://");
    assert!(Client::default().get(&format!("{plain}/v1/models")).await.is_err());
    assert_eq!(get(&client(&ours, None, "http/1.1"), &gateway.url, "/v1/models").await.unwrap(), 200);
}

#[tokio::test]
async fn where_clients_need_a_certificate_only_the_right_one_lets_them_in() {
    let (ours, theirs, others) = (Authority::new(), Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    ours.issue("localhost").write(folder.path());
    let clients = folder.path().join("clients.crt");
    std::fs::write(&clients, &theirs.pem).unwrap();
    let gateway = gateway(folder.path(), &format!(", client_ca_file: '{}'", clients.display()));
    let status = async |own: Option<Issued>| {
        get(&client(&ours, own.as_ref(), "http/1.1"), &gateway.url, "/v1/models").await
    };
    assert!(status(None).await.is_err());
    assert!(status(Some(others.issue("mallory"))).await.is_err());
    assert_eq!(status(Some(theirs.issue("alice"))).await.unwrap(), 200);
    let metrics = Client::default().get(&format!("{}/metrics", gateway.admin)).await.unwrap().text();
    let line = r#"guildhall_tls_handshake_failures_total{listener="data",reason="certificate"} 2"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_new_certificate_is_taken_into_use_while_connections_go_on() {
    let (old, new, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    old.issue("localhost").write(folder.path());
    let gateway = gateway(folder.path(), "");
    let (of_old, of_new) = (client(&old, None, "http/1.1"), client(&new, None, "http/1.1"));
    let mut open = open(&of_old, &gateway.url).await.unwrap();
    assert_eq!(request(&mut open, "/v1/models").await.unwrap().status(), 200);
    assert!(get(&of_new, &gateway.url, "/v1/models").await.is_err());

    // In two steps, the first of which leaves a certificate with another's key.
    let issued = new.issue("localhost");
    std::fs::write(folder.path().join("tls.crt"), &issued.certificate).unwrap();
    until("the half is noticed", async || gateway.errors().contains("cannot be used with the key")).await;
    assert_eq!(get(&of_old, &gateway.url, "/v1/models").await.unwrap(), 200);
    issued.write(folder.path());
    until("the new certificate is in use", async || {
        get(&of_new, &gateway.url, "/v1/models").await.is_ok_and(|status| status == 200)
    })
    .await;
    assert!(get(&of_old, &gateway.url, "/v1/models").await.is_err());
    assert_eq!(request(&mut open, "/v1/models").await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_command_line_reaches_an_admin_plane_that_wants_a_certificate() {
    let (ours, theirs, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let file = |name: &str| folder.path().join(name).display().to_string();
    ours.issue("127.0.0.1").write(folder.path());
    let operator = theirs.issue("alice");
    for (name, text) in [
        ("ours.pem", &ours.pem),
        ("theirs.pem", &theirs.pem),
        ("alice.pem", &operator.certificate),
        ("alice.key", &operator.key),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let tls = format!(
        "{{cert_file: '{}', key_file: '{}', client_ca_file: '{}'}}",
        file("tls.crt"),
        file("tls.key"),
        file("theirs.pem")
    );
    let admin = format!("admin: {{listen: '127.0.0.1:0', token: {}, tls: {tls}}}", Gateway::TOKEN);
    let expert = "experts:\n  - {id: one, backend: {kind: constant, text: first}}\n";
    let gateway = Gateway::start(&format!("{admin}\n{expert}")).unwrap();
    let run = |own: &[(&str, &str)]| {
        let output = Command::new(binary("guildhall").unwrap())
            .args(["experts", "list", "--url", &gateway.admin, "--token", Gateway::TOKEN])
            .envs(own.iter().map(|(name, value)| (name, file(value))))
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let trusted = ("GUILDHALL_ADMIN_CA_FILE", "ours.pem");
    let (certificate, key) =
        (("GUILDHALL_ADMIN_CLIENT_CERT", "alice.pem"), ("GUILDHALL_ADMIN_CLIENT_KEY", "alice.key"));
    let (code, said, errors) = run(&[trusted, certificate, key]);
    assert!(code == Some(0) && said.contains("one"), "{said}{errors}");
    let (code, _, errors) = run(&[certificate, key]);
    assert!(code == Some(1) && errors.contains("--ca-file"), "{errors}");
    let (code, _, errors) = run(&[trusted]);
    assert!(code == Some(1) && errors.contains("--client-cert"), "{errors}");
    let (code, _, errors) = run(&[trusted, certificate]);
    assert!(code == Some(2) && errors.contains("--client-key"), "{errors}");
}

#[tokio::test]
async fn an_expert_s_rotated_client_certificate_is_taken_into_use() {
    let (ours, theirs, others) = (Authority::new(), Authority::new(), Authority::new());
    let (served, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    ours.issue("localhost").write(served.path());
    let clients = served.path().join("clients.crt");
    std::fs::write(&clients, &theirs.pem).unwrap();
    // Whoever answers over TLS will do for an expert.
    let upstream = gateway(served.path(), &format!(", client_ca_file: '{}'", clients.display()));
    let url = upstream.url.replace("127.0.0.1", "localhost");
    std::fs::write(folder.path().join("ca.pem"), &ours.pem).unwrap();
    others.issue("gateway").write(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let gateway = Gateway::start(&format!(
        "experts:\n  - id: far\n    backend:\n      kind: llm\n      model: one\n      endpoints: [{{url: '{url}/v1'}}]\n\
         \x20     breaker: {{enabled: false}}\n\
         \x20     tls: {{ca_file: '{}', client_cert_file: '{}', client_key_file: '{}'}}\n",
        file("ca.pem"),
        file("tls.crt"),
        file("tls.key"),
    ))
    .unwrap();
    let client = Client::default();
    let ask = async || client.post(&gateway.v1("chat/completions"), &ask("far", "hi")).await.unwrap();
    assert_eq!(ask().await.status, 502);
    let good = theirs.issue("gateway");
    good.write(folder.path());
    until("the new certificate is in use", async || ask().await.status == 200).await;
    // Half of a rotation, and then nothing for a while: what works goes on.
    std::fs::write(folder.path().join("tls.crt"), &others.issue("gateway").certificate).unwrap();
    until("the half is noticed", async || gateway.errors().contains("does not fit client_cert_file")).await;
    assert_eq!(ask().await.status, 200);
    others.issue("gateway").write(folder.path());
    until("the wrong one is in use, on connections too", async || ask().await.status == 502).await;
}
