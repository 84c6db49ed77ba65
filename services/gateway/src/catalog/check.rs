//! Whether the wanted objects fit together.

use admission::KeySpec;
use experts::{ExpertSpec, Registry};
use routing::ExpertId;

use super::{Category, Desired, Owner};
use crate::config::RouteSpec;
use crate::problem::{Problem, hint, nearest};

/// Checks a configuration's experts and routes against each other, and against the router's categories
/// where those are known.
pub fn check_file(config: &crate::config::Config, categories: Option<&[String]>) -> Vec<Problem> {
    let desired = Desired::from_file(config.declared());
    let known: Vec<Category> = match categories {
        Some(names) => {
            names.iter().map(|n| Category { name: n.clone(), description: String::new() }).collect()
        }
        None => Vec::new(),
    };
    let mut problems: Vec<Problem> =
        check(&desired, &known, None).into_iter().map(|(_, problem)| problem).collect();
    if categories.is_none() {
        problems.retain(|p| !p.message.contains("no router model is loaded"));
    }
    problems
}

/// Whether the parts fit together: names, references and categories, and, with a registry, whether it can
/// use the experts. Each problem comes with the object that has it.
pub(super) fn check(
    desired: &Desired,
    categories: &[Category],
    registry: Option<&Registry>,
) -> Vec<(Owner, Problem)> {
    let mut problems = Vec::new();
    for (id, entry) in &desired.experts {
        let own = match registry {
            Some(registry) => registry.check(&entry.value, entry.origin.trust()),
            None => entry.value.validate(),
        };
        let mut found: Vec<Problem> = own.into_iter().map(|p| Problem::at(p.path, p.message)).collect();
        found.extend(skill_problems(&entry.value, categories));
        let place = format!("experts.{id}");
        problems.extend(found.into_iter().map(|p| (Owner::Expert(id.clone()), p.below(&place))));
    }
    for (id, entry) in &desired.routes {
        let found = route_problems(&entry.value, desired, categories);
        let place = format!("routes.{id}");
        problems.extend(found.into_iter().map(|p| (Owner::Route(id.clone()), p.below(&place))));
    }
    for (id, entry) in &desired.teams {
        let found = entry.value.problems().into_iter().map(|p| Problem::at(p.path, p.message));
        let place = format!("teams.{id}");
        problems.extend(found.map(|p| (Owner::Team(id.clone()), p.below(&place))));
    }
    for (id, entry) in &desired.keys {
        let place = format!("keys.{id}");
        let found = key_problems(&entry.value, desired).into_iter();
        problems.extend(found.map(|p| (Owner::Key(id.clone()), p.below(&place))));
    }
    problems
}

fn key_problems(key: &KeySpec, desired: &Desired) -> Vec<Problem> {
    let own = key.problems().into_iter().map(|p| Problem::at(p.path, p.message));
    let mut problems: Vec<Problem> = own.collect();
    if let Some(team) = key.team.as_deref().filter(|team| !desired.teams.contains_key(*team)) {
        let hint = hint(team, desired.teams.keys().map(String::as_str));
        problems.push(Problem::at("team", format!("there is no team `{team}`{hint}")));
    }
    problems
}

fn skill_problems(expert: &ExpertSpec, categories: &[Category]) -> Vec<Problem> {
    let names = || categories.iter().map(|c| c.name.as_str());
    let mut problems = Vec::new();
    for skill in expert.skills.keys() {
        // Without a router model there are no categories to check against.
        if !categories.is_empty() && !names().any(|n| n == skill) {
            let hint = match nearest(skill, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it knows {}", names().collect::<Vec<_>>().join(", ")),
            };
            let message = format!("the router has no category `{skill}`; {hint}");
            problems.push(Problem::at(format!("skills.{skill}"), message));
        }
    }
    problems
}

fn route_problems(route: &RouteSpec, desired: &Desired, categories: &[Category]) -> Vec<Problem> {
    let mut problems = route.problems();
    if route.reads_prompts() && categories.is_empty() {
        let message = "looks at prompts, and no router model is loaded; set router.load: always and restart";
        problems.push(Problem::at("policy", message));
    }
    if desired.experts.contains_key(&route.id) {
        let message = "is the name of an expert as well; a model name must mean one thing";
        problems.push(Problem::at("id", message));
    }
    for (field, expert) in named_by(route) {
        if !desired.experts.contains_key(&expert) {
            let hint = hint(expert.as_str(), desired.experts.keys().map(ExpertId::as_str));
            problems.push(Problem::at(field, format!("there is no expert `{expert}`{hint}")));
        }
    }
    problems
}

/// The experts that a route names, with the field that does.
pub(super) fn named_by(route: &RouteSpec) -> Vec<(&'static str, ExpertId)> {
    let mut names: Vec<(&'static str, ExpertId)> =
        route.default.iter().map(|e| ("default", e.clone())).collect();
    if let Ok(policy) = route.planner() {
        names.extend(policy.named_experts().into_iter().map(|e| ("policy", e.clone())));
    }
    names
}
