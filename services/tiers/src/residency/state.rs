//! What is known of a pool, and the transitions of its experts.

mod transitions;

use std::collections::BTreeMap;
use std::sync::Arc;

use routing::ExpertId;
use serde::{Deserialize, Serialize};

use super::expert::{ExpertIndex, ExpertSpec, Kind, Phase, Pin};
use super::ledger::Account;
use super::link::Link;
use super::policy::Policy;
use super::pool::{PoolError, PoolSpec};
use super::popularity::Popularity;
use super::recency::Recency;
use super::tier::{TIERS, Tier};

/// No place in a list.
const NONE: u32 = u32::MAX;

/// How long it takes until half of what a tenant caused is forgotten.
const TENANT_HALF_LIFE_US: f64 = 60e6;

/// Tenants that are remembered before those that caused next to nothing of late are forgotten.
const TENANTS: usize = 1024;

/// Microseconds of loading that are next to nothing.
const NEXT_TO_NOTHING_US: f64 = 1000.0;

/// The weight of a new batch in the mean of an expert's batches.
const BATCH_WEIGHT: f64 = 0.2;

/// Numbers the transitions of an expert, so that a late report of an earlier one changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// Keeps an expert where it is while a batch uses it. It must be given back by [`State::release`]; whoever owns the
/// state wraps it in a guard.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an expert that is leased is never removed"]
pub struct Lease {
    expert: ExpertIndex,
    since_us: u64,
}

impl Lease {
    /// Whom it keeps.
    pub fn expert(&self) -> ExpertIndex {
        self.expert
    }
}

/// What became of an action.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    /// A batch may be sent.
    Leased(Lease),
    /// A transition began; report its end with this number.
    Began(Generation),
    /// It is done.
    Done,
}

/// Why an action or a report does not fit the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The pool has no such expert.
    #[error("the pool has no expert with this number")]
    NoExpert,
    /// The report is about an earlier transition, or there is none.
    #[error("the report is about a transition that is not under way")]
    Stale,
    /// The expert's phase does not allow it.
    #[error("the expert's phase does not allow this")]
    Phase,
    /// There are not enough bytes.
    #[error("there are not enough free bytes")]
    NoRoom,
    /// Requests use it, or an adapter that is resident, or it is pinned.
    #[error("the expert is in use or pinned")]
    InUse,
    /// As many transfers are under way as the link carries, or as many batches as the pool computes.
    #[error("all channels are busy")]
    Busy,
}

/// A step between two tiers of an expert.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    link: usize,
    from: Tier,
    to: Tier,
    /// What goes over the link.
    bytes: u64,
    /// What the copy takes where it arrives.
    needs: u64,
}

/// A way from an expert's nearest copy to a tier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Journey {
    /// What it takes: the hops overlap, so the slowest counts, and the latency of each.
    pub(super) us: f64,
    /// The links that it takes, one bit each.
    pub(super) links: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) spec: Arc<ExpertSpec>,
    pub(super) serves: Tier,
    home: Tier,
    pub(super) base: Option<ExpertIndex>,
    /// From home to where it answers.
    hops: Vec<Hop>,
    pub(super) phase: Phase,
    generation: Generation,
    /// Bytes of complete copies.
    copies: [Option<u64>; TIERS],
    places: [u32; TIERS],
    moving: Option<Move>,
    pub(super) leases: u32,
    pub(super) pin: Pin,
    /// Resident adapters of which it is the base.
    pub(super) dependants: u32,
    pub(super) hot_since_us: u64,
    /// It was loaded by prediction, and nobody has asked for it since: it may go at once.
    pub(super) unasked: bool,
    pub(super) used_us: u64,
    pub(super) batch_us: f64,
    /// It is draining because an operator needs its place.
    pub(super) drained_for_operator: bool,
    /// Its server did not let it go, and is not asked for that before then.
    pub(super) stuck_until_us: u64,
}

