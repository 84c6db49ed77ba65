use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{Subject, Usd};

const NOW: u64 = 1_800_000_000_000;
const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;

fn account(id: &str, limits: &Limits) -> Arc<Account> {
    Account::new(Subject::Key(id.into()), limits).unwrap()
}

fn tokens(input_tokens: u64, output_tokens: u64) -> Usage {
    Usage { input_tokens, output_tokens, cost: Usd::ZERO }
}

fn dollars(dollars: f64) -> Usage {
    Usage { cost: Usd::from_dollars(dollars).unwrap(), ..Usage::default() }
}

fn of_key(key: &Arc<Account>) -> Accounts<'_> {
    Accounts { key: Some(key), ..Accounts::default() }
}

/// Charges and leaves it at that.
fn spend(ledger: &Embedded, accounts: Accounts<'_>, usage: Usage, now: u64) {
    drop(ledger.try_reserve(accounts, usage, now).unwrap());
}

fn used(ledger: &Embedded, account: &Account, now: u64) -> Vec<u64> {
    ledger.usage(account, now).into_iter().map(|(_, used)| used).collect()
}

#[test]
fn no_limits_make_no_account() {
    assert!(Account::new(Subject::Key("a".into()), &Limits::default()).is_none());
    let gate_only = Limits { concurrent: Some(1), queue: Some(2), ..Limits::default() };
    assert!(Account::new(Subject::Key("a".into()), &gate_only).is_none());
    let ledger = Embedded::new();
    let reservation = ledger.try_reserve(Accounts::default(), tokens(9, 9), NOW).unwrap();
    assert_eq!(reservation.headroom(), Headroom::default());
    ledger.settle(reservation, tokens(1, 1), NOW);
    assert_eq!(ledger.export(), Snapshot::default());
}

#[test]
fn the_first_limit_that_would_be_exceeded_is_named() {
    let ledger = Embedded::new();
    let key = account("k", &Limits { requests_per_minute: Some(10), ..Limits::default() });
    let limits = Limits { usd_per_month: Usd::from_dollars(1.0), ..Limits::default() };
    let team = Account::new(Subject::Team("t".into()), &limits).unwrap();
    let both = Accounts { key: Some(&key), team: Some(&team), route: None };
    let kept = ledger.try_reserve(both, dollars(0.75), NOW).unwrap();
    let refusal = ledger.try_reserve(both, dollars(0.5), NOW).unwrap_err();
    assert_eq!(refusal.subject, Subject::Team("t".into()));
    assert_eq!(refusal.rule, Rule { kind: LimitKind::UsdPerMonth, limit: 1_000_000_000 });
    assert_eq!(refusal.used, 750_000_000);
    assert!(refusal.is_final());
    assert_eq!(refusal.to_string(), "team `t` has reached its limit usd_per_month");
    // None was charged.
    assert_eq!(used(&ledger, &key, NOW), [1]);
    ledger.settle(kept, dollars(0.1), NOW);
    assert!(ledger.try_reserve(both, dollars(0.5), NOW).is_ok());
}

#[test]
fn a_retry_after_the_told_time_fits_and_not_before() {
    let day_limit = Limits { requests_per_day: Some(1), ..Limits::default() };
    let cases = [
        (Limits { requests_per_minute: Some(1), ..Limits::default() }, false),
        (day_limit, true),
        (Limits { usd_per_month: Usd::from_dollars(1.0), ..Limits::default() }, true),
    ];
    for (limits, is_final) in cases {
        let ledger = Embedded::new();
        let key = account("k", &limits);
        spend(&ledger, of_key(&key), dollars(0.75), NOW);
        let refusal = ledger.try_reserve(of_key(&key), dollars(0.75), NOW + 7).unwrap_err();
        assert_eq!(refusal.is_final(), is_final, "{limits:?}");
        let fits_at = NOW + 7 + refusal.retry_after.unwrap().as_millis() as u64;
        ledger.try_reserve(of_key(&key), dollars(0.75), fits_at - 1).unwrap_err();
        spend(&ledger, of_key(&key), dollars(0.75), fits_at);
    }
}

#[test]
fn what_never_fits_says_so() {
    let ledger = Embedded::new();
    let minute = account("m", &Limits { tokens_per_minute: Some(100), ..Limits::default() });
    let refusal = ledger.try_reserve(of_key(&minute), tokens(50, 51), NOW).unwrap_err();
    assert_eq!((refusal.retry_after, refusal.is_final()), (None, true));
    let total = account("t", &Limits { usd_total: Usd::from_dollars(1.0), ..Limits::default() });
    spend(&ledger, of_key(&total), dollars(1.0), NOW);
    let refusal = ledger.try_reserve(of_key(&total), dollars(0.1), NOW + 900 * DAY).unwrap_err();
    assert_eq!((refusal.retry_after, refusal.is_final()), (None, true));
    // What costs nothing does not need a budget.
    spend(&ledger, of_key(&total), dollars(0.0), NOW);
}

