use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, header};
use serde_json::Value;
use stores::{EmbeddedMemory, EmbeddedStore, Options};
use tower::ServiceExt;

use crate::admin::token::{Credentials, TokenHash};
use crate::app::{App, Ready};
use crate::bundles::{Bundles, Opened, ShadowMetrics, Starter};
use crate::catalog::{Catalog, Category, RouterModel, Space};
use crate::config::{Config, parse};
use crate::decision::DecisionLog;
use crate::feedback::Feedback;
use crate::http::tls::PlanesTls;
use crate::ids::Ids;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::reload::Current;
use crate::session::Sessions;

pub(crate) const TOKEN: &str = "the token of these tests";
pub(crate) const VIEWER: &str = "the token of a viewer";
pub(crate) const OPERATOR: &str = "the token of an operator";

/// Two experts and a route that belong to the file.
pub(crate) const FILE: &str = "
admin:
  token: '${TOKEN}'
  tokens:
    - {name: board, role: viewer, token: the token of a viewer}
    - {name: night-shift, role: operator, token: the token of an operator}
upstream: {allow_private: ['127.0.0.0/8']}
experts:
  - {id: general, backend: {kind: constant, text: from general}, skills: {chat: 0.5}}
  - id: keyed
    backend: {kind: llm, endpoints: [{url: 'http://127.0.0.1:9/v1'}], api_key: '${KEY}'}
routes:
  - {id: auto, policy: {kind: static, order: [{expert: general}]}, default: general}
";

pub(crate) const KEY: &str = "sk-of-the-file-0123456789";

/// A gateway with the admin API in front.
pub(crate) struct Api {
    pub(crate) app: Arc<App>,
    router: Router,
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl Api {
    /// With the categories `chat`, `code` and `math`.
    pub(crate) fn new() -> Self {
        Self::over(&["chat", "code", "math"], EmbeddedStore::in_memory(Options::default()).unwrap().into())
    }

    pub(crate) fn over(categories: &[&str], store: Arc<EmbeddedStore>) -> Self {
        Self::with_file(FILE, categories, store)
    }

    pub(crate) fn with_file(file: &str, categories: &[&str], store: Arc<EmbeddedStore>) -> Self {
        let env = |name: &str| match name {
            "TOKEN" => Some(TOKEN.to_owned()),
            "KEY" => Some(KEY.to_owned()),
            _ => None,
        };
        let config: Config = parse(file, &env).unwrap();
        let category = |name: &&str| Category { name: (*name).into(), description: format!("about {name}") };
        let categories = categories.iter().map(category).collect();
        let registry = ::experts::Registry::new(::experts::Client::new(&config.upstream).unwrap());
        let space = Space { id: "tiny".into(), dimensions: 4 };
        let router = RouterModel { categories, space: Some(space), ..RouterModel::default() };
        let starter = Starter::new(config.router.clone(), None);
        let (opened, _) = Opened::new(starter, &store, Path::new("/nonexistent/store.redb"), false).unwrap();
        let catalog = Arc::new(Catalog::open(config.declared(), router, registry, store.clone()).unwrap());
        let mut metrics = prometheus_client::registry::Registry::default();
        let pipeline = Pipeline {
            catalog: catalog.clone(),
            shadow: Arc::default(),
            pools: crate::residency::Pools::default(),
            memory: Arc::new(Memory::new(
                Arc::new(EmbeddedMemory::open(store.clone()).unwrap()),
                config.memory.clone(),
            )),
            feedback: Feedback::new(store, config.feedback.clone(), &mut metrics),
            router_deadline: Duration::from_secs(1),
            gatekeeper: crate::auth::Gatekeeper::new(true, None),
            ledger: Arc::default(),
            decisions: Arc::new(DecisionLog::new(10)),
            sessions: Sessions::new(10),
            metrics: Metrics::register(&mut metrics),
            tracer: None,
            access: None,
            limits: config.data.clone(),
            places: Arc::new(tokio::sync::Semaphore::new(10)),
            ids: Ids::new(1),
        };
        let credentials = Credentials::new(TokenHash::of(TOKEN), &config.admin.tokens);
        let app = Arc::new(App {
            bundles: Bundles::new(opened, catalog, Arc::default(), ShadowMetrics::default()),
            pipeline: Arc::new(pipeline),
            current: Current::new(config),
            metrics: Arc::new(metrics),
            credentials,
            new_token: None,
            export: std::sync::Mutex::new(None),
            tls: PlanesTls::default(),
            ready: Arc::new(Ready::default()),
            role: crate::app::Role::All,
            lender: None,
        });
        Self { router: crate::admin::router(app.clone()), app }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(!text.contains(KEY), "a secret in {text}");
        let body = serde_json::from_str(&text).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, text, body }
    }

    pub(crate) async fn with(
        &self,
        method: &str,
        path: &str,
        if_match: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        self.send(request(method, path, if_match, body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.with("GET", path, None, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.with("POST", path, None, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.with("PUT", path, None, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.with("PATCH", path, None, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.with("DELETE", path, None, None).await
    }

    pub(crate) fn store(&self) -> &EmbeddedStore {
        self.app.pipeline.catalog.store()
    }
}

pub(crate) fn request(
    method: &str,
    path: &str,
    if_match: Option<&str>,
    body: Option<Value>,
) -> Request<Body> {
    let mut builder = Request::builder()
        .method(method)
        .uri(format!("/admin/v1{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
    if let Some(tag) = if_match {
        builder = builder.header(header::IF_MATCH, tag);
    }
    match body {
        Some(body) => builder
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .unwrap(),
        None => builder.body(Body::empty()).unwrap(),
    }
}

impl Answer {
    /// The error's message and place, after a look at its shape.
    pub(crate) fn refused(&self, status: u16, code: &str) -> (String, Option<String>) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let error = self.body["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message", "param", "type"]);
        assert_eq!(error["code"], code, "{}", self.text);
        (error["message"].as_str().unwrap().to_owned(), error["param"].as_str().map(str::to_owned))
    }

    /// The object, after a look at the status and at both places of its etag.
    pub(crate) fn object(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let tag = self.headers[header::ETAG].to_str().unwrap();
        assert_eq!(tag, format!("\"{}\"", self.body["etag"].as_str().unwrap()));
        &self.body
    }
}
