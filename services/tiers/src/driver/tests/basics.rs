use serde_json::json;

use super::super::{DriverSpec, ErrorKind};
use super::*;

fn spec(url: &str) -> Value {
    json!({"driver": {"kind": "vllm_sleep", "engines": {"a": {"url": url}}}})
}

fn awake(_: &Call) -> Reply {
    Reply::json(200, &json!({"is_sleeping": false}))
}

#[test]
fn settings_are_checked_and_say_what_is_wrong() {
    let wrong = |url: &str| {
        let spec: DriverSpec = serde_json::from_value(spec(url)).unwrap();
        Driver::new(spec).err().unwrap().message
    };
    assert!(wrong("https://vllm:8000").contains("without TLS"), "{}", wrong("https://vllm:8000"));
    assert!(wrong("vllm").contains("http://host:port"));
    assert!(wrong("http://vllm:8000/?a=b").contains("query"));
    let unknown = json!({"driver": {"kind": "vllm_sleep", "engines": {}, "level": 1}});
    let error = serde_json::from_value::<DriverSpec>(unknown).unwrap_err().to_string();
    assert!(error.contains("unknown field `level`"), "{error}");
}

#[test]
fn keys_are_never_written_out() {
    let spec =
        json!({"driver": {"kind": "vllm_sleep", "engines": {"a": {"url": "http://a", "api_key": "s3cret"}}}});
    let spec: DriverSpec = serde_json::from_value(spec).unwrap();
    assert!(!serde_json::to_string(&spec).unwrap().contains("s3cret"));
    assert!(!format!("{spec:?}").contains("s3cret"));
}

#[tokio::test(start_paused = true)]
async fn what_the_driver_does_not_have_is_unsupported() {
    let network = FakeNetwork::default();
    network.serve("vllm:8000", awake);
    let driver = driver(spec("http://vllm:8000"), &network);
    let error = promote(&driver, "b", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("no expert b"), "{error}");
    let error = promote(&driver, "a", Tier::Slot).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("it has hbm, dram, disk"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_meter_without_its_gauge_says_what_to_correct() {
    let network = FakeNetwork::default();
    network.serve("vllm:8000", awake);
    network.serve("dcgm:9400", |_| Reply::text(200, "OTHER{gpu=\"0\"} 1\nFREE_TOTAL 5\n"));
    let mut spec = spec("http://vllm:8000");
    spec["meter"] = json!({"server": {"url": "http://dcgm:9400"}, "metric": "FREE"});
    let driver = driver(spec, &network);
    assert!(driver.caps().measures);
    let error = driver.probe(soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("no sample of FREE"), "{error}");
}

#[tokio::test]
async fn a_real_socket_is_used_outside_these_tests() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/engines/one/", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let path = Arc::new(Mutex::new(String::new()));
        let seen = path.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let key = request.headers()["authorization"].to_str().unwrap().to_owned();
            *seen.lock().unwrap() = format!("{} {key}", request.uri());
            async { Ok::<_, io::Error>(Response::new(Full::<Bytes>::from(r#"{"is_sleeping":false}"#))) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connection.await.unwrap();
        path.lock().unwrap().clone()
    });
    let spec = json!({"driver": {"kind": "vllm_sleep", "engines": {"a": {"url": url, "api_key": "k"}}}});
    let driver = Driver::new(serde_json::from_value(spec).unwrap()).unwrap();
    assert_eq!(place(&driver, "a").await, (Residence::In(Tier::Hbm), Evidence::Server));
    assert_eq!(asked.await.unwrap(), "/engines/one/is_sleeping Bearer k");
    // Nobody listens there any more.
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap_err().kind, ErrorKind::Gone);
}
