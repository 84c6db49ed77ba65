//! What an owner does for requests of other processes.

use super::*;
use crate::driver::Step;
use crate::owner::{Found, NotHeld};

#[tokio::test(start_paused = true)]
async fn a_request_that_is_under_way_gets_its_lease_back_at_once_or_not_at_all() {
    let world = World::sim(&["a", "b"], 1);
    assert_eq!(world.pool.take_back(&id("a")).unwrap_err(), NotHeld::Unknown, "no driver was asked yet");
    assert_eq!(world.pool.take_back(&id("c")).unwrap_err(), NotHeld::Gone);
    drop(world.acquire("a").await.unwrap());
    assert_eq!(world.pool.take_back(&id("b")).unwrap_err(), NotHeld::Gone);
    let held = world.pool.take_back(&id("a")).unwrap();
    assert_eq!((held.found(), held.waited()), (Found::Hot, Duration::ZERO));
    let other = world.request("b");
    seconds(60.0).await;
    assert_eq!((other.is_finished(), world.phase("a").as_str()), (false, "draining"));
    // Neither does that its place is needed keep out who is there already.
    let again = world.pool.take_back(&id("a")).unwrap();
    drop(held);
    seconds(60.0).await;
    assert!(!other.is_finished());
    drop(again);
    other.await.unwrap().unwrap();
    assert_eq!(world.log.count("b begins"), 1, "nothing was loaded for who came back");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_ready_before_the_start_stays_for_a_while() {
    for (patience_s, soonest_s) in [(0, 1), (3, 4)] {
        let spec = spec(&["a", "b"], 1);
        let driver = sim(&spec);
        let deadline = Instant::now() + Duration::from_mins(1);
        driver.promote(Step { expert: &id("a"), to: Tier::Hbm, deadline }).await.unwrap();
        let world = World::new(spec, vec![driver]);
        world.pool.settle(Duration::from_secs(patience_s));
        let began = Instant::now();
        for expert in ["b", "a", "b"] {
            drop(world.acquire(expert).await.unwrap());
            let took = began.elapsed();
            let first = expert == "b" && world.log.count("a begins dram") == 0;
            assert!(!first || (soonest_s..soonest_s + 2).contains(&took.as_secs()), "{patience_s}: {took:?}");
        }
        // What came since goes when its place is needed.
        assert!(began.elapsed() < Duration::from_secs(patience_s + 6), "{:?}", began.elapsed());
        world.end().await;
    }
}
