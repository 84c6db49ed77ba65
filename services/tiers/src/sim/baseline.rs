//! The policies to beat, without a clock: how many loads they need when requests are served one after another.

use std::collections::{BTreeMap, VecDeque};

use super::trace::Trace;

/// Never again.
pub(super) const NEVER: usize = usize::MAX;

/// What goes when a place is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evict {
    /// The least recently used.
    Lru,
    /// The least often used.
    Lfu,
    /// By frequency, aged by what went before.
    Gdsf,
    /// Known requests first, then the least recently used.
    LookAhead,
    /// Known requests first, then as `Gdsf`.
    LookAheadGdsf,
    /// What is needed again last: knows everything to come.
    Belady,
}

/// The first of the smallest.
pub(super) fn least<K: PartialOrd>(items: impl Iterator<Item = u32>, key: impl Fn(u32) -> K) -> Option<u32> {
    let mut best: Option<(K, u32)> = None;
    for item in items {
        let key = key(item);
        if best.as_ref().is_none_or(|(least, _)| key < *least) {
            best = Some((key, item));
        }
    }
    best.map(|(_, item)| item)
}

/// Loads per 1,000 requests with `places` experts of one size, where `known` requests to come are known.
pub(super) fn in_order(trace: &Trace, places: usize, evict: Evict, known: usize) -> f64 {
    let next = next_uses(&trace.experts, trace.expert_count);
    let mut residents: Vec<u32> = Vec::new();
    let mut facts = vec![Facts::default(); trace.expert_count];
    let (mut loads, mut inflation) = (0_u32, 0.0);
    for (now, expert) in trace.experts.iter().copied().enumerate() {
        facts[expert as usize].count += 1.0;
        if !facts[expert as usize].resident {
            loads += 1;
            if residents.len() >= places {
                let of = |e: u32| &facts[e as usize];
                let all = || residents.iter().copied();
                let unknown = || all().filter(|e| of(*e).next.saturating_sub(now) > known);
                let last = || least(all(), |e| std::cmp::Reverse(of(e).next));
                let victim = match evict {
                    Evict::Lru => least(all(), |e| of(e).used),
                    Evict::Lfu => least(all(), |e| (of(e).count, of(e).used)),
                    Evict::Gdsf => least(all(), |e| (of(e).priority, of(e).used)),
                    Evict::Belady => last(),
                    Evict::LookAhead => least(unknown(), |e| of(e).used).or_else(last),
                    Evict::LookAheadGdsf => least(unknown(), |e| (of(e).priority, of(e).used)).or_else(last),
                };
                if let Some(victim) = victim {
                    if matches!(evict, Evict::Gdsf | Evict::LookAheadGdsf) {
                        inflation = f64::max(inflation, facts[victim as usize].priority);
                    }
                    facts[victim as usize].resident = false;
                    residents.retain(|e| *e != victim);
                }
            }
            residents.push(expert);
        }
        let facts = &mut facts[expert as usize];
        (facts.resident, facts.used, facts.next) = (true, now, next[now]);
        facts.priority = inflation + facts.count;
    }
    1000.0 * f64::from(loads) / trace.experts.len() as f64
}

#[derive(Clone, Debug, Default)]
struct Facts {
    resident: bool,
    used: usize,
    next: usize,
    count: f64,
    priority: f64,
}

/// For each request, which is the next for the same expert.
fn next_uses(experts: &[u32], count: usize) -> Vec<usize> {
    let mut next = vec![NEVER; experts.len()];
    let mut last = vec![NEVER; count];
    for (i, expert) in experts.iter().enumerate().rev() {
        next[i] = std::mem::replace(&mut last[*expert as usize], i);
    }
    next
}

/// Loads per 1,000 requests where those for resident experts may overtake within the `window` oldest, each of which
/// is passed over at most four times `window`.
pub(super) fn reordered(trace: &Trace, places: usize, window: usize) -> f64 {
    let requests = &trace.experts;
    let mut waiting: BTreeMap<usize, u32> = BTreeMap::new();
    let mut lines: Vec<VecDeque<usize>> = vec![VecDeque::new(); trace.expert_count];
    let mut used: Vec<Option<usize>> = vec![None; trace.expert_count];
    let mut residents: Vec<u32> = Vec::new();
    let mut passed: BTreeMap<usize, usize> = BTreeMap::new();
    let (mut read, mut loads) = (0, 0_u32);
    for clock in 0..requests.len() {
        while read < requests.len() && waiting.len() < window {
            waiting.insert(read, requests[read]);
            lines[requests[read] as usize].push_back(read);
            read += 1;
        }
        let Some((mut request, mut expert)) = waiting.first_key_value().map(|(r, e)| (*r, *e)) else { break };
        let by = passed.entry(request).or_default();
        if used[expert as usize].is_none() && *by < 4 * window {
            let ready = residents.iter().filter_map(|e| lines[*e as usize].front().copied()).min();
            if let Some(ready) = ready {
                *by += 1;
                (request, expert) = (ready, requests[ready]);
            }
        }
        if used[expert as usize].is_none() {
            loads += 1;
            if residents.len() >= places {
                let all = || residents.iter().copied();
                let idle = all().filter(|e| lines[*e as usize].is_empty());
                let victim = least(idle, |e| used[e as usize])
                    .or_else(|| least(all(), |e| std::cmp::Reverse(lines[e as usize].front().copied())));
                if let Some(victim) = victim {
                    used[victim as usize] = None;
                    residents.retain(|e| *e != victim);
                }
            }
            residents.push(expert);
        }
        used[expert as usize] = Some(clock);
        waiting.remove(&request);
        passed.remove(&request);
        lines[expert as usize].retain(|r| *r != request);
    }
    1000.0 * f64::from(loads) / requests.len() as f64
}
