//! What may be called, and who calls: the guard against forged requests, and mutual TLS.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use experts::{
    CallErrorKind as Kind, Cidr, Client, ClientConfig, Expert, ExpertSpec, Fetch, Registry, Trust, Wanted,
};
use http::{HeaderValue, Method};
use routing::Availability;
use serde_json::{Value, json};

use crate::discovery::Names;
use crate::support::*;

fn config(allow: &[&str]) -> ClientConfig {
    let allow_private: Vec<Cidr> = allow.iter().map(|c| c.parse().unwrap()).collect();
    ClientConfig { allow_private, ..ClientConfig::default() }
}

fn at(url: &str) -> ExpertSpec {
    spec(
        json!({ "id": "e", "backend": { "kind": "llm", "endpoints": [{ "url": url }], "retries": { "max_attempts": 1 } } }),
    )
}

#[test]
fn literal_addresses_are_refused_at_registration_with_a_remedy() {
    let registry = Registry::new(Client::new(&config(&["10.1.0.0/16"])).unwrap());
    let check = |url: &str, trust| {
        let problems = registry.check(&at(url), trust);
        let found = problems.first().map(|p| {
            assert_eq!(p.path, "backend.endpoints[0].url");
            p.message.clone()
        });
        let wanted = Wanted {
            spec: at(url),
            trust,
            availability: Availability::Ready,
            signals: std::sync::Arc::default(),
        };
        assert_eq!(registry.replace(vec![wanted], [].into()).is_err(), found.is_some(), "{url}");
        found
    };
    for url in [
        "http://127.0.0.1:8000/v1",
        "http://[::1]/v1",
        "http://10.2.0.1/v1",
        "http://[::ffff:192.168.0.1]/v1",
    ] {
        let message = check(url, Trust::Registered).unwrap();
        assert!(message.contains("upstream.allow_private") && message.contains("such as"), "{message}");
        assert_eq!(check(url, Trust::Operator), None);
    }
    for url in ["http://10.1.2.3/v1", "http://8.8.8.8/v1", "http://some.name/v1"] {
        assert_eq!(check(url, Trust::Registered), None, "{url}");
    }
    for url in ["http://169.254.169.254/v1", "http://[fe80::1]/v1", "http://0.0.0.0:8000/v1"] {
        for trust in [Trust::Operator, Trust::Registered] {
            assert!(check(url, trust).unwrap().contains("never called"), "{url}");
        }
    }
    let link_local = ClientConfig { allow_link_local: true, ..ClientConfig::default() };
    assert_eq!(at("http://169.254.1.1/v1").forbidden(&link_local, Trust::Operator), []);
}

