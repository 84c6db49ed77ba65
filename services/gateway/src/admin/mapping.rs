//! `/admin/v1/mapping`: w(c,e), how good each expert is expected to be at each category, as one matrix.
//!
//! The matrix is nobody's own: its rows are the `skills` of the experts. A write changes the rows of all
//! experts that it names in one step, or none.

use std::collections::BTreeMap;

use axum::extract::State;
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::Admin;
use super::change::{Write, WriteParams, invalid, writable};
use super::document::{Refused, Unwritten};
use super::etag::{IfMatch, Tagged, etag_of};
use super::impact::Impact;
use super::merge::merge;
use super::read::Body;
use crate::catalog::{Desired, Edit, Op, Origin, View};
use crate::error::ApiError;
use crate::problem::{Problem, hint};

/// Rows by expert: weights by category.
type Rows = BTreeMap<String, BTreeMap<String, f32>>;

/// The matrix with what the gateway knows of it.
#[derive(Serialize, ToSchema)]
#[schema(as = Mapping)]
pub(super) struct MappingView {
    /// The router's categories, in the order of its probabilities.
    categories: Vec<String>,
    /// w(c,e) in 0..=1 by expert and category; what is not named is 0.
    experts: Rows,
    /// Experts whose row belongs to the configuration file.
    read_only: Vec<String>,
    /// Changes with the matrix.
    etag: String,
}

/// The matrix after a write, and what that changes.
#[derive(Serialize, ToSchema)]
pub(super) struct Remapped {
    #[serde(flatten)]
    mapping: MappingView,
    /// What recent decisions would be with it.
    changes: Impact,
}

/// A matrix to write.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MappingSpec {
    /// w(c,e) in 0..=1 by expert and category. An expert that is not named loses its row, unless it belongs to
    /// the configuration file.
    experts: Rows,
}

fn rows(desired: &Desired) -> Rows {
    let row = |(id, entry): (&ExpertId, &crate::catalog::Entry<experts::ExpertSpec>)| {
        (id.to_string(), entry.value.skills.iter().map(|(c, w)| (c.clone(), *w)).collect())
    };
    desired.experts.iter().map(row).collect()
}

fn shown(view: &View, desired: &Desired) -> Tagged<MappingView> {
    let experts = rows(desired);
    let etag = etag_of(&experts);
    let owned = desired.experts.iter().filter(|(_, e)| e.origin == Origin::File);
    let object = MappingView {
        categories: view.categories.iter().map(|(c, _)| c.name.clone()).collect(),
        experts,
        read_only: owned.map(|(id, _)| id.to_string()).collect(),
        etag: etag.clone(),
    };
    Tagged::ok(etag, object)
}

/// A name as a step of a JSON path.
fn step(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain { name.to_owned() } else { format!("[{}]", Value::from(name)) }
}

/// What is wrong with a matrix, by the place in the request.
fn problems(view: &View, desired: &Desired, rows: &Rows) -> Vec<Problem> {
    let mut found = Vec::new();
    let known = || view.categories.iter().map(|(c, _)| c.name.as_str());
    for (expert, row) in rows {
        let place = |p: Problem| p.below(&step(expert)).below("experts");
        if !desired.experts.contains_key(expert.as_str()) {
            let hint = hint(expert, desired.experts.keys().map(ExpertId::as_str));
            found.push(place(Problem::at("", format!("there is no expert `{expert}`{hint}"))));
            continue;
        }
        for (category, weight) in row {
            let place = |message: String| place(Problem::at(step(category), message));
            if !view.categories.is_empty() && !known().any(|c| c == category) {
                let hint = hint(category, known());
                found.push(place(format!("the router has no category `{category}`{hint}")));
            } else if !(0.0..=1.0).contains(weight) {
                found.push(place(format!("must lie in 0..=1, not {weight}")));
            }
        }
    }
    found
}