/// A transition under way, or one of which nobody knows how it ended.
#[derive(Clone, Debug)]
struct Move {
    /// Where to, or which copy goes.
    tier: Tier,
    from: Tier,
    reserved: [u64; TIERS],
    links: u64,
    started_us: u64,
    /// When it should end.
    ends_us: u64,
}

/// What is known of a pool. Only [`State::apply`] and reports change it.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) experts: Vec<Entry>,
    by_id: BTreeMap<ExpertId, ExpertIndex>,
    accounts: [Option<Account>; TIERS],
    links: Vec<Link>,
    /// Links that carry as much as they can, one bit each.
    full_links: u64,
    /// Copies outside their homes, by tier.
    residents: [Vec<ExpertIndex>; TIERS],
    /// Bytes being given up, by tier.
    leaving: [u64; TIERS],
    pub(super) popularity: Popularity,
    /// What recency would do, for the tiers that experts answer from.
    recency: [Option<Recency>; TIERS],
    pub(super) policy: Policy,
    frees_at_once: bool,
    pub(super) running: u32,
    pub(super) draining: u32,
    /// Microseconds of loading that tenants caused of late, and as of when.
    tenants: BTreeMap<u32, (f64, u64)>,
    /// Loads that may still start now, and as of when.
    tokens: (f64, u64),
    /// The mean of all experts' batches.
    mean_batch_us: f64,
    /// Whether all experts answer from the accelerator and have their homes elsewhere.
    answers_near: bool,
}

impl State {
    /// A pool whose experts are all at home, and nowhere else.
    ///
    /// # Errors
    /// What is wrong with the specification.
    pub fn new(pool: PoolSpec) -> Result<Self, PoolError> {
        pool.check()?;
        let mut accounts: [Option<Account>; TIERS] = Default::default();
        for spec in &pool.tiers {
            accounts[spec.tier.index()] = Some(Account::new(spec));
        }
        let by_id: BTreeMap<_, _> =
            pool.experts.iter().zip(0..).map(|(spec, i)| (spec.id.clone(), ExpertIndex(i))).collect();
        let links: Vec<Link> = pool.links.into_iter().map(Link::new).collect();
        let mut experts = Vec::with_capacity(pool.experts.len());
        for spec in pool.experts {
            let entry = Entry::new(spec, &by_id, &links);
            if let Some(account) = &mut accounts[entry.home.index()] {
                account.hold(entry.copies[entry.home.index()].unwrap_or(0));
            }
            experts.push(entry);
        }
        let mean_batch_us =
            experts.iter().map(|entry| entry.batch_us).sum::<f64>() / experts.len().max(1) as f64;
        let recency = Tier::ALL.map(|tier| {
            let account = accounts[tier.index()].as_ref()?;
            let serves = experts.iter().any(|entry: &Entry| entry.serves == tier && entry.home != tier);
            serves.then(|| Recency::new(experts.len(), account.usable()))
        });
        let near = |entry: &Entry| entry.serves <= Tier::Hbm && entry.home != entry.serves;
        Ok(Self {
            answers_near: experts.iter().all(near),
            popularity: Popularity::new(experts.len()),
            recency,
            experts,
            by_id,
            accounts,
            links,
            full_links: 0,
            residents: Default::default(),
            leaving: [0; TIERS],
            tokens: (f64::from(pool.policy.loads_per_minute), 0),
            policy: pool.policy,
            frees_at_once: pool.frees_at_once,
            running: 0,
            draining: 0,
            tenants: BTreeMap::new(),
            mean_batch_us,
        })
    }

    /// An expert's place.
    pub fn index(&self, id: &ExpertId) -> Option<ExpertIndex> {
        self.by_id.get(id).copied()
    }

    /// How many experts there are.
    pub fn len(&self) -> usize {
        self.experts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.experts.is_empty()
    }

    /// What an expert is.
    pub fn spec(&self, expert: ExpertIndex) -> Option<&ExpertSpec> {
        self.experts.get(expert.at()).map(|entry| &*entry.spec)
    }

