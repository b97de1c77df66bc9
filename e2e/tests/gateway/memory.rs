//! Under attack in a container of 256 MiB: the gateway lives, and a good caller never fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use portcullis_e2e::binary::RunningProgram;
use portcullis_e2e::faulty::{AnswerForm, CallFault, Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http as client;
use portcullis_e2e::memory_group::MemoryGroup;
use portcullis_e2e::require;
use portcullis_e2e::token::{SECRET, mint};
use portcullis_e2e::wait::wait_for;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// As the chart's containers.
const MEMORY_BYTES: u64 = 256 * 1024 * 1024;

/// Duration of an attack.
const HOLD_DURATION: Duration = Duration::from_secs(3);

/// The gateway, with a server for the good caller and one for the others. It ends before its group does.
struct MemorySetup {
    gateway: RunningProgram,
    group: MemoryGroup,
    _servers: [Faulty; 2],
}

impl MemorySetup {
    /// The tool of the other server.
    async fn with(group: MemoryGroup, tool: Tool, form: AnswerForm) -> Self {
        let (good, other) =
            (Faulty::start(FaultyMode::Streamable).await, Faulty::with_tools(FaultyMode::Streamable, vec![tool]).await);
        other.behave(|it| it.form = form);
        let urls = format!("{},{}", good.url(), other.url());
        let gateway = RunningProgram::start_in(&group, &[("JWT_SECRET", SECRET), ("MCP_URLS", &urls)]);
        let scene = Self { gateway, group, _servers: [good, other] };
        wait_for("both servers", LIMIT, async || {
            let health = client::get(&scene.url("/health")).send().await.expect("an answer").json();
            if health["servers"]["connected"] == 2 { Ok(()) } else { Err(health) }
        })
        .await;
        scene
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.address)
    }
}

/// Calls again and again, until it is over.
async fn calling(url: String, keeps: bool, over: Arc<AtomicBool>, calls: Arc<AtomicUsize>) {
    let token = mint("good");
    let request = || client::post(&url, r#"{"method":"echo","args":{"message":"good"}}"#).bearer(&token).limit(LIMIT);
    let mut connection = client::HttpConnection::to(&url).await.expect("a connection");
    while !over.load(Ordering::Relaxed) {
        let answer = if keeps { connection.send(request()).await } else { request().send().await };
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        calls.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(20)).await;
    }
}

/// So many connections that send this and then nothing, held for a while.
async fn crowd(scene: &MemorySetup, count: usize, text: Arc<[u8]>) -> Vec<TcpStream> {
    let mut opening = JoinSet::new();
    let address = scene.gateway.address;
    let mut open = Vec::new();
    for number in 0..count {
        let text = text.clone();
        opening.spawn(async move {
            let mut stream = timeout(LIMIT, TcpStream::connect(address)).await.ok()?.ok()?;
            // The gateway may refuse it while it comes.
            let _ = timeout(Duration::from_secs(2), stream.write_all(&text)).await;
            Some(stream)
        });
        // Some at a time, as many clients of one machine can.
        if number % 200 == 199 {
            while let Some(stream) = opening.join_next().await {
                open.extend(stream.expect("no panic"));
            }
        }
    }
    while let Some(stream) = opening.join_next().await {
        open.extend(stream.expect("no panic"));
    }
    assert!(open.len() > count / 2, "only {} came", open.len());
    open
}

