//! Under attack in a container of 256 MiB: the gateway lives, and a good caller never fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use portcullis_e2e::binary::Running;
use portcullis_e2e::faulty::{Answer, Faulty, Form, Mode, Tool};
use portcullis_e2e::gateway::LIMIT;
use portcullis_e2e::http as client;
use portcullis_e2e::memory_group::MemoryGroup;
use portcullis_e2e::require;
use portcullis_e2e::token::{SECRET, mint};
use portcullis_e2e::wait::wait_for;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// As the chart's containers.
const MEMORY: u64 = 256 * 1024 * 1024;

/// An attack is held for so long.
const HELD: Duration = Duration::from_secs(3);

/// The gateway, with a server for the good caller and one for the others. It ends before its group does.
struct Scene {
    gateway: Running,
    group: MemoryGroup,
    _servers: [Faulty; 2],
}

impl Scene {
    /// Whose other server has this tool.
    async fn with(group: MemoryGroup, tool: Tool, form: Form) -> Self {
        let (good, other) =
            (Faulty::start(Mode::Streamable).await, Faulty::with_tools(Mode::Streamable, vec![tool]).await);
        other.behave(|it| it.form = form);
        let urls = format!("{},{}", good.url(), other.url());
        let gateway = Running::start_in(&group, &[("JWT_SECRET", SECRET), ("MCP_URLS", &urls)]);
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
    let mut connection = client::Connection::to(&url).await.expect("a connection");
    while !over.load(Ordering::Relaxed) {
        let answer = if keeps { connection.send(request()).await } else { request().send().await };
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        calls.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(20)).await;
    }
}

/// So many connections that send this and then nothing, held for a while.
async fn crowd(scene: &Scene, count: usize, text: Arc<[u8]>) -> Vec<TcpStream> {
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
    let group = MemoryGroup::new(MEMORY);
    require!(group.as_ref().map(|_| ()).map_err(Clone::clone));
    let scene = Scene::with(group.expect("it is there"), Tool::text("x", "x"), Form::Auto).await;
    let head = format!("GET /tools/list HTTP/1.1\r\nhost: a\r\nx: {}", "x".repeat(30_000));
    let body = format!("POST /tools HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n{}", "x".repeat(60_000));
    let scene = Arc::new(scene);
    let attacked = scene.clone();
    let attack = async move {
        let heads = crowd(&attacked, 7_500, head.into_bytes().into()).await;
        sleep(HELD).await;
        drop(heads);
        let bodies = crowd(&attacked, 8_000, body.into_bytes().into()).await;
        sleep(HELD).await;
        drop(bodies);
        drop(attacked);
    };
    run(scene, "half heads and bodies", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_do_not_exhaust_the_memory() {
    let group = MemoryGroup::new(MEMORY);
    require!(group.as_ref().map(|_| ()).map_err(Clone::clone));
    let scene = Arc::new(Scene::with(group.expect("it is there"), Tool::big("big", 8_000_000), Form::Auto).await);
    let attacked = scene.clone();
    let attack = async move {
        let mut unread = crowd(&attacked, 41, call("big")).await;
        sleep(2 * HELD).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_without_end_does_not_exhaust_the_memory() {
    for form in [Form::Json, Form::Sse] {
        let group = MemoryGroup::new(MEMORY);
        require!(group.as_ref().map(|_| ()).map_err(Clone::clone));
        let tool = Tool::text("huge", "").answers(Answer::Huge(100_000_000));
        let scene = Arc::new(Scene::with(group.expect("it is there"), tool, form).await);
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

/// Goes through an attack, while a good caller calls over a connection that it keeps and over new ones.
async fn run(scene: Arc<Scene>, name: &str, attack: impl Future<Output = ()>) {
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
