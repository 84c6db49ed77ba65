use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{advance, sleep};

use super::*;
use crate::adaptive::{AdaptiveConfig, AimdConfig, Outcome};
use crate::subject::Subject;

fn config(concurrent: u32, queue: u32) -> GateConfig {
    GateConfig { concurrent: Some(concurrent), queue, queue_per_key: Some(queue), ..GateConfig::default() }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ticket(flow: u64, priority: Priority) -> Ticket {
    Ticket { flow, priority, deadline: None }
}

/// Lets all other tasks run as far as they can.
async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn places_are_bounded_and_given_on() {
    let gate = Gate::new(&config(2, 10));
    let first = gate.acquire(Ticket::default()).await.unwrap();
    let second = gate.try_acquire().unwrap();
    assert!(gate.try_acquire().is_none());
    let waiting = tokio::spawn({
        let gate = gate.clone();
        async move { gate.acquire(Ticket::default()).await }
    });
    settle().await;
    assert_eq!((gate.stats().in_use, gate.stats().waiting), (2, [0, 1, 0]));
    advance(ms(30)).await;
    drop(first);
    assert!(gate.try_acquire().is_none(), "the place is the waiter's, not a newcomer's");
    let third = waiting.await.unwrap().unwrap();
    assert_eq!(third.waited(), ms(30));
    drop((second, third));
    let stats = gate.stats();
    assert_eq!((stats.in_use, stats.granted, stats.granted_after_wait, stats.waited), (0, 3, 1, ms(30)));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_the_deadline_or_the_longest_wait() {
    let gate = Gate::new(&GateConfig { max_wait_ms: 500, ..config(1, 10) });
    let place = gate.try_acquire().unwrap();
    let start = Instant::now();
    let soon = Ticket { deadline: Some(start + ms(100)), ..Ticket::default() };
    assert_eq!(gate.acquire(soon).await.unwrap_err().reason, Reason::Expired);
    assert!((ms(100)..ms(105)).contains(&start.elapsed()));
    let start = Instant::now();
    let rejected = gate.acquire(Ticket::default()).await.unwrap_err();
    assert!((ms(500)..ms(505)).contains(&start.elapsed()));
    assert_eq!((rejected.reason, rejected.retry_after), (Reason::Expired, Duration::from_secs(1)));
    assert_eq!((gate.stats().waiting, gate.stats().rejected), ([0, 0, 0], [0, 0, 0, 2, 0]));
    drop(place);
    let late = gate.acquire(soon).await.unwrap_err();
    assert_eq!(late.reason, Reason::Expired, "though a place is free");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_as_its_turn_comes_passes_it_on() {
    let gate = Gate::new(&config(1, 10));
    let place = gate.try_acquire().unwrap();
    let look = &mut std::task::Context::from_waker(std::task::Waker::noop());
    let mut leaving = Box::pin(gate.acquire(Ticket::default()));
    assert!(leaving.as_mut().poll(look).is_pending());
    let mut staying = Box::pin(gate.acquire(Ticket::default()));
    assert!(staying.as_mut().poll(look).is_pending());
    drop(place);
    drop(leaving);
    let place = staying.await.unwrap();
    assert_eq!((gate.stats().in_use, gate.stats().waiting), (1, [0, 0, 0]));
    drop(place);
    assert_eq!(gate.stats().in_use, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_and_tells_who_was_evicted() {
    let gate = Gate::new(&config(1, 1));
    let place = gate.try_acquire().unwrap();
    let mut tasks = JoinSet::new();
    let spawn = |tasks: &mut JoinSet<_>, priority| {
        let gate = gate.clone();
        tasks.spawn(async move { (priority, gate.acquire(ticket(priority as u64, priority)).await) });
    };
    spawn(&mut tasks, Priority::Batch);
    settle().await;
    let refused = gate.acquire(ticket(9, Priority::Batch)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Full);
    spawn(&mut tasks, Priority::Interactive);
    let (priority, evicted) = tasks.join_next().await.unwrap().unwrap();
    assert_eq!((priority, evicted.unwrap_err().reason), (Priority::Batch, Reason::Evicted));
    drop(place);
    assert!(tasks.join_next().await.unwrap().unwrap().1.is_ok());
    assert_eq!(gate.stats().rejected, [1, 0, 0, 0, 1]);
    let none = Gate::new(&config(1, 0));
    let _place = none.try_acquire().unwrap();
    assert_eq!(none.acquire(Ticket::default()).await.unwrap_err().reason, Reason::Full);
}

#[tokio::test(start_paused = true)]
async fn settings_change_under_way() {
    let gate = Gate::new(&config(1, 10));
    let first = gate.try_acquire().unwrap();
    let mut tasks = JoinSet::new();
    for flow in 0..4 {
        let gate = gate.clone();
        tasks.spawn(async move { gate.acquire(ticket(flow, Priority::Standard)).await });
    }
    settle().await;
    gate.configure(&config(3, 10));
    let second = tasks.join_next().await.unwrap().unwrap().unwrap();
    let third = tasks.join_next().await.unwrap().unwrap().unwrap();
    settle().await;
    assert_eq!((gate.stats().in_use, gate.stats().waiting[1]), (3, 2));
    // Fewer places than are taken: those who hold one keep it, and nobody new comes in.
    gate.configure(&config(1, 10));
    drop((first, second));
    settle().await;
    assert_eq!((gate.stats().in_use, gate.stats().waiting[1]), (1, 2));
    // No limit any more: all who wait go on.
    gate.configure(&GateConfig::default());
    let rest = tasks.join_all().await;
    assert!(rest.iter().all(Result::is_ok));
    assert_eq!(gate.stats().in_use, 3);
    let uncounted = gate.try_acquire().unwrap();
    assert_eq!(gate.stats().in_use, 3);
    drop((third, rest, uncounted));
    assert_eq!(gate.stats().in_use, 0);
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_learns_from_what_is_released() {
    let adaptive = AimdConfig { min: 1, max: 9, initial: 4, ..AimdConfig::default() };
    let adaptive = Some(AdaptiveConfig::Aimd(adaptive));
    let gate = Gate::new(&GateConfig { concurrent: Some(5), adaptive, ..config(5, 10) });
    assert_eq!(gate.stats().limit, Some(4));
    let run = async |outcome| {
        for _ in 0..100 {
            let held: Vec<_> = std::iter::from_fn(|| gate.try_acquire()).collect();
            advance(ms(200)).await;
            for permit in held {
                permit.release(Sample { latency: ms(200), outcome });
            }
        }
        gate.stats().limit
    };
    assert_eq!(run(Outcome::Success).await, Some(5), "`concurrent` bounds it as well");
    assert_eq!(run(Outcome::Overload).await, Some(1));
    assert_eq!(gate.stats().in_use, 0);
}

#[tokio::test(start_paused = true)]
async fn gates_outlive_settings() {
    let gates = Gates::default();
    let subject = Subject::Expert("e".into());
    assert!(gates.get(&subject, &GateConfig::default()).is_none());
    let place = gates.get(&subject, &config(1, 5)).unwrap().try_acquire().unwrap();
    let gate = gates.get(&subject, &config(2, 5)).unwrap();
    assert_eq!((gate.stats().in_use, gate.stats().limit), (1, Some(2)));
    assert_eq!(gates.sweep(), 0);
    drop((gate, place));
    assert_eq!((gates.sweep(), gates.stats().len()), (1, 0));

    let gate = gates.get(&subject, &config(1, 5)).unwrap();
    let _place = gate.try_acquire().unwrap();
    let waiting = tokio::spawn(async move { gate.acquire(Ticket::default()).await });
    settle().await;
    assert!(gates.get(&subject, &GateConfig::default()).is_none());
    assert!(waiting.await.unwrap().is_ok());
}

/// One request of a simulation, in milliseconds.
#[derive(Clone, Debug)]
struct Client {
    at: u64,
    flow: u64,
    priority: Priority,
    patience: u64,
    /// When it leaves, waiting or served.
    leaves: u64,
    service: u64,
}

fn client() -> impl Strategy<Value = Client> {
    let class = prop::sample::select(Priority::ALL.to_vec());
    (0..400_u64, 0..5_u64, class, 1..200_u64, 1..300_u64, 0..40_u64).prop_map(
        |(at, flow, priority, patience, leaves, service)| Client {
            at,
            flow,
            priority,
            patience,
            leaves,
            service,
        },
    )
}

/// Runs clients against a gate whose limit changes at given moments.
async fn simulate(clients: Vec<Client>, limits: Vec<(u64, u32)>) -> Result<(), TestCaseError> {
    let gate = Gate::new(&GateConfig { queue_per_key: None, ..config(2, 12) });
    let highest = Arc::new(AtomicU32::new(2));
    let held = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for (at, limit) in limits {
        let (gate, highest) = (gate.clone(), highest.clone());
        tasks.spawn(async move {
            sleep(ms(at)).await;
            highest.fetch_max(limit, Ordering::Relaxed);
            gate.configure(&GateConfig { queue_per_key: None, ..config(limit, 12) });
            Ok(())
        });
    }
    for client in clients {
        let (gate, highest, held) = (gate.clone(), highest.clone(), held.clone());
        let visit = async move {
            sleep(ms(client.at)).await;
            let deadline = Instant::now() + ms(client.patience);
            let ticket = Ticket { flow: client.flow, priority: client.priority, deadline: Some(deadline) };
            let served = async {
                let Ok(permit) = gate.acquire(ticket).await else { return Ok(()) };
                prop_assert!(Instant::now() < deadline);
                let held = Held::new(&held);
                prop_assert!(held.count() <= highest.load(Ordering::Relaxed));
                prop_assert!(gate.stats().in_use >= held.count());
                sleep(ms(client.service)).await;
                drop((held, permit));
                Ok(())
            };
            // A client that leaves drops whatever is under way.
            timeout_at(Instant::now() + ms(client.leaves), served).await.unwrap_or(Ok(()))
        };
        tasks.spawn(visit);
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap()?;
    }
    let stats = gate.stats();
    prop_assert_eq!((stats.in_use, stats.waiting), (0, [0, 0, 0]));
    prop_assert_eq!(held.load(Ordering::Relaxed), 0);
    Ok(())
}

/// Counts itself.
struct Held<'a>(&'a AtomicU32);

impl<'a> Held<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Clients come, wait, give up, leave and are served while the limit changes. At no time are there more
    /// permits than the highest limit so far, nobody is let in at or past the deadline, and in the end every
    /// place is free and nobody waits.
    #[test]
    fn no_permit_is_lost_or_made_up(
        clients in prop::collection::vec(client(), 1..120),
        limits in prop::collection::vec((0..400_u64, 1..6_u32), 0..6),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(simulate(clients, limits))?;
    }
}

/// Grants and cancellations of many threads at once: the one thing that paused time cannot show.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_race_leak_nothing() {
    let gate = Gate::new(&config(3, 100));
    let held = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for flow in 0..40_u64 {
        let (gate, held) = (gate.clone(), held.clone());
        tasks.spawn(async move {
            for round in 0..200 {
                let mut acquiring = Box::pin(gate.acquire(ticket(flow, Priority::Standard)));
                // Every third gives up after a look, in the middle of whatever the others do.
                if (flow + round) % 3 == 0 {
                    let waker = std::task::Waker::noop();
                    let _ = acquiring.as_mut().poll(&mut std::task::Context::from_waker(waker));
                    yield_now().await;
                    continue;
                }
                if let Ok(permit) = acquiring.await {
                    let held = Held::new(&held);
                    assert!(held.count() <= 3);
                    yield_now().await;
                    drop((held, permit));
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!((gate.stats().in_use, gate.stats().waiting), (0, [0, 0, 0]));
}