fn call(tool: &str) -> Arc<[u8]> {
    let body = format!(r#"{{"method":"{tool}"}}"#);
    let head = format!(
        "POST /tools HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        mint("attacker"),
        body.len()
    );
    head.into_bytes().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_heads_and_half_bodies_of_strangers_do_not_exhaust_the_memory() {
    let group = MemoryGroup::new(MEMORY_BYTES);
    require!(group.as_ref().map(|_| ()).map_err(Clone::clone));
    let scene = MemorySetup::with(group.expect("it is there"), Tool::text("x", "x"), AnswerForm::Auto).await;
    let head = format!("GET /tools/list HTTP/1.1\r\nhost: a\r\nx: {}", "x".repeat(30_000));
    let body = format!("POST /tools HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n{}", "x".repeat(60_000));
    let scene = Arc::new(scene);
    let attacked = scene.clone();
    let attack = async move {
        let heads = crowd(&attacked, 7_500, head.into_bytes().into()).await;
        sleep(HOLD_DURATION).await;
        drop(heads);
        let bodies = crowd(&attacked, 8_000, body.into_bytes().into()).await;
        sleep(HOLD_DURATION).await;
        drop(bodies);
        drop(attacked);
    };
    run(scene, "half heads and bodies", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_do_not_exhaust_the_memory() {
    let result = json!({"content": [{"type": "text", "text": "x".repeat(8_000_000)}]});
    let body = format!(r#"{{"jsonrpc":"2.0","id":ID,"result":{result}}}"#);
    let with_length = Tool::text("big", "").answers(CallFault::Http(200, body));
    for (tool, form) in [(with_length, AnswerForm::Json), (Tool::big("big", 8_000_000), AnswerForm::Sse)] {
        let group = MemoryGroup::new(MEMORY_BYTES);
        require!(group.as_ref().map(|_| ()).map_err(Clone::clone));
        let scene = Arc::new(MemorySetup::with(group.expect("it is there"), tool, form).await);
        let attacked = scene.clone();
        let attack = async move {
            let mut unread = crowd(&attacked, 41, call("big")).await;
            sleep(2 * HOLD_DURATION).await;
            // Who reads after all gets an answer, or hears that there was no room for it.
            let mut first = [0; 12];
            let last = unread.last_mut().expect("many");
            let read = timeout(LIMIT, last.read_exact(&mut first)).await.expect("in time");
            let status = String::from_utf8_lossy(&first).into_owned();
            assert!(read.is_err() || ["HTTP/1.1 200", "HTTP/1.1 503"].contains(&&*status), "{status}");
            drop(attacked);
        };
        run(scene, "unread answers", attack).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_bodies_of_callers_do_not_exhaust_the_memory() {
    let group = MemoryGroup::new(MEMORY_BYTES);
    require!(group.as_ref().map(|_| ()).map_err(Clone::clone));
    let scene = Arc::new(MemorySetup::with(group.expect("it is there"), Tool::text("x", "x"), AnswerForm::Auto).await);
    let head = "POST /tools HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\nauthorization: Bearer";
    let body = format!("{head} {}\r\n\r\n{}", mint("attacker"), "x".repeat(950_000));
    let attacked = scene.clone();
    let attack = async move {
        let bodies = crowd(&attacked, 400, body.into_bytes().into()).await;
        sleep(HOLD_DURATION).await;
        drop(bodies);
        drop(attacked);
    };
    run(scene, "half bodies of callers", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_without_end_does_not_exhaust_the_memory() {
    for form in [AnswerForm::Json, AnswerForm::Sse] {
        let group = MemoryGroup::new(MEMORY_BYTES);
        require!(group.as_ref().map(|_| ()).map_err(Clone::clone));
        let tool = Tool::text("huge", "").answers(CallFault::Huge(100_000_000));
        let scene = Arc::new(MemorySetup::with(group.expect("it is there"), tool, form).await);
        let attacked = scene.clone();
        let attack = async move {
            let mut calls = crowd(&attacked, 64, call("huge")).await;
            for stream in &mut calls {
                let mut first = [0; 12];
                timeout(3 * LIMIT, stream.read_exact(&mut first)).await.expect("in time").expect("an answer");
                let status = String::from_utf8_lossy(&first).into_owned();
                assert!(["HTTP/1.1 502", "HTTP/1.1 503", "HTTP/1.1 429"].contains(&&*status), "{status}");
            }
            drop(attacked);
        };
        run(scene, "endless answers", attack).await;
    }
}

#[tokio::test]
async fn a_place_at_a_server_stays_taken_until_the_answer_is_written() {
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::big("big", 8_000_000)]).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.connected(1).await;
    let taken = async || gateway.server(&server.url()).await["calls_in_flight"].clone();
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"big"}}"#;
    for (path, body) in [("/tools", r#"{"method":"big"}"#), ("/mcp", call)] {
        let (token, length) = (&gateway.token, body.len());
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {token}");
        let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
        let text = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.expect("it is sent");
        let mut first = [0; 12];
        timeout(LIMIT, stream.read_exact(&mut first)).await.expect("in time").expect("an answer");
        assert_eq!((&first, taken().await), (b"HTTP/1.1 200", json!(1)), "{path}");
        let mut others = Vec::new();
        timeout(LIMIT, stream.read_to_end(&mut others)).await.expect("in time").expect("all of it");
        wait_for("the place to be free", LIMIT, async || taken().await == 0).await;
    }
}

/// Goes through an attack, while a good caller calls over a connection that it keeps and over new ones.
async fn run(scene: Arc<MemorySetup>, name: &str, attack: impl Future<Output = ()>) {
    let url = scene.url("/tools");
    let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for keeps in [true, false] {
        callers.spawn(calling(url.clone(), keeps, over.clone(), calls.clone()));
    }
    attack.await;
    over.store(true, Ordering::Relaxed);
    while let Some(end) = callers.join_next().await {
        end.expect("a good caller never fails");
    }
    let made = calls.load(Ordering::Relaxed);
    assert!(made > 20, "{name}: only {made} calls");
    assert_eq!(scene.group.kills(), 0, "{name}: {:?} bytes at most", scene.group.peak());
    let live = client::get(&scene.url("/livez")).limit(LIMIT).send().await.expect("it lives");
    assert_eq!(live.status, 200, "{name}");
    println!("{name}: {made} good calls, {} MiB at most", scene.group.peak().unwrap_or_default() >> 20);
}