/// The edits that make the matrix so: one for each row that changes.
fn edits(desired: &Desired, mut rows: Rows) -> Result<Vec<Edit>, ApiError> {
    let mut edits = Vec::new();
    for (id, entry) in &desired.experts {
        let row = rows.remove(id.as_str());
        if entry.origin == Origin::File && row.is_none() {
            continue;
        }
        let skills = row.unwrap_or_default().into_iter().collect();
        if entry.value.skills != skills {
            writable("expert", id.as_str(), entry.origin)
                .map_err(|e| e.with_param(format!("experts.{}", step(id.as_str()))))?;
            let spec = experts::ExpertSpec { skills, ..entry.value.clone() };
            edits.push(Edit::Expert(Op::Replace(Box::new(spec), None)));
        }
    }
    Ok(edits)
}

/// Shows the matrix.
#[utoipa::path(
    get, path = "/mapping",
    operation_id = "getMapping", tag = "routing",
    responses((status = 200, description = "The matrix", body = MappingView), Refused)
)]
pub(super) async fn get(State(admin): State<Admin>) -> Tagged<MappingView> {
    let view = admin.view();
    shown(&view, &view.desired)
}

/// Replaces the matrix, and tells which recent decisions that changes.
#[utoipa::path(
    put, path = "/mapping",
    operation_id = "replaceMapping", tag = "routing",
    params(("if-match" = Option<String>, Header), WriteParams),
    request_body = MappingSpec,
    responses((status = 200, description = "The matrix", body = Remapped), Refused, Unwritten)
)]
pub(super) async fn replace(write: Write, Body(mut fields): Body) -> Result<Tagged<Remapped>, ApiError> {
    let write = write.for_version(strip(&mut fields));
    rewrite(&write, move |_| fields).await
}

/// Changes entries of the matrix by JSON merge patch (RFC 7396): null removes a weight or a row.
/// Tells which recent decisions that changes.
#[utoipa::path(
    patch, path = "/mapping",
    operation_id = "patchMapping", tag = "routing",
    params(("if-match" = Option<String>, Header), WriteParams),
    request_body(content = Object, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "The matrix", body = Remapped), Refused, Unwritten)
)]
pub(super) async fn patch(write: Write, Body(mut fields): Body) -> Result<Tagged<Remapped>, ApiError> {
    let write = write.for_version(strip(&mut fields));
    let merged = move |desired: &Desired| {
        let mut whole = Map::from_iter([("experts".to_owned(), json!(rows(desired)))]);
        merge(&mut whole, fields);
        whole
    };
    rewrite(&write, merged).await
}

fn strip(fields: &mut Map<String, Value>) -> Option<String> {
    fields.remove("categories");
    fields.remove("changes");
    fields.remove("read_only");
    fields.remove("etag").and_then(|etag| etag.as_str().map(str::to_owned))
}

async fn rewrite(
    write: &Write,
    fields: impl FnOnce(&Desired) -> Map<String, Value> + Send + 'static,
) -> Result<Tagged<Remapped>, ApiError> {
    let before = write.admin.view();
    let view = before.clone();
    let plan = move |desired: &Desired, if_match: &IfMatch| {
        if_match.check("the mapping", &etag_of(&rows(desired)))?;
        let MappingSpec { experts } = Body(fields(desired)).read()?;
        let found = problems(&view, desired, &experts);
        if found.is_empty() { edits(desired, experts) } else { Err(invalid(&found, "")) }
    };
    let desired = write.change("", plan).await?;
    let Tagged { status, etag, object: mapping } = shown(&write.admin.view(), &desired);
    let changes = Impact::of(&write.admin, before, desired).await?;
    Ok(Tagged { status, etag, object: Remapped { mapping, changes } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_steps_of_a_path() {
        assert_eq!(step("demo-code"), "demo-code");
        let place = Problem::at(step("math"), "x").below(&step("Qwen/Q2.5")).below("experts");
        assert_eq!(place.path, r#"experts["Qwen/Q2.5"].math"#);
    }
}
