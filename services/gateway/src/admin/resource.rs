//! What is the same for all objects of the catalogue: listing, creating, reading, replacing, patching and
//! deleting by the conventions of `/admin/v1`.
//!
//! A handler names the kind of object and describes itself for the `OpenAPI` document; what it does is here.

use std::borrow::Borrow;
use std::sync::Arc;

use axum::Json;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Admin;
use super::change::{Write, invalid, missing, writable};
use super::etag::{Tagged, created, segment};
use super::merge::merge;
use super::page::{Page, PageParams};
use super::read::{Body, unprocessable};
use crate::catalog::{Desired, Edit, Entry, Object, Op, View};
use crate::error::ApiError;
use crate::problem::Problem;

/// The fields of a body.
pub(super) type Fields = Map<String, Value>;

/// A kind of object as the admin API offers it.
pub(super) trait Resource: Object {
    /// The object with what the gateway knows of it. Shows `origin` and `etag` beside the settings.
    type Shown: Serialize;

    /// Fields that are shown, besides `origin` and `etag`, and are not the client's to set. They are taken out
    /// of what is sent, so that what was read can be sent back.
    const ADDED: &'static [&'static str] = &[];

    /// The object as it is shown, when `desired` is the wanted state and `view` what is live.
    fn shown(view: &View, desired: &Desired, entry: &Entry<Self>) -> Self::Shown;

    /// What a merge patch is applied to.
    fn settings(&self) -> Value {
        self.stored()
    }

    /// Reads settings that replace those of `old`, or make a new object.
    ///
    /// # Errors
    /// 422 with the place of what is wrong.
    fn read(fields: Fields, _old: Option<&Self>) -> Result<Self, ApiError> {
        Body(fields).read()
    }

    /// What is wrong at the time of writing only: later changes of other objects may make it so again.
    fn problems_when_written(&self, _old: Option<&Self>, _desired: &Desired) -> Vec<Problem> {
        Vec::new()
    }
}

/// An object by its name.
pub(super) fn find<'a, T: Object>(desired: &'a Desired, id: &str) -> Result<&'a Entry<T>, ApiError> {
    let known = || T::table(desired).keys().map(Borrow::borrow);
    T::table(desired).get(id).ok_or_else(|| missing(T::NAME, id, known()))
}

/// An object as it is in `desired`, after a write or a dry run.
pub(super) fn show<T: Resource>(
    admin: &Admin,
    desired: &Desired,
    id: &str,
) -> Result<Tagged<T::Shown>, ApiError> {
    let entry = find::<T>(desired, id)?;
    Ok(Tagged::ok(desired.etag(entry), T::shown(&admin.view(), desired, entry)))
}

/// A page of the objects of a kind, by id.
pub(super) fn list<T: Resource>(admin: &Admin, params: &PageParams) -> Json<Page<T::Shown>> {
    let view = admin.view();
    let entries = T::table(&view.desired).iter().map(|(id, entry)| (id.borrow(), entry));
    Json(params.cut(entries, |entry| T::shown(&view, &view.desired, entry)))
}

/// One object.
pub(super) fn get<T: Resource>(admin: &Admin, id: &str) -> Result<Tagged<T::Shown>, ApiError> {
    show::<T>(admin, &admin.view().desired, id)
}

/// Makes an object of what came.
pub(super) async fn create<T: Resource>(write: &Write, mut fields: Fields) -> Result<Response, ApiError> {
    strip::<T>(&mut fields);
    let value = T::read(fields, None)?;
    let id = value.id().to_string();
    let desired = insert(write, value).await?;
    let shown = show::<T>(&write.admin, &desired, &id)?;
    Ok(made::<T, _>(write, &id, &shown.etag, shown.object))
}

/// Adds an object.
pub(super) async fn insert<T: Resource>(write: &Write, value: T) -> Result<Arc<Desired>, ApiError> {
    let scope = scope::<T>(value.id().borrow());
    let plan = move |desired: &Desired, _: &_| {
        written(&value, None, desired)?;
        Ok(vec![T::edit(Op::Create(Box::new(value)))])
    };
    write.change(scope, plan).await
}

