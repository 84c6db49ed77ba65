//! The series that a request adds to, found once.
//!
//! A metric finds a series by its labels: it hashes their text, under a lock that all requests share. What a
//! request adds to is known once its route and its expert are, so each keeps what was found for it, from its
//! first use on: a series shows when something was counted, not before.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use routing::{Basis, ExpertId};

use super::timing::Timing;
use super::{Answered, Metrics, Name, OfCategory, OfExpert, Reasoned, Text};
use crate::decision::{Decision, Path};

/// How many reasons a plan can rest on.
const BASES: usize = Basis::Unread as usize + 1;

/// The series of a catalogue's experts and categories. A new catalogue finds them anew.
#[derive(Debug, Default)]
pub struct Series {
    experts: HashMap<ExpertId, Arc<ExpertSeries>>,
    categories: Box<[OnceLock<Counter>]>,
    unrouted: Arc<RouteSeries>,
}

/// The series of one expert.
#[derive(Debug, Default)]
pub struct ExpertSeries {
    /// By answer, sorted. Copied when an answer of a new kind is counted, which happens a few times.
    answers: ArcSwap<Vec<(Kind, Counter)>>,
    first_token: OnceLock<Timing>,
    inter_token: OnceLock<Histogram>,
    prompt_tokens: OnceLock<Counter>,
    completion_tokens: OnceLock<Counter>,
    cost: OnceLock<Counter<f64, AtomicU64>>,
}

/// The series of one route.
#[derive(Debug)]
pub struct RouteSeries {
    /// Tells the routes of a catalogue apart.
    number: u32,
    duration: OnceLock<Timing>,
    plans: [OnceLock<Counter>; BASES],
}

/// What tells an expert's answers apart: route, category, way and status.
type Kind = (u32, u32, Option<Path>, u16);

impl Series {
    /// Of these experts and so many categories.
    pub fn new<'a>(experts: impl Iterator<Item = &'a ExpertId>, categories: usize) -> Self {
        Self {
            experts: experts.map(|id| (id.clone(), Arc::default())).collect(),
            categories: (0..categories).map(|_| OnceLock::new()).collect(),
            unrouted: Arc::default(),
        }
    }

    /// The series of an expert; empty ones where it is not known, which are as good.
    pub fn expert(&self, id: &str) -> Arc<ExpertSeries> {
        self.experts.get(id).cloned().unwrap_or_default()
    }

    /// The series of requests that name an expert in the place of a route.
    pub fn unrouted(&self) -> &Arc<RouteSeries> {
        &self.unrouted
    }
}

impl RouteSeries {
    /// Of a route that has this number among its catalogue's routes.
    pub fn new(number: usize) -> Self {
        let number = u32::try_from(number).unwrap_or(u32::MAX - 1);
        Self { number, duration: OnceLock::new(), plans: Default::default() }
    }
}

/// Of requests without a route.
impl Default for RouteSeries {
    fn default() -> Self {
        Self { number: u32::MAX, ..Self::new(0) }
    }
}

impl Metrics {
    /// Counts an expert's answer. `category` is the number of the record's category.
    pub fn answered(
        &self,
        series: &ExpertSeries,
        route: &RouteSeries,
        category: Option<usize>,
        decision: &Decision,
    ) {
        let category = category.map_or(u32::MAX, |at| at as u32);
        let kind = (route.number, category, decision.path, decision.status);
        let answers = series.answers.load();
        if let Ok(at) = answers.binary_search_by(|(known, _)| known.cmp(&kind)) {
            answers[at].1.inc();
            return;
        }
        let counter = self.requests.get_or_create_owned(&labels(decision));
        counter.inc();
        series.answers.rcu(|known| {
            let mut known = Vec::clone(known);
            if let Err(at) = known.binary_search_by(|(known, _)| known.cmp(&kind)) {
                known.insert(at, (kind, counter.clone()));
            }
            known
        });
    }

    /// Counts a request that no expert answered.
    pub fn unanswered(&self, decision: &Decision) {
        self.requests.get_or_create(&labels(decision)).inc();
    }

