//! `/admin/v1/categories`: the labels of the router's classifier. They come with its model; only what is said
//! about them can be changed.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Admin;
use super::change::{Write, WriteParams, missing};
use super::document::{Named, Refused, Unwritten};
use super::etag::{IfMatch, Tagged, etag_of};
use super::page::{Page, PageParams};
use super::read::{Body, Name, Params};
use crate::catalog::{Desired, Edit, View};
use crate::error::ApiError;

/// A category with the experts that are good at it.
#[derive(Serialize, ToSchema)]
#[schema(as = Category)]
pub(super) struct CategoryView {
    /// The label.
    name: String,
    /// What belongs to it, for people.
    description: String,
    /// w(c,e) of the experts that have one above 0.
    experts: BTreeMap<String, f32>,
    /// Changes with the description.
    etag: String,
}

/// What can be said about a category.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    /// What belongs to it, for people.
    description: String,
}

/// The category of that name as it is in `desired`.
fn shown(view: &View, desired: &Desired, name: &str) -> Option<CategoryView> {
    let (category, _) = view.categories.iter().find(|(c, _)| c.name == name)?;
    let description = desired.categories.get(name).unwrap_or(&category.description).clone();
    let skilled = desired.experts.iter().filter_map(|(id, entry)| {
        let weight = *entry.value.skills.get(name)?;
        (weight > 0.0).then(|| (id.to_string(), weight))
    });
    let etag = etag_of(&(name, &description));
    Some(CategoryView { name: name.to_owned(), description, experts: skilled.collect(), etag })
}

fn none(view: &View, name: &str) -> ApiError {
    missing("category", name, view.categories.iter().map(|(c, _)| c.name.as_str()))
}

/// Lists the categories by name.
#[utoipa::path(
    get, path = "/categories",
    operation_id = "listCategories", tag = "routing",
    params(PageParams),
    responses((status = 200, description = "The categories", body = Page<CategoryView>), Refused)
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Json<Page<CategoryView>> {
    let view = admin.view();
    let mut names: Vec<&str> = view.categories.iter().map(|(c, _)| c.name.as_str()).collect();
    names.sort_unstable();
    let shown = names.into_iter().filter_map(|name| Some((name, shown(&view, &view.desired, name)?)));
    Json(params.cut(shown, |category| category))
}

/// Shows one category.
#[utoipa::path(
    get, path = "/categories/{name}",
    operation_id = "getCategory", tag = "routing",
    params(("name" = String, Path)),
    responses((status = 200, description = "The category", body = CategoryView), Refused, Named)
)]
pub(super) async fn get(
    State(admin): State<Admin>,
    Name(name): Name,
) -> Result<Tagged<CategoryView>, ApiError> {
    let view = admin.view();
    let category = shown(&view, &view.desired, &name).ok_or_else(|| none(&view, &name))?;
    Ok(Tagged::ok(category.etag.clone(), category))
}

/// Describes a category.
#[utoipa::path(
    put, path = "/categories/{name}",
    operation_id = "describeCategory", tag = "routing",
    params(("name" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = Description,
    responses(
        (status = 200, description = "The category", body = CategoryView),
        Refused, Named, Unwritten
    )
)]
pub(super) async fn describe(
    Name(name): Name,
    write: Write,
    Body(mut fields): Body,
) -> Result<Tagged<CategoryView>, ApiError> {
    for added in ["name", "experts"] {
        fields.remove(added);
    }
    let etag = fields.remove("etag").and_then(|etag| etag.as_str().map(str::to_owned));
    let write = write.for_version(etag);
    let Description { description } = Body(fields).read()?;
    let (view, wanted) = (write.admin.view(), name.clone());
    let plan = move |desired: &Desired, if_match: &IfMatch| {
        let now = shown(&view, desired, &wanted).ok_or_else(|| none(&view, &wanted))?;
        if_match.check(&format!("category `{wanted}`"), &now.etag)?;
        Ok(vec![Edit::DescribeCategory(wanted, description)])
    };
    let desired = write.change("", plan).await?;
    let view = write.admin.view();
    let category = shown(&view, &desired, &name).ok_or_else(|| none(&view, &name))?;
    Ok(Tagged::ok(category.etag.clone(), category))
}
