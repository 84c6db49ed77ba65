use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::mix::{Entry, Item};

/// Long enough that only the clock of the test ends it.
const PATIENCE: Duration = Duration::from_secs(5);

fn shared(address: &str, entry: &str) -> Rc<Shared> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("body.json"), "{}").unwrap();
    let entry: Entry = serde_json::from_str(entry).unwrap();
    let item = Item::new(entry, folder.path(), "test", "/", &[]).unwrap();
    let now = Instant::now();
    let plan = Plan {
        address: address.to_owned(),
        mix: Mix { items: vec![item], keys: Vec::new(), seed: 0 },
        start: now,
        warm_end: now,
        end: now + Duration::from_mins(1),
        slice: Duration::from_secs(1),
        patience: PATIENCE,
        most: None,
    };
    Rc::new(Shared::new(plan, 0))
}

/// Drives `count` arrivals that are all due now against `serve`, which gets every accepted connection.
async fn drive<F>(
    shared: &Rc<Shared>,
    listener: TcpListener,
    count: usize,
    most: usize,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let (sender, due) = mpsc::unbounded_channel();
    (0..count).for_each(|_| sender.send(shared.plan.start).unwrap());
    drop(sender);
    let accept = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(serve(stream));
        }
    };
    let run = open(Rc::clone(shared), due, most);
    LocalSet::new()
        .run_until(async {
            tokio::select! { () = run => {}, () = accept => {} }
        })
        .await;
}

/// Keeps the connection and says nothing.
async fn silent(_stream: TcpStream) {
    std::future::pending::<()>().await;
}

async fn bound() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn request(stream: &mut TcpStream) {
    let mut bytes = [0; 1024];
    let length = stream.read(&mut bytes).await.unwrap();
    assert!(bytes[..length].ends_with(b"\r\n\r\n{}"));
}

const PLAIN: &str = r#"{"name": "all", "file": "body.json"}"#;

#[tokio::test(start_paused = true)]
async fn what_is_due_while_too_many_are_open_is_counted_and_not_sent() {
    let (listener, address) = bound().await;
    let shared = shared(&address, PLAIN);
    // Never answered: each ends by the client's patience, which the paused clock runs out at once.
    drive(&shared, listener, 10, 3, silent).await;
    let findings = shared.findings.borrow();
    assert_eq!((findings.all.started, findings.all.failed, findings.all.not_started), (3, 3, 7));
    assert_eq!(findings.failures[&Failure::LateFirstByte], 3);
}

#[tokio::test]
async fn good_answers_are_counted_and_their_connections_kept() {
    let (listener, address) = bound().await;
    let shared = shared(&address, PLAIN);
    drive(&shared, listener, 5, 100, |mut stream| async move {
        loop {
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let findings = shared.findings.borrow();
    assert_eq!((findings.all.ok, findings.all.failed, findings.bytes), (5, 0, 10));
    let idle = shared.idle.borrow().len();
    assert!((1..=5).contains(&idle), "{idle} connections wait for the next arrival");
}

#[tokio::test]
async fn failures_are_told_apart() {
    for (answer, failure) in [
        ("", Failure::BeforeFirstByte),
        ("HTTP/1.1 200 OK\r\ncontent-le", Failure::BeforeFirstByte),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", Failure::Cut),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n", Failure::Cut),
        ("HTTP/1.1 200 OK\r\n\r\n", Failure::Malformed),
    ] {
        let (listener, address) = bound().await;
        let shared = shared(&address, PLAIN);
        let (sender, due) = mpsc::unbounded_channel();
        sender.send(shared.plan.start).unwrap();
        drop(sender);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        LocalSet::new().run_until(async { tokio::join!(open(Rc::clone(&shared), due, 1), serve) }).await;
        assert_eq!(shared.findings.borrow().failures.keys().collect::<Vec<_>>(), [&failure], "{answer:?}");
    }
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let (listener, address) = bound().await;
    drop(listener);
    let shared = shared(&address, PLAIN);
    let (sender, due) = mpsc::unbounded_channel();
    sender.send(shared.plan.start).unwrap();
    drop(sender);
    LocalSet::new().run_until(open(Rc::clone(&shared), due, 1)).await;
    assert_eq!(shared.findings.borrow().failures[&Failure::Refused], 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_no_failure() {
    let (listener, address) = bound().await;
    let entry = r#"{"name": "gone", "file": "body.json", "leave_after_ms": 100}"#;
    let shared = shared(&address, entry);
    drive(&shared, listener, 2, 2, silent).await;
    let findings = shared.findings.borrow();
    assert_eq!((findings.left, findings.all.failed), (2, 0));
}
