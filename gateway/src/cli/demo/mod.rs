//! `portcullis-gateway demo`: the whole product on one machine, with nothing else installed.
//!
//! Two small MCP servers, one over legacy HTTP+SSE and one over streamable HTTP, share the tool `time`; the gateway in
//! front of them uses a secret generated for this run.

mod servers;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use portcullis_runtime::print::print_line;
use portcullis_runtime::serve::{self, ServeError};
use portcullis_runtime::{Drain, Limits, Readiness, Supervisor, log, signal};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::auth::{Secret, Settings};
use crate::cli::run::{runtime, told};
use crate::cli::token as token_command;
use crate::cli::token::TokenArgs;
use crate::config::Options;
use crate::gateway::Gateway;
use portcullis_mcp::http1::{HttpPool, Origin};

/// A gateway with many servers may point all of them here.
const DEMO_CONNECTIONS: usize = 100_000;

/// The demo ends this long after the first signal, whatever it is doing.
const LAST: Duration = Duration::from_secs(10);

/// Flags of the demo.
#[derive(Args, Clone, Debug, Default)]
pub struct DemoArgs {
    /// Port of the gateway; if it is taken, any free port
    #[arg(long, default_value_t = 5000)]
    pub(crate) demo_port: u16,
    /// End after the first call instead of waiting for Ctrl-C
    #[arg(long)]
    pub(crate) once: bool,
    /// Run only the two MCP servers, at this ADDRESS:PORT, under /sse and /mcp
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["once", "demo_port"])]
    pub(crate) serve: Option<SocketAddr>,
}

/// Runs the demo until Ctrl-C.
///
/// # Errors
/// Anything that keeps it from working.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let (sink, _guard) = portcullis_runtime::LogSink::to(std::io::stderr())?;
    log::init("WARNING", false, sink)?;
    match args.serve {
        Some(address) => runtime()?.block_on(serve_alone(address)),
        None => runtime()?.block_on(show(args)),
    }
}

/// Runs the servers without a gateway, for tests of a gateway elsewhere.
async fn serve_alone(address: SocketAddr) -> anyhow::Result<()> {
    let stop = signal::termination(LAST)?;
    let mut tasks = Supervisor::new();
    let both = servers::legacy().merge(servers::streamable());
    let address = start(&mut tasks, "demo servers", address, both).await?;
    print_line(format!("MCP servers: http://{address}/sse (legacy HTTP+SSE), http://{address}/mcp (streamable HTTP)"))?;
    let drain = Drain { readiness: Readiness::default(), delay: Duration::ZERO, grace: Duration::from_secs(2) };
    Ok(tasks.run(stop, drain).await?)
}

async fn show(args: &DemoArgs) -> anyhow::Result<()> {
    let stop = signal::termination(LAST)?;
    let mut tasks = Supervisor::new();
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let legacy = start(&mut tasks, "demo server (HTTP+SSE)", free, servers::legacy()).await?;
    let modern = start(&mut tasks, "demo server (streamable HTTP)", free, servers::streamable()).await?;
    let urls = [format!("http://{legacy}/sse"), format!("http://{modern}/mcp")];
    let (gateway, token) = gateway(args.demo_port, &urls.join(",")).await?;
    let address = gateway.address();
    let ending = tasks.shutdown();
    tasks.spawn("gateway", async move { gateway.run(async move { ending.requested().await }).await });

    let once = args.once;
    let tour = async move {
        let first = first_call(address, &token).await;
        if let Err(error) = tell(address, &urls, &token, first.as_deref()) {
            eprintln!("cannot write to the standard output: {error}");
        }
        if !once {
            stop.await;
        }
    };
    let drain = Drain { readiness: Readiness::default(), delay: Duration::ZERO, grace: Duration::from_secs(8) };
    Ok(tasks.run(tour, drain).await?)
}

async fn start(
    tasks: &mut Supervisor,
    name: &'static str,
    at: SocketAddr,
    router: axum::Router,
) -> Result<SocketAddr, ServeError> {
    let listener = serve::listen(at).await?;
    let address = listener.local_addr().unwrap_or(at);
    let limits = Limits { connections: DEMO_CONNECTIONS, drain_grace: Duration::from_secs(1), ..Limits::default() };
    tasks.spawn(name, serve::serve(listener, serve::router(router), limits, Arc::default(), tasks.shutdown()));
    Ok(address)
}

