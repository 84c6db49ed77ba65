//! What it costs to let a request in and to settle it. Run: `cargo bench -p admission`.

use std::sync::Arc;

use admission::key::SecretSpec;
use admission::{
    Account, Embedded, Gate, GateConfig, Gates, KeyRing, KeySpec, KeyView, Ledger, Limits, Subject, TeamSpec,
    Ticket, Token, Usage, Usd,
};
use divan::{Bencher, black_box};

const NOW_MS: u64 = 1_800_000_000_000;
const ESTIMATE: Usage = Usage { input_tokens: 100, output_tokens: 400, cost: Usd::from_nanos(2_000_000) };
const USAGE: Usage = Usage { input_tokens: 98, output_tokens: 120, cost: Usd::from_nanos(900_000) };

fn main() {
    divan::main();
}

/// Limits that are never reached.
fn limits() -> Limits {
    Limits {
        requests_per_minute: Some(u64::MAX),
        tokens_per_minute: Some(u64::MAX),
        tokens_per_day: Some(u64::MAX),
        usd_per_month: Usd::from_dollars(1e9),
        ..Limits::default()
    }
}

struct Fixture {
    token: Token,
    ring: KeyRing,
    ledger: Embedded,
    route: Option<Arc<Account>>,
    gate: Gate,
}

/// A key among a thousand, limited with its team and route, and a gate with places.
fn fixture() -> Option<Fixture> {
    let token = Token::from_random("key-500", [7; 32]);
    let spec = |i: usize| {
        let view: KeyView = serde_json::from_value(serde_json::json!({
            "id": format!("key-{i}"), "team": "core", "routes": ["auto"], "limits": limits(),
        }))
        .ok()?;
        let secret = SecretSpec { hash: token.hash(), created_ms: 0, expires_ms: None };
        Some(view.with_secrets(vec![secret]))
    };
    let keys: Vec<KeySpec> = (0..1000).filter_map(spec).collect();
    let team: TeamSpec =
        serde_json::from_value(serde_json::json!({ "id": "core", "limits": limits() })).ok()?;
    let ring = KeyRing::build(&keys, &[team], &Gates::default()).ok()?;
    let route = Account::new(Subject::Route("auto".into()), &limits());
    let gate = Gate::new(&GateConfig { concurrent: Some(1000), ..GateConfig::default() });
    Some(Fixture { token, ring, ledger: Embedded::new(), route, gate })
}

#[divan::bench(sample_size = 1000)]
fn authenticate(bencher: Bencher<'_, '_>) {
    let Some(f) = fixture() else { return };
    bencher.bench(|| f.ring.authenticate(black_box(f.token.expose()), NOW_MS).is_ok());
}

#[divan::bench(sample_size = 1000)]
fn reserve_and_settle(bencher: Bencher<'_, '_>) {
    let Some(f) = fixture() else { return };
    let Some(key) = f.ring.key("key-500") else { return };
    bencher.bench(|| {
        let reserved = f.ledger.try_reserve(black_box(key).accounts(f.route.as_ref()), ESTIMATE, NOW_MS);
        reserved.map(|reservation| f.ledger.settle(reservation, USAGE, NOW_MS + 5)).is_ok()
    });
}

#[divan::bench(sample_size = 1000)]
fn acquire_and_release(bencher: Bencher<'_, '_>) {
    let Some(f) = fixture() else { return };
    bencher.bench(|| drop(black_box(&f.gate).try_acquire()));
}

#[divan::bench(sample_size = 1000)]
fn all_together(bencher: Bencher<'_, '_>) {
    let Some(f) = fixture() else { return };
    bencher.bench(|| {
        let key = f.ring.authenticate(black_box(f.token.expose()), NOW_MS).ok()?;
        let permit = f.gate.try_acquire()?;
        let reservation = f.ledger.try_reserve(key.accounts(f.route.as_ref()), ESTIMATE, NOW_MS).ok()?;
        f.ledger.settle(reservation, USAGE, NOW_MS + 5);
        drop(permit);
        Some(())
    });
}

#[divan::bench(sample_size = 1000)]
fn without_limits(bencher: Bencher<'_, '_>) {
    let ledger = Embedded::new();
    let gate = Gate::new(&GateConfig::default());
    bencher.bench(|| {
        let permit = black_box(&gate).try_acquire()?;
        let accounts = black_box(admission::Accounts::default());
        let reservation = ledger.try_reserve(accounts, ESTIMATE, NOW_MS).ok()?;
        ledger.settle(reservation, USAGE, NOW_MS + 5);
        drop(permit);
        Some(())
    });
}

/// A refusal at a full queue of ten thousand.
#[divan::bench(sample_size = 1000)]
fn shed(bencher: Bencher<'_, '_>) {
    let config =
        GateConfig { concurrent: Some(1), queue: 10_000, queue_per_key: Some(20), ..GateConfig::default() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    runtime.block_on(async {
        let gate = Gate::new(&config);
        let place = gate.try_acquire();
        let mut waiting: Vec<_> = (0..10_000)
            .map(|flow| Box::pin(gate.acquire(Ticket { flow: flow / 10, ..Ticket::default() })))
            .collect();
        for waiter in &mut waiting {
            let _ = poll_once(waiter.as_mut());
        }
        bencher.bench_local(|| {
            let mut arrival = std::pin::pin!(gate.acquire(Ticket { flow: 20_000, ..Ticket::default() }));
            poll_once(arrival.as_mut()).is_ready()
        });
        drop(place);
    });
}

/// Polls once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}