#[test]
fn usage_takes_the_place_of_the_estimate() {
    let ledger = Embedded::new();
    let limits = Limits {
        requests_per_minute: Some(10),
        input_tokens_per_minute: Some(100),
        output_tokens_per_minute: Some(100),
        tokens_per_minute: Some(150),
        tokens_per_day: Some(1000),
        usd_total: Usd::from_dollars(5.0),
        ..Limits::default()
    };
    let key = account("k", &limits);
    let estimate = Usage { cost: Usd::from_nanos(70), ..tokens(50, 60) };
    let reserved = ledger.try_reserve(of_key(&key), estimate, NOW).unwrap();
    assert_eq!(used(&ledger, &key, NOW), [1, 50, 60, 110, 110, 70]);
    // Fewer input tokens, more output tokens than estimated.
    let usage = Usage { cost: Usd::from_nanos(90), ..tokens(40, 130) };
    ledger.settle(reserved, usage, NOW + 1000);
    assert_eq!(used(&ledger, &key, NOW + 1000), [1, 40, 130, 170, 170, 90]);
    // Overdrawn: nothing goes until it has drained.
    let refusal = ledger.try_reserve(of_key(&key), tokens(0, 0), NOW + 2000).unwrap_err();
    assert_eq!(refusal.rule.kind, LimitKind::OutputTokensPerMinute);
    // The settled excess counts from when it was known, the request from when it came.
    let later = NOW + 61_000;
    assert_eq!(used(&ledger, &key, later), [1, 40, 130, 170, 170, 90]);
    assert_eq!(used(&ledger, &key, NOW + 70_000), [0, 0, 0, 0, 170, 90]);
}

#[test]
fn a_failed_request_counts_and_a_released_one_does_not() {
    let ledger = Embedded::new();
    let limits = Limits { requests_per_day: Some(5), tokens_per_day: Some(50), ..Limits::default() };
    let key = account("k", &limits);
    let failed = ledger.try_reserve(of_key(&key), tokens(10, 10), NOW).unwrap();
    ledger.settle(failed, Usage::default(), NOW);
    assert_eq!(used(&ledger, &key, NOW), [1, 0]);
    let released = ledger.try_reserve(of_key(&key), tokens(10, 10), NOW).unwrap();
    ledger.release(released, NOW);
    assert_eq!(used(&ledger, &key, NOW), [1, 0]);
    // Settled on the next day: yesterday's estimate is not given back to today.
    let late = ledger.try_reserve(of_key(&key), tokens(10, 10), NOW).unwrap();
    spend(&ledger, of_key(&key), tokens(7, 8), NOW + DAY);
    ledger.settle(late, tokens(1, 1), NOW + DAY);
    assert_eq!(used(&ledger, &key, NOW + DAY), [1, 15]);
}

#[test]
fn headroom_is_of_the_tightest() {
    let ledger = Embedded::new();
    let key = account(
        "k",
        &Limits { requests_per_minute: Some(10), tokens_per_day: Some(900), ..Limits::default() },
    );
    let limits = Limits { requests_per_minute: Some(3), tokens_per_minute: Some(1000), ..Limits::default() };
    let team = Account::new(Subject::Team("t".into()), &limits).unwrap();
    let both = Accounts { key: Some(&key), team: Some(&team), route: None };
    let reserved = ledger.try_reserve(both, tokens(100, 100), NOW).unwrap();
    let Headroom { requests: Some(requests), tokens: Some(tokens) } = reserved.headroom() else { panic!() };
    assert_eq!((requests.limit, requests.remaining), (3, 2));
    assert_eq!(requests.reset.to_string(), "1m2s");
    assert_eq!((tokens.limit, tokens.remaining), (900, 700));
    assert_eq!(tokens.reset, ResetIn(DAY - NOW % DAY));
    ledger.release(reserved, NOW);
    for _ in 0..3 {
        spend(&ledger, both, Usage::default(), NOW);
    }
    let refused = ledger.try_reserve(both, Usage::default(), NOW).unwrap_err();
    let quota = refused.headroom().requests.unwrap();
    assert_eq!((quota.limit, quota.remaining, quota.reset.0), (3, 0, 62_000));
    assert_eq!(refused.retry_after, Some(Duration::from_secs(62)));
}

