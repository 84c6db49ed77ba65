use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin::tests::fixture::Api;
use crate::http::server::{ServerConfig, serve};

/// A gateway with an admin listener.
pub(super) struct Running {
    pub(super) url: String,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<bool>,
    pub(super) api: Api,
}

impl Running {
    pub(super) async fn start() -> Self {
        let api = Api::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let second = std::time::Duration::from_secs(1);
        let config = ServerConfig { max_header_bytes: 32 << 10, head_patience: second * 30, drain: second };
        let stop = CancellationToken::new();
        let router = TowerToHyperService::new(crate::admin::router(api.app.clone()));
        let server = tokio::spawn(serve(listener, None, router, config, stop.clone()));
        Self { url, stop, server, api }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.server.await.unwrap();
    }
}

fn server(url: &str, token: Option<&str>) -> ServerArgs {
    ServerArgs { url: url.into(), token: token.map(str::to_owned), tls: TlsArgs::default(), json: false }
}

#[test]
fn the_address_and_the_token_are_checked_before_anything_is_sent() {
    let refused = |url: &str, token: Option<&str>| match AdminClient::new(&server(url, token)) {
        Err(Failure::Usage(message)) => message,
        _ => panic!("{url} must be refused as bad usage"),
    };
    assert!(refused("ftp://gateway:8081", Some("t")).contains("https://"));
    assert!(refused("gateway:8081", Some("t")).contains("http://"));
    assert!(refused("http://gateway:8081", None).contains("GUILDHALL_ADMIN_TOKEN"));
    assert!(refused("http://gateway:8081", Some("")).contains("GUILDHALL_ADMIN_TOKEN"));
    let client = AdminClient::new(&server("http://gateway:8081/admin/v1/", Some("t")))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(client.base, "http://gateway:8081");
}

#[test]
fn an_error_object_is_told_and_its_kind_decides_the_exit_code() {
    let body = br#"{"error":{"message":"there is no expert `x`","type":"t","param":null,"code":"c"}}"#;
    let told = |status: u16| answer(StatusCode::from_u16(status).unwrap(), body).unwrap_err();
    assert!(matches!(told(422), Failure::Usage(m) if m == "there is no expert `x`"));
    assert!(matches!(told(404), Failure::Other(_)));
    let strange = answer(StatusCode::BAD_GATEWAY, b"<html>").unwrap_err();
    assert_eq!(strange.to_string(), "the gateway answered 502 Bad Gateway");
    assert!(answer(StatusCode::OK, b"<html>").unwrap_err().to_string().contains("not JSON"));
    assert_eq!(answer(StatusCode::NO_CONTENT, b"").unwrap(), Value::Null);
}