/// The answer with an object that was made: 201 with its address, or 200 in a dry run.
pub(super) fn made<T: Object, S: Serialize>(write: &Write, id: &str, etag: &str, object: S) -> Response {
    let place = format!("/admin/v1/{}s/{}", T::NAME, segment(id));
    created(write.dry_run, place, etag, object)
}

/// Replaces the settings of an object.
pub(super) async fn replace<T: Resource>(
    write: Write,
    id: String,
    mut fields: Fields,
) -> Result<Tagged<T::Shown>, ApiError> {
    let write = write.for_version(strip::<T>(&mut fields));
    rewrite::<T>(&write, id, move |_| fields).await
}

/// Changes settings of an object by a merge patch.
pub(super) async fn patch<T: Resource>(
    write: Write,
    id: String,
    mut fields: Fields,
) -> Result<Tagged<T::Shown>, ApiError> {
    let write = write.for_version(strip::<T>(&mut fields));
    let merged = move |old: &T| {
        let mut whole = match old.settings() {
            Value::Object(whole) => whole,
            _ => Map::new(),
        };
        merge(&mut whole, fields);
        whole
    };
    rewrite::<T>(&write, id, merged).await
}

async fn rewrite<T: Resource>(
    write: &Write,
    id: String,
    fields: impl FnOnce(&T) -> Fields + Send + 'static,
) -> Result<Tagged<T::Shown>, ApiError> {
    let name = id.clone();
    let change = move |desired: &Desired, old: &T| {
        let mut fields = fields(old);
        fields.entry("id").or_insert_with(|| name.as_str().into());
        let new = T::read(fields, Some(old))?;
        if new.id() != old.id() {
            let message =
                format!("must be `{name}`, as in the path; to rename it, make a new {} of it", T::NAME);
            return Err(unprocessable(Problem::at("id", message)));
        }
        written(&new, Some(old), desired)?;
        Ok(T::edit(Op::Replace(Box::new(new), None)))
    };
    update(write, id, change).await
}

/// Applies the edit that `change` makes of an object, when it may be written and is at the caller's version.
pub(super) async fn update<T: Resource>(
    write: &Write,
    id: String,
    change: impl FnOnce(&Desired, &T) -> Result<Edit, ApiError> + Send + 'static,
) -> Result<Tagged<T::Shown>, ApiError> {
    let name = id.clone();
    let plan = move |desired: &Desired, if_match: &_| {
        let entry = find::<T>(desired, &name)?;
        writable(T::NAME, &name, entry.origin)?;
        check_version(desired, entry, if_match)?;
        Ok(vec![change(desired, &entry.value)?])
    };
    let desired = write.change(scope::<T>(&id), plan).await?;
    show::<T>(&write.admin, &desired, &id)
}

/// Removes an object.
pub(super) async fn delete<T: Resource>(write: &Write, id: String) -> Result<StatusCode, ApiError> {
    let plan = move |desired: &Desired, if_match: &_| {
        let entry = find::<T>(desired, &id)?;
        writable(T::NAME, &id, entry.origin)?;
        check_version(desired, entry, if_match)?;
        Ok(vec![T::edit(Op::Delete(id, None))])
    };
    write.change("", plan).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses the write when the object is not at the caller's version.
pub(super) fn check_version<T: Object>(
    desired: &Desired,
    entry: &Entry<T>,
    if_match: &super::etag::IfMatch,
) -> Result<(), ApiError> {
    if_match.check(&format!("{} `{}`", T::NAME, entry.value.id()), &desired.etag(entry))
}

/// Takes out what the API adds to an object when it shows it; gives the etag.
pub(super) fn strip<T: Resource>(fields: &mut Fields) -> Option<String> {
    for added in T::ADDED.iter().chain(&["origin"]) {
        fields.remove(*added);
    }
    fields.remove("etag").and_then(|etag| etag.as_str().map(str::to_owned))
}

/// Where an object stands among all objects.
fn scope<T: Object>(id: &str) -> String {
    format!("{}s.{id}", T::NAME)
}

fn written<T: Resource>(new: &T, old: Option<&T>, desired: &Desired) -> Result<(), ApiError> {
    let found = new.problems_when_written(old, desired);
    if found.is_empty() { Ok(()) } else { Err(invalid(&found, "")) }
}
