//! Requests and answers of every form, and their limits.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body as _, Bytes, Frame};
use tokio::sync::oneshot;

use super::*;

/// Longer than the parts of one message take to arrive.
const MOMENT: Duration = Duration::from_millis(250);

/// The state that the test and all connections share.
#[derive(Default)]
struct Shared {
    /// Bodies of `/pieces`.
    pieces: Mutex<Vec<Pieces>>,
    /// Notified when `/waiting` is requested, and closed when the answer is no longer needed.
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
    async fn reply(&self, path: &str, fields: Fields, sent: Sent) -> Response<Body> {
        if path == "/unread" {
            return Response::builder().status(StatusCode::UNAUTHORIZED).body(Body::from("who?")).expect("valid");
        }
        let body = match whole(sent).await {
            Ok(body) => body,
            Err(broken) => {
                let refused = Response::builder().status(StatusCode::BAD_REQUEST);
                return refused.body(Body::from(broken.to_string())).expect("valid");
            }
        };
        match path {
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
        }
    }
}

/// A whole body.
async fn whole(sent: Sent) -> Result<Bytes, BrokenBody> {
    let mut coming = match sent {
        Sent::Whole(body) => return Ok(body),
        Sent::Coming(coming) => coming,
    };
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut coming).poll_frame(context)).await {
        bytes.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
    }
    Ok(bytes.into())
}

impl Answer for Shared {
    type Reply = Body;
    type Route = String;

    fn route(&self, method: &str, target: &str) -> Option<String> {
        method_and_uri(method, target).map(|(_, uri)| uri.path().to_owned())
    }

