//! Misbehaving clients, over real sockets and with short limits.

mod framing;
mod http2;
mod requests;
mod room;
mod shutdown;
mod workers;

use std::net::IpAddr;
use std::thread;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::*;
use crate::shutdown::{Stop, channel};

const PATIENCE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);
const BIG: usize = 32 << 20;

/// A listener with its routes, served by a task that ends with the test.
struct Served {
    address: SocketAddr,
    connections: Arc<Connections>,
    stop: Stop,
    slow: Slow,
    task: JoinSet<Result<(), Infallible>>,
}

/// The test's hold on the handler of `/slow`.
struct Slow {
    started: mpsc::UnboundedReceiver<()>,
    go_on: Arc<Semaphore>,
}

impl Served {
    async fn start(limits: Limits) -> Self {
        Self::start_with(limits, Workers::default()).await
    }

    async fn start_with(limits: Limits, workers: Workers) -> Self {
        Self::start_at(listen(([127, 0, 0, 1], 0).into()).await.expect("port"), limits, workers).await
    }

    async fn start_at(listener: TcpListener, limits: Limits, workers: Workers) -> Self {
        let address = listener.local_addr().expect("address");
        let (connections, (stop, shutdown)) = (Arc::new(Connections::default()), channel());
        let (routes, slow) = routes();
        let mut task = JoinSet::new();
        task.spawn(serve_on(workers, (listener, None), router(routes), limits, connections.clone(), shutdown));
        Self { address, connections, stop, slow, task }
    }

    async fn connect(&self) -> TcpStream {
        connect(self.address).await
    }

    async fn wait_for_open(&self, count: u64) {
        wait_for_open(&self.connections, count).await;
    }

    async fn ended(&mut self) {
        let end = within(self.task.join_next()).await.expect("one task");
        assert!(matches!(end, Ok(Ok(()))), "{end:?}");
    }
}

fn routes() -> (Router, Slow) {
    let (tell, started) = mpsc::unbounded_channel();
    let go_on = Arc::new(Semaphore::new(0));
    let permit = go_on.clone();
    let slow = move || async move {
        tell.send(()).expect("the test listens");
        permit.acquire().await.expect("never closed").forget();
        "slow"
    };
    let routes = Router::new()
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route("/thread", get(|| async { format!("{}.", thread::current().name().unwrap_or_default()) }))
        .route("/slow", get(slow))
        .route("/echo", post(|body: axum::body::Bytes| async { body }))
        .route("/big", get(|| async { vec![b'x'; BIG] }))
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("on purpose")
                }
            }),
        );
    (routes, Slow { started, go_on })
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("connect")
}