    /// What is going on with an expert.
    pub fn phase(&self, expert: ExpertIndex) -> Option<&Phase> {
        self.experts.get(expert.at()).map(|entry| &entry.phase)
    }

    /// Whether requests may be sent to an expert.
    pub fn is_hot(&self, expert: ExpertIndex) -> bool {
        self.phase(expert) == Some(&Phase::Hot)
    }

    /// The nearest tier with a complete copy.
    pub fn nearest(&self, expert: ExpertIndex) -> Option<Tier> {
        self.experts.get(expert.at()).map(Entry::nearest)
    }

    /// The number of an expert's last transition.
    pub fn generation(&self, expert: ExpertIndex) -> Generation {
        self.experts.get(expert.at()).map(|entry| entry.generation).unwrap_or_default()
    }

    /// The nearest tier that an expert can be in: where it answers from.
    pub fn serves(&self, expert: ExpertIndex) -> Option<Tier> {
        self.experts.get(expert.at()).map(|entry| entry.serves)
    }

    /// The farthest tier that an expert can be in, which always has it.
    pub fn home(&self, expert: ExpertIndex) -> Option<Tier> {
        self.experts.get(expert.at()).map(|entry| entry.home)
    }

    /// An expert's complete copies, nearest first, with their bytes.
    pub fn copies(&self, expert: ExpertIndex) -> impl Iterator<Item = (Tier, u64)> + '_ {
        let entry = self.experts.get(expert.at());
        Tier::ALL.into_iter().filter_map(move |tier| Some((tier, entry?.copies[tier.index()]?)))
    }

    /// Whether an expert may be removed.
    pub fn pinned(&self, expert: ExpertIndex) -> Pin {
        self.experts.get(expert.at()).map_or(Pin::None, |entry| entry.pin)
    }

    /// Batches under way in the whole pool.
    pub fn running(&self) -> u32 {
        self.running
    }

    /// Batches under way with an expert.
    pub fn leases(&self, expert: ExpertIndex) -> u32 {
        self.experts.get(expert.at()).map_or(0, |entry| entry.leases)
    }

    /// The bytes of a tier, where the pool has it.
    pub fn account(&self, tier: Tier) -> Option<&Account> {
        self.accounts[tier.index()].as_ref()
    }

    /// The links, with what was learnt of them.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Experts with a copy in a tier that is not their home, in no order that means anything.
    pub fn residents(&self, tier: Tier) -> &[ExpertIndex] {
        &self.residents[tier.index()]
    }

    /// How it is scheduled.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Schedules it differently from now on. Bounds of those who wait stay as they were when they came.
    ///
    /// # Errors
    /// [`PoolError::Policy`]; nothing is changed then.
    pub fn set_policy(&mut self, now_us: u64, policy: Policy) -> Result<(), PoolError> {
        policy.check()?;
        let rate = f64::from(policy.loads_per_minute);
        // Where loads were not limited, none of them counts against the new limit.
        let tokens = if self.policy.loads_per_minute == 0 { rate } else { self.tokens_at(now_us).min(rate) };
        (self.tokens, self.policy) = ((tokens, now_us), policy);
        Ok(())
    }

    /// What bringing an expert from its nearest copy to `to` takes, in microseconds, warming included; 0 where it is
    /// there already.
    pub fn load_us(&self, expert: ExpertIndex, to: Tier) -> u64 {
        self.experts.get(expert.at()).map_or(0, |entry| self.journey(entry, entry.nearest(), to).us as u64)
    }

    /// What it takes until an expert that rests is ready: its own load, and its base's where that has to come first.
    pub(super) fn ready_us(&self, entry: &Entry) -> f64 {
        let base = entry.base.map(|base| &self.experts[base.at()]).filter(|base| base.phase != Phase::Hot);
        [Some(entry), base].into_iter().flatten().map(|e| self.journey(e, e.nearest(), e.serves).us).sum()
    }

    /// Where a load goes that is under way, or of which nobody knows how it ended.
    pub fn heading(&self, expert: ExpertIndex) -> Option<Tier> {
        let moving = self.experts.get(expert.at())?.moving.as_ref()?;
        (moving.from != moving.tier).then_some(moving.tier)
    }

    /// When a transition under way should end, as far as can be said.
    pub fn ends_us(&self, expert: ExpertIndex) -> Option<u64> {
        self.experts.get(expert.at())?.moving.as_ref().map(|moving| moving.ends_us)
    }

    pub(super) fn journey(&self, entry: &Entry, from: Tier, to: Tier) -> Journey {
        let mut journey = Journey { us: 0.0, links: 0 };
        let mut slowest = 0.0_f64;
        for hop in entry.hops.iter().filter(|hop| hop.from <= from && hop.to >= to) {
            let link = &self.links[hop.link];
            journey.us += link.spec().latency_us as f64;
            slowest = slowest.max(link.bytes_us(hop.bytes));
            journey.links |= 1 << hop.link;
        }
        journey.us += slowest;
        if to == entry.serves && from != to {
            journey.us += entry.spec.warm_us as f64;
        }
        journey
    }

    /// Whether a journey could start now, as far as its links go.
    pub(super) fn is_open(&self, journey: &Journey) -> bool {
        journey.links & self.full_links == 0
    }

    /// Whether nothing is under way on a journey's links.
    pub(super) fn is_idle(&self, journey: &Journey) -> bool {
        (0..).zip(&self.links).all(|(i, link): (u32, _)| journey.links & (1 << i) == 0 || link.busy() == 0)
    }

    /// What removing a copy costs: how often its expert will be asked for, times what loading it again takes, for
    /// each of its bytes.
    pub(super) fn value(&self, expert: ExpertIndex, tier: Tier) -> f64 {
        let bytes = self.experts[expert.at()].copies[tier.index()].unwrap_or(0).max(1) as f64;
        self.popularity.share(expert) * self.reload_us(expert, tier) / bytes
    }

    /// What loading a copy again would take, in microseconds.
    pub(super) fn reload_us(&self, expert: ExpertIndex, tier: Tier) -> f64 {
        let entry = &self.experts[expert.at()];
        let farther = Tier::ALL.into_iter().find(|t| *t > tier && entry.copies[t.index()].is_some());
        self.journey(entry, farther.unwrap_or(entry.home), tier).us
    }

    /// Where too much was loaded of late into a tier, whether it would hold an expert if recency had ruled.
    pub(super) fn recency(&self, tier: Tier) -> Option<&Recency> {
        self.recency[tier.index()].as_ref().filter(|recency| recency.is_behind())
    }

    /// Bytes of a tier that are being given up, and not free yet.
    pub(super) fn leaving(&self, tier: Tier) -> u64 {
        self.leaving[tier.index()]
    }

    /// How many loads of an expert's kind can be under way at a time.
    pub(super) fn channels(&self, entry: &Entry) -> u32 {
        entry.hops.last().map_or(1, |hop| self.links[hop.link].spec().concurrency)
    }

    /// Whether every ready expert is a resident of [`Tier::Slot`] or [`Tier::Hbm`].
    pub(super) fn answers_near(&self) -> bool {
        self.answers_near
    }

    pub(super) fn frees_at_once(&self) -> bool {
        self.frees_at_once
    }

    /// Seconds of loading that a tenant caused of late.
    pub(super) fn caused_s(&self, tenant: u32, now_us: u64) -> f64 {
        self.tenants.get(&tenant).map_or(0.0, |caused| left_us(*caused, now_us) / 1e6)
    }

    /// Notes what a load takes that a tenant causes.
    fn caused(&mut self, tenant: u32, now_us: u64, load_us: f64) {
        let before_us = self.caused_s(tenant, now_us) * 1e6;
        if self.tenants.len() >= TENANTS && !self.tenants.contains_key(&tenant) {
            self.tenants.retain(|_, caused| left_us(*caused, now_us) > NEXT_TO_NOTHING_US);
        }
        self.tenants.insert(tenant, (before_us + load_us, now_us));
    }

    /// Whether more than one tenant has caused loads.
    pub(super) fn has_tenants(&self) -> bool {
        self.tenants.len() > 1
    }

    /// Whether the limit on loads leaves one.
    pub(super) fn may_load(&self, now_us: u64) -> bool {
        self.policy.loads_per_minute == 0 || self.tokens_at(now_us) >= 1.0
    }

    /// Whether the limit on loads leaves more than half, so that one that nobody waits for takes nobody's turn.
    pub(super) fn may_spare_load(&self, now_us: u64) -> bool {
        let most = f64::from(self.policy.loads_per_minute);
        self.policy.loads_per_minute == 0 || self.tokens_at(now_us) >= 1.0 + most / 2.0
    }

    fn tokens_at(&self, now_us: u64) -> f64 {
        let rate = f64::from(self.policy.loads_per_minute);
        let (tokens, since) = self.tokens;
        (tokens + now_us.saturating_sub(since) as f64 / 60e6 * rate).min(rate)
    }

    /// What the batches of all experts take, in the mean.
    pub(super) fn mean_batch_us(&self) -> f64 {
        self.mean_batch_us
    }
}

