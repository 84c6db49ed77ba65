use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::owner::{Found, OperationError, SetupError, Why};
use crate::residency::{Prediction, PredictionSource};

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_its_load_and_the_next_does_not() {
    let world = World::sim(&["a", "b"], 1);
    let began = Instant::now();
    let first = world.acquire("a").await.unwrap();
    assert_eq!(first.found(), Found::Unavailable, "nobody knows where it is before the first probe");
    assert_eq!(began.elapsed().as_millis(), 1000);
    let second = world.acquire("a").await.unwrap();
    assert_eq!((second.found(), second.waited()), (Found::Hot, Duration::ZERO));
    assert_eq!(world.hbm(), (10, 0));
    assert_eq!(world.pool.status().running, 2);
    drop((first, second));
    assert_eq!(world.pool.status().running, 0);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_holds_an_expert_keeps_it_there() {
    let world = World::sim(&["a", "b"], 1);
    let held = world.acquire("a").await.unwrap();
    let other = world.request("b");
    seconds(60.0).await;
    assert!(!other.is_finished());
    assert_eq!(world.phase("a"), "draining", "its place is needed");
    let late = world.request("a");
    seconds(1.0).await;
    assert!(!late.is_finished(), "no new request keeps it from going");
    drop(held);
    let held = other.await.unwrap().unwrap();
    assert_eq!(world.hbm(), (10, 0));
    drop(held);
    late.await.unwrap().unwrap();
    assert_eq!(world.log.count("a begins dram -> hbm"), 2);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_leave_take_their_place_with_them() {
    let world = World::sim(&["a", "b"], 1);
    let held = world.acquire("a").await.unwrap();
    let left = world.request("b");
    seconds(20.0).await;
    assert_eq!(world.pool.status().waiting, 1);
    left.abort();
    let _aborted = left.await;
    assert_eq!(world.pool.status().waiting, 0);
    drop(held);
    seconds(20.0).await;
    assert_eq!(world.log.count("b begins"), 0, "nobody waits for it any more");
    assert_eq!(world.phase("a"), "hot", "it takes requests again");
    let status = world.pool.status();
    assert_eq!((status.running, status.waiting), (0, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_served_in_time_is_told_at_once() {
    let world = World::sim(&["a", "b"], 1);
    drop(world.acquire("a").await.unwrap());
    let began = Instant::now();
    let denied = world.within("b", Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(denied.why, Why::Deadline);
    assert!(began.elapsed().is_zero(), "it takes a second");
    assert_eq!(denied.retry_after.as_millis(), 700);
    assert_eq!(world.log.count("b refused: deadline"), 1);
    drop(world.within("b", Duration::from_millis(1200)).await.unwrap());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_gives_the_place_up() {
    let world = World::sim(&["a", "b"], 1);
    let _held = world.acquire("a").await.unwrap();
    let denied = world.within("b", Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(denied.why, Why::Deadline);
    assert!(denied.retry_after > Duration::ZERO);
    assert_eq!(world.pool.status().waiting, 0);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn operators_move_pin_and_empty() {
    let world = World::sim(&["a", "b", "c"], 1);
    let (a, b, patience) = (id("a"), id("b"), Duration::from_secs(10));
    world.pool.promote(&a, Tier::Hbm, patience).await.unwrap();
    assert_eq!(world.phase("a"), "hot");
    // Its place is taken for the other.
    world.pool.promote(&b, Tier::Hbm, patience).await.unwrap();
    assert_eq!((world.phase("a"), world.phase("b")), ("warm".to_owned(), "hot".to_owned()));
    world.pool.pin(&b, None).unwrap();
    let denied = world.pool.promote(&a, Tier::Hbm, patience).await.unwrap_err();
    assert!(matches!(denied, OperationError::NoRoom { .. }), "{denied}");
    assert_eq!(world.pool.demote(&b, Tier::Dram, patience).await, Err(OperationError::InUse(b.clone())));
    let refused = world.acquire("a").await.unwrap_err();
    assert_eq!(refused.why, Why::NoRoom);
    world.pool.unpin(&b).unwrap();
    world.pool.demote(&b, Tier::Dram, patience).await.unwrap();
    assert_eq!(world.hbm(), (0, 0));
    let unknown = world.pool.promote(&a, Tier::Disk, patience).await.unwrap_err();
    assert!(unknown.to_string().contains("it has hbm, dram"), "{unknown}");

    let held = world.acquire("a").await.unwrap();
    world.pool.drain(true);
    assert_eq!(world.acquire("a").await.unwrap_err().why, Why::Draining);
    assert_eq!(world.phase("a"), "hot");
    drop(held);
    seconds(1.0).await;
    assert_eq!((world.phase("a"), world.hbm()), ("warm".to_owned(), (0, 0)));
    world.pool.drain(false);
    drop(world.acquire("a").await.unwrap());
    let decisions = world.pool.decisions(100, None);
    assert!(decisions.iter().any(|d| d.action == "promote" && d.why == "an operator asked for it"));
    assert!(decisions.windows(2).all(|two| two[0].number > two[1].number));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_newest_wish_counts_and_a_stopped_pool_says_so() {
    let world = World::sim(&["a", "b"], 1);
    let (a, patience) = (id("a"), Duration::from_secs(10));
    let first = world.pool.start_promote(&a, Tier::Hbm).unwrap();
    let second = world.pool.start_demote(&a, Tier::Dram).unwrap();
    assert_eq!(first.end(patience).await, Err(OperationError::Superseded));
    second.end(patience).await.unwrap();
    assert_eq!(world.pool.expert(&a).unwrap().tier, Tier::Dram);
    let (pool, last) = (world.pool.clone(), world.pool.start_promote(&a, Tier::Hbm).unwrap());
    world.end().await;
    assert!(matches!(last.end(patience).await, Err(OperationError::Failed(why)) if why.contains("stopped")));
    assert_eq!(pool.expert(&id("z")).unwrap_err(), OperationError::NoExpert(id("z")));
}

#[tokio::test(start_paused = true)]
async fn a_policy_counts_from_when_it_was_changed() {
    let world = World::sim(&["a", "b"], 1);
    drop(world.acquire("a").await.unwrap());
    let before = world.pool.status().policy;
    let wrong = world.pool.set_policy(Policy { executors: 0, ..before.clone() }).unwrap_err();
    assert_eq!(wrong.to_string(), "policy.executors must be at least 1");
    assert_eq!(world.pool.status().policy, before, "nothing was changed");
    // Two requests for the expert that is there, and one at a time is computed.
    let one = Policy { executors: 1, queue_max: 1, ..before.clone() };
    world.pool.set_policy(one.clone()).unwrap();
    assert_eq!(world.pool.status().policy, one);
    let held = world.acquire("a").await.unwrap();
    let waiting = world.request("a");
    seconds(0.1).await;
    assert!(!waiting.is_finished());
    assert_eq!(world.acquire("a").await.unwrap_err().why, Why::Full);
    drop(held);
    drop(waiting.await.unwrap().unwrap());
    // In batches of two both are computed, one at a time as that is.
    let held = world.acquire("a").await.unwrap();
    world.pool.set_policy(Policy { batch_max: 2, queue_max: 9, ..one }).unwrap();
    let waiting = [world.request("a"), world.request("a")];
    seconds(0.1).await;
    assert!(waiting.iter().all(|one| !one.is_finished()));
    drop(held);
    seconds(0.1).await;
    assert!(waiting.iter().all(JoinHandle::is_finished), "as one batch");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_changes_nothing() {
    let world = World::sim(&["a", "b"], 1);
    drop(world.acquire("a").await.unwrap());
    let plan = world.pool.plan(&id("b")).unwrap();
    let planned: Vec<_> = plan.actions.iter().map(|p| format!("{} {}", p.action, p.expert)).collect();
    // The place has to be free before the load can begin.
    assert_eq!((plan.at_once, plan.wait_ms, planned), (false, 1000, vec!["demote a".to_owned()]));
    assert!(world.pool.plan(&id("a")).unwrap().at_once);
    seconds(5.0).await;
    assert_eq!((world.phase("a"), world.pool.status().waiting), ("hot".to_owned(), 0));
    assert_eq!(world.pool.outlook(&id("b")).unwrap().wait.as_millis(), 1000);
    assert_eq!(world.pool.outlook(&id("a")).unwrap().away, Some(0));
    assert_eq!(world.pool.outlook(&id("z")), None);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_when_the_pool_stops_is_told() {
    let world = World::sim(&["a", "b"], 1);
    let _held = world.acquire("a").await.unwrap();
    let waiting = world.request("b");
    seconds(1.0).await;
    let pool = world.pool.clone();
    world.end().await;
    assert_eq!(waiting.await.unwrap().unwrap_err().why, Why::Stopped);
    let a = id("a");
    let denied =
        pool.acquire(Ask { expert: &a, tenant: 0, session: None, deadline: None }).await.unwrap_err();
    assert_eq!(denied.why, Why::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_setup_that_cannot_work_says_why() {
    let full = spec(&["a", "b"], 1);
    let half = spec(&["a"], 1);
    let setup = |spec: &PoolSpec, driver: Driver| Setup {
        id: "test".into(),
        spec: spec.clone(),
        drivers: vec![driver],
        timing: Timing::default(),
        watch: Arc::new(Log::default()),
        now_ms: 0,
    };
    let error = Pool::new(setup(&full, sim(&half))).err().unwrap();
    assert!(matches!(&error, SetupError::NoDriver(expert) if expert.as_str() == "b"), "{error}");
    let mut deep = full.clone();
    deep.tiers.push(TierSpec {
        tier: Tier::Disk,
        capacity_bytes: 1000 * GB,
        reserved_bytes: 0,
        source: Source::Declared,
    });
    deep.links.push(LinkSpec { from: Tier::Disk, to: Tier::Dram, ..deep.links[0].clone() });
    deep.experts[0].bytes.insert(Tier::Disk, 10 * GB);
    let error = Pool::new(setup(&deep, sim(&full))).err().unwrap();
    assert!(error.to_string().contains("`disk`") && error.to_string().contains("hbm, dram"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn many_at_once_are_all_served() {
    let world = World::sim(&["a", "b", "c", "d", "e"], 2);
    let names = ["a", "b", "c", "d", "e"];
    let requests: Vec<_> = (0..200)
        .map(|i| {
            let (pool, expert) = (world.pool.clone(), id(names[(i * 7 + i / 3) % 5]));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(i as u64 * 37)).await;
                let held = pool
                    .acquire(Ask { expert: &expert, tenant: 0, session: None, deadline: None })
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(held);
            })
        })
        .collect();
    for request in requests {
        request.await.unwrap();
    }
    let (used, reserved) = world.hbm();
    assert!(used <= 20 && reserved == 0);
    assert_eq!(world.log.count(" served"), 200);
    let status = world.pool.status();
    assert_eq!((status.running, status.waiting), (0, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_likely_is_there_before_it_is_asked_for() {
    let mut found = Vec::new();
    for prediction in [Prediction::default(), Prediction::only(Some(PredictionSource::Markov))] {
        let mut spec = spec(&["a", "b", "c", "d"], 2);
        spec.policy.prediction = prediction;
        let driver = sim(&spec);
        let world = World::new(spec, vec![driver]);
        let mut hot = 0;
        for expert in ["a", "b", "c", "d"].repeat(20) {
            let expert = id(expert);
            let ask = Ask { expert: &expert, tenant: 0, session: Some(7), deadline: None };
            hot += u32::from(world.pool.acquire(ask).await.unwrap().found() == Found::Hot);
            seconds(5.0).await;
        }
        found.push(hot);
        let seen = world.pool.status().predictions;
        assert!(seen.iter().all(|one| one.trusted && one.loads.used > 40), "{seen:?}");
        world.end().await;
    }
    assert!(found[0] == 0 && found[1] > 40, "{found:?}");
}
