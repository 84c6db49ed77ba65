//! Whether every route has somebody who answers, and every expert and category a use.

use std::collections::BTreeSet;
use std::sync::Arc;

use experts::ExpertSpec;
use routing::{Availability, ExpertId, Features, Fleet, Policy, Reads, Request};

use super::report::{Check, Section, some_of};
use crate::config::{Config, RouteSpec, WhenRouterFails};

/// Names that a message lists before it only counts.
const NAMED: usize = 4;

/// Checks the routes. `categories` are the router's, where they are known; `dead` are experts that are known not
/// to answer.
pub(super) fn checks(config: &Config, categories: &[String], dead: &BTreeSet<&str>) -> Vec<Check> {
    let here = Section::Routes;
    let fleet = fleet(&config.experts, categories);
    let mut reached = BTreeSet::new();
    let mut checks = Vec::new();
    for route in &config.routes {
        // What cannot be built is a problem of the configuration, told there.
        let Ok(policy) = route.planner() else { continue };
        let answering = if policy.reads() > Reads::Nothing && categories.is_empty() {
            // Without the router's categories nobody can tell who is skilled.
            config.experts.iter().map(|e| e.id.clone()).collect()
        } else {
            candidates(policy.as_ref(), route, &fleet)
        };
        checks.push(check(route, policy.reads() > Reads::Nothing, &answering, dead));
        reached.extend(answering);
    }
    if !config.routes.iter().any(|r| r.id.as_str() == "auto") {
        let remedy = "name one of the routes `auto`: it is the one for requests that name no model";
        checks.push(here.warning("auto", "there is no route `auto`", remedy));
    }
    let unused: Vec<&str> = config
        .experts
        .iter()
        .map(|e| &e.id)
        .filter(|id| !reached.contains(*id))
        .map(ExpertId::as_str)
        .collect();
    checks.push(if unused.is_empty() {
        here.ok("unused experts", "none: every expert is in reach of a route")
    } else {
        let detail = format!("no route leads to {}", some_of(unused.iter().copied(), NAMED));
        here.warning(
            "unused experts",
            detail,
            "give them skills, or name them in a route; clients can still ask for them by name",
        )
    });
    let reads = config.routes.iter().any(RouteSpec::reads_prompts);
    if reads && !categories.is_empty() {
        checks.push(skills(&fleet));
    }
    checks
}

fn fleet(experts: &[ExpertSpec], categories: &[String]) -> Fleet {
    let categories: Vec<Arc<str>> = categories.iter().map(|c| Arc::from(c.as_str())).collect();
    let mut facts: Vec<_> = experts.iter().map(|e| e.facts(&categories, Availability::Ready)).collect();
    facts.sort_by(|a, b| a.id.cmp(&b.id));
    Fleet { categories: categories.into(), experts: facts }
}

/// Everybody to whom a plan of the route can lead: for an unread prompt, one of every category, and one that could
/// be anything.
fn candidates(policy: &dyn Policy, route: &RouteSpec, fleet: &Fleet) -> BTreeSet<ExpertId> {
    let count = fleet.categories.len();
    let features = |probabilities: Vec<f32>| {
        Some(Features { probabilities: probabilities.into(), tokens: 1, ..Features::default() })
    };
    let sure = (0..count).map(|sure| features((0..count).map(|c| f32::from(u8::from(c == sure))).collect()));
    let flat = features(vec![1.0 / count.max(1) as f32; count]);
    let prompts = [None, flat].into_iter().chain(sure);
    let plans = prompts.map(|features| policy.plan(&Request { features, ..Request::default() }, fleet, 0));
    let planned = plans.flat_map(|plan| plan.candidates).map(|candidate| candidate.expert);
    planned.chain(route.default.clone()).collect()
}

fn check(route: &RouteSpec, reads: bool, answering: &BTreeSet<ExpertId>, dead: &BTreeSet<&str>) -> Check {
    let (here, name) = (Section::Routes, route.id.as_str());
    if answering.is_empty() {
        return here.failure(
            name,
            "nobody can answer: no expert has a skill that the router reads",
            "give the experts skills, or the route a default",
        );
    }
    let gone = |id: &&ExpertId| dead.contains(id.as_str());
    if answering.iter().all(|id| gone(&id)) {
        let detail = format!(
            "none of its experts answers: {}",
            some_of(answering.iter().map(ExpertId::as_str), NAMED)
        );
        return here.failure(
            name,
            detail,
            "mend the experts above, or give the route a default that answers",
        );
    }
    match &route.default {
        Some(default) if dead.contains(default.as_str()) => here.warning(
            name,
            format!("its default `{default}` does not answer"),
            "mend it, or set the route's default to an expert that does",
        ),
        None if reads && route.when_router_fails == WhenRouterFails::Default => here.warning(
            name,
            "has no default: requests fail with 503 while the router is late or broken",
            "set the route's default to a general expert",
        ),
        default => {
            let policy = route.policy.name();
            let by = default.as_ref().map(|d| format!(", default {d}")).unwrap_or_default();
            here.ok(
                name,
                format!("{policy} over {}{by}", some_of(answering.iter().map(ExpertId::as_str), NAMED)),
            )
        }
    }
}

