//! `/admin/v1/bundles`: router models, uploaded, watched, switched and taken back while prompts are read.

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{FromRequestParts, Request, State};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Admin;
use super::auth::Actor;
use super::change::{WriteParams, invalid, missing};
use super::document::{ErrorBody, Named, Refused, Unwritten};
use super::etag::{IfMatch, Tagged, created, etag_of, segment};
use super::page::{Page, PageParams};
use super::read::{Body, Name, Params, unprocessable};
use super::upload;
use crate::bundles::{BundleView, BundlesError, By, Checked, Comparison};
use crate::catalog::ChangeError;
use crate::error::{ApiError, ErrorKind};
use crate::pipeline::now_ms;
use crate::problem::Problem;

/// A bundle with its version.
#[derive(Serialize, ToSchema)]
#[schema(as = Bundle)]
pub(super) struct Shown {
    #[serde(flatten)]
    bundle: BundleView,
    /// Changes with what is shown.
    etag: String,
}

impl From<BundleView> for Shown {
    fn from(bundle: BundleView) -> Self {
        Self { etag: etag_of(&bundle), bundle }
    }
}

fn tagged(bundle: BundleView) -> Tagged<Shown> {
    let shown = Shown::from(bundle);
    Tagged::ok(shown.etag.clone(), shown)
}

/// Who does something to bundles, and how it is meant.
pub(super) struct Doing {
    by: By,
    if_match: IfMatch,
}

impl FromRequestParts<Admin> for Doing {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, ApiError> {
        let Params(WriteParams { dry_run }) = Params::from_request_parts(parts, admin).await?;
        let if_match = IfMatch::from_request_parts(parts, admin).await?;
        let actor = Actor::from_request_parts(parts, admin).await?;
        let by = By { actor: actor.name().to_owned(), now_ms: now_ms(), dry_run };
        Ok(Self { by, if_match })
    }
}

/// The answer for a refused operation.
pub(super) fn refusal(error: BundlesError) -> ApiError {
    let kind = match &error {
        BundlesError::NotFound { id, known } => {
            return missing("bundle", id, known.iter().map(String::as_str));
        }
        BundlesError::Catalog(ChangeError::Invalid(problems)) => {
            let mut error = invalid(problems, "");
            error.message = format!("the bundle's categories do not fit: {}", error.message).into();
            return error;
        }
        BundlesError::Conflict(_) => ErrorKind::Conflict,
        BundlesError::TooLong(_) => ErrorKind::BodyTooLarge,
        BundlesError::Invalid(_) => ErrorKind::Unprocessable,
        BundlesError::Catalog(_) | BundlesError::Internal(_) => return ApiError::internal(error),
    };
    ApiError::new(kind, error.to_string())
}

/// Lists the router models by id: those that were uploaded, and those that lie beside the configured one.
#[utoipa::path(
    get, path = "/bundles",
    operation_id = "listBundles", tag = "routing",
    params(PageParams),
    responses((status = 200, description = "The bundles", body = Page<Shown>), Refused)
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<Shown>>, ApiError> {
    let all = admin.app.bundles.list().await.map_err(refusal)?;
    Ok(Json(params.cut(all.iter().map(|b| (b.id.as_str(), b)), |b| b.clone().into())))
}

/// Shows one bundle.
#[utoipa::path(
    get, path = "/bundles/{id}",
    operation_id = "getBundle", tag = "routing",
    params(("id" = String, Path)),
    responses((status = 200, description = "The bundle", body = Shown), Refused, Named)
)]
pub(super) async fn get(State(admin): State<Admin>, Name(id): Name) -> Result<Tagged<Shown>, ApiError> {
    admin.app.bundles.get(&id).await.map(tagged).map_err(refusal)
}

/// Uploads a bundle: a tar archive of its directory, plain or gzipped, with the files that its manifest names and
/// no others. It is checked whole and started once before it is there; it decides nothing until it is activated.
#[utoipa::path(
    post, path = "/bundles",
    operation_id = "uploadBundle", tag = "routing",
    params(WriteParams),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses(
        (status = 201, description = "The bundle", body = Shown),
        (status = 200, description = "The bundle as it would be, in a dry run", body = Shown),
        (status = 409, description = "A bundle of that name and version is there", body = ErrorBody),
        (status = 413, description = "The archive is longer than router.max_bundle_bytes", body = ErrorBody),
        (status = 422, description = "The archive is not one, or the bundle in it cannot be used", body = ErrorBody),
        Refused
    )
)]
pub(super) async fn upload(
    State(admin): State<Admin>,
    doing: Doing,
    request: Request<HttpBody>,
) -> Result<Response, ApiError> {
    let app = admin.app.clone();
    let staged = upload::through(request.into_body(), move |source| app.bundles.stage(source)).await?;
    let staged = staged.map_err(refusal)?;
    let dry_run = doing.by.dry_run;
    let shown = Shown::from(admin.app.bundles.admit(staged, doing.by).await.map_err(refusal)?);
    let place = format!("/admin/v1/bundles/{}", segment(&shown.bundle.id));
    Ok(created(dry_run, place, &shown.etag.clone(), shown))
}