#[test]
fn days_and_budgets_survive_a_restart() {
    let limits = Limits {
        requests_per_minute: Some(10),
        requests_per_day: Some(10),
        usd_total: Usd::from_dollars(5.0),
        ..Limits::default()
    };
    let before = Embedded::new();
    let key = account("k", &limits);
    spend(&before, of_key(&key), dollars(2.0), NOW);
    let text = serde_json::to_string(&before.export()).unwrap();

    let after = Embedded::new();
    after.restore(&serde_json::from_str(&text).unwrap());
    assert_eq!(used(&after, &key, NOW), [0, 1, 2_000_000_000]);
    assert_eq!(used(&after, &key, NOW + DAY), [0, 0, 2_000_000_000]);
    // Restoring twice, or something old, changes nothing.
    spend(&after, of_key(&key), dollars(1.0), NOW + DAY);
    after.restore(&before.export());
    assert_eq!(used(&after, &key, NOW + DAY), [1, 1, 3_000_000_000]);
}

#[test]
fn idle_subjects_are_dropped_and_come_back_empty() {
    let ledger = Embedded::new();
    let minute = Limits { requests_per_minute: Some(10), requests_per_day: Some(10), ..Limits::default() };
    let keys: Vec<_> = (0..100).map(|i| account(&format!("k{i}"), &minute)).collect();
    let spender = account("spender", &Limits { usd_total: Usd::from_dollars(5.0), ..Limits::default() });
    for key in &keys {
        spend(&ledger, of_key(key), Usage::default(), NOW);
    }
    spend(&ledger, of_key(&spender), dollars(1.0), NOW);
    assert_eq!(ledger.sweep(NOW + 2 * MINUTE), 0, "the day still counts");
    assert_eq!(ledger.sweep(NOW + DAY), 100);
    // Places are used anew; accounts that remember an old place are not deceived.
    let new = account("new", &minute);
    spend(&ledger, of_key(&new), Usage::default(), NOW + DAY);
    for key in keys.iter().rev() {
        spend(&ledger, of_key(key), Usage::default(), NOW + DAY);
        spend(&ledger, of_key(key), Usage::default(), NOW + DAY);
    }
    assert!(keys.iter().all(|key| used(&ledger, key, NOW + DAY) == [2, 2]));
    assert_eq!(used(&ledger, &new, NOW + DAY), [1, 1]);
    assert_eq!(used(&ledger, &spender, NOW + DAY), [1_000_000_000]);
    ledger.forget(&Subject::Key("spender".into()));
    assert_eq!(used(&ledger, &spender, NOW + DAY), [0]);
}

#[test]
fn new_limits_find_what_was_used() {
    let ledger = Embedded::new();
    let old = account("k", &Limits { requests_per_minute: Some(10), ..Limits::default() });
    let reserved = ledger.try_reserve(of_key(&old), Usage::default(), NOW).unwrap();
    let new = account("k", &Limits { requests_per_minute: Some(1), ..Limits::default() });
    assert!(ledger.try_reserve(of_key(&new), Usage::default(), NOW).is_err());
    ledger.release(reserved, NOW);
    assert!(ledger.try_reserve(of_key(&new), Usage::default(), NOW).is_ok());
}

/// What can happen at a ledger. Numbers choose among accounts and open reservations.
#[derive(Clone, Debug)]
enum Step {
    Reserve { key: usize, with_route: bool, estimate: (u64, u64, u64) },
    Settle { which: usize, percent: u64 },
    Release { which: usize },
    Wait(u64),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let amounts = (0..40_u64, 0..40_u64, 0..40_u64);
    prop_oneof![
        6 => (0..2_usize, any::<bool>(), amounts)
            .prop_map(|(key, with_route, estimate)| Step::Reserve { key, with_route, estimate }),
        3 => (any::<usize>(), 0..=100_u64).prop_map(|(which, percent)| Step::Settle { which, percent }),
        1 => any::<usize>().prop_map(|which| Step::Release { which }),
        4 => prop_oneof![0..500_u64, 0..15_000_u64, Just(DAY)].prop_map(Step::Wait),
        1 => Just(Step::Sweep),
    ]
}

/// What was admitted, as a plain list knows it.
struct Admitted {
    at: u64,
    accounts: Vec<usize>,
    usage: Usage,
    requests: u64,
}

impl Admitted {
    fn amount(&self, kind: LimitKind) -> u64 {
        if kind.resource() == Resource::Requests { self.requests } else { self.usage.of(kind.resource()) }
    }
}

/// The sum of what was admitted for an account since a moment.
fn sum_since(log: &[Admitted], account: usize, kind: LimitKind, since: u64) -> u64 {
    let counted = log.iter().filter(|entry| entry.at >= since && entry.accounts.contains(&account));
    counted.map(|entry| entry.amount(kind)).sum()
}

fn sum_of_period(log: &[Admitted], account: usize, kind: LimitKind, now: u64) -> u64 {
    let window = kind.window();
    let counted = log.iter().filter(|entry| entry.accounts.contains(&account));
    counted.filter(|e| window.period(e.at) == window.period(now)).map(|entry| entry.amount(kind)).sum()
}

