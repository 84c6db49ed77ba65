//! What a decision costs, features given. Run: `cargo bench -p routing`.

use std::sync::Arc;

use divan::{Bencher, black_box};
use routing::policy::CoeConfig;
use routing::{ExpertFacts, ExpertId, Features, Fleet, PolicyConfig, Request};

/// Categories of the shipped router.
const CATEGORIES: usize = 19;

fn main() {
    divan::main();
}

fn fleet(experts: usize) -> Option<Fleet> {
    let facts = |i: usize| {
        Some(ExpertFacts {
            skills: (0..CATEGORIES).map(|c| ((i * 7 + c * 13) % 100) as f32 / 100.0).collect(),
            cost: (i % 11) as f32,
            ..ExpertFacts::new(ExpertId::new(format!("expert-{i:05}")).ok()?)
        })
    };
    let categories = (0..CATEGORIES).map(|c| Arc::from(format!("c{c}"))).collect();
    Some(Fleet { categories, experts: (0..experts).map(facts).collect::<Option<_>>()? })
}

#[divan::bench(args = [5, 20, 100, 1000])]
fn coe(bencher: Bencher<'_, '_>, experts: usize) {
    let (Some(fleet), Ok(policy)) = (fleet(experts), PolicyConfig::Coe(CoeConfig::default()).build()) else {
        return;
    };
    let probabilities = (0..CATEGORIES).map(|c| if c == 3 { 0.82 } else { 0.01 }).collect();
    let features = Features { probabilities, tokens: 64, ..Features::default() };
    let request = Request { features: Some(features), ..Request::default() };
    bencher.bench(|| policy.plan(black_box(&request), black_box(&fleet), 7));
}
