//! `mcp-policies`: how much many policies cost a gateway, and how fast a change of one is live.
//!
//! It is the API server whose ConfigMaps the gateway watches. All identities call, each class of callers lists its tools,
//! and then policies change: the clock starts when the first event is handed to a watch, and stops when the first call is
//! decided by it. Such calls are made one after the other without a pause, while the other identities call too.
//! It prints one JSON object.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use mcp_load::api::Api;
use mcp_load::fleet::{Fleet, POLICIES};
use mcp_load::http::{Conn, Url};
use mcp_load::token::token;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{interval, sleep, timeout};

/// For the gateway to start, and to connect with all servers.
const START_LIMIT: Duration = Duration::from_secs(90);

/// For a change to be seen.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

/// Between two changes.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);

/// After which a process has given back what it needed only for a while.
const SETTLE: Duration = Duration::from_secs(3);

/// Connections of the other identities.
const CONNECTIONS: usize = 8;

#[derive(Parser, Clone)]
#[command(about = "Measures what many policies cost a gateway, and how fast a change of one is live", version)]
struct PoliciesArgs {
    /// Port of 127.0.0.1 on which it is the API server
    #[arg(long)]
    api_port: u16,
    /// Names of the ConfigMaps, with commas
    #[arg(long)]
    configmaps: String,
    /// The gateway, without a path
    #[arg(long)]
    gateway: String,
    /// With which tokens are signed (HS256)
    #[arg(long)]
    secret: String,
    /// Port of the first server
    #[arg(long)]
    first_port: u16,
    #[arg(long, default_value_t = 1000)]
    servers: usize,
    /// Tools of a server
    #[arg(long, default_value_t = 20)]
    tools: usize,
    /// Namespaces and classes of callers
    #[arg(long, default_value_t = 50)]
    teams: usize,
    #[arg(long, default_value_t = 2000)]
    identities: usize,
    /// No policy governs the servers, so there is nothing to change
    #[arg(long)]
    ungoverned: bool,
    /// Changes of policies
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// Calls a second of the other identities meanwhile
    #[arg(long, default_value_t = 500)]
    rate: u64,
}

/// A connection to the gateway.
struct Client {
    url: Url,
    conn: Conn,
}