    fn answer(self: Arc<Self>, request: Request<String>) -> Answering<Body> {
        Box::pin(async move { self.reply(&request.route, request.fields, request.body).await })
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
        let listener = listen(([127, 0, 0, 1], 0).into()).await.expect("port");
        let address = listener.local_addr().expect("address");
        let shared = Arc::<Shared>::default();
        let ((stop, shutdown), make) = (channel(), shared.clone());
        let (connections, mut task) = (Arc::new(Connections::default()), JoinSet::new());
        let make = move |_: Peer| make.clone();
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

    /// Receives the next `/waiting`.
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

/// Answers without their dates.
fn plain(answers: &str) -> String {
    answers.split("\r\n").filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_body_tells_its_length_whatever_the_answer_says() {
    let served = Listener::start(limits()).await;
    let mut client = served.connect().await;
    send(&mut client, &post("/framing", "", "")).await;

    let text = answer(&mut client, "six...").await;

    assert_eq!(plain(&text), "HTTP/1.1 200 OK\ncontent-length: 6\n\nsix...");
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

    assert!(got.ends_with(r#"b"body"."#), "{got}");
}

#[tokio::test]
async fn the_rest_of_a_request_may_take_its_time() {
    let served = Listener::start(limits()).await;
    let text = post("/echo", "", "body");
    for at in [30, text.len() - 2] {
        let mut client = served.connect().await;
        send(&mut client, &post("/echo", "", "first")).await;
        answer(&mut client, "first\".").await;
        send(&mut client, &text[..at]).await;
        sleep(2 * MOMENT).await;
        send(&mut client, &text[at..]).await;

        answer(&mut client, "body\".").await;
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
    // The limit for the first head may be shorter, or longer.
    for header_timeout in [SHORT, PATIENCE] {
        let served = Listener::start(Limits { header_timeout, idle_timeout: 4 * SHORT, ..limits() }).await;
        let mut client = served.connect().await;
        for _ in 0..3 {
            send(&mut client, &post("/echo", "", "body")).await;
            answer(&mut client, "body\".").await;
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

    answer(&mut client, "body\".").await;
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
    // Long enough for them to arrive.
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
    assert_eq!(plain(&head), "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n");

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
async fn who_takes_nothing_of_a_long_body_is_closed() {
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
async fn shutdown_lets_long_answers_finish_and_closes_idle_connections() {
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

/// The answer to a client that sends this text, and then closes its sending side.
async fn exchanged(listener: &Listener, sent: &str) -> String {
    let mut client = listener.connect().await;
    send(&mut client, sent).await;
    client.shutdown().await.expect("shut down");
    plain(&rest(&mut client).await)
}

#[tokio::test]
async fn requests_of_every_form_are_answered() {
    let served = Listener::start(limits()).await;
    let raw = |line: &str, fields: &str, body: &str| format!("{line}\r\n{fields}\r\n{body}");
    let long = "x".repeat(70_000);
    for (sent, begin, end) in [
        (post("/echo", "x: y\r\n", "body"), "HTTP/1.1 200 OK\n", "b\"body\"."),
        (post("/echo", "", &long), "HTTP/1.1 200 OK\n", "x\"."),
        (post("http://a/echo?b=c", "", "body"), "HTTP/1.1 200 OK\n", "b\"body\"."),
        (format!("\r\n\r\n{}", post("/echo", "", "body")), "HTTP/1.1 200 OK\n", "b\"body\"."),
        (
            raw(
                "POST /echo HTTP/1.1",
                "host: a\r\ntransfer-encoding: chunked\r\n",
                "2;x\r\nbo\r\n2\r\ndy\r\n0\r\nx: y\r\n\r\n",
            ),
            "HTTP/1.1 200 OK\n",
            "b\"body\".",
        ),
        (raw("POST /echo HTTP/1.0", "content-length: 4\r\n", "body"), "HTTP/1.1 200 OK\n", "b\"body\"."),
        (raw("HEAD /echo HTTP/1.1", "host: a\r\n", ""), "HTTP/1.1 200 OK\ncontent-length: 14\n", "\n\n"),
        (raw("GET /nothing HTTP/1.1", "host: a\r\n", ""), "HTTP/1.1 204 No Content\n", "\n\n"),
        (raw("OPTIONS * HTTP/1.1", "host: a\r\n", ""), "HTTP/1.1 404 Not Found\n", "none."),
        (post("/close", "", ""), "HTTP/1.1 200 OK\nconnection: close\n", "last."),
        (post("/echo", "connection: close\r\n", ""), "HTTP/1.1 200 OK\n", "b\"\"."),
    ] {
        let got = exchanged(&served, &sent).await;
        assert!(got.starts_with(begin) && got.ends_with(end), "{} gave {got}", &sent[..sent.len().min(200)]);
    }
}

#[tokio::test]
async fn a_connection_goes_on_or_ends_as_both_sides_say() {
    let served = Listener::start(limits()).await;
    let old = "POST /echo HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 4\r\n\r\nbody";
    for (first, goes_on) in [
        (post("/echo", "", "body"), true),
        (old.to_owned(), true),
        (old.replace("Keep-Alive", "x"), false),
        (post("/echo", "Connection: x, Close\r\n", "body"), false),
        (post("/close", "", ""), false),
        (post("/unread", "", "body"), true),
        // All of its body has arrived, though it was not read.
        ("POST /unread HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n".into(), true),
        ("POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nbody".into(), false),
        ("POST /unread HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n".into(), false),
    ] {
        let got = exchanged(&served, &(first.clone() + &post("/echo", "", "second"))).await;
        assert_eq!(got.contains("second"), goes_on, "{first} gave {got}");
        assert_eq!(got.contains("connection: close"), !goes_on, "{first} gave {got}");
        assert_eq!(got.contains("connection: keep-alive"), first.contains("Keep-Alive"), "{first} gave {got}");
        assert!(!got.contains("100 Continue"), "nobody has asked for the body: {got}");
    }
}

#[tokio::test]
async fn a_body_is_not_waited_for_before_somebody_asks_for_it() {
    let served = Listener::start(limits()).await;
    for fields in ["content-length: 50000\r\n", "transfer-encoding: chunked\r\n"] {
        let mut client = served.connect().await;
        send(&mut client, &format!("POST /unread HTTP/1.1\r\nhost: a\r\n{fields}\r\n4\r\nbody")).await;
        let start = Instant::now();

        let text = answer(&mut client, "who?").await;

        assert!(text.starts_with("HTTP/1.1 401 ") && start.elapsed() < PATIENCE / 2, "{text}");
    }
}

#[tokio::test]
async fn a_client_that_awaits_it_is_told_to_send_its_body() {
    let served = Listener::start(limits()).await;
    let mut client = served.connect().await;
    send(&mut client, "POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(answer(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    send(&mut client, "body").await;
    answer(&mut client, "b\"body\".").await;
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_malformed_is_told() {
    let served = Listener::start(limits()).await;
    let chunked = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for (sent, told) in [
        (format!("{chunked}x\r\n"), "the body has a malformed chunk"),
        (format!("{chunked}4\r\nbodyx"), "the body has a malformed chunk"),
        (format!("{chunked}4\r\nbo"), "the connection ended before the body"),
        (post("/echo", "", "body").replace("\r\nbody", "\r\nbo"), "the connection ended before the body"),
    ] {
        let got = exchanged(&served, &sent).await;
        assert!(got.starts_with("HTTP/1.1 400 ") && got.ends_with(told), "{sent} gave {got}");
        assert!(got.contains("connection: close"), "nothing after it can be understood: {got}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_arrives_though_the_client_goes_on_sending() {
    let served = Listener::start(limits()).await;
    let mut client = served.connect().await;
    send(&mut client, "POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").await;
    client.write_all(&vec![b'x'; 1_000_000]).await.expect("all of it is taken");

    assert!(rest(&mut client).await.ends_with("who?"));
}
