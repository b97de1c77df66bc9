//! Requests that are answered past hyper: the same answers, the same limits, and nothing that hyper would refuse.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::service::Service;
use tokio::sync::oneshot;

use super::super::direct::MOMENT;
use super::*;

/// What the test and all connections share.
#[derive(Default)]
struct Shared {
    /// Hyper answers everything.
    only_hyper: bool,
    /// Bodies of `/pieces`.
    pieces: Mutex<Vec<Pieces>>,
    /// Told when `/waiting` is asked, and closed when nobody waits any more.
    waiting: Mutex<Vec<oneshot::Sender<oneshot::Sender<()>>>>,
}

/// A body that the test writes.
struct Pieces(mpsc::UnboundedReceiver<Result<Bytes, io::Error>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| Some(piece?.map(Frame::data)))
    }
}

impl Shared {
    async fn reply(&self, path: &str, by: &'static str, fields: Fields, body: Bytes) -> Response<Body> {
        let mut response = match path {
            "/echo" => {
                let mut text: Vec<String> =
                    fields.to_map().iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
                text.push(format!("{body:?}."));
                Response::new(Body::from(text.join("\n")))
            }
            "/waiting" => {
                let (answer, answered) = oneshot::channel();
                let tell = self.waiting.lock().expect("no panic").pop().expect("the test waits");
                tell.send(answer).expect("the test waits");
                answered.await.expect("the test answers");
                Response::new(Body::from("waited."))
            }
            "/pieces" => Response::new(Body::new(self.pieces.lock().expect("no panic").pop().expect("a body"))),
            "/long" => Response::new(Body::from(vec![b'x'; usize::from(body[0]) << 10])),
            "/nothing" => Response::builder().status(StatusCode::NO_CONTENT).body(Body::from("lost")).expect("valid"),
            "/close" => Response::builder().header("Connection", "close").body(Body::from("last.")).expect("valid"),
            "/framing" => {
                let mut response = Response::new(Body::from("six..."));
                response.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(9));
                response
            }
            _ => Response::builder().status(StatusCode::NOT_FOUND).body(Body::from("none.")).expect("valid"),
        };
        response.headers_mut().insert("x-by", HeaderValue::from_static(by));
        response
    }
}

struct Requests(Arc<Shared>);

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let (head, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                let Ok(frame) = frame else {
                    let cut = Response::builder().status(StatusCode::BAD_REQUEST);
                    return Ok(cut.body(Body::from("cut.")).expect("valid"));
                };
                bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            }
            Ok(shared.reply(head.uri.path(), "hyper", Fields::from(&head.headers), bytes.into()).await)
        })
    }
}

impl Answer for Requests {
    type Reply = Body;
    type Direct = Shared;

    fn direct(&self) -> Option<Arc<Shared>> {
        (!self.0.only_hyper).then(|| self.0.clone())
    }
}

const ROUTES: [&str; 7] = ["/echo", "/waiting", "/pieces", "/long", "/nothing", "/close", "/framing"];

impl Direct<Body> for Shared {
    type Route = &'static str;

    fn route(&self, method: &str, target: &str) -> Option<&'static str> {
        let known = method != "DELETE";
        ROUTES.into_iter().find(|route| known && *route == target.split('?').next().unwrap_or_default())
    }

    fn answer(self: Arc<Self>, request: Plain<&'static str>) -> Answering<Body> {
        Box::pin(async move { self.reply(request.route, "direct", request.fields, request.body).await })
    }
}

/// A listener with these routes.
struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Stop,
    connections: Arc<Connections>,
    _task: JoinSet<Result<(), Infallible>>,
}

impl Listener {
    async fn start(limits: Limits) -> Self {
        Self::start_with(limits, false).await
    }

    async fn start_with(limits: Limits, only_hyper: bool) -> Self {
        let listener = listen(([127, 0, 0, 1], 0).into()).await.expect("port");
        let address = listener.local_addr().expect("address");
        let shared = Arc::new(Shared { only_hyper, ..Shared::default() });
        let ((stop, shutdown), make) = (channel(), shared.clone());
        let (connections, mut task) = (Arc::new(Connections::default()), JoinSet::new());
        let make = move |_| Requests(make.clone());
        task.spawn(serve(listener, make, limits, connections.clone(), shutdown));
        Self { address, shared, stop, connections, _task: task }
    }

