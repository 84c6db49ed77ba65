use experts::{Client, ClientConfig, ExpertSpec};
use stores::Options;

use super::*;

fn categories() -> Vec<Category> {
    ["code", "math"].map(|n| Category { name: n.into(), description: String::new() }).into()
}

fn model(categories: Vec<Category>) -> RouterModel {
    RouterModel { categories, ..RouterModel::default() }
}

fn expert(text: &str) -> ExpertSpec {
    crate::problem::from_value(crate::config::yaml(text).unwrap()).unwrap()
}

fn route(text: &str) -> RouteSpec {
    crate::problem::from_value(crate::config::yaml(text).unwrap()).unwrap()
}

fn constant(id: &str) -> ExpertSpec {
    expert(&format!("{{id: {id}, backend: {{kind: constant, text: hi}}, skills: {{code: 0.5}}}}"))
}

fn auto() -> RouteSpec {
    route("{id: auto, policy: {kind: static, order: [{expert: filed}]}}")
}

fn declared() -> Declared {
    Declared { experts: vec![constant("filed")], routes: vec![auto()], ..Declared::default() }
}

fn open(store: &Arc<EmbeddedStore>) -> Catalog {
    let registry = Registry::new(Client::new(&ClientConfig::default()).unwrap());
    Catalog::open(declared(), model(categories()), registry, store.clone()).unwrap()
}

fn store() -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::in_memory(Options::default()).unwrap())
}

fn ids(view: &View) -> Vec<&str> {
    view.expert_ids().collect()
}

#[tokio::test]
async fn a_change_is_live_and_outlasts_the_process() {
    let store = store();
    let catalog = open(&store);
    let edit = Edit::Expert(Op::Create(Box::new(constant("added"))));
    catalog.apply(vec![edit], "test", 7, false).await.unwrap();
    assert_eq!(ids(&catalog.view()), ["added", "filed"]);
    assert_eq!(ids(&open(&store).view()), ["added", "filed"]);
    let audit = store.audit(None, 10).unwrap();
    assert_eq!(
        (audit[0].entry.action.as_str(), audit[0].entry.object.as_str()),
        ("expert.create", "experts/added")
    );
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_changes_nothing() {
    let catalog = open(&store());
    let edit = |id: &str| vec![Edit::Expert(Op::Create(Box::new(constant(id))))];
    let would_be = catalog.apply(edit("added"), "test", 0, true).await.unwrap();
    assert_eq!(would_be.experts.len(), 2);
    assert_eq!(ids(&catalog.view()), ["filed"]);
    assert!(matches!(catalog.apply(edit("filed"), "test", 0, true).await, Err(ChangeError::Exists { .. })));
}

#[tokio::test]
async fn all_edits_of_a_change_happen_or_none() {
    let catalog = open(&store());
    let edits = vec![
        Edit::Expert(Op::Create(Box::new(constant("good")))),
        Edit::Expert(Op::Create(Box::new(expert(
            "{id: bad, backend: {kind: constant, text: x}, skills: {cod: 0.5}}",
        )))),
    ];
    let error = catalog.apply(edits, "test", 0, false).await.unwrap_err().to_string();
    assert!(error.contains("experts.bad.skills.cod") && error.contains("did you mean `code`?"), "{error}");
    assert_eq!(ids(&catalog.view()), ["filed"]);
}

#[tokio::test]
async fn what_the_file_owns_is_read_only_but_can_be_drained() {
    let store = store();
    let catalog = open(&store);
    let id = ExpertId::new("filed").unwrap();
    for edit in [
        Edit::Expert(Op::Delete(id.to_string(), None)),
        Edit::Expert(Op::Replace(Box::new(constant("filed")), None)),
    ] {
        let refused = catalog.apply(vec![edit], "test", 0, false).await;
        assert!(matches!(refused, Err(ChangeError::ReadOnly { .. })));
    }
    catalog.apply(vec![Edit::Drain(id, true)], "test", 0, false).await.unwrap();
    for view in [catalog.view(), open(&store).view()] {
        assert_eq!(view.experts.fleet().get("filed").unwrap().availability, Availability::Draining);
    }
}

#[tokio::test]
async fn a_stale_change_is_refused() {
    let catalog = open(&store());
    let created = Edit::Expert(Op::Create(Box::new(constant("added"))));
    let desired = catalog.apply(vec![created], "test", 0, false).await.unwrap();
    let id = ExpertId::new("added").unwrap();
    let etag = desired.etag(&desired.experts[&id]);
    let mut next = constant("added");
    next.description = "changed".into();
    let replace = |etag: &str| vec![Edit::Expert(Op::Replace(Box::new(next.clone()), Some(etag.to_owned())))];
    catalog.apply(replace(&etag), "test", 0, false).await.unwrap();
    let stale = catalog.apply(replace(&etag), "test", 0, false).await.unwrap_err();
    assert!(matches!(&stale, ChangeError::Stale { actual, .. } if *actual != etag), "{stale}");
}

#[tokio::test]
async fn an_expert_that_a_route_names_stays() {
    let catalog = open(&store());
    let added = vec![
        Edit::Expert(Op::Create(Box::new(constant("added")))),
        Edit::Route(Op::Create(Box::new(route(
            "{id: mine, policy: {kind: static, order: [{expert: added}]}}",
        )))),
    ];
    catalog.apply(added, "test", 0, false).await.unwrap();
    let id = ExpertId::new("added").unwrap();
    let refused = catalog
        .apply(vec![Edit::Expert(Op::Delete(id.to_string(), None))], "test", 0, false)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("route `mine`"), "{refused}");
    let both =
        vec![Edit::Route(Op::Delete("mine".into(), None)), Edit::Expert(Op::Delete(id.to_string(), None))];
    catalog.apply(both, "test", 0, false).await.unwrap();
    assert_eq!(ids(&catalog.view()), ["filed"]);
}

