//! What comes at the same moment, who goes first, and how it ends.

use std::pin::pin;
use std::task::{Context, Waker};

use super::*;
use crate::owner::{OperationError, Why};
use crate::residency::Kind;

#[tokio::test(start_paused = true)]
async fn an_operators_wish_is_not_starved_by_requests() {
    let world = World::sim(&["a", "b"], 1);
    // Somebody always holds it, if new requests get it.
    let requests: Vec<_> = (0..40)
        .map(|i| {
            let (pool, a) = (world.pool.clone(), id("a"));
            tokio::spawn(async move {
                seconds(f64::from(i)).await;
                let held =
                    pool.acquire(Ask { expert: &a, tenant: 0, session: None, deadline: None }).await.unwrap();
                seconds(1.5).await;
                drop(held);
            })
        })
        .collect();
    seconds(4.0).await;
    let b = id("b");
    assert_eq!(
        world.pool.promote(&b, Tier::Hbm, Duration::from_millis(500)).await,
        Err(OperationError::UnderWay)
    );
    assert_eq!(world.phase("a"), "draining");
    seconds(4.0).await;
    assert_eq!(world.log.count("b ends dram -> hbm: done"), 1);
    for request in requests {
        request.await.unwrap();
    }
    assert_eq!((world.log.count("a served"), world.log.count("refused")), (40, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_was_drained_for_a_wish_that_ended_goes_back_to_work() {
    let world = World::sim(&["a", "b"], 1);
    let held = world.acquire("a").await.unwrap();
    let (b, soon) = (id("b"), Duration::from_millis(10));
    assert_eq!(world.pool.promote(&b, Tier::Hbm, soon).await, Err(OperationError::UnderWay));
    assert_eq!(world.phase("a"), "draining");
    // The newest word counts, and this one needs no place.
    world.pool.demote(&b, Tier::Dram, soon).await.unwrap();
    assert_eq!(world.phase("a"), "hot");
    drop((held, world.acquire("a").await.unwrap()));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_leaves_when_it_is_served_gives_its_lease_back() {
    let world = World::sim(&["a", "b"], 1);
    let held = world.acquire("a").await.unwrap();
    let (a, b) = (id("a"), id("b"));
    let ask = |expert| world.pool.acquire(Ask { expert, tenant: 0, session: None, deadline: None });
    {
        let mut waits = pin!(ask(&b));
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(held);
        // Its load ends, it is granted, and nobody has looked.
        seconds(2.0).await;
        assert_eq!(world.pool.status().running, 1);
    }
    let status = world.pool.status();
    assert_eq!((status.running, status.waiting), (0, 0));
    {
        let mut ready = pin!(ask(&a));
        assert!(ready.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    seconds(5.0).await;
    let status = world.pool.status();
    // The other had to go for it, and for nobody else it comes.
    assert_eq!((status.running, status.waiting, world.hbm()), (0, 0, (0, 0)));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn leases_may_end_in_any_order_with_the_pool() {
    let world = World::sim(&["a", "b"], 1);
    let held = world.acquire("a").await.unwrap();
    let waits = world.request("b");
    tokio::task::yield_now().await;
    let pool = world.pool.clone();
    world.end().await;
    assert_eq!(waits.await.unwrap().unwrap_err().why, Why::Stopped);
    drop(held);
    assert_eq!(pool.status().running, 0);
    // A pool that has stopped stays so.
    pool.run(std::future::pending()).await;
    let (a, patience) = (id("a"), Duration::from_secs(1000));
    let began = Instant::now();
    let stopped = |result: Result<(), OperationError>| result.unwrap_err().to_string().contains("stopped");
    assert!(stopped(pool.promote(&a, Tier::Hbm, patience).await));
    assert!(stopped(pool.reconcile(patience).await));
    assert!(began.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_task_that_was_dropped() {
    let world = World::sim(&["a", "b"], 1);
    let _held = world.acquire("a").await.unwrap();
    let waits = world.request("b");
    let (pool, b) = (world.pool.clone(), id("b"));
    let wish = tokio::spawn(async move { pool.promote(&b, Tier::Hbm, Duration::from_secs(1000)).await });
    seconds(1.0).await;
    world.running.abort();
    assert_eq!(waits.await.unwrap().unwrap_err().why, Why::Stopped);
    assert_eq!(wish.await.unwrap(), Err(OperationError::Failed("its pool has stopped".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_base_that_drains_goes_back_to_work_for_its_adapter() {
    let mut spec = spec(&["base", "b", "x"], 1);
    spec.tiers.push(TierSpec { tier: Tier::Slot, ..spec.tiers[0].clone() });
    spec.links.push(LinkSpec { from: Tier::Dram, to: Tier::Slot, ..spec.links[0].clone() });
    spec.experts[2].kind = Kind::Adapter { base: id("base") };
    spec.experts[2].bytes = [Tier::Slot, Tier::Dram].map(|tier| (tier, GB)).into();
    let driver = sim(&spec);
    let world = World::new(spec, vec![driver]);
    let held = world.acquire("base").await.unwrap();
    let other = world.request("b");
    seconds(10.0).await;
    let adapter = world.request("x");
    seconds(1.0).await;
    assert_eq!(world.phase("base"), "draining");
    other.abort();
    let _aborted = other.await;
    drop(adapter.await.unwrap().unwrap());
    drop(held);
    world.end().await;
}

/// The second driver's server holds what there is room for, and takes three seconds to say so.
#[tokio::test(start_paused = true)]
async fn nothing_is_loaded_before_all_servers_were_asked_once() {
    use crate::driver::tests::{FakeNetwork, Reply, driver};
    let network = FakeNetwork::default();
    network.serve("slow:8000", |_| {
        Reply::json(200, &serde_json::json!([{"name": "b", "state": "READY"}])).after(3)
    });
    let config = serde_json::json!({"driver": {
        "kind": "triton", "server": {"url": "http://slow:8000"}, "models": {"b": "b"},
    }});
    let mut spec = super::faults::on_disk(&["a", "b"], 1);
    spec.policy.bound_us = 60_000_000;
    let first = PoolSpec { experts: vec![spec.experts[0].clone()], ..spec.clone() };
    let world = World::new(spec, vec![sim(&first), driver(config, &network)]);
    let request = world.request("a");
    seconds(2.9).await;
    assert_eq!((world.phase("a"), world.log.count("a begins")), ("cold".to_owned(), 0));
    seconds(0.2).await;
    assert_eq!((world.phase("b"), world.hbm()), ("unloading".to_owned(), (10, 0)));
    drop(request);
    world.end().await;
}
