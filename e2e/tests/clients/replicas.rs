//! Three replicas of the gateway behind one address: each serves every session.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ::http::Method;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use portcullis_e2e::binary::RunningProgram;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::LIMIT;
use portcullis_e2e::http::{self, HttpAnswer, HttpRequest};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::round_robin::RoundRobin;
use portcullis_e2e::sse::{self, SseEvents};
use portcullis_e2e::token::{SECRET, mint};
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};
use tokio::time::sleep;

const SESSION_COUNT: usize = 1000;
/// Sessions under way at the same time.
const MAX_CONCURRENT_SESSIONS: usize = 50;
const ROUND_COUNT: usize = 3;
const LISTENER_COUNT: usize = 60;
/// The one that is killed, once half of the sessions have ended.
const VICTIM_INDEX: usize = 2;
/// Time for which the visiting server is present, and absent.
const VISIT_LIMIT: Duration = Duration::from_millis(400);
/// A request that a dying replica does not answer is sent again.
const MAX_TRIES: usize = 5;
const HANDED_ON: &str = r#"portcullis_requests_handed_on_total{outcome="ok"} "#;
const KEYS: &str = "first AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// The replicas, and what stands before them: each request goes to the next one.
struct BalancedReplicas {
    proxy: RoundRobin,
    processes: Mutex<Vec<Option<RunningProgram>>>,
    token: String,
}

impl BalancedReplicas {
    async fn start(manifests: &Manifests) -> Self {
        let keys = manifests.servers().join("../session-keys");
        std::fs::write(&keys, KEYS).expect("a file");
        let servers = manifests.servers();
        let environment = [
            ("JWT_SECRET", SECRET),
            ("SERVERS", servers.to_str().expect("a path")),
            ("SESSION_KEYS_FILE", keys.to_str().expect("a path")),
            ("REPLICA_ADDRESS", "127.0.0.1"),
        ];
        let processes: Vec<_> = (0..3).map(|_| RunningProgram::start(&[], &environment)).collect();
        let proxy = RoundRobin::before(processes.iter().map(|process| process.address).collect()).await;
        let processes = Mutex::new(processes.into_iter().map(Some).collect());
        Self { proxy, processes, token: mint("tester") }
    }

    fn url(&self) -> String {
        format!("{}/mcp", self.proxy.origin())
    }

    /// Those that still run.
    fn addresses(&self) -> Vec<SocketAddr> {
        let running = self.processes.lock().expect("nobody panics with it");
        running.iter().flatten().map(|process| process.address).collect()
    }

    /// Number of requests that the running replicas have forwarded.
    async fn handed_on(&self) -> f64 {
        let mut count = 0.0;
        for address in self.addresses() {
            let metrics = http::get(&format!("http://{address}/metrics")).send().await.expect("an answer");
            let line = metrics.text().lines().find_map(|line| line.strip_prefix(HANDED_ON).map(str::to_owned));
            count += line.map_or(0.0, |value| value.parse().expect("a number"));
        }
        count
    }

    fn kill(&self, index: usize) {
        let process = self.processes.lock().expect("nobody panics with it").get_mut(index).and_then(Option::take);
        drop(process.expect("it runs"));
    }

    /// Sends a request that may be repeated: who has no answer because a replica died asks the next one.
    async fn send(&self, request: impl Fn(&str) -> HttpRequest) -> HttpAnswer {
        for _ in 0..MAX_TRIES {
            if let Ok(answer) = request(&self.url()).bearer(&self.token).limit(LIMIT).send().await {
                return answer;
            }
        }
        panic!("no replica answers");
    }
}

/// One session of a client.
struct ReplicaSession<'a> {
    replicas: &'a BalancedReplicas,
    id: String,
}