    /// From arrival to the last byte, of requests to a route.
    pub fn duration_of<'a>(&self, series: &'a RouteSeries, route: Option<&ExpertId>) -> &'a Timing {
        series.duration.get_or_init(|| self.duration.of(route))
    }

    /// Counts a plan of a route.
    pub fn planned(&self, series: &RouteSeries, policy: &'static str, basis: Basis) {
        let find = || self.decisions.get_or_create_owned(&Reasoned { policy, basis: basis.as_str() });
        series.plans[basis as usize].get_or_init(find).inc();
    }

    /// Counts a prompt of a category, which has this number.
    pub fn category(&self, series: &Series, at: usize, name: &Arc<str>) {
        let find = || self.categories.get_or_create_owned(&OfCategory { category: Text(name.clone()) });
        match series.categories.get(at) {
            Some(known) => known.get_or_init(find).inc(),
            None => find().inc(),
        };
    }

    /// From arrival to a stream's first byte, of an expert.
    pub fn first_token_of<'a>(&self, series: &'a ExpertSeries, expert: &ExpertId) -> &'a Timing {
        series.first_token.get_or_init(|| self.first_token.of(Some(expert)))
    }

    /// Between two pieces of an expert's stream.
    pub fn inter_token_of<'a>(&self, series: &'a ExpertSeries, expert: &ExpertId) -> &'a Histogram {
        series.inter_token.get_or_init(|| self.inter_token.get_or_create_owned(&of(expert)))
    }

    /// Counts tokens that an expert counted, and what they cost in USD.
    pub fn tokens(&self, series: &ExpertSeries, expert: &ExpertId, prompt: u64, completion: u64, usd: f64) {
        series
            .prompt_tokens
            .get_or_init(|| self.prompt_tokens.get_or_create_owned(&of(expert)))
            .inc_by(prompt);
        let find = || self.completion_tokens.get_or_create_owned(&of(expert));
        series.completion_tokens.get_or_init(find).inc_by(completion);
        if usd > 0.0 {
            series.cost.get_or_init(|| self.cost.get_or_create_owned(&of(expert))).inc_by(usd);
        }
    }
}

fn of(expert: &ExpertId) -> OfExpert {
    OfExpert { expert: Name(expert.clone()) }
}

/// The labels of a request by who answered it.
fn labels(decision: &Decision) -> Answered {
    Answered {
        route: decision.route.clone().map(Name),
        category: decision.category.clone().map(Text),
        expert: decision.expert.clone().map(Name),
        path: decision.path,
        status: decision.status,
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::super::exposition::{Format, exposition};
    use super::*;
    use crate::decision::DecisionId;

    /// The samples that show, without those that are there from the start.
    fn shown(registry: &Registry, metrics: &Metrics) -> Vec<String> {
        let text = exposition(registry, metrics, Format::OpenMetrics).unwrap();
        let counted = ["guildhall_requests_total", "guildhall_decisions_total", "guildhall_categories_total"];
        let samples = text.lines().filter(|line| counted.iter().any(|name| line.starts_with(name)));
        let mut samples: Vec<String> = samples.map(str::to_owned).collect();
        samples.sort();
        samples
    }

    #[test]
    fn what_is_kept_counts_to_the_series_of_the_labels() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let id = |id: &str| ExpertId::new(id).unwrap();
        let (auto, fast) = (RouteSeries::new(0), RouteSeries::new(1));
        let mut decision = Decision::example(DecisionId(1));
        decision.expert = Some(id("coder"));
        decision.path = Some(Path::Upstream);
        // A later catalogue finds the same series again.
        for _ in 0..2 {
            let series = Series::new([&id("coder")].into_iter(), 2);
            let coder = series.expert("coder");
            assert_eq!(
                shown(&registry, &metrics).is_empty(),
                metrics.requests.get(&labels(&decision)).is_none()
            );
            let mut answered = |route: Option<(&str, &RouteSeries)>, category: Option<usize>, status| {
                decision.route = route.map(|(name, _)| id(name));
                decision.category = category.map(|at| ["math", "code"][at].into());
                decision.status = status;
                let route = route.map_or(&**series.unrouted(), |(_, route)| route);
                metrics.answered(&coder, route, category, &decision);
            };
            for _ in 0..2 {
                answered(Some(("auto", &auto)), Some(0), 200);
                answered(Some(("auto", &auto)), Some(1), 200);
                answered(Some(("auto", &auto)), None, 200);
                answered(Some(("fast", &fast)), Some(0), 200);
                answered(None, None, 429);
            }
            metrics.planned(&auto, "coe", Basis::Unread);
            metrics.planned(&auto, "coe", Basis::Confident);
            metrics.category(&series, 1, &"code".into());
            metrics.category(&series, 7, &"late".into());
            decision.route = None;
            decision.category = None;
            decision.status = 429;
        }
        let request = |route: &str, category: &str, status: u16| {
            format!(
                "guildhall_requests_total{{route=\"{route}\",category=\"{category}\",expert=\"coder\",path=\"upstream\",status=\"{status}\"}} 4"
            )
        };
        let mut expected = vec![
            request("auto", "math", 200),
            request("auto", "code", 200),
            request("auto", "", 200),
            request("fast", "math", 200),
            request("", "", 429),
            "guildhall_decisions_total{policy=\"coe\",basis=\"unread\"} 2".into(),
            "guildhall_decisions_total{policy=\"coe\",basis=\"confident\"} 2".into(),
            "guildhall_categories_total{category=\"code\"} 2".into(),
            "guildhall_categories_total{category=\"late\"} 2".into(),
        ];
        expected.sort();
        assert_eq!(shown(&registry, &metrics), expected);
    }
}