#[test]
fn references_to_nothing_are_named() {
    let registry = Registry::new(Client::new(&ClientConfig::default()).unwrap());
    let routes = vec![
        route("{id: auto, policy: {kind: static, order: [{expert: fild}]}}"),
        route("{id: filed, policy: {kind: coe}, default: nobody}"),
    ];
    let opened = Catalog::open(
        Declared { experts: vec![constant("filed")], routes, ..Declared::default() },
        RouterModel::default(),
        registry,
        store(),
    );
    let error = opened.err().unwrap().to_string();
    for part in
        ["routes.auto", "did you mean `filed`?", "routes.filed.id", "routes.filed.default", "router.load"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn a_registered_object_that_no_longer_fits_is_set_aside_and_the_start_goes_on() {
    let store = store();
    let catalog = open(&store);
    let mut skilled = constant("skilled");
    skilled.skills = [("math".to_owned(), 0.5)].into();
    let edits = vec![
        Edit::Expert(Op::Create(Box::new(skilled))),
        Edit::Route(Op::Create(Box::new(route(
            "{id: mine, policy: {kind: static, order: [{expert: skilled}]}}",
        )))),
        Edit::Expert(Op::Create(Box::new(constant("fine")))),
    ];
    catalog.apply(edits, "test", 0, false).await.unwrap();
    let registry = Registry::new(Client::new(&ClientConfig::default()).unwrap());
    let fewer = vec![Category { name: "code".into(), description: String::new() }];
    let reopened = Catalog::open(declared(), model(fewer), registry, store.clone()).unwrap();
    assert_eq!(ids(&reopened.view()), ["filed", "fine"]);
    assert_eq!(reopened.view().routes.len(), 1);
    // It is still stored, and serves again once it fits.
    assert_eq!(ids(&open(&store).view()), ["filed", "fine", "skilled"]);
}

#[tokio::test]
async fn a_new_declaration_replaces_the_files_objects_and_keeps_the_registered_ones() {
    let catalog = open(&store());
    let added = Edit::Expert(Op::Create(Box::new(constant("added"))));
    catalog.apply(vec![added], "test", 0, false).await.unwrap();
    catalog.apply(vec![Edit::Drain(ExpertId::new("added").unwrap(), true)], "test", 0, false).await.unwrap();
    let kept = catalog.view().experts.get("filed").cloned().unwrap();
    let declared = Declared {
        experts: vec![constant("filed"), constant("second")],
        routes: vec![auto()],
        ..Declared::default()
    };
    let view = catalog.redeclare(declared).await.unwrap();
    assert_eq!(ids(&view), ["added", "filed", "second"]);
    assert!(view.desired.drained.contains("added"));
    assert!(Arc::ptr_eq(&kept, view.experts.get("filed").unwrap()), "an unchanged expert keeps its state");
    assert_eq!(ids(&catalog.view()), ["added", "filed", "second"]);
}

#[tokio::test]
async fn a_bad_declaration_changes_nothing() {
    let catalog = open(&store());
    let refused = catalog.redeclare(Declared { routes: vec![auto()], ..Declared::default() }).await;
    assert!(matches!(refused, Err(ChangeError::Invalid(_))));
    assert_eq!((ids(&catalog.view()), catalog.view().revision), (vec!["filed"], 1));
}