impl Client {
    async fn open(gateway: &str) -> Result<Self, String> {
        let url = Url::parse(gateway)?;
        let began = Instant::now();
        loop {
            match Conn::open(&url).await {
                Ok(conn) => return Ok(Self { url, conn }),
                Err(error) if began.elapsed() > START_LIMIT => return Err(format!("the gateway is not there: {error}")),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The status of the answer.
    async fn ask(&mut self, request: &[u8]) -> Result<u16, String> {
        if self.conn.closed {
            self.conn = Conn::open(&self.url).await.map_err(|e| e.to_string())?;
        }
        Ok(self.conn.call(request).await.map_err(|e| e.to_string())?.status)
    }

    /// The time that a good answer takes.
    async fn timed(&mut self, request: &[u8]) -> Result<Duration, String> {
        let began = Instant::now();
        match self.ask(request).await? {
            200 => Ok(began.elapsed()),
            other => Err(format!("status {other}: {}", String::from_utf8_lossy(self.conn.body()))),
        }
    }
}

/// What all parts of a run need.
struct Run {
    args: PoliciesArgs,
    fleet: Fleet,
    host: String,
    /// A token for each identity.
    tokens: Vec<String>,
}

impl Run {
    fn new(args: PoliciesArgs) -> Result<Self, String> {
        let fleet = Fleet {
            teams: args.teams,
            servers: args.servers,
            tools: args.tools,
            slots: args.configmaps.split(',').count(),
            first_port: args.first_port,
            governed: !args.ungoverned,
        };
        let signed = |identity| token(&args.secret, 86_400, &fleet.claims(identity % args.teams, identity));
        let tokens = (0..args.identities).map(signed).collect::<Result<_, _>>()?;
        Ok(Self { host: Url::parse(&args.gateway)?.host, fleet, tokens, args })
    }

    fn call(&self, identity: usize, tool: &str) -> Vec<u8> {
        let body = json!({"method": tool, "args": {"message": "m"}}).to_string();
        let head = format!(
            "host: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json",
            self.host, self.tokens[identity]
        );
        format!("POST /tools HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
    }

    fn get(&self, identity: usize, path: &str) -> Vec<u8> {
        let token = &self.tokens[identity];
        format!("GET {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n\r\n", self.host).into()
    }

    /// A call that an identity may make.
    fn usual(&self, turn: usize) -> Vec<u8> {
        let identity = turn % self.args.identities;
        self.call(identity, &self.fleet.usual_tool(identity % self.args.teams, turn))
    }

    /// Waits until the gateway lists the tools of all servers.
    async fn connected(&self, client: &mut Client) -> Result<(), String> {
        let began = Instant::now();
        client.conn.keep = usize::MAX;
        let metrics = self.get(0, "/metrics");
        loop {
            let _ = client.ask(&metrics).await;
            let text = String::from_utf8_lossy(client.conn.body()).into_owned();
            let up = |line: &&str| line.starts_with("portcullis_server_up{") && line.ends_with(" 1");
            if text.lines().filter(up).count() >= self.args.servers {
                return Ok(());
            }
            if began.elapsed() > START_LIMIT {
                return Err("the gateway is not connected with all servers".into());
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn resident_mib(&self, client: &mut Client) -> Result<f64, String> {
        client.timed(&self.get(0, "/metrics")).await?;
        let text = String::from_utf8_lossy(client.conn.body()).into_owned();
        let bytes = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        let bytes: f64 = bytes.and_then(|bytes| bytes.parse().ok()).ok_or("no process_resident_memory_bytes")?;
        Ok(bytes / 1024.0 / 1024.0)
    }

    /// Each class lists twice: the times of the first and of the second list, the last class apart.
    async fn lists(&self, client: &mut Client) -> Result<Value, String> {
        let (mut first, mut again) = (Times::new(), Times::new());
        let (mut bytes, mut everything) = (0, [0.0; 2]);
        client.conn.keep = 0;
        for class in 0..self.args.teams {
            let request = self.get(class, "/tools/list");
            let times = [client.timed(&request).await?, client.timed(&request).await?];
            if class + 1 == self.args.teams {
                everything = times.map(|time| time.as_secs_f64() * 1000.0);
            } else {
                first.add(times[0]);
                again.add(times[1]);
                bytes = client.conn.call(&request).await.map_err(|e| e.to_string())?.length;
            }
        }
        Ok(json!({"first": first.told(), "again": again.told(), "bytes": bytes, "everything_ms": everything}))
    }

    /// What each change writes: a policy of each namespace in turn allows a tool, and in the next turn none. Made in
    /// advance, because it takes time that calls need.
    fn writes(&self) -> Vec<Vec<(usize, String)>> {
        let mut changing = vec![false; self.args.teams];
        let mut before = self.fleet.slots(&changing);
        let changes = (0..self.args.changes).map(|change| {
            let team = change % self.args.teams;
            changing[team] = !changing[team];
            let now = self.fleet.slots(&changing);
            let written = now.iter().enumerate().filter(|(slot, text)| before[*slot] != **text);
            let written = written.map(|(slot, text)| (slot, text.clone())).collect();
            before = now;
            written
        });
        changes.collect()
    }

    /// Changes policies, while the other identities call.
    async fn changes(&self, api: &Api) -> Result<Value, String> {
        let mut caller = Client::open(&self.args.gateway).await?;
        let mut lister = Client::open(&self.args.gateway).await?;
        lister.conn.keep = 0;
        let (mut live, mut list) = (Times::new(), Times::new());
        for (change, written) in self.writes().into_iter().enumerate() {
            sleep(CHANGE_PAUSE).await;
            let team = change % self.args.teams;
            let (guest, tool) = (self.fleet.guest(team), self.fleet.changing_tool(team));
            let identity = guest + self.args.teams * (change % (self.args.identities / self.args.teams));
            let opens = (change / self.args.teams).is_multiple_of(2);
            let (request, wanted) = (self.call(identity, &tool), if opens { 200 } else { 403 });
            let began = Instant::now();
            written.into_iter().for_each(|(slot, text)| api.write(slot, text));
            let decided = async {
                loop {
                    match caller.ask(&request).await? {
                        status if status == wanted => return Ok(()),
                        200 | 403 => {}
                        other => return Err(format!("status {other} while a policy changes")),
                    }
                }
            };
            timeout(CHANGE_LIMIT, decided).await.map_err(|_| format!("change {change} is not seen"))??;
            live.add(began.elapsed());
            list.add(lister.timed(&self.get(identity, "/tools/list")).await?);
        }
        Ok(json!({"live": live.told(), "list_after": list.told()}))
    }

    /// Calls of the other identities, forever; the slowest are told.
    async fn meanwhile(self: Rc<Self>, connection: usize, times: Rc<std::cell::RefCell<Times>>) -> Result<(), String> {
        let mut client = Client::open(&self.args.gateway).await?;
        let mut tick = interval(Duration::from_secs_f64(CONNECTIONS as f64 / self.args.rate as f64));
        for turn in (connection..).step_by(CONNECTIONS) {
            tick.tick().await;
            let took = client.timed(&self.usual(turn)).await?;
            times.borrow_mut().add(took);
        }
        Ok(())
    }
}

/// How long something took, many times.
struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        Self(Histogram::new_with_max(60_000_000, 3).expect("bounds are valid"))
    }

    fn add(&mut self, time: Duration) {
        self.0.saturating_record(time.as_micros() as u64);
    }

    fn told(&self) -> Value {
        let at = |share| self.0.value_at_quantile(share) as f64 / 1000.0;
        json!({"count": self.0.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)})
    }
}

async fn measure(run: Rc<Run>, api: &Api) -> Result<(), String> {
    let mut client = Client::open(&run.args.gateway).await?;
    run.connected(&mut client).await?;
    for turn in 0..run.args.identities {
        client.timed(&run.usual(turn)).await?;
    }
    let lists = run.lists(&mut client).await?;
    sleep(SETTLE).await;
    client.conn.keep = usize::MAX;
    let resident = run.resident_mib(&mut client).await?;
    let mut result = json!({
        "policies": if run.args.ungoverned { 0 } else { run.args.teams * POLICIES },
        "resident_mib": resident,
        "lists": lists,
    });
    if !run.args.ungoverned {
        let times = Rc::new(std::cell::RefCell::new(Times::new()));
        let others = (0..CONNECTIONS).map(|connection| run.clone().meanwhile(connection, times.clone()));
        let mut others: tokio::task::JoinSet<_> = others.fold(tokio::task::JoinSet::new(), |mut set, other| {
            set.spawn_local(other);
            set
        });
        let changes = tokio::select! {
            changes = run.changes(api) => changes?,
            Some(ended) = others.join_next() => return Err(format!("a call failed meanwhile: {ended:?}")),
        };
        result["changes"] = changes;
        result["meanwhile"] = times.borrow().told();
        result["resident_after_mib"] = run.resident_mib(&mut client).await?.into();
    }
    println!("{result}");
    Ok(())
}

async fn run(args: PoliciesArgs) -> Result<(), String> {
    let listener = TcpListener::bind(("127.0.0.1", args.api_port)).await.map_err(|e| e.to_string())?;
    let run = Rc::new(Run::new(args)?);
    let names = run.args.configmaps.split(',').map(str::to_owned);
    let api = Api::new(names.zip(run.fleet.slots(&vec![false; run.args.teams])));
    tokio::select! {
        ended = Rc::clone(&api).serve(listener) => Err(format!("the API server ended: {ended:?}")),
        measured = measure(run, &api) => measured,
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    match local.block_on(&runtime, run(PoliciesArgs::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mcp-policies: {error}");
            ExitCode::FAILURE
        }
    }
}