    async fn connect(&self) -> TcpStream {
        connect(self.address).await
    }

    /// Writes the body of the next `/pieces`.
    fn pieces(&self) -> mpsc::UnboundedSender<Result<Bytes, io::Error>> {
        let (send, receive) = mpsc::unbounded_channel();
        self.shared.pieces.lock().expect("no panic").push(Pieces(receive));
        send
    }

    /// Hears of the next `/waiting`.
    fn waiting(&self) -> oneshot::Receiver<oneshot::Sender<()>> {
        let (tell, told) = oneshot::channel();
        self.shared.waiting.lock().expect("no panic").push(tell);
        told
    }

    async fn wait_for_open(&self, count: u64) {
        wait_for_open(&self.connections, count).await;
    }
}

fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Answers without their dates, and who gave the last.
fn plain(answers: &str) -> (String, Option<&str>) {
    let by = answers.rsplit_once("x-by: ").and_then(|(_, rest)| rest.split("\r\n").next());
    let dull = |line: &&str| !line.starts_with("date: ") && !line.starts_with("x-by: ");
    (answers.split("\r\n").filter(dull).collect::<Vec<_>>().join("\n"), by)
}

/// What a client gets who sends this, and who answered last. It sends no more, and says so if it `closes`; else all is
/// over when it has been idle for long.
async fn outcome(address: SocketAddr, bytes: &[u8], closes: bool) -> (String, Option<String>) {
    let mut client = connect(address).await;
    client.write_all(bytes).await.expect("send");
    if closes {
        client.shutdown().await.expect("shut down");
    }
    let mut got = Vec::new();
    let _ = within(client.read_to_end(&mut got)).await;
    let text = String::from_utf8_lossy(&got).into_owned();
    let (text, by) = plain(&text);
    (text, by.map(str::to_owned))
}