fn skills(fleet: &Fleet) -> Check {
    let skilled = |c: usize| fleet.experts.iter().any(|e| e.skills.get(c).is_some_and(|s| *s > 0.0));
    let without: Vec<&str> =
        fleet.categories.iter().enumerate().filter(|(c, _)| !skilled(*c)).map(|(_, name)| &**name).collect();
    let count = fleet.categories.len();
    if without.is_empty() {
        return Section::Routes.ok("skills", format!("all {count} categories have a skilled expert"));
    }
    let named = some_of(without.iter().copied(), NAMED);
    Section::Routes.warning(
        "skills",
        format!("{} of {count} categories have no skilled expert: {named}", without.len()),
        "give an expert these skills; until then the route's default or robust expert answers",
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    fn config(experts: &str, route: &str) -> Config {
        let text = format!("experts:\n{experts}\nroutes:\n  - {route}\n");
        crate::config::parse(&text, &|_| None).unwrap()
    }

    fn told(config: &Config, dead: &[&str]) -> Vec<(String, Status, String)> {
        let categories = ["code".to_owned(), "math".to_owned()];
        let dead = dead.iter().copied().collect();
        let checks = checks(config, &categories, &dead);
        checks.into_iter().map(|c| (c.name, c.status, c.detail)).collect()
    }

    const TWO: &str = "  - {id: a, backend: {kind: constant, text: x}, skills: {code: 0.9}}
  - {id: b, backend: {kind: constant, text: x}, skills: {code: 0.5}}";

    #[test]
    fn every_route_needs_somebody_and_a_default() {
        let status = |route: &str, dead: &[&str]| told(&config(TWO, route), dead)[0].1;
        assert_eq!(status("{id: auto, policy: {kind: coe}, default: a}", &[]), Status::Ok);
        assert_eq!(status("{id: auto, policy: {kind: coe}}", &[]), Status::Warning);
        assert_eq!(status("{id: auto, policy: {kind: coe}, default: a}", &["a"]), Status::Warning);
        assert_eq!(status("{id: auto, policy: {kind: coe}, default: a}", &["a", "b"]), Status::Failure);
        // Some routes are there to refuse.
        let refusing = "{id: auto, policy: {kind: coe}, when_router_fails: refuse}";
        assert_eq!(status(refusing, &[]), Status::Ok);
        // A fixed order is its own fallback.
        let order = "{id: auto, policy: {kind: static, order: [{expert: a}, {expert: b}]}}";
        assert_eq!((status(order, &[]), status(order, &["a"])), (Status::Ok, Status::Ok));
        let unskilled =
            config("  - {id: a, backend: {kind: constant, text: x}}", "{id: auto, policy: {kind: coe}}");
        assert_eq!(told(&unskilled, &[])[0].1, Status::Failure);
    }

    #[test]
    fn without_categories_nobody_is_called_unused() {
        let config = config(TWO, "{id: auto, policy: {kind: coe}, default: a}");
        let checks = checks(&config, &[], &BTreeSet::new());
        assert!(checks.iter().all(|c| c.status == Status::Ok), "{checks:?}");
    }

    #[test]
    fn idle_experts_and_orphaned_categories_are_named() {
        let found = told(&config(TWO, "{id: auto, policy: {kind: coe}, default: a}"), &[]);
        assert_eq!(found[1].1, Status::Ok);
        assert_eq!(
            (found[2].1, found[2].2.as_str()),
            (Status::Warning, "1 of 2 categories have no skilled expert: math")
        );
        let found = told(&config(TWO, "{id: fast, policy: {kind: static, order: [{expert: a}]}}"), &[]);
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["fast", "auto", "unused experts"]);
        assert_eq!((found[2].1, found[2].2.as_str()), (Status::Warning, "no route leads to b"));
    }
}
