use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

const PLACES: usize = 16;

/// The traces that the reference numbers are of, where the data is there.
fn traces() -> Vec<Trace> {
    let Some(data) = std::env::var_os("GUILDHALL_DATA").map(PathBuf::from) else {
        println!("skipped: set GUILDHALL_DATA to a folder with traces/");
        return Vec::new();
    };
    let files = [
        "gentd26_requests",
        "gentd26_lora_sequence",
        "servegen_clients_week",
        "azure_llm2023_conv",
        "mooncake_conversation",
    ];
    files.map(|name| Trace::read(&data.join(format!("traces/{name}.csv.gz"))).unwrap()).into()
}

/// To the digits that a table gives.
fn check(trace: &Trace, what: &str, value: f64, table: f64, digits: i32) {
    let unit = 10_f64.powi(-digits);
    assert!(
        (value - table).abs() <= 0.5 * unit + 1e-9,
        "{}, {what}: {value}, the table has {table}",
        trace.name
    );
}

#[test]
fn the_baselines_are_those_of_the_reference() {
    // LRU, LFU, GDSF, 32 known, 32 known + GDSF, Belady, free within 32.
    let untimed = [
        [61.0, 55.4, 47.7, 51.6, 42.5, 34.0, 38.4],
        [113.8, 184.0, 109.6, 98.5, 84.8, 72.6, 92.3],
        [223.2, 251.7, 194.2, 162.6, 150.8, 118.4, 125.0],
        [627.5, 476.0, 520.5, 467.4, 440.2, 387.7, 440.0],
        [620.2, 467.0, 514.5, 462.9, 432.0, 382.4, 434.2],
    ];
    let order = [
        Contestant::Lru,
        Contestant::Lfu,
        Contestant::Gdsf,
        Contestant::LookAhead,
        Contestant::LookAheadGdsf,
        Contestant::Belady,
        Contestant::Reorder,
    ];
    for (trace, row) in traces().iter().zip(untimed) {
        for (contestant, table) in order.into_iter().zip(row) {
            let loads = loads_per_1000(trace, contestant, PLACES, &Cost::default()).unwrap();
            check(trace, contestant.name(), loads, table, 1);
        }
    }
}

#[test]
fn the_clocked_baselines_are_those_of_the_reference() {
    // Loads per 1,000, percent of hits, milliseconds of stall, and the wait of the 99th percentile.
    let clocked = [
        (Contestant::Lru, [(61.0, 94.0, 16.0, 0.52), (106.0, 89.0, 28.0, 0.78), (279.0, 72.0, 75.0, 7.67)]),
        (Contestant::Belady, [(34.0, 97.0, 9.0, 0.41), (68.0, 93.0, 18.0, 0.64), (152.0, 85.0, 41.0, 3.78)]),
        (
            Contestant::LookAheadGdsf,
            [(48.0, 95.0, 11.0, 0.32), (92.0, 90.0, 21.0, 0.40), (243.0, 73.0, 52.0, 0.70)],
        ),
        (Contestant::Oracle, [(34.0, 96.0, 8.0, 0.29), (69.0, 92.0, 16.0, 0.35), (154.0, 82.0, 34.0, 0.53)]),
    ];
    let traces = traces();
    for (contestant, rows) in clocked {
        for (trace, (loads, hits, stall, wait)) in traces.iter().zip(rows) {
            let run = timed(trace, contestant, PLACES, &Cost::default(), 0.3).unwrap();
            check(trace, "loads", run.loads_per_1000, loads, 0);
            check(trace, "hits", 100.0 * run.hit_rate, hits, 0);
            check(trace, "stall", run.stall_ms_per_request, stall, 0);
            check(trace, "wait", run.p99_wait_s, wait, 2);
        }
    }
}

#[test]
fn known_requests_come_near_to_all_known() {
    for trace in traces() {
        let loads = |contestant| loads_per_1000(&trace, contestant, PLACES, &Cost::default()).unwrap();
        let (ours, belady, gdsf) =
            (loads(Contestant::GuildhallOrdered), loads(Contestant::Belady), loads(Contestant::Gdsf));
        assert!(ours <= 1.30 * belady, "{}: {ours}, Belady {belady}", trace.name);
        assert!(ours <= gdsf, "{}: {ours}, GDSF {gdsf}", trace.name);
    }
}

