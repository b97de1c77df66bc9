//! `mcp-changes`: how long after a change of its configuration a gateway acts on it; prints a JSON line for each round.
//!
//! It is the API server whose ConfigMap the gateway watches. It adds a server and removes it again, over and over. The
//! clock starts when the event is handed to the watch, and stops when the first call of a tool of that server is
//! answered, or is not any more; such calls are made one after the other without a pause.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use mcp_load::api::Api;
use mcp_load::http::{Conn, Url};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

/// For a change to be seen, and for the gateway to start.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

/// Between two changes.
const CHANGE_PAUSE: Duration = Duration::from_millis(10);

#[derive(Parser)]
#[command(about = "Measures how fast a gateway takes up changes of its configuration", version)]
struct ChangesArgs {
    /// Port of 127.0.0.1 on which it is the API server
    #[arg(long)]
    api_port: u16,
    /// Name of the ConfigMap
    #[arg(long, default_value = "slot")]
    configmap: String,
    /// POST /tools of the gateway
    #[arg(long)]
    gateway: String,
    /// Bearer token
    #[arg(long)]
    token: String,
    /// URL of the server that is always there
    #[arg(long)]
    stays: String,
    /// URL of the server that comes and goes
    #[arg(long)]
    comes: String,
    /// A tool that only the latter has
    #[arg(long)]
    tool: String,
    /// Rounds, each with a line of output
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a round
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
}

/// Calls the tool that comes and goes.
struct ToolCaller {
    url: Url,
    conn: Conn,
    request: Vec<u8>,
}

impl ToolCaller {
    async fn open(args: &ChangesArgs) -> Result<Self, String> {
        let url = Url::parse(&args.gateway)?;
        let body = json!({"method": args.tool, "args": {"message": "m"}}).to_string();
        let head =
            format!("host: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json", url.host, args.token);
        let request = format!("POST {} HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", url.path, body.len());
        let began = Instant::now();
        loop {
            match Conn::open(&url).await {
                Ok(conn) => return Ok(Self { url, conn, request: request.into() }),
                Err(error) if began.elapsed() > CHANGE_LIMIT => {
                    return Err(format!("the gateway is not there: {error}"));
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Calls until the tool is there, or is not.
    async fn until(&mut self, there: bool) -> Result<(), String> {
        loop {
            if self.conn.closed {
                self.conn = Conn::open(&self.url).await.map_err(|e| e.to_string())?;
            }
            let answer = self.conn.call(&self.request).await.map_err(|e| e.to_string())?;
            match answer.status {
                200 if there => return Ok(()),
                404 if !there => return Ok(()),
                200 | 404 => {}
                // While the server goes or comes, a call may find it between the two.
                502..=504 => {}
                other => return Err(format!("status {other}: {}", String::from_utf8_lossy(self.conn.body()))),
            }
        }
    }
}

/// The ConfigMap's text with these servers.
fn snapshot(servers: &[(&str, &str)]) -> String {
    let server = |(name, url): &(&str, &str)| json!({"key": {"namespace": "mcp", "name": name}, "name": name, "url": url, "weight": 1});
    json!({"version": 1, "servers": servers.iter().map(server).collect::<Vec<Value>>()}).to_string()
}

async fn measure(args: &ChangesArgs, api: &Api) -> Result<(), String> {
    let one = snapshot(&[("stays", &args.stays)]);
    let both = snapshot(&[("comes", &args.comes), ("stays", &args.stays)]);
    let mut caller = ToolCaller::open(args).await?;
    // Until it serves what the API server holds.
    api.write(0, both.clone());
    let first = timeout(CHANGE_LIMIT, caller.until(true)).await;
    first.map_err(|_| "the gateway does not take up the ConfigMap")??;
    api.write(0, one.clone());
    timeout(CHANGE_LIMIT, caller.until(false)).await.map_err(|_| "the first server is not removed")??;
    for _ in 0..args.rounds {
        let mut times = [(); 2].map(|()| Histogram::<u64>::new_with_max(20_000_000, 3).expect("bounds are valid"));
        let round = Instant::now();
        while round.elapsed().as_secs_f64() < args.seconds {
            for (index, (content, there)) in [(&both, true), (&one, false)].into_iter().enumerate() {
                sleep(CHANGE_PAUSE).await;
                let content = content.clone();
                let began = Instant::now();
                api.write(0, content);
                let seen = timeout(CHANGE_LIMIT, caller.until(there)).await;
                seen.map_err(|_| format!("a change is not seen after {CHANGE_LIMIT:?}"))??;
                times[index].saturating_record(began.elapsed().as_micros() as u64);
            }
        }
        let changes: u64 = times.iter().map(Histogram::len).sum();
        let [added, removed] = times.map(|times| {
            let at = |share| times.value_at_quantile(share) as f64 / 1000.0;
            json!({"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)})
        });
        println!("{}", json!({"changes": changes, "added": added, "removed": removed}));
    }
    Ok(())
}

async fn run(args: ChangesArgs) -> Result<(), String> {
    let listener = TcpListener::bind(("127.0.0.1", args.api_port)).await.map_err(|e| e.to_string())?;
    let api = Api::new([(args.configmap.clone(), snapshot(&[("stays", &args.stays)]))]);
    tokio::select! {
        ended = Rc::clone(&api).serve(listener) => Err(format!("the API server ended: {ended:?}")),
        measured = measure(&args, &api) => measured,
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    match local.block_on(&runtime, run(ChangesArgs::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mcp-changes: {error}");
            ExitCode::FAILURE
        }
    }
}