/// What is not forgotten yet of what a tenant had caused at a moment.
fn left_us((us, since_us): (f64, u64), now_us: u64) -> f64 {
    us * (-(now_us.saturating_sub(since_us) as f64) / TENANT_HALF_LIFE_US).exp2()
}

impl Entry {
    fn new(spec: ExpertSpec, by_id: &BTreeMap<ExpertId, ExpertIndex>, links: &[Link]) -> Self {
        // A checked expert has a tier.
        let serves = spec.bytes.first_key_value().map_or(Tier::Remote, |(tier, _)| *tier);
        let home = spec.bytes.last_key_value().map_or(serves, |(tier, _)| *tier);
        let mut hops = Vec::new();
        for ((to, needs), (from, bytes)) in spec.bytes.iter().zip(spec.bytes.iter().skip(1)) {
            let link = links.iter().position(|link| link.spec().from == *from && link.spec().to == *to);
            hops.extend(link.map(|link| Hop { link, from: *from, to: *to, bytes: *bytes, needs: *needs }));
        }
        hops.reverse();
        let base = match &spec.kind {
            Kind::Adapter { base } => by_id.get(base).copied(),
            Kind::Full | Kind::Weights { .. } => None,
        };
        let mut copies = [None; TIERS];
        copies[home.index()] = spec.bytes.get(&home).copied();
        Self {
            serves,
            home,
            base,
            hops,
            phase: Phase::resting(home, serves),
            generation: Generation::default(),
            copies,
            places: [NONE; TIERS],
            moving: None,
            leases: 0,
            pin: Pin::None,
            dependants: 0,
            hot_since_us: 0,
            unasked: false,
            used_us: 0,
            batch_us: spec.batch_us as f64,
            drained_for_operator: false,
            stuck_until_us: 0,
            spec: Arc::new(spec),
        }
    }

    pub(super) fn nearest(&self) -> Tier {
        Tier::ALL.into_iter().find(|tier| self.copies[tier.index()].is_some()).unwrap_or(self.home)
    }

    /// Whether a transition towards somewhere nearer may begin, bytes and links aside.
    pub(super) fn can_begin(&self, now_us: u64) -> bool {
        let rests = match &self.phase {
            Phase::Absent | Phase::Cold | Phase::Warm => true,
            Phase::Failed { retry_at_us, .. } => self.moving.is_none() && now_us >= *retry_at_us,
            _ => false,
        };
        rests && self.nearest() != self.serves
    }

    pub(super) fn copy(&self, tier: Tier) -> Option<u64> {
        self.copies[tier.index()]
    }

    /// Bytes that a journey needs, by tier.
    pub(super) fn needs(&self, from: Tier, to: Tier) -> impl Iterator<Item = (Tier, u64)> + '_ {
        self.hops.iter().filter(move |hop| hop.from <= from && hop.to >= to).map(|hop| (hop.to, hop.needs))
    }
}
