use super::{Fleet, Placement};

/// The last requests that a placement is judged by.
const REQUESTS: usize = 20_000;

/// How many changes are tried.
const TRIALS: u32 = 3_000;

/// How many neighbours by popularity an expert changes places with.
const NEIGHBOURS: usize = 6;

/// A request, and how many for the same expert came before.
#[derive(Clone, Copy)]
struct Asked {
    expert: u32,
    turn: u32,
}

/// A placement on its way to a better one.
pub(super) struct Search<'a> {
    fleet: &'a Fleet,
    asked: Vec<Asked>,
    counts: Vec<f64>,
    /// Experts by popularity.
    order: Vec<u32>,
    homes: Vec<Vec<usize>>,
    /// Requests by node.
    weights: Vec<f64>,
    /// Loads by node.
    loads: Vec<u32>,
    trials: u32,
}

impl<'a> Search<'a> {
    pub(super) fn new(requests: &[u32], experts: usize, fleet: &'a Fleet) -> Self {
        let requests = &requests[requests.len().saturating_sub(REQUESTS)..];
        let mut turns = vec![0; experts];
        let number = |expert: &u32| {
            let turn = turns[*expert as usize];
            turns[*expert as usize] += 1;
            Asked { expert: *expert, turn }
        };
        let asked: Vec<Asked> = requests.iter().map(number).collect();
        let mut order: Vec<u32> = (0..experts as u32).collect();
        order.sort_by_key(|expert| (std::cmp::Reverse(turns[*expert as usize]), *expert));
        Self {
            fleet,
            asked,
            counts: turns.into_iter().map(f64::from).collect(),
            order,
            homes: vec![Vec::new(); experts],
            weights: vec![0.0; fleet.nodes],
            loads: vec![0; fleet.nodes],
            trials: TRIALS,
        }
    }

    pub(super) fn run(mut self) -> Placement {
        self.place();
        for node in 0..self.fleet.nodes {
            self.loads[node] = self.count(node);
        }
        while self.improve() {}
        Placement { nodes: self.fleet.nodes, homes: self.homes }
    }

    /// Requests that a node would get if all got the same.
    fn fair(&self) -> f64 {
        self.asked.len() as f64 / self.fleet.nodes as f64
    }

    fn most(&self) -> f64 {
        self.fair() * (1.0 + self.fleet.imbalance)
    }

    /// The first placement.
    fn place(&mut self) {
        let together = self.together();
        let mut members = vec![0_u32; self.fleet.nodes];
        for expert in self.order.clone() {
            let count = self.counts[expert as usize];
            let copies = ((count / self.fair().max(1.0)).ceil() as usize).clamp(1, self.fleet.nodes);
            let each = count / copies as f64;
            let mut nodes: Vec<(bool, f64, f64, usize)> = (0..self.fleet.nodes)
                .map(|node| {
                    let here = (0..).zip(&self.homes).filter(|(_, homes): &(usize, _)| homes.contains(&node));
                    let crowd: f64 = here.map(|(other, _)| together(expert as usize, other)).sum();
                    // What nobody asked for yet is dealt out evenly.
                    let weight = if count > 0.0 { self.weights[node] } else { f64::from(members[node]) };
                    (self.weights[node] + each > self.most(), crowd, weight, node)
                })
                .collect();
            nodes.sort_by(|a, b| {
                let over = a.0.cmp(&b.0);
                // Where none has room the emptiest gets it.
                let crowd = if a.0 { a.2.total_cmp(&b.2) } else { a.1.total_cmp(&b.1) };
                over.then(crowd).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3))
            });
            for (.., node) in nodes.into_iter().take(copies) {
                self.weights[node] += each;
                members[node] += 1;
                self.homes[expert as usize].push(node);
            }
        }
    }

    /// How often two experts were asked for within as many requests as all nodes have places.
    fn together(&self) -> impl Fn(usize, usize) -> f64 + use<> {
        let experts = self.homes.len();
        let window = self.fleet.nodes * self.fleet.places;
        let mut pairs = std::collections::BTreeMap::new();
        let mut recent = std::collections::VecDeque::with_capacity(window);
        for asked in &self.asked {
            for other in &recent {
                if *other != asked.expert {
                    let pair = (asked.expert.min(*other) as usize, asked.expert.max(*other) as usize);
                    *pairs.entry(pair.0 * experts + pair.1).or_insert(0.0) += 1.0;
                }
            }
            if recent.len() == window {
                recent.pop_front();
            }
            recent.push_back(asked.expert);
        }
        move |a, b| pairs.get(&(a.min(b) * experts + a.max(b))).copied().unwrap_or(0.0)
    }

    /// Tries every change once; whether one helped and another round may.
    fn improve(&mut self) -> bool {
        let single: Vec<u32> = self
            .order
            .iter()
            .copied()
            .filter(|e| self.homes[*e as usize].len() == 1 && self.counts[*e as usize] > 0.0)
            .collect();
        let mut better = false;
        for (rank, expert) in single.iter().enumerate() {
            for node in 0..self.fleet.nodes {
                better |= self.change(*expert, node, None);
            }
            for other in single.iter().skip(rank + 1).take(NEIGHBOURS) {
                let node = self.homes[*other as usize][0];
                better |= self.change(*expert, node, Some(*other));
            }
            if self.trials == 0 {
                return false;
            }
        }
        better
    }

    /// Moves an expert to a node, and `back` to where it was; undone where that does not make loads fewer.
    fn change(&mut self, expert: u32, to: usize, back: Option<u32>) -> bool {
        let from = self.homes[expert as usize][0];
        let comes = self.counts[expert as usize] - back.map_or(0.0, |other| self.counts[other as usize]);
        let crowded = |weight: f64, by: f64| by > 0.0 && weight + by > self.most();
        if from == to
            || self.trials == 0
            || crowded(self.weights[to], comes)
            || crowded(self.weights[from], -comes)
        {
            return false;
        }
        self.trials -= 1;
        self.shift(expert, back, from, to);
        let loads = (self.count(from), self.count(to));
        if loads.0 + loads.1 < self.loads[from] + self.loads[to] {
            (self.loads[from], self.loads[to]) = loads;
            self.weights[from] -= comes;
            self.weights[to] += comes;
            return true;
        }
        self.shift(expert, back, to, from);
        false
    }

    fn shift(&mut self, expert: u32, back: Option<u32>, from: usize, to: usize) {
        self.homes[expert as usize][0] = to;
        if let Some(other) = back {
            self.homes[other as usize][0] = from;
        }
    }

    /// A node's loads, where always the least recently used goes.
    fn count(&self, node: usize) -> u32 {
        let mut loads = 0;
        let mut held: Vec<u32> = Vec::with_capacity(self.fleet.places + 1);
        for asked in &self.asked {
            let homes = &self.homes[asked.expert as usize];
            if homes[asked.turn as usize % homes.len()] != node {
                continue;
            }
            if let Some(at) = held.iter().rposition(|expert| *expert == asked.expert) {
                held[at..].rotate_left(1);
                continue;
            }
            loads += 1;
            held.push(asked.expert);
            if held.len() > self.fleet.places {
                held.remove(0);
            }
        }
        loads
    }
}