#[tokio::test]
async fn plain_requests_are_answered_directly_and_all_others_by_hyper_with_the_same_answers() {
    let quick = Limits { header_timeout: 5 * SHORT, idle_timeout: 2 * SHORT, ..limits() };
    let served = (Listener::start(quick).await, Listener::start_with(quick, true).await);
    let (direct, hyper) = (served.0.address, served.1.address);
    let long = "x".repeat(70_000);
    let longer_head = format!("x: {}\r\n", "y".repeat(33_000));
    let many = "x: y\r\n".repeat(70);
    let too_many = "x: y\r\n".repeat(101);
    let echo = |fields: &str| post("/echo", fields, "body");
    let raw = |fields: &str, body: &str| format!("POST /echo HTTP/1.1\r\n{fields}\r\n{body}");
    let cases: Vec<(String, Option<&str>)> = vec![
        (echo(""), Some("direct")),
        (echo("Connection: Keep-Alive\r\nX-A: 1\r\nx-a:  2 \r\nX-B:\r\n"), Some("direct")),
        (echo("x: \u{e9}\t\u{fc}\r\n"), Some("direct")),
        (echo("Content-Type: a\r\nAuthorization: Bearer b\r\n"), Some("direct")),
        (post("/echo", "", ""), Some("direct")),
        (post("/echo", "", &long[..60_000]), Some("direct")),
        (raw("content-length: 000003\r\n", "abc"), Some("direct")),
        (post("/long", "", "\u{1}"), Some("direct")),
        (post("/long", "", "\u{40}"), Some("direct")),
        (post("/nothing", "", ""), Some("direct")),
        (post("/close", "", ""), Some("direct")),
        (echo("") + &echo("x: second\r\n"), Some("direct")),
        (echo("") + &post("/close", "", "") + &echo(""), Some("direct")),
        ("GET /echo HTTP/1.1\r\nx: y\r\n\r\n".into(), Some("direct")),
        ("GET /echo HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody".into(), Some("direct")),
        (post("/echo?a=b", "", ""), Some("direct")),
        (format!("\r\n{}", echo("")), Some("direct")),
        (raw("", ""), Some("direct")),
        (echo("Host: b\r\nConnection: keep-alive\r\nconnection: keep-alive\r\n"), Some("direct")),
        (echo("").replace("\r\n", "\n"), Some("direct")),
        (post("/echo?a=b#c", "", ""), Some("direct")),
        (echo("") + "\r\n" + &echo(""), Some("direct")),
        // Not plain.
        (post("/other", "", ""), Some("hyper")),
        ("HEAD /echo HTTP/1.1\r\n\r\n".into(), Some("hyper")),
        ("DELETE /echo HTTP/1.1\r\n\r\n".into(), Some("hyper")),
        (post("http://a/echo", "", ""), Some("hyper")),
        (post("/echo", "", &long), Some("hyper")),
        (echo("").replace("1.1", "1.0"), Some("hyper")),
        (echo("Connection: close\r\n"), Some("hyper")),
        (echo("Connection: keep-alive, X-Hop\r\n"), Some("hyper")),
        (echo("Upgrade: h2c\r\n"), Some("hyper")),
        (echo("Expect: 100-continue\r\n"), Some("hyper")),
        (echo(&many), Some("hyper")),
        (raw("content-length: 4\r\ncontent-length: 4\r\n", "body"), Some("hyper")),
        (raw("Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n"), Some("hyper")),
        (raw("content-length: 0000004\r\n", "body"), Some("hyper")),
        (echo("") + "HEAD /echo HTTP/1.1\r\n\r\n" + &echo(""), Some("hyper")),
        // No request at all.
        (echo(&too_many), None),
        (echo(&longer_head), None),
        (echo("x y: z\r\n"), None),
        (echo("x : z\r\n"), None),
        (echo("x: a\r\n folded\r\n"), None),
        (echo("x: \u{0}\r\n"), None),
        (raw("content-length: +4\r\n", "body"), None),
        (raw("content-length: 4, 4\r\n", "body"), None),
        (raw("content-length: 4\r\ncontent-length: 5\r\n", "body"), None),
        (raw("content-length: -1\r\n", ""), None),
        (raw("content-length: 99999999999999999999\r\n", ""), None),
        (raw("content-length: 4\r\ntransfer-encoding: chunked, x\r\n", "0\r\n\r\n"), None),
        ("POST /echo HTTP/1.1\r\nhost".into(), None),
        ("POST /echo\r\n\r\n".into(), None),
        ("POS".into(), None),
    ];
    let no_text: [(&[u8], _); 3] = [
        (b"POST /echo HTTP/1.1\r\nx: \xe9\xff\r\ncontent-length: 1\r\n\r\n\xff", Some("direct")),
        (b"POST /echo\xff HTTP/1.1\r\ncontent-length: 0\r\n\r\n", None),
        (b"\x16\x03\x01\x02\x00\x01\x00", None),
    ];
    let cases = cases.into_iter().map(|(text, by)| (text.into_bytes(), by));
    let cases = cases.chain(no_text.map(|(bytes, by)| (bytes.to_vec(), by)));
    // Side by side: most wait for a deadline.
    let compared = cases.map(|(bytes, by)| async move {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let ((got, last), (expected, _)) = tokio::join!(outcome(direct, &bytes, false), outcome(hyper, &bytes, false));
        assert_eq!(got, expected, "{shown}");
        assert_eq!(last.as_deref(), by, "{shown}");
        let (half, short) = (bytes.len() / 2, bytes.len() - 1);
        for end in [half, short] {
            let ((got, _), (expected, _)) =
                tokio::join!(outcome(direct, &bytes[..end], true), outcome(hyper, &bytes[..end], true));
            assert_eq!(got, expected, "the first {end} bytes of {shown}");
        }
    });
    let mut all: JoinSet<()> = compared.collect();
    while let Some(end) = all.join_next().await {
        end.expect("the same answers");
    }
}

#[tokio::test]
async fn the_body_tells_its_length_whatever_the_answer_says() {
    let served = Listener::start(limits()).await;
    let mut client = served.connect().await;
    send(&mut client, &post("/framing", "", "")).await;

    let text = answer(&mut client, "six...").await;

    assert_eq!(plain(&text), ("HTTP/1.1 200 OK\ncontent-length: 6\n\nsix...".into(), Some("direct")));
    let date = text.split_once("\r\ndate: ").and_then(|(_, rest)| rest.split("\r\n").next()).expect("a date");
    let apart = httpdate::parse_http_date(date).expect("a date").duration_since(std::time::SystemTime::now());
    assert!(apart.unwrap_or_else(|error| error.duration()) < PATIENCE, "{date}");
}