#[tokio::test]
async fn names_are_checked_when_they_are_called() {
    let (upstream, count) = scripted(&[ok()]).await;
    let url = format!("http://models.example:{}/v1", upstream.address.port());
    let names = Names::of(&[1]);
    let client = |allow: &[&str]| Client::with_resolver(&config(allow), names.clone()).unwrap();
    let closed = client(&[]);
    let registered = Expert::new(at(&url), Trust::Registered, &closed).unwrap();
    let error = ask(&registered, PLAIN).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    assert!(error.detail().unwrap().contains("allow_private"), "{error}");
    assert!(!error.message().contains("127"), "clients are told no addresses");
    // Connections that the operator's expert has open are none of a registered one's.
    let operators = Expert::new(at(&url), Trust::Operator, &closed).unwrap();
    assert_eq!(ask(&operators, PLAIN).await.unwrap().status, 200);
    assert_eq!(ask(&registered, PLAIN).await.unwrap_err().kind(), Kind::Forbidden);
    let allowed = Expert::new(at(&url), Trust::Registered, &client(&["127.0.0.0/8"])).unwrap();
    assert_eq!(ask(&allowed, PLAIN).await.unwrap().status, 200);
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn small_requests_are_fetched_with_guard_and_limits() {
    let upstream = Upstream::start(|mut connection, _| async move {
        while let Some(seen) = connection.request().await {
            let line = seen.head.lines().next().unwrap().to_owned();
            let body =
                json!({ "line": line, "sent": String::from_utf8(seen.body).unwrap(), "x": "y".repeat(50) });
            connection.write(whole("202 Accepted", "application/json", &body.to_string())).await;
        }
    })
    .await;
    let client = Client::new(&config(&[])).unwrap();
    let url = format!("http://{}/keys?v=1", upstream.address);
    let mut get = Fetch::get(&url);
    get.headers.insert("x-a", HeaderValue::from_static("b"));
    let answer = client.fetch(get).await.unwrap();
    assert_eq!(answer.status, 202);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["line"], "GET /keys?v=1 HTTP/1.1");
    let answer = client.fetch(Fetch::post(&url, Bytes::from_static(b"traces"))).await.unwrap();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&body["line"], &body["sent"]), (&json!("POST /keys?v=1 HTTP/1.1"), &json!("traces")));
    let large = client.fetch(Fetch { max_bytes: 40, ..Fetch::get(&url) }).await.unwrap_err();
    assert_eq!(large.kind(), Kind::TooLarge);
    let private = client.fetch(Fetch { trust: Trust::Registered, ..Fetch::get(&url) }).await.unwrap_err();
    assert_eq!(private.kind(), Kind::Forbidden);
    for bad in ["ftp://host/", "nonsense", "http://user:pw@host/"] {
        let error = client.fetch(Fetch { method: Method::PUT, ..Fetch::get(bad) }).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Request, "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_has_a_deadline() {
    let upstream = Upstream::start(|mut connection, _| async move {
        connection.request().await;
        connection.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        connection.closed().await;
    })
    .await;
    let client = Client::new(&config(&[])).unwrap();
    let fetch =
        Fetch { timeout: Duration::from_secs(3), ..Fetch::get(format!("http://{}/", upstream.address)) };
    let start = tokio::time::Instant::now();
    assert_eq!(client.fetch(fetch).await.unwrap_err().kind(), Kind::Timeout(experts::Phase::Total));
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test]
async fn mutual_tls() {
    let (address, connections) = crate::http2::server_for_clients().await;
    let url = format!("https://localhost:{}/v1", address.port());
    let file = |name: &str| crate::http2::tls_file(name).display().to_string();
    let client = Client::new(&ClientConfig::default()).unwrap();
    let expert = |tls: Value| {
        let backend = json!({ "kind": "llm", "endpoints": [{ "url": url }], "tls": tls, "retries": { "max_attempts": 1 } });
        Expert::new(spec(json!({ "id": "e", "backend": backend })), Trust::Operator, &client)
    };
    let ours = json!({ "ca_file": file("ca.pem"), "client_cert_file": file("client.pem"), "client_key_file": file("client.key") });
    let known = expert(ours.clone()).unwrap();
    assert_eq!(ask(&known, PLAIN).await.unwrap().status, 200);
    // The same identity shares the connection, another one does not.
    assert_eq!(ask(&expert(ours).unwrap(), PLAIN).await.unwrap().status, 200);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    // A look calls as the expert does.
    let shown = known.spec().backend.upstream().unwrap();
    let [look] =
        shown.look(&shown.endpoints[0], &client, Duration::from_secs(10)).await.unwrap().try_into().unwrap();
    assert!(look.certificate_ends.is_some());
    assert_eq!(look.answer.unwrap().status, 200);
    let unknown = expert(json!({ "ca_file": file("ca.pem") })).unwrap();
    assert!(ask(&unknown, PLAIN).await.is_err());
    let untrusting =
        expert(json!({ "client_cert_file": file("client.pem"), "client_key_file": file("client.key") }));
    assert_eq!(ask(&untrusting.unwrap(), PLAIN).await.unwrap_err().kind(), Kind::Tls);
    for (tls, path, why) in [
        (json!({ "ca_file": file("nothing.pem") }), "backend.tls.ca_file", "No such file"),
        (json!({ "ca_file": file("README.md") }), "backend.tls.ca_file", "no PEM certificate"),
        (
            json!({ "client_cert_file": file("client.pem"), "client_key_file": file("ca.pem") }),
            "backend.tls.client_key_file",
            "no PEM private key",
        ),
        (
            json!({ "client_cert_file": file("client.pem"), "client_key_file": file("server.key") }),
            "backend.tls.client_key_file",
            "does not fit",
        ),
    ] {
        let problem = expert(tls).unwrap_err();
        assert!(problem.path == path && problem.message.contains(why), "{problem}");
    }
    let half: ExpertSpec = serde_json::from_value(json!({
        "id": "e",
        "backend": { "kind": "llm", "endpoints": [{ "url": url }], "tls": { "client_cert_file": "x" } },
    }))
    .unwrap();
    assert_eq!(half.validate()[0].path, "backend.tls.client_key_file");
}
