//! Addresses that come and go behind a name.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use experts::{CallErrorKind, Client, ClientConfig, Registry, Resolve, Resolving, Trust, Wanted};
use routing::Availability;
use serde_json::json;

use crate::support::*;

/// Answers with what the test says.
#[derive(Default)]
pub(crate) struct Names {
    /// Last octets of loopback addresses; `None` for a failure.
    pub(crate) found: Mutex<Option<Vec<u8>>>,
    pub(crate) lookups: AtomicUsize,
}

pub(crate) fn loopback(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

impl Names {
    pub(crate) fn of(found: &[u8]) -> Arc<Self> {
        let names = Self::default();
        names.set(Some(found));
        Arc::new(names)
    }

    pub(crate) fn set(&self, found: Option<&[u8]>) {
        *self.found.lock().unwrap() = found.map(<[u8]>::to_vec);
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, _: &'a str) -> Resolving<'a> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let found = self.found.lock().unwrap().clone();
        Box::pin(async move {
            let found = found.ok_or_else(|| io::Error::other("the name server is away"))?;
            Ok(found.into_iter().map(loopback).collect())
        })
    }
}

/// Servers at the same port of several loopback addresses, each of which tells its address and what host it
/// was called by.
async fn servers(count: u8) -> (Vec<Upstream>, u16) {
    let mut servers = Vec::new();
    let mut port = 0;
    for last in 1..=count {
        let script = move |mut connection: Connection, _| async move {
            while let Some(seen) = connection.request().await {
                let body = json!({ "at": last, "host": seen.header("host") }).to_string();
                connection.write(whole("200 OK", "application/json", &body)).await;
            }
        };
        let server = Upstream::start_at(SocketAddr::new(loopback(last), port), script).await;
        port = server.address.port();
        servers.push(server);
    }
    (servers, port)
}

fn wanted(port: u16) -> Wanted {
    let endpoint =
        json!({ "url": format!("http://pods.example:{port}/v1"), "discover": "dns", "refresh_ms": 5000 });
    let backend = json!({ "kind": "llm", "endpoints": [endpoint], "balancing": "least_outstanding" });
    let spec = spec(json!({ "id": "e", "backend": backend }));
    Wanted {
        spec,
        trust: Trust::Operator,
        availability: Availability::Ready,
        signals: std::sync::Arc::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn every_address_is_an_endpoint_and_they_come_and_go() {
    let (servers, port) = servers(3).await;
    let names = Names::of(&[1, 2]);
    let client = Client::with_resolver(&ClientConfig::default(), names.clone()).unwrap();
    let registry = Registry::new(client);
    registry.replace(vec![wanted(port)], [].into()).unwrap();
    let expert = registry.get("e").unwrap();
    let addresses = || -> Vec<String> { expert.endpoints().into_iter().filter_map(|e| e.address).collect() };
    let who = async |seed| {
        let body = text(ask_seeded(&expert, PLAIN, seed).await.unwrap().body).await;
        assert!(body.contains(&format!("pods.example:{port}")), "{body}");
        body
    };
    // Before the first look, any address will do.
    assert_eq!(addresses(), [""; 0]);
    who(0).await;
    registry.start();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(addresses(), ["127.0.0.1", "127.0.0.2"]);
    for seed in 0..20 {
        who(seed).await;
    }
    let connections = |at: usize| servers[at].connections();
    assert!(connections(0) > 0 && connections(1) == 1 && connections(2) == 0);
    names.set(Some(&[2, 3]));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(addresses(), ["127.0.0.2", "127.0.0.3"]);
    for seed in 0..20 {
        who(seed).await;
    }
    assert_eq!((connections(1), connections(2)), (1, 1), "the one that stayed kept its connection");
    // A name server that fails takes nothing away.
    for broken in [None, Some([].as_slice())] {
        names.set(broken);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(addresses(), ["127.0.0.2", "127.0.0.3"]);
    }
    registry.shutdown().await;
    let lookups = names.lookups.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(names.lookups.load(Ordering::SeqCst), lookups);
}

#[tokio::test(start_paused = true)]
async fn a_failed_connection_has_the_name_looked_up_at_once() {
    let (servers, port) = servers(2).await;
    let names = Names::of(&[1, 9]);
    let client = Client::with_resolver(&ClientConfig::default(), names.clone()).unwrap();
    let registry = Registry::new(client);
    registry.replace(vec![wanted(port)], [].into()).unwrap();
    registry.start();
    let expert = registry.get("e").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    names.set(Some(&[1, 2]));
    for seed in 0..8 {
        assert_eq!(ask_seeded(&expert, PLAIN, seed).await.unwrap().status, 200, "nothing is lost");
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let found: Vec<String> = expert.endpoints().into_iter().filter_map(|e| e.address).collect();
    assert_eq!(found, ["127.0.0.1", "127.0.0.2"]);
    assert_eq!(names.lookups.load(Ordering::SeqCst), 2);
    drop(servers);
    registry.shutdown().await;
}

#[tokio::test]
async fn a_look_goes_to_every_address() {
    let (_servers, port) = servers(1).await;
    let spec = wanted(port).spec;
    let backend = spec.backend.upstream().unwrap();
    let look = async |found: Option<&[u8]>| {
        let names = Names::of(&[]);
        names.set(found);
        let client = Client::with_resolver(&ClientConfig::default(), names).unwrap();
        backend.look(&backend.endpoints[0], &client, Duration::from_secs(10)).await.unwrap()
    };
    let looks = look(Some(&[2, 1])).await;
    let addresses: Vec<_> = looks.iter().map(|look| look.addresses.clone()).collect();
    assert_eq!(addresses, [[loopback(1)], [loopback(2)]]);
    assert_eq!(looks[0].answer.as_ref().unwrap().status, 200);
    // Nobody listens at the second one.
    assert_eq!(looks[1].answer.as_ref().unwrap_err().kind(), CallErrorKind::Connect);
    for found in [None, Some(&[][..])] {
        let [nowhere] = look(found).await.try_into().unwrap();
        assert_eq!(nowhere.answer.unwrap_err().kind(), CallErrorKind::Dns, "{found:?}");
    }
}