#[tokio::test]
async fn a_request_may_come_in_pieces() {
    let served = Listener::start(limits()).await;
    let mut client = served.connect().await;
    client.set_nodelay(true).expect("a socket");
    let text = post("/echo", "x: y\r\n", "body");
    for piece in text.as_bytes().chunks(40) {
        client.write_all(piece).await.expect("send");
        tokio::task::yield_now().await;
    }

    let got = answer(&mut client, ".").await;

    assert_eq!(plain(&got).1, Some("direct"));
    assert!(got.ends_with(r#"b"body"."#), "{got}");
}

#[tokio::test]
async fn a_request_whose_rest_takes_its_time_is_left_to_hyper() {
    let served = Listener::start(limits()).await;
    let text = post("/echo", "", "body");
    for at in [30, text.len() - 2] {
        let mut client = served.connect().await;
        send(&mut client, &post("/echo", "", "first")).await;
        assert_eq!(plain(&answer(&mut client, "first\".").await).1, Some("direct"));
        send(&mut client, &text[..at]).await;
        sleep(2 * MOMENT).await;
        send(&mut client, &text[at..]).await;

        let got = answer(&mut client, "body\".").await;

        assert_eq!(plain(&got).1, Some("hyper"), "split at {at}");
    }
}

#[tokio::test]
async fn half_a_plain_head_is_closed_after_the_limit_for_heads() {
    let served = Listener::start(Limits { header_timeout: 2 * MOMENT, ..limits() }).await;
    let (mut silent, mut first, mut later) = (served.connect().await, served.connect().await, served.connect().await);
    send(&mut later, &post("/echo", "", "body")).await;
    answer(&mut later, "body\".").await;
    for client in [&mut first, &mut later] {
        send(client, "POST /echo HTTP/1.1\r\nhost").await;
    }

    let start = Instant::now();

    for client in [&mut silent, &mut first, &mut later] {
        assert_eq!(rest(client).await, "");
    }

    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_idle_connection_has_its_own_limit_from_its_last_answer() {
    // The first head's may be shorter, or longer.
    for header_timeout in [SHORT, PATIENCE] {
        let served = Listener::start(Limits { header_timeout, idle_timeout: 4 * SHORT, ..limits() }).await;
        let mut client = served.connect().await;
        for _ in 0..3 {
            send(&mut client, &post("/echo", "", "body")).await;
            assert_eq!(plain(&answer(&mut client, "body\".").await).1, Some("direct"));
            sleep(2 * SHORT).await;
        }
        let start = Instant::now();

        assert_eq!(rest(&mut client).await, "");

        assert!((SHORT..PATIENCE / 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn an_answer_that_takes_long_is_no_idling() {
    let served = Listener::start(Limits { idle_timeout: 2 * SHORT, ..limits() }).await;
    let (pieces, mut client) = (served.pieces(), served.connect().await);
    send(&mut client, &post("/pieces", "", "")).await;
    answer(&mut client, "\r\n\r\n").await;
    sleep(3 * SHORT).await;
    drop(pieces);
    answer(&mut client, "0\r\n\r\n").await;
    sleep(SHORT).await;

    send(&mut client, &post("/echo", "", "body")).await;

    assert_eq!(plain(&answer(&mut client, "body\".").await).1, Some("direct"));
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let served = Listener::start(limits()).await;
    let told = served.waiting();
    let mut client = served.connect().await;
    send(&mut client, &post("/waiting", "", "")).await;
    let mut answer = within(told).await.expect("asked");

    drop(client);

    within(answer.closed()).await;
    served.wait_for_open(0).await;
}

#[tokio::test]
async fn requests_that_come_during_another_are_answered_in_their_order() {
    let served = Listener::start(limits()).await;
    let (told, mut client) = (served.waiting(), served.connect().await);
    send(&mut client, &post("/waiting", "", "")).await;
    let waiting = within(told).await.expect("asked");
    send(&mut client, &(post("/echo", "", "second") + &post("/echo", "", "third"))).await;
    client.shutdown().await.expect("shut down");
    // Long enough for them to have come.
    sleep(SHORT / 4).await;
    waiting.send(()).expect("somebody waits");

    let got = rest(&mut client).await;

    let places: Vec<_> = ["waited.", "second", "third"].map(|text| got.find(text)).into();
    assert!(places.is_sorted() && places[0].is_some(), "{got}");
}

#[tokio::test]
async fn a_body_without_a_length_is_sent_piece_by_piece_as_it_comes() {
    let served = Listener::start(limits()).await;
    let (pieces, mut client) = (served.pieces(), served.connect().await);
    send(&mut client, &post("/pieces", "", "")).await;
    let head = answer(&mut client, "\r\n\r\n").await;
    assert_eq!(plain(&head).0, "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n");

    pieces.send(Ok("one".into())).expect("it is read");
    assert_eq!(answer(&mut client, "one\r\n").await, "3\r\none\r\n");
    let long = "x".repeat(40_000);
    for piece in ["", "two", &long] {
        pieces.send(Ok(piece.to_owned().into())).expect("it is read");
    }
    drop(pieces);

    assert_eq!(answer(&mut client, "0\r\n\r\n").await, format!("3\r\ntwo\r\n9c40\r\n{long}\r\n0\r\n\r\n"));
    send(&mut client, &post("/echo", "", "next")).await;
    answer(&mut client, "next\".").await;
}

#[tokio::test]
async fn a_body_that_fails_is_cut_off() {
    let served = Listener::start(limits()).await;
    let (pieces, mut client) = (served.pieces(), served.connect().await);
    send(&mut client, &post("/pieces", "", "")).await;
    pieces.send(Ok("one".into())).expect("it is read");
    answer(&mut client, "one\r\n").await;

    pieces.send(Err(io::ErrorKind::ConnectionReset.into())).expect("it is read");

    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn a_body_ends_when_its_client_leaves() {
    let served = Listener::start(limits()).await;
    let (pieces, mut client) = (served.pieces(), served.connect().await);
    send(&mut client, &post("/pieces", "", "")).await;
    answer(&mut client, "\r\n\r\n").await;

    drop(client);

    within(pieces.closed()).await;
    served.wait_for_open(0).await;
}

#[tokio::test]
async fn who_takes_nothing_of_a_direct_answer_is_closed() {
    let served = Listener::start(Limits { write_stall: SHORT, ..limits() }).await;
    let (pieces, mut client) = (served.pieces(), served.connect().await);
    send(&mut client, &post("/pieces", "", "")).await;
    let start = Instant::now();
    for _ in 0..BIG >> 16 {
        pieces.send(Ok(vec![b'x'; 1 << 16].into())).expect("it is read");
    }

    within(pieces.closed()).await;

    assert!(start.elapsed() >= SHORT);
    served.wait_for_open(0).await;
}

#[tokio::test]
async fn shutdown_lets_direct_answers_finish_and_closes_idle_connections() {
    let served = Listener::start(limits()).await;
    let (told, pieces) = (served.waiting(), served.pieces());
    let (mut idle, mut slow, mut open) = (served.connect().await, served.connect().await, served.connect().await);
    send(&mut idle, &post("/echo", "", "body")).await;
    answer(&mut idle, "body\".").await;
    send(&mut open, &post("/pieces", "", "")).await;
    answer(&mut open, "\r\n\r\n").await;
    send(&mut slow, &post("/waiting", "", "")).await;
    let waiting = within(told).await.expect("asked");

    served.stop.request();

    let start = Instant::now();
    assert_eq!(rest(&mut idle).await, "");
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    waiting.send(()).expect("somebody waits");
    let text = rest(&mut slow).await;
    assert!(text.contains("\r\nconnection: close\r\n") && text.ends_with("\r\n\r\nwaited."), "{text}");
    pieces.send(Ok("one".into())).expect("it is read");
    drop(pieces);
    assert_eq!(rest(&mut open).await, "3\r\none\r\n0\r\n\r\n");
    served.wait_for_open(0).await;
}