/// Checks a bundle whole, its files against its manifest and its golden input, by starting it once.
#[utoipa::path(
    post, path = "/bundles/{id}/validate",
    operation_id = "validateBundle", tag = "routing",
    extensions(("x-required-role" = json!("operator"))),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "It can be used", body = Checked),
        (status = 422, description = "It cannot, and why", body = ErrorBody),
        Refused, Named
    )
)]
pub(super) async fn validate(State(admin): State<Admin>, Name(id): Name) -> Result<Json<Checked>, ApiError> {
    admin.app.bundles.validate(&id).await.map(Json).map_err(refusal)
}

/// Lets a bundle decide from now on. Requests under way keep the one that they began with. Refused when an expert
/// has a skill in a category that the bundle does not know. Ends what reads beside the one that decided.
#[utoipa::path(
    post, path = "/bundles/{id}/activate",
    operation_id = "activateBundle", tag = "routing",
    params(("id" = String, Path), WriteParams),
    responses((status = 200, description = "The bundle", body = Shown), Refused, Named, Unwritten)
)]
pub(super) async fn activate(
    State(admin): State<Admin>,
    Name(id): Name,
    doing: Doing,
) -> Result<Tagged<Shown>, ApiError> {
    admin.app.bundles.activate(&id, doing.by).await.map(tagged).map_err(refusal)
}

/// Lets the bundle decide again that did before. Called twice, it takes itself back.
#[utoipa::path(
    post, path = "/bundles/rollback",
    operation_id = "rollBackBundle", tag = "routing",
    params(WriteParams),
    responses((status = 200, description = "The bundle that decides now", body = Shown), Refused, Unwritten)
)]
pub(super) async fn roll_back(State(admin): State<Admin>, doing: Doing) -> Result<Tagged<Shown>, ApiError> {
    admin.app.bundles.roll_back(doing.by).await.map(tagged).map_err(refusal)
}

/// How a bundle is to read beside the one that decides.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ShadowWish {
    /// The share of the prompts, above 0 and at most 1; 1 when not given.
    sample: Option<f64>,
}

/// Lets a bundle read a share of the prompts beside the one that decides. Its opinion is compared and changes
/// nothing. There is one such bundle; the one before ends.
#[utoipa::path(
    post, path = "/bundles/{id}/shadow",
    operation_id = "shadowBundle", tag = "routing",
    params(("id" = String, Path), WriteParams),
    request_body = Option<ShadowWish>,
    responses((status = 200, description = "The bundle", body = Shown), Refused, Named, Unwritten)
)]
pub(super) async fn shadow(
    State(admin): State<Admin>,
    Name(id): Name,
    doing: Doing,
    body: Option<Body>,
) -> Result<Tagged<Shown>, ApiError> {
    let wish: ShadowWish = body.map_or_else(|| Ok(ShadowWish::default()), Body::read)?;
    let sample = wish.sample.unwrap_or(1.0);
    if !(sample > 0.0 && sample <= 1.0) {
        return Err(unprocessable(Problem::at("sample", "must be above 0 and at most 1")));
    }
    admin.app.bundles.shadow(&id, sample, doing.by).await.map(tagged).map_err(refusal)
}

/// Ends a bundle's reading beside the one that decides. What was compared stays to be seen until another begins.
#[utoipa::path(
    delete, path = "/bundles/{id}/shadow",
    operation_id = "endShadow", tag = "routing",
    params(("id" = String, Path), WriteParams),
    responses((status = 200, description = "The bundle", body = Shown), Refused, Named, Unwritten)
)]
pub(super) async fn end_shadow(
    State(admin): State<Admin>,
    Name(id): Name,
    doing: Doing,
) -> Result<Tagged<Shown>, ApiError> {
    admin.app.bundles.end_shadow(&id, doing.by).await.map(tagged).map_err(refusal)
}

/// Shows how a bundle agrees with the one that decides, as far as it has read beside it since the start. Kept in
/// memory.
#[utoipa::path(
    get, path = "/bundles/{id}/comparison",
    operation_id = "compareBundle", tag = "routing",
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "How they compare", body = Comparison),
        (status = 409, description = "It has read nothing beside another one", body = ErrorBody),
        Refused, Named
    )
)]
pub(super) async fn comparison(
    State(admin): State<Admin>,
    Name(id): Name,
) -> Result<Json<Comparison>, ApiError> {
    admin.app.bundles.get(&id).await.map_err(refusal)?;
    admin.app.bundles.comparison(&id).map(Json).map_err(refusal)
}

/// Removes an uploaded bundle. The one that decides and the one that reads beside it stay.
#[utoipa::path(
    delete, path = "/bundles/{id}",
    operation_id = "deleteBundle", tag = "routing",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "It is gone"), Refused, Named, Unwritten)
)]
pub(super) async fn delete(
    State(admin): State<Admin>,
    Name(id): Name,
    doing: Doing,
) -> Result<StatusCode, ApiError> {
    let Doing { by, if_match } = doing;
    let (object, shown) = (format!("bundle `{id}`"), admin.app.bundles.get(&id).await.map_err(refusal)?);
    if_match.check(&object, &etag_of(&shown))?;
    admin.app.bundles.remove(&id, by).await.map_err(refusal)?;
    Ok(StatusCode::NO_CONTENT)
}
