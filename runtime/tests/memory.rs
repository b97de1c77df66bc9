//! What a listener holds for its clients has one bound. In a process of its own, which has one account.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use portcullis_runtime::memory::{CONNECTION, account};
use portcullis_runtime::serve::{listen, router, serve};
use portcullis_runtime::shutdown::{Stop, channel};
use portcullis_runtime::{Connections, Limits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// The strangers' share of this is 1.5 MB.
const LIMIT: usize = 10_000_000;

/// More than the strangers' share.
const BIG: usize = 2_000_000;

/// The account is one for all tests.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

struct Served {
    address: SocketAddr,
    connections: Arc<Connections>,
    _stop: Stop,
    _task: JoinSet<()>,
    _alone: MutexGuard<'static, ()>,
}

impl Served {
    /// A listener whose connections are strangers' or callers', while the account has its limit.
    async fn start(has_strangers: bool) -> Self {
        let alone = ONE_AT_A_TIME.lock().await;
        until("the connections of other tests to end", || account().held() < 200_000).await;
        account().set_limit(LIMIT);
        let routes = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/big", get(|| async { vec![b'x'; BIG] }))
            .route("/slow", post(|| sleep(PATIENCE)));
        let listener = listen(([127, 0, 0, 1], 0).into()).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (connections, (stop, shutdown)) = (Arc::new(Connections::default()), channel());
        // Nobody goes because it is late.
        let limits = Limits { has_strangers, header_timeout: 3 * PATIENCE, ..Limits::default() };
        let serving = serve(listener, router(routes), limits, connections.clone(), shutdown);
        let mut task = JoinSet::new();
        task.spawn(async move { serving.await.expect("it serves") });
        Self { address, connections, _stop: stop, _task: task, _alone: alone }
    }

    async fn send(&self, text: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address).await.expect("a connection");
        // It may have to go while it sends.
        drop(client.write_all(text.as_bytes()).await);
        client
    }

    /// The head of the answer to a `GET`.
    async fn get(&self, path: &str) -> String {
        head(&mut self.send(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await).await
    }
}

async fn head(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = timeout(PATIENCE, client.read_buf(&mut bytes)).await.expect("in time");
        if !read.is_ok_and(|more| more > 0) {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "waited for {what}");
}

fn is_full(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 1\r\n")
}

#[tokio::test]
async fn strangers_and_their_half_heads_hold_no_more_than_their_share() {
    for half in ["", &format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "x".repeat(28_000))] {
        let served = Served::start(true).await;
        let mut crowd = Vec::new();
        for _ in 0..300 {
            crowd.push(served.send(half).await);
        }
        let share = account().strangers.limit();
        let most = share / 8 * 9 / (CONNECTION + half.len());
        until("the longest waiting to go", || served.connections.open() <= most as u64).await;
        assert!(account().strangers.held() <= share / 8 * 9, "{}", account().strangers.held());
        assert!(served.get("/").await.starts_with("HTTP/1.1 200 "), "who comes last comes in");
        assert_eq!(served.connections.refused(), 0);
    }
}

#[tokio::test]
async fn a_body_that_nobody_asks_for_is_left_with_its_client() {
    let served = Served::start(true).await;
    let mut client = served.send("POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 64000000\r\n\r\n").await;
    let (piece, mut sent) = (vec![b'x'; 64_000], 0);
    while sent < 64_000_000 {
        // What the system keeps of it on both sides has its own bounds.
        match timeout(Duration::from_millis(500), client.write(&piece)).await {
            Ok(written) => sent += written.expect("the connection stays"),
            Err(_) => break,
        }
    }
    assert!(sent < 32_000_000, "{sent} bytes were taken");
}

#[tokio::test]
async fn what_strangers_are_answered_counts_among_what_they_hold() {
    let served = Served::start(true).await;
    let answer = served.get("/big").await;
    assert!(is_full(&answer), "{answer}");
    drop(served);
    let served = Served::start(false).await;
    assert!(served.get("/big").await.starts_with("HTTP/1.1 200 "), "a caller's does not");
}

#[tokio::test]
async fn when_there_is_no_room_for_requests_more_are_told_to_come_back() {
    let served = Served::start(false).await;
    account().set_limit(100_000);
    let text = "POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    let mut crowd = Vec::new();
    for _ in 0..16 {
        crowd.push(served.send(text).await);
    }
    let answer = head(crowd.last_mut().expect("many")).await;
    assert!(is_full(&answer), "{answer}");
}