#[test]
fn a_free_order_needs_fewer_loads() {
    for trace in traces() {
        let loads = |contestant| loads_per_1000(&trace, contestant, PLACES, &Cost::default()).unwrap();
        let (ours, reorder) = (loads(Contestant::Guildhall), loads(Contestant::Reorder));
        assert!(ours <= reorder, "{}: {ours}, residents first {reorder}", trace.name);
    }
}

#[test]
fn much_more_load_is_carried() {
    let traces = traces();
    if traces.is_empty() {
        return;
    }
    let carried = |trace: &Trace, contestant| capacity(trace, contestant, PLACES, &Cost::default()).unwrap();
    for (other, least) in [(Contestant::Lru, 2.6), (Contestant::Oracle, 0.85)] {
        let ratios = traces.iter().map(|trace| carried(trace, Contestant::Guildhall) / carried(trace, other));
        let mean = (ratios.map(f64::ln).sum::<f64>() / traces.len() as f64).exp();
        assert!(mean >= least, "{mean:.2} times {other}, at least {least}");
    }
}

#[test]
fn belady_is_right_where_it_can_be_seen() {
    // Three experts in turn and two places: the one that was just used goes.
    let trace = Trace::from_order("turns", [0, 1, 2].repeat(40));
    let loads = |contestant| loads_per_1000(&trace, contestant, 2, &Cost::default()).unwrap() * 0.12;
    assert!((loads(Contestant::Lru) - 120.0).abs() < 1e-6);
    // Three at first, and then every second request.
    assert!((loads(Contestant::Belady) - 61.0).abs() < 1.0, "{}", loads(Contestant::Belady));
    assert!(loads(Contestant::GuildhallOrdered) < 62.0, "{}", loads(Contestant::GuildhallOrdered));
}

#[test]
fn recency_rules_where_popularity_misleads() {
    // Five sets of experts, each just as large as the tier, and each asked for in turns for a while.
    const SET: u32 = 8;
    let phase = |i: u32| {
        let set: Vec<u32> = (0..SET).map(|expert| i % 5 * SET + expert).collect();
        set.repeat(4)
    };
    let trace = Trace::from_order("sets", (0..60).flat_map(phase).collect());
    let count = trace.experts.len() as f64 / 1000.0;
    let places = SET as usize;
    let lru = loads_per_1000(&trace, Contestant::Lru, places, &Cost::default()).unwrap() * count;
    assert!((lru - f64::from(60 * SET)).abs() < 1e-6, "{lru}");
    let ours = ours::untimed(&trace, places, &Cost::default(), Order::Kept, 1).unwrap() * count;
    assert!(ours <= 1.05 * lru + 1.5 * places as f64, "{ours} loads, LRU {lru}");
}

#[test]
fn what_follows_is_there_before_it_is_asked_for() {
    // Forty experts in a fixed order, one a second, and sixteen places: recency and popularity always miss.
    let mut trace = Trace::from_order("steps", (0..40).collect::<Vec<u32>>().repeat(40));
    trace.times_s = Some((0_u32..1600).map(f64::from).collect());
    trace.sessions = Some(vec![1; 1600]);
    let run = |contestant| timed(&trace, contestant, PLACES, &Cost::default(), 0.093).unwrap();
    let (without, with) = (run(Contestant::Guildhall), run(Contestant::GuildhallMarkov));
    let prefetched = with.prefetched.unwrap();
    assert!(with.hit_rate > without.hit_rate + 0.2, "{without:?}, {with:?}");
    assert!(prefetched.used > 20 * (prefetched.wasted + prefetched.late), "{prefetched:?}");
    assert_eq!(without.prefetched, None);
}

#[test]
fn predictions_that_do_not_come_true_end() {
    // Drawn without any order: every prediction beyond popularity is wrong.
    let mut chance = Chance::new(5);
    let trace = Trace::from_order("drawn", (0..6_000).map(|_| (chance.even() * 60.0) as u32).collect());
    let run = |contestant| timed(&trace, contestant, PLACES, &Cost::default(), 0.1).unwrap();
    let (without, with) = (run(Contestant::Guildhall), run(Contestant::GuildhallPredicting));
    assert!(with.prefetched.unwrap().wasted < 150, "{with:?}");
    assert!(with.hit_rate > without.hit_rate - 0.01, "{without:?}, {with:?}");
}

