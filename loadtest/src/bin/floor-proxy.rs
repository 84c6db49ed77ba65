//! `floor-proxy`: the least that a proxy can cost. A bare hyper reverse proxy that forwards method, path,
//! headers and body, streams both ways, pools upstream connections, and does nothing else.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST};
use hyper::http::uri::{Authority, Scheme};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// The least that a proxy can cost: a bare hyper reverse proxy.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Where to listen; the address is printed when the proxy is ready.
    #[arg(long, default_value = "127.0.0.1:9101")]
    listen: SocketAddr,
    /// Host and port to forward to.
    #[arg(long, default_value = "127.0.0.1:9100")]
    upstream: Authority,
    /// Threads; one per CPU that the process may use when absent.
    #[arg(long)]
    threads: Option<usize>,
}

type Upstream = Client<HttpConnector, Incoming>;

async fn forward(
    client: Upstream,
    upstream: Authority,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(upstream);
    *request.uri_mut() = Uri::from_parts(parts)?;
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONNECTION);
    Ok(client.request(request).await?)
}

async fn serve(arguments: &Arguments) -> Result<()> {
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("{} cannot be listened on", arguments.listen))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", listener.local_addr()?)?;
    stdout.flush()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Upstream = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(256).build(connector);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, upstream) = (client.clone(), arguments.upstream.clone());
        tokio::task::spawn(async move {
            let service = service_fn(move |request| forward(client.clone(), upstream.clone(), request));
            // A connection that breaks concerns only its client.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn run() -> Result<()> {
    let arguments = Arguments::parse();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = arguments.threads {
        builder.worker_threads(threads.max(1));
    }
    builder.enable_all().build()?.block_on(serve(&arguments))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "floor-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