async fn gateway(port: u16, urls: &str) -> anyhow::Result<(Gateway, String)> {
    let mut secret = [0; 48];
    aws_lc_rs::rand::fill(&mut secret).context("the system has no random numbers")?;
    let secret = URL_SAFE_NO_PAD.encode(secret);
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.is_ok();
    let options = Options {
        mcp_urls: Some(urls.to_owned()),
        host: Some("127.0.0.1".into()),
        port: Some(if free { port } else { 0 }.to_string()),
        jwt_secret: Some(secret.clone()),
        grace_seconds: Some("1".into()),
        ..Options::default()
    };
    let gateway = Gateway::bind(options.check().map_err(told)?, None).await?;
    let settings = Settings { secret: Some(Secret::new(secret)), ..Settings::default() };
    let wanted = TokenArgs { subject: Some("demo".into()), ..TokenArgs::default() };
    Ok((gateway, token_command::run(wanted, &settings)?))
}

/// Calls `time` as soon as both servers are connected.
async fn first_call(address: SocketAddr, token: &str) -> anyhow::Result<String> {
    let pool = HttpPool::new(Origin {
        guard: Arc::default(),
        host: address.ip().to_string(),
        port: address.port(),
        authority: HeaderValue::from_str(&address.to_string())?,
        tls: None,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
    });
    let ready = async {
        loop {
            let health = ask(&pool, Method::GET, "/health", "", Bytes::new()).await?;
            if health.contains(r#""connected":2,"#) {
                return anyhow::Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), ready)
        .await
        .context("the gateway did not connect to the demo servers in time")??;
    let call = Bytes::from_static(br#"{"method":"greet","args":{"name":"world"}}"#);
    timeout(Duration::from_secs(10), ask(&pool, Method::POST, "/tools", token, call)).await?
}

async fn ask(
    pool: &Arc<HttpPool>,
    method: Method,
    path: &'static str,
    token: &str,
    body: Bytes,
) -> anyhow::Result<String> {
    let mut headers = HeaderMap::new();
    if !token.is_empty() {
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
    }
    let answer = pool.send(method, &Uri::from_static(path), &headers, body).await?;
    let status = answer.head.status;
    let text = String::from_utf8_lossy(&answer.whole(1024 * 1024).await?).into_owned();
    if !status.is_success() {
        bail!("{path} answered {status}: {text}");
    }
    Ok(text)
}

fn tell(address: SocketAddr, urls: &[String], token: &str, first: Result<&str, &anyhow::Error>) -> std::io::Result<()> {
    let (first, worked) = match first {
        Ok(answer) => (answer.to_owned(), "answered"),
        Err(error) => (format!("{error:#}"), "FAILED"),
    };
    print_line(format!(
        r#"Portcullis is running at http://{address}, with two MCP servers behind it:

  {legacy}   legacy HTTP+SSE   tools: greet, time
  {modern}   streamable HTTP   tools: add, time

The first call {worked}: {first}

Paste these into another terminal:

  export TOKEN={token}
  export JSON="Content-Type: application/json"

  curl http://{address}/health
  curl -H "Authorization: Bearer $TOKEN" http://{address}/servers
  curl -H "Authorization: Bearer $TOKEN" http://{address}/tools/list
  curl -H "Authorization: Bearer $TOKEN" -H "$JSON" http://{address}/tools -d '{{"method":"greet","args":{{"name":"you"}}}}'
  curl -H "Authorization: Bearer $TOKEN" -H "$JSON" http://{address}/tools -d '{{"method":"add","args":{{"a":2,"b":3}}}}'
  curl -H "Authorization: Bearer $TOKEN" -H "$JSON" "http://{address}/tools?shape=value" -d '{{"method":"time"}}'

Both servers offer "time", so it works as long as one of them does. See who answers:

  curl -i -H "Authorization: Bearer $TOKEN" -H "$JSON" http://{address}/tools -d '{{"method":"time","server":"{modern}"}}'

Stop one of the servers (it stays away for 20 seconds) and call "time" again:

  curl -X POST http://{modern_host}/stop
  curl -i -H "Authorization: Bearer $TOKEN" -H "$JSON" http://{address}/tools -d '{{"method":"time","server":"{modern}"}}'

Metrics: curl http://{address}/metrics
Ctrl-C ends everything."#,
        legacy = urls[0],
        modern = urls[1],
        modern_host = urls[1].trim_start_matches("http://").trim_end_matches("/mcp"),
    ))
}