impl<'a> ReplicaSession<'a> {
    async fn open(replicas: &'a BalancedReplicas) -> Self {
        let client = json!({"name": "many", "version": "1"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string();
        let answer = replicas.send(|url| http::post(url, body.clone())).await;
        assert_eq!((answer.status, &answer.json()["id"]), (200, &json!(0)), "{}", answer.text());
        let session = Self { replicas, id: answer.header("mcp-session-id").to_owned() };
        assert!(!session.id.is_empty(), "it has a session");
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(session.post(&note).await.status, 202);
        session
    }

    fn with_session(&self, request: HttpRequest) -> HttpRequest {
        request.header("mcp-session-id", &self.id).header("mcp-protocol-version", "2025-11-25")
    }

    async fn post(&self, message: &Value) -> HttpAnswer {
        let body = message.to_string();
        self.replicas.send(|url| self.with_session(http::post(url, body.clone()))).await
    }

    /// The result of a request. All sessions use the same ids.
    async fn ask(&self, id: Value, method: &str, params: Value) -> Value {
        let answer = self.post(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut answer = answer.json();
        assert_eq!(answer["id"], id);
        assert!(answer["result"].is_object(), "{answer}");
        answer["result"].take()
    }

    async fn tools(&self) -> Vec<String> {
        let list = self.ask(json!("list"), "tools/list", json!({})).await;
        let tools = list["tools"].as_array().expect("tools");
        tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// The stream of a session, at the next replica that is there.
    async fn listen(&self) -> SseEvents {
        for _ in 0..MAX_TRIES {
            let request = self.with_session(http::get(&self.replicas.url())).bearer(&self.replicas.token);
            if let Ok(events) = sse::open(request).await {
                return events;
            }
        }
        panic!("no replica lets it listen");
    }

    async fn close(self) {
        let tries = AtomicUsize::new(0);
        let answer = self.replicas.send(|url| {
            tries.fetch_add(1, Ordering::Relaxed);
            self.with_session(http::request(Method::DELETE, url))
        });
        let status = answer.await.status;
        // Who asks again may find that the first time was heard.
        let again = tries.load(Ordering::Relaxed) > 1;
        assert!(status == 204 || (again && status == 404), "{status} after {tries:?}");
    }
}

/// The whole life of a session, each request at another replica.
async fn live(replicas: &BalancedReplicas, number: usize) {
    let session = ReplicaSession::open(replicas).await;
    for round in 0..ROUND_COUNT {
        let arguments = json!({"session": number, "round": round});
        let call = json!({"name": "stay", "arguments": arguments});
        let result = session.ask(json!(round), "tools/call", call).await;
        assert_eq!(result["content"][0]["text"], arguments.to_string());
        let tools = session.tools().await;
        assert!(tools == ["stay"] || tools == ["stay", "visit"], "{tools:?}");
    }
    session.close().await;
}

/// Listens until all is over, at another replica when one dies; gives how often it heard of a change.
async fn hear(replicas: &BalancedReplicas, over: &AtomicBool) -> usize {
    let session = ReplicaSession::open(replicas).await;
    let mut heard = 0;
    while !over.load(Ordering::Relaxed) {
        let mut events = session.listen().await;
        while let Ok(Some(event)) = events.next(VISIT_LIMIT * 4).await {
            assert_eq!(serde_json::from_str::<Value>(&event.data).ok(), Some(changed()));
            heard += 1;
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    session.close().await;
    heard
}

fn changed() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
}

/// Applies a server and takes it away again, without end.
async fn come_and_go(manifests: &Manifests, visitor: &Faulty) {
    loop {
        manifests.add("visitor", &visitor.url(), "");
        sleep(VISIT_LIMIT).await;
        manifests.remove("visitor");
        sleep(VISIT_LIMIT).await;
    }
}

#[tokio::test]
async fn a_thousand_sessions_are_at_home_at_every_replica() {
    let resident = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("stay")]).await;
    let visitor = Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("visit")]).await;
    let manifests = Manifests::new();
    manifests.add("resident", &resident.url(), "");
    let replicas = BalancedReplicas::start(&manifests).await;
    let settled = ReplicaSession::open(&replicas).await;
    for _ in 0..3 {
        wait_for("the tool at every replica", LIMIT, async || settled.tools().await == ["stay"]).await;
    }

    let (ended, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let sessions = stream::iter(0..SESSION_COUNT).map(|number| {
        let (replicas, ended) = (&replicas, &ended);
        async move {
            live(replicas, number).await;
            if ended.fetch_add(1, Ordering::Relaxed) == SESSION_COUNT / 2 {
                replicas.kill(VICTIM_INDEX);
            }
        }
    });
    let short_lived = async {
        let () = sessions.buffer_unordered(MAX_CONCURRENT_SESSIONS).collect().await;
        over.store(true, Ordering::Relaxed);
    };
    let listening = join_all((0..LISTENER_COUNT).map(|_| hear(&replicas, &over)));
    let heard = tokio::select! {
        ((), heard) = async { tokio::join!(short_lived, listening) } => heard,
        () = come_and_go(&manifests, &visitor) => unreachable!("it never ends"),
    };
    assert_eq!(ended.load(Ordering::Relaxed), SESSION_COUNT);
    assert!(heard.iter().all(|count| *count > 0), "{heard:?}");
    assert!(replicas.handed_on().await > 0.0, "what belongs to one replica goes to it");

    // A session that has outlived all that hears of the next change, wherever it listens.
    let manifest = manifests.servers().join("visitor.yaml");
    if manifest.exists() {
        manifests.remove("visitor");
    }
    for _ in 0..4 {
        wait_for("the visitor to be gone", LIMIT, async || settled.tools().await == ["stay"]).await;
    }
    let mut streams = join_all((0..LISTENER_COUNT).map(|_| settled.listen())).await;
    manifests.add("visitor", &visitor.url(), "");
    for events in &mut streams {
        let event = events.next(LIMIT).await.expect("news").expect("not the end");
        assert_eq!(serde_json::from_str::<Value>(&event.data).ok(), Some(changed()));
        assert_eq!(settled.tools().await, ["stay", "visit"]);
    }
    belongs_to_its_subject(&settled).await;
    settled.close().await;
}

/// Nobody else can use a session, at any replica.
async fn belongs_to_its_subject(session: &ReplicaSession<'_>) {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    for _ in 0..VICTIM_INDEX {
        let request = session.with_session(http::post(&session.replicas.url(), body.clone()));
        let answer = request.bearer(&mint("somebody else")).send().await.expect("an answer");
        assert_eq!(answer.status, 404, "{}", answer.text());
    }
}