proptest! {
    /// As long as nobody uses more than was estimated:
    /// - within any 60 seconds, the amounts admitted (as settled by then) never exceed a minute's limit;
    /// - a request is refused only if it would exceed a limit over the last 62 seconds, or over the calendar
    ///   period, of one of its accounts; and then no account is charged;
    /// - calendar counters equal the sum of what was settled.
    #[test]
    fn a_ledger_counts_like_a_list(steps in prop::collection::vec(step(), 1..120)) {
        let ledger = Embedded::new();
        let limits = Limits {
            requests_per_minute: Some(8),
            input_tokens_per_minute: Some(120),
            output_tokens_per_minute: Some(100),
            tokens_per_minute: Some(200),
            requests_per_day: Some(40),
            tokens_per_day: Some(900),
            usd_per_month: Some(Usd::from_nanos(600)),
            usd_total: Some(Usd::from_nanos(1500)),
            ..Limits::default()
        };
        let shared = Limits { requests_per_minute: Some(11), usd_per_day: Some(Usd::from_nanos(300)), ..Limits::default() };
        let accounts = [
            account("a", &limits),
            account("b", &limits),
            Account::new(Subject::Team("t".into()), &shared).unwrap(),
            Account::new(Subject::Route("r".into()), &shared).unwrap(),
        ];
        let mut now = NOW;
        let mut log: Vec<Admitted> = Vec::new();
        let mut open: Vec<(Reservation, usize)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(ms) => now += ms,
                Step::Sweep => { ledger.sweep(now); }
                Step::Reserve { key, with_route, estimate: (input, output, cost) } => {
                    let estimate = Usage { cost: Usd::from_nanos(cost), ..tokens(input, output) };
                    let charged = Accounts {
                        key: Some(&accounts[key]),
                        team: Some(&accounts[2]),
                        route: with_route.then_some(&accounts[3]),
                    };
                    let mut indices = vec![key, 2];
                    indices.extend(with_route.then_some(3));
                    let before: Vec<_> = accounts.iter().map(|a| used(&ledger, a, now)).collect();
                    match ledger.try_reserve(charged, estimate, now) {
                        Ok(reservation) => {
                            log.push(Admitted { at: now, accounts: indices.clone(), usage: estimate, requests: 1 });
                            open.push((reservation, log.len() - 1));
                            for index in indices {
                                for rule in accounts[index].rules() {
                                    let sum = match rule.kind.window() {
                                        Window::Minute => sum_since(&log, index, rule.kind, now - (MINUTE - 1)),
                                        _ => sum_of_period(&log, index, rule.kind, now),
                                    };
                                    prop_assert!(sum <= rule.limit, "{} admitted {sum}", rule.kind);
                                }
                            }
                        }
                        Err(refusal) => {
                            let index = accounts.iter().position(|a| *a.subject() == refusal.subject).unwrap();
                            let kind = refusal.rule.kind;
                            let sum = match kind.window() {
                                Window::Minute => sum_since(&log, index, kind, now - 62_000),
                                _ => sum_of_period(&log, index, kind, now),
                            };
                            let amount = estimate.of(kind.resource());
                            prop_assert!(sum + amount > refusal.rule.limit, "refused by {kind} at {sum}");
                            let after: Vec<_> = accounts.iter().map(|a| used(&ledger, a, now)).collect();
                            prop_assert_eq!(before, after);
                        }
                    }
                }
                Step::Settle { which, percent } => if !open.is_empty() {
                    let (reservation, entry) = open.swap_remove(which % open.len());
                    let part = |amount: u64| amount * percent / 100;
                    let was = reservation.estimate();
                    let usage = Usage {
                        input_tokens: part(was.input_tokens),
                        output_tokens: part(was.output_tokens),
                        cost: Usd::from_nanos(part(was.cost.nanos())),
                    };
                    ledger.settle(reservation, usage, now);
                    log[entry].usage = usage;
                },
                Step::Release { which } => if !open.is_empty() {
                    let (reservation, entry) = open.swap_remove(which % open.len());
                    ledger.release(reservation, now);
                    log[entry].usage = Usage::default();
                    log[entry].requests = 0;
                },
            }
            for (index, account) in accounts.iter().enumerate() {
                for (rule, used) in ledger.usage(account, now) {
                    if rule.kind.window() != Window::Minute {
                        prop_assert_eq!(used, sum_of_period(&log, index, rule.kind, now), "{}", rule.kind);
                    }
                }
            }
        }
        // Whatever was in progress, a ledger that is idle for long enough holds nothing but totals.
        for (reservation, _) in open {
            ledger.release(reservation, now);
        }
        for account in &accounts {
            for (rule, used) in ledger.usage(account, now + 40 * DAY) {
                prop_assert!(used == 0 || rule.kind == LimitKind::UsdTotal);
            }
        }
    }
}
