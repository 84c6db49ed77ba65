use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::http::server::{ServerConfig, serve};
use crate::http::tls::{Tls, TlsMetrics};

/// An authority, and the folder for what it issues.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (key, folder) = (KeyPair::generate().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues `NAME.pem` and `NAME.key`.
    fn issue(&self, name: &str, change: impl Fn(&mut CertificateParams)) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.at(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.at(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// What a command is given that trusts this authority, and shows what it issued as `own`.
    fn args(&self, own: Option<&str>) -> TlsArgs {
        let file = |end: &str| own.map(|own| self.at(&format!("{own}.{end}")));
        TlsArgs {
            ca_file: Some(self.at("ca.pem")),
            own: OwnArgs { client_cert: file("pem"), client_key: file("key") },
        }
    }
}

/// What comes of asking a listener that has the certificate `name` of an authority, or none.
async fn told(server: Option<(&Authority, &str)>, clients: bool, scheme: &str, args: &TlsArgs) -> String {
    let tls = server.map(|(authority, name)| {
        let file = |end: &str| authority.at(&format!("{name}.{end}"));
        let mut config = serde_json::json!({"cert_file": file("pem"), "key_file": file("key")});
        if clients {
            config["client_ca_file"] = authority.at("ca.pem").to_str().into();
        }
        Tls::open("admin", serde_json::from_value(config).unwrap(), TlsMetrics::default()).unwrap()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    let service = service_fn(async |request: Request<Incoming>| {
        let host = request.headers()[http::header::HOST].to_str().unwrap().to_owned();
        Ok::<_, Infallible>(Response::new(axum::body::Body::from(host)))
    });
    let limit = Duration::from_secs(10);
    let limits = ServerConfig { max_header_bytes: 32 << 10, head_patience: limit, drain: limit };
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, tls, service, limits, stop.clone()));
    let link = Link::new(&url.parse().unwrap(), args).unwrap_or_else(|e| panic!("{e}"));
    let request = Request::get("/").header("host", link.authority()).body(Empty::<Bytes>::new()).unwrap();
    let told = match link.send(request).await {
        Ok(answer) => {
            assert_eq!(answer.body(), &url[scheme.len() + 3..]);
            "answered".to_owned()
        }
        Err(error) => format!("{error:#}"),
    };
    stop.cancel();
    server.await.unwrap();
    told
}

#[tokio::test]
async fn a_gateway_is_reached_when_each_side_trusts_the_other() {
    let ours = Authority::new();
    ours.issue("good", |_| {});
    assert_eq!(told(None, false, "http", &TlsArgs::default()).await, "answered");
    assert_eq!(told(Some((&ours, "good")), false, "https", &ours.args(None)).await, "answered");
    assert_eq!(told(Some((&ours, "good")), true, "https", &ours.args(Some("good"))).await, "answered");
}

#[tokio::test]
async fn who_is_not_let_in_is_told_what_helps() {
    let (ours, others) = (Authority::new(), Authority::new());
    ours.issue("good", |_| {});
    ours.issue("old", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    ours.issue("elsewhere", |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("gw.example".try_into().unwrap())];
    });
    others.issue("good", |_| {});
    let mut stranger = ours.args(None);
    stranger.own = others.args(Some("good")).own;
    for (server, clients, scheme, args, part) in [
        (Some("good"), false, "https", TlsArgs::default(), "--ca-file"),
        (Some("good"), false, "https", others.args(None), "--ca-file"),
        (Some("old"), false, "https", ours.args(None), "has expired"),
        (Some("elsewhere"), false, "https", ours.args(None), "is not for `127.0.0.1`"),
        (Some("good"), true, "https", ours.args(None), "give --client-cert"),
        (Some("good"), true, "https", stranger, "of another authority"),
        (Some("good"), false, "http", TlsArgs::default(), "begin --url with https://"),
        (None, false, "https", ours.args(None), "begin --url with http://"),
    ] {
        let told = told(server.map(|name| (&ours, name)), clients, scheme, &args).await;
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn what_is_given_must_fit_together() {
    let ours = Authority::new();
    ours.issue("good", |_| {});
    ours.issue("other", |_| {});
    let refused = |url: &str, change: &dyn Fn(&mut TlsArgs)| {
        let mut args = ours.args(Some("good"));
        change(&mut args);
        match Link::new(&url.parse().unwrap(), &args) {
            Err(Failure::Usage(message)) => message,
            _ => panic!("{url} must be refused as bad usage"),
        }
    };
    let url = "https://gateway:8081";
    assert!(refused("http://gateway:8081", &|_| {}).contains("begin it with https://"));
    assert!(refused("gateway:8081", &|_| {}).starts_with("--url: "));
    assert!(refused(url, &|args| args.own.client_key = None).starts_with("--client-key: is missing"));
    assert!(refused(url, &|args| args.own.client_cert = None).starts_with("--client-cert: is missing"));
    assert!(refused(url, &|args| args.own.client_key = Some(ours.at("other.key"))).contains("does not fit"));
    assert!(refused(url, &|args| args.own.client_key = Some(ours.at("good.pem"))).contains("no PEM private"));
    assert!(refused(url, &|args| args.ca_file = Some(ours.at("good.key"))).contains("no PEM certificate"));
    assert!(refused(url, &|args| args.ca_file = Some(ours.at("absent"))).contains("cannot read"));
}
