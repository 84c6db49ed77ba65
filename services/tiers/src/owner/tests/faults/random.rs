//! A server that fails at random, clients that leave, operators that interfere: nothing is promised twice, nothing in use
//! is removed, everybody is answered, and when the faults stop the ledger is the truth.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::JoinHandle;

use super::*;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const PLACES: usize = 2;

/// Chance from a seed.
#[derive(Clone)]
struct Chance(Arc<Mutex<u64>>);

impl Chance {
    fn below(&self, bound: u64) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % bound
    }
}

/// A state, and which it becomes when.
type Course = (&'static str, Option<(Instant, &'static str)>);

/// A Triton server with what is really there, and what must not be removed.
struct Flaky {
    chance: Chance,
    faults: bool,
    models: BTreeMap<String, Course>,
    /// Requests that use an expert, and operators that keep one, since the last restart.
    kept: BTreeMap<String, u32>,
    restarts: u32,
    pinned: BTreeSet<String>,
}

impl Flaky {
    fn settle(&mut self) {
        for (state, next) in self.models.values_mut() {
            if let Some((_, then)) = next.take_if(|(at, _)| *at <= Instant::now()) {
                *state = then;
            }
        }
    }

    fn holding(&self) -> usize {
        self.models.values().filter(|(state, _)| *state != "UNAVAILABLE").count()
    }

    fn answer(&mut self, call: &Call) -> Reply {
        self.settle();
        // Half of the faults strike before the order is carried out, half of them after.
        let fault = if self.faults && self.chance.below(5) == 0 { self.chance.below(8) } else { 99 };
        let refused = match fault {
            0 => Some(Reply::cut()),
            1 => Some(Reply::text(400, "{\"error\":\"out of luck\"}")),
            2 => Some(Reply::text(503, "")),
            3 => Some(Reply::text(200, "").after(1_000)),
            _ => None,
        };
        if let Some(reply) = refused {
            return reply;
        }
        if self.faults && self.chance.below(60) == 0 {
            // A restart forgets everything.
            for model in self.models.values_mut() {
                *model = ("UNAVAILABLE", None);
            }
            // And ends what was under way.
            self.kept.clear();
            self.restarts += 1;
        }
        if call.line == "POST /v2/repository/index" {
            let list = self.models.iter().map(|(name, (state, _))| json!({"name": name, "state": state}));
            let list = Value::Array(list.collect());
            return if fault == 4 { Reply::text(200, "[{") } else { Reply::json(200, &list) };
        }
        let mut parts = call.line.split('/').skip(4);
        let (name, verb) = (parts.next().unwrap(), parts.next().unwrap());
        let mut reply = Reply::text(200, "");
        if verb == "load" {
            let takes = Duration::from_millis(200 + self.chance.below(1500));
            let model = self.models.get_mut(name).unwrap();
            if model.0 == "UNAVAILABLE" {
                *model = ("LOADING", Some((Instant::now() + takes, "READY")));
            }
            assert!(self.holding() <= PLACES, "{name} is loaded where there is no place: {:?}", self.models);
            reply.after = takes;
        } else {
            assert_eq!(self.kept.get(name).copied().unwrap_or(0), 0, "{name} is removed while it is in use");
            let takes = Duration::from_millis(self.chance.below(800));
            *self.models.get_mut(name).unwrap() =
                ("UNLOADING", Some((Instant::now() + takes, "UNAVAILABLE")));
        }
        match fault {
            5 => Reply::cut(),
            6 => reply.after(1_000),
            _ => reply,
        }
    }

    /// Since which restart it is kept.
    fn keep(&mut self, name: &str) -> u32 {
        *self.kept.entry(name.to_owned()).or_default() += 1;
        self.restarts
    }

    fn let_go(&mut self, name: &str, since: u32) {
        if since == self.restarts {
            *self.kept.get_mut(name).unwrap() -= 1;
        }
    }
}

type Server = Arc<Mutex<Flaky>>;

/// A request with a deadline or without one, whose client may leave.
fn client(world: &World, server: &Server, chance: &Chance) -> JoinHandle<()> {
    let (pool, server) = (world.pool.clone(), server.clone());
    let name = NAMES[(chance.below(6) * chance.below(6) / 5) as usize % 6];
    let patience = (chance.below(3) == 0).then(|| Duration::from_millis(500 + chance.below(20_000)));
    let (uses, leaves) = (chance.below(2_000), (chance.below(5) == 0).then(|| chance.below(3_000)));
    tokio::spawn(async move {
        let expert = id(name);
        let deadline = patience.map(|patience| Instant::now() + patience);
        let visit = async {
            if let Ok(held) = pool.acquire(Ask { expert: &expert, tenant: 0, session: None, deadline }).await
            {
                let since = server.lock().unwrap().keep(name);
                tokio::time::sleep(Duration::from_millis(uses)).await;
                server.lock().unwrap().let_go(name, since);
                drop(held);
            }
        };
        match leaves {
            None => visit.await,
            // One that leaves while it is served gives its expert back, too, and that is counted by its end.
            Some(ms) => {
                let waiting = pool.acquire(Ask { expert: &expert, tenant: 0, session: None, deadline });
                let _left = tokio::time::timeout(Duration::from_millis(ms), waiting).await;
            }
        }
    })
}