async fn wait_for_open(connections: &Connections, count: u64) {
    within(async {
        while connections.open() != count {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn limits() -> Limits {
    Limits {
        connections: 100,
        kept: 0,
        has_strangers: false,
        header_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        write_stall: PATIENCE,
        drain_grace: PATIENCE,
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("send");
}

async fn ask(stream: &mut TcpStream, path: &str) {
    send(stream, &format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
}

/// Everything up to the end of the connection; a reset is an end too.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = within(stream.read_to_end(&mut bytes)).await;
    String::from_utf8(bytes).expect("utf-8")
}

/// One answer that ends with `end`, on a connection that stays open.
async fn answer(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        assert!(within(stream.read_buf(&mut bytes)).await.expect("read") > 0, "closed: {bytes:?}");
    }
    String::from_utf8(bytes).expect("utf-8")
}

#[tokio::test]
async fn many_clients_who_come_at_once_need_not_come_again() {
    let listener = listen(([127, 0, 0, 1], 0).into()).await.expect("port");
    let address = listener.local_addr().expect("address");
    let began = Instant::now();
    let mut clients = Vec::new();
    // The listener does not accept: they all wait in the system's queue. One that does not fit retries after a second.
    for _ in 0..400 {
        clients.push(within(TcpStream::connect(address)).await.expect("connect"));
    }
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_handler_knows_the_peer() {
    let served = Served::start(limits()).await;
    let mut client = served.connect().await;
    let own = client.local_addr().expect("address").to_string();

    ask(&mut client, "/peer").await;

    assert!(answer(&mut client, &own).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn one_address_takes_callers_of_both_families_and_shows_each_as_it_is() {
    let listener = listen((Ipv6Addr::UNSPECIFIED, 0).into()).await.expect("port");
    let port = listener.local_addr().expect("address").port();
    let served = Served::start_at(listener, limits(), Workers::default()).await;

    for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let Ok(mut client) = TcpStream::connect((host, port)).await else {
            // Only a machine without IPv6 has no such address.
            assert!(host.is_ipv6() && served.address.is_ipv4());
            continue;
        };
        let own = client.local_addr().expect("address").to_string();
        ask(&mut client, "/peer").await;
        answer(&mut client, &own).await;
    }
}

#[test]
fn only_a_system_without_ipv6_makes_it_an_address_of_ipv4() {
    let codes = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL, Errno::ADDRINUSE, Errno::ACCESS];
    let lacks = codes.map(|code| lacks_ipv6(&io::Error::from_raw_os_error(code.raw_os_error())));
    assert_eq!(lacks, [true, true, false, false]);
}

#[tokio::test]
async fn half_a_head_is_closed_even_if_it_drips() {
    let served = Served::start(Limits { header_timeout: SHORT, ..limits() }).await;
    let (mut silent, mut half, mut dripping) = (served.connect().await, served.connect().await, served.connect().await);
    send(&mut half, "GET /peer HTTP/1.1\r\nhost: te").await;
    send(&mut dripping, "GET /peer HTTP/1.1\r\n").await;
    let drip = async {
        while dripping.write_all(b"a: b\r\n").await.is_ok() {
            sleep(SHORT / 10).await;
        }
    };

    within(drip).await;

    assert_eq!((rest(&mut silent).await, rest(&mut half).await), (String::new(), String::new()));
    served.wait_for_open(0).await;
}

#[tokio::test]
async fn an_idle_connection_outlives_the_limit_for_heads() {
    let served = Served::start(Limits { header_timeout: SHORT, ..limits() }).await;
    let mut client = served.connect().await;
    let own = client.local_addr().expect("address").to_string();
    ask(&mut client, "/peer").await;
    answer(&mut client, &own).await;

    sleep(3 * SHORT).await;
    ask(&mut client, "/peer").await;
    answer(&mut client, &own).await;

    send(&mut client, "GET /peer").await;
    assert_eq!(rest(&mut client).await, "", "half a head is closed on a used connection too");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_own_limit() {
    let served = Served::start(Limits { idle_timeout: SHORT, ..limits() }).await;
    let mut client = served.connect().await;
    let own = client.local_addr().expect("address").to_string();
    ask(&mut client, "/peer").await;
    answer(&mut client, &own).await;
    let start = Instant::now();

    assert_eq!(rest(&mut client).await, "");

    assert!((SHORT / 2..PATIENCE).contains(&start.elapsed()));
}

#[tokio::test]
async fn a_slow_answer_is_not_cut_by_the_limits_of_reading() {
    let served = Served::start(Limits { header_timeout: SHORT, idle_timeout: SHORT, ..limits() }).await;
    let mut client = served.connect().await;

    ask(&mut client, "/slow").await;
    sleep(3 * SHORT).await;
    served.slow.go_on.add_permits(1);

    answer(&mut client, "slow").await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_closed() {
    let served = Served::start(Limits { write_stall: SHORT, ..limits() }).await;
    let mut client = served.connect().await;
    let start = Instant::now();

    ask(&mut client, "/big").await;
    served.wait_for_open(1).await;
    served.wait_for_open(0).await;

    assert!(start.elapsed() >= SHORT);
    assert!(rest(&mut client).await.len() < BIG);
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_a_big_answer() {
    let served = Served::start(Limits { write_stall: 5 * SHORT, ..limits() }).await;
    let mut client = served.connect().await;
    ask(&mut client, "/big").await;
    let (mut taken, mut piece, start) = (0, vec![0; 256 << 10], Instant::now());

    while taken < BIG {
        let bytes = within(client.read(&mut piece)).await.expect("still open");
        assert!(bytes > 0, "closed after {taken} bytes");
        taken += bytes;
        sleep(SHORT / 20).await;
    }

    assert!(start.elapsed() > 5 * SHORT, "too fast to tell");
}

#[tokio::test]
async fn a_panic_costs_one_connection_and_not_the_listener() {
    let served = Served::start(limits()).await;
    let (mut bad, mut good) = (served.connect().await, served.connect().await);
    ask(&mut bad, "/panic").await;

    assert_eq!(rest(&mut bad).await, "");

    ask(&mut good, "/peer").await;
    let own = good.local_addr().expect("address").to_string();
    answer(&mut good, &own).await;
    served.wait_for_open(1).await;
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let served = Served::start(limits()).await;
    let mut long = served.connect().await;
    let mut many = served.connect().await;

    send(&mut long, &format!("GET /peer HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(40_000))).await;
    send(&mut many, &format!("GET /peer HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101))).await;

    for client in [&mut long, &mut many] {
        let text = rest(client).await;
        assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_is_gone_without_a_word_is_noticed() {
    let listener = listen(([127, 0, 0, 1], 0).into()).await.expect("port");
    let _client = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
    let (accepted, _) = within(listener.accept()).await.expect("accepted");

    let asked = sockopt::tcp_keepidle(&accepted).and_then(|first| Ok((first, sockopt::tcp_keepintvl(&accepted)?)));
    let most = sockopt::tcp_keepcnt(&accepted).and_then(|most| Ok((most, sockopt::tcp_user_timeout(&accepted)?)));

    assert_eq!(sockopt::socket_keepalive(&accepted), Ok(true));
    assert_eq!(asked, Ok((Duration::from_secs(60), Duration::from_secs(15))));
    assert_eq!(most, Ok((4, 120_000)));
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let taken = listen(([127, 0, 0, 1], 0).into()).await.expect("port");
    let address = taken.local_addr().expect("address");

    let error = listen(address).await.expect_err("taken");

    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
}

#[tokio::test]
async fn failures_of_the_system_are_waited_out_and_those_of_a_client_are_not() {
    let mut failing = false;
    let start = Instant::now();

    assert!(usable(Err(io::ErrorKind::ConnectionAborted.into()), &mut failing).await.is_none());
    assert!(!failing && start.elapsed() < ACCEPT_PAUSE);

    // EMFILE: too many open files in this process.
    assert!(usable(Err(io::Error::from_raw_os_error(24)), &mut failing).await.is_none());
    assert!(failing && start.elapsed() >= ACCEPT_PAUSE);
}