#[test]
fn outcomes_become_tables_and_pictures() {
    let trace = Trace::from_order("a<b", [0, 1, 2, 1].repeat(100));
    let outcomes: Vec<Outcome> = [Contestant::Lru, Contestant::Guildhall]
        .map(|c| simulate(&trace, c, 2, &Cost::default(), 0.3).unwrap())
        .into();
    let table = csv(&outcomes);
    assert_eq!(table.lines().count(), 3);
    let columns = |line: &str| line.split(',').count();
    assert!(table.lines().all(|line| columns(line) == columns(table.lines().next().unwrap())), "{table}");
    let picture = svg(&outcomes);
    assert!(picture.contains("a&lt;b") && picture.matches("<rect").count() == 5, "{picture}");
    assert!(outcomes[1].loads_per_1000 <= outcomes[0].loads_per_1000);
}

/// Requests as real ones are: popular experts, whose popularity shifts, that come in bursts and in turns.
fn made_up() -> impl Strategy<Value = (Vec<u32>, usize)> {
    let phase = (2..60_u32, 0.0..2.0_f64, 0.0..0.7_f64, any::<bool>(), 200..2_000_usize, any::<u64>());
    (prop::collection::vec(phase, 1..5), 3..20_usize).prop_map(|(phases, places)| {
        let mut requests: Vec<u32> = Vec::new();
        for (experts, skew, repeat, turns, length, seed) in phases {
            let mut chance = Chance::new(seed as u32);
            let shift = (seed >> 32) as u32 % 40;
            let weights: Vec<f64> = (1..=experts).map(|rank| f64::from(rank).powf(-skew)).collect();
            let all: f64 = weights.iter().sum();
            for i in 0..length {
                let last = requests.last().copied();
                let drawn = if turns {
                    shift + i as u32 % experts
                } else if let Some(last) = last
                    && chance.even() < repeat
                {
                    last
                } else {
                    let mut at = chance.even() * all;
                    let rank = weights
                        .iter()
                        .position(|w| {
                            at -= w;
                            at < 0.0
                        })
                        .unwrap_or(0);
                    shift + rank as u32
                };
                requests.push(drawn);
            }
        }
        (requests, places)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn never_much_worse_than_recency((requests, places) in made_up()) {
        let trace = Trace::from_order("made up", requests);
        let cost = Cost::default();
        let count = trace.experts.len() as f64 / 1000.0;
        let lru = loads_per_1000(&trace, Contestant::Lru, places, &cost).unwrap() * count;
        let ours = [(Order::Kept, 1), (Order::Kept, 32), (Order::Free, 32)];
        for (order, window) in ours {
            let ours = ours::untimed(&trace, places, &cost, order, window).unwrap() * count;
            // What fills the places at first is nobody's choice, and half of it is tried before recency rules.
            let most = 1.05 * lru + 1.5 * places as f64;
            prop_assert!(ours <= most, "{order:?}, {window} known: {ours} loads, LRU {lru}, {places} places");
        }
    }

    #[test]
    fn nobody_starves_on_the_clock((requests, places) in made_up(), load in 0.05..5.0_f64, predicts: bool) {
        let cost = Cost::default();
        let requests = &requests[..requests.len().min(600)];
        let experts = requests.iter().max().map_or(0, |most| *most as usize + 1);
        let arrivals = random_clock(requests.len(), cost.request_s / load);
        let sessions: Vec<u64> = (0..requests.len() as u64).map(|i| i * 7 % 11).collect();
        let requests = ours::Requests { experts: requests, sessions: Some(&sessions), arrivals_s: &arrivals };
        let prediction = if predicts { Prediction::all() } else { Prediction::default() };
        let run = ours::clocked(&requests, experts, places, &cost, Order::Free, prediction).unwrap();
        let most = cost.bound_s + cost.load_s + cost.batch_s(cost.batch_max as usize);
        prop_assert!(run.longest_first_s.is_some_and(|longest| longest <= most + 1e-5));
    }
}