/// An operator does something to an expert.
fn operator(world: &World, server: &Server, chance: &Chance) -> Option<JoinHandle<()>> {
    let (pool, expert) = (world.pool.clone(), id(NAMES[chance.below(6) as usize]));
    let patience = Duration::from_mins(1);
    match chance.below(5) {
        // Whoever unpins first unpins for all.
        2 if !server.lock().unwrap().pinned.insert(expert.to_string()) => None,
        0 => Some(tokio::spawn(async move {
            let _whatever = pool.promote(&expert, Tier::Hbm, patience).await;
        })),
        1 => Some(tokio::spawn(async move {
            let _whatever = pool.demote(&expert, Tier::Disk, patience).await;
        })),
        2 => {
            let server = server.clone();
            Some(tokio::spawn(async move {
                pool.pin(&expert, None).unwrap();
                // What is on its way out when it is pinned goes on.
                tokio::time::sleep(Duration::from_secs(30)).await;
                let since = server.lock().unwrap().keep(expert.as_str());
                tokio::time::sleep(Duration::from_secs(20)).await;
                server.lock().unwrap().let_go(expert.as_str(), since);
                pool.unpin(&expert).unwrap();
                server.lock().unwrap().pinned.remove(expert.as_str());
            }))
        }
        3 => Some(tokio::spawn(async move {
            let _whatever = pool.reconcile(patience).await;
        })),
        _ => None,
    }
}

async fn storm(seed: u64) {
    let chance = Chance(Arc::new(Mutex::new(seed)));
    let models = NAMES.map(|name| (name.to_owned(), ("UNAVAILABLE", None))).into();
    let server: Server = Arc::new(Mutex::new(Flaky {
        chance: chance.clone(),
        faults: true,
        models,
        kept: BTreeMap::new(),
        restarts: 0,
        pinned: BTreeSet::new(),
    }));
    let network = FakeNetwork::default();
    let behind = server.clone();
    network.serve("triton:8000", move |call| behind.lock().unwrap().answer(call));
    let names: BTreeMap<_, _> = NAMES.map(|name| (name, name)).into();
    let config =
        json!({"driver": {"kind": "triton", "server": {"url": "http://triton:8000"}, "models": names}});
    let world = World::timed(on_disk(&NAMES, PLACES as u64), vec![driver(config, &network)], short());
    let mut under_way = Vec::new();
    for _ in 0..150 {
        tokio::time::sleep(Duration::from_millis(chance.below(1_200))).await;
        under_way.push(client(&world, &server, &chance));
        if chance.below(12) == 0 {
            under_way.extend(operator(&world, &server, &chance));
        }
        let status = world.pool.status();
        for tier in &status.tiers {
            let promised = tier.used_bytes + tier.reserved_bytes;
            assert!(promised <= tier.capacity_bytes, "seed {seed}: {tier:?}");
        }
    }
    server.lock().unwrap().faults = false;
    for one in under_way {
        let ended = tokio::time::timeout(Duration::from_mins(10), one).await;
        ended
            .unwrap_or_else(|_| panic!("seed {seed}: somebody waits for ever: {:#?}", world.pool.status()))
            .unwrap();
    }
    seconds(120.0).await;
    let status = world.pool.status();
    assert_eq!((status.running, status.waiting), (0, 0), "seed {seed}");
    let truth = {
        let mut server = server.lock().unwrap();
        server.settle();
        server.holding() as u64
    };
    assert_eq!(world.hbm(), (10 * truth, 0), "seed {seed}: {:#?}", status.experts);
    assert!(
        status.experts.iter().all(|expert| expert.phase != "unknown"),
        "seed {seed}: {:#?}",
        status.experts
    );
    // Whatever happened, everybody can be had again.
    for name in NAMES {
        drop(world.within(name, Duration::from_mins(1)).await.unwrap());
    }
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_nothing_is_lost_or_promised_twice() {
    for seed in 0..40 {
        storm(seed).await;
    }
}
