//! HTTP/2: the same answers, and the same bounds.

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response, StatusCode};

use super::*;

/// A client's connection, driven by a task that ends with it.
struct Client {
    send: SendRequest<Bytes>,
    _task: JoinSet<Result<(), h2::Error>>,
}

impl Client {
    async fn of(served: &Served) -> Self {
        Self::with(served, &Builder::new()).await
    }

    async fn with(served: &Served, settings: &Builder) -> Self {
        let (send, connection) = within(settings.handshake(served.connect().await)).await.expect("HTTP/2");
        let mut task = JoinSet::new();
        task.spawn(connection);
        Self { send, _task: task }
    }

    /// Sends a request whose body may follow.
    async fn begin(&mut self, request: Request<()>, is_whole: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = within(self.send.clone().ready()).await.expect("room for a stream");
        send.send_request(request, is_whole).expect("a request")
    }

    async fn get(&mut self, path: &str) -> Result<Response<RecvStream>, h2::Error> {
        let (answer, _) = self.begin(of(path), true).await;
        within(answer).await
    }

    /// The end of the connection.
    async fn ended(&mut self) -> Result<(), h2::Error> {
        within(self._task.join_next()).await.expect("one task").expect("no panic")
    }
}

fn of(path: &str) -> Request<()> {
    Request::get(format!("http://test{path}")).body(()).expect("a request")
}

async fn text(answer: Response<RecvStream>) -> String {
    let mut body = answer.into_body();
    let mut all = Vec::new();
    while let Some(piece) = within(body.data()).await {
        let piece = piece.expect("a whole body");
        body.flow_control().release_capacity(piece.len()).expect("it is open");
        all.extend_from_slice(&piece);
    }
    String::from_utf8(all).expect("utf-8")
}

fn reason(error: &h2::Error) -> Option<Reason> {
    error.reason()
}

#[tokio::test]
async fn requests_of_one_connection_are_answered_side_by_side() {
    let mut served = Served::start(limits()).await;
    let mut client = Client::of(&served).await;
    let (slow, _) = client.begin(of("/slow"), true).await;
    within(served.slow.started.recv()).await;

    let answers = join_all((0..50).map(|_| {
        let mut client = client.send.clone();
        async move {
            let answer =
                within(client.send_request(of("/thread"), true).expect("a request").0).await.expect("an answer");
            (answer.status(), answer.headers().contains_key("date"), text(answer).await.is_empty())
        }
    }));
    assert_eq!(answers.await, vec![(StatusCode::OK, true, false); 50]);
    served.slow.go_on.add_permits(1);
    assert_eq!(text(within(slow).await.expect("an answer")).await, "slow");
    let big = client.get("/big").await.expect("an answer");
    assert_eq!(big.headers()["content-length"], BIG.to_string());
    assert_eq!(text(big).await.len(), BIG);
    assert_eq!(served.connections.accepted(), 1);
}

#[tokio::test]
async fn a_body_is_read_as_the_handler_asks_for_it_and_head_has_none() {
    let served = Served::start(limits()).await;
    let mut client = Client::of(&served).await;
    let sent = "x".repeat(300_000);
    let (answer, mut body) = client.begin(Request::post("http://test/echo").body(()).expect("a request"), false).await;
    let sending = async {
        let mut rest = Bytes::from(sent.clone());
        while !rest.is_empty() {
            body.reserve_capacity(rest.len());
            let room = within(std::future::poll_fn(|context| body.poll_capacity(context))).await;
            let room = room.expect("it is open").expect("room");
            let piece = rest.split_to(room);
            body.send_data(piece, rest.is_empty()).expect("it is sent");
        }
    };
    let ((), answer) = tokio::join!(sending, within(answer));
    assert!(text(answer.expect("an answer")).await == sent);

    let head = Request::head("http://test/big").body(()).expect("a request");
    let (answer, _) = client.begin(head, true).await;
    let answer = within(answer).await.expect("an answer");
    assert_eq!(answer.headers()["content-length"], BIG.to_string());
    assert!(answer.into_body().is_end_stream());
}

#[tokio::test]
async fn a_cancelled_request_ends_alone() {
    let mut served = Served::start(limits()).await;
    let mut client = Client::of(&served).await;
    let (slow, mut stream) = client.begin(of("/slow"), true).await;
    within(served.slow.started.recv()).await;
    stream.send_reset(Reason::CANCEL);
    drop(slow);
    assert_eq!(text(client.get("/peer").await.expect("an answer")).await.split(':').next(), Some("127.0.0.1"));
    // Its handler is gone: the next one gets the permit.
    served.slow.go_on.add_permits(1);
    assert_eq!(text(client.get("/slow").await.expect("an answer")).await, "slow");
    let panicked = client.get("/panic").await;
    assert!(panicked.is_err(), "{panicked:?}");
}

#[tokio::test]
async fn what_two_readers_could_understand_in_two_ways_is_refused_and_the_connection_goes_on() {
    let served = Served::start(limits()).await;
    let mut client = Client::of(&served).await;
    let many = (0..101).fold(Request::get("http://test/peer"), |all, index| all.header(format!("x-{index}"), "1"));
    let cases = [
        (Request::get("http://test/peer").header("host", "other"), 400),
        (Request::get("http://test/peer").header("host", "test").header("host", "test"), 400),
        (Request::get("http://test/peer").header("expect", "more"), 417),
        (many, 431),
        (Request::get("http://test/peer").header("x-long", "x".repeat(33 * 1024)), 431),
        (Request::builder().method("CONNECT").uri("test:80"), 400),
        (Request::get("http://test/peer").header("host", "test"), 200),
    ];
    for (request, expected) in cases {
        let request = request.body(()).expect("a request");
        let shown = format!("{:?} {:?}", request.method(), request.headers().keys().next());
        let (answer, _) = client.begin(request, true).await;
        let answer = within(answer).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), expected, "{shown}");
        let body = text(answer).await;
        assert!(expected == 200 || body.is_empty() || body.starts_with(r#"{"error":{"message":""#), "{shown}: {body}");
    }
}

#[tokio::test]
async fn the_preface_may_come_in_pieces_and_only_at_the_beginning() {
    let served = Served::start(Limits { header_timeout: SHORT, ..limits() }).await;
    let mut pieces = served.connect().await;
    for piece in ["PRI * HT", "TP/2.0\r\n\r\nS", "M\r\n\r\n", "\0\0\0\u{4}\0\0\0\0\0"] {
        send(&mut pieces, piece).await;
        sleep(Duration::from_millis(10)).await;
    }
    let mut settings = [0; 9];
    within(pieces.read_exact(&mut settings)).await.expect("frames");
    assert_eq!(settings[3], 4, "a frame of settings");

    let mut half = served.connect().await;
    send(&mut half, "PRI * HTTP/2.0\r\n\r\nS").await;
    assert_eq!(rest(&mut half).await, "", "it has the deadline of a head");
    let mut other = served.connect().await;
    send(&mut other, "PRI * HTTP/2.0\r\n\r\nXY\r\n\r\n").await;
    assert!(rest(&mut other).await.starts_with("HTTP/1.1 400 "));
    let mut later = served.connect().await;
    let own = later.local_addr().expect("address").to_string();
    ask(&mut later, "/peer").await;
    answer(&mut later, &own).await;
    send(&mut later, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(rest(&mut later).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn an_idle_connection_of_http2_is_closed_after_its_limit_and_a_silent_one_after_that_of_heads() {
    let served = Served::start(Limits { idle_timeout: SHORT, ..limits() }).await;
    let mut client = Client::of(&served).await;
    text(client.get("/peer").await.expect("an answer")).await;
    assert!(client.ended().await.is_ok(), "it is told");

    let served = Served::start(Limits { header_timeout: SHORT, ..limits() }).await;
    let mut client = Client::of(&served).await;
    assert!(client.ended().await.is_ok());
    served.wait_for_open(0).await;
}

#[tokio::test]
async fn shutdown_lets_answers_of_http2_finish_and_takes_no_more_requests() {
    let mut served = Served::start(limits()).await;
    let (mut idle, mut client) = (Client::of(&served).await, Client::of(&served).await);
    text(idle.get("/peer").await.expect("an answer")).await;
    let (slow, _) = client.begin(of("/slow"), true).await;
    within(served.slow.started.recv()).await;

    served.stop.request();

    assert!(idle.ended().await.is_ok());
    served.wait_for_open(1).await;
    served.slow.go_on.add_permits(1);
    assert_eq!(text(within(slow).await.expect("an answer")).await, "slow");
    assert!(client.ended().await.is_ok());
    served.ended().await;
}

#[tokio::test]
async fn a_client_that_makes_no_room_for_an_answer_loses_it_after_the_limit() {
    let served = Served::start(Limits { write_stall: SHORT, ..limits() }).await;
    let mut client = Client::with(&served, Builder::new().initial_window_size(0)).await;
    let answer = client.get("/peer").await.expect("a head");
    let broken = within(answer.into_body().data()).await.expect("an end").expect_err("no body");
    assert_eq!(reason(&broken), Some(Reason::CANCEL));
}

#[tokio::test]
async fn connections_of_http2_that_wait_make_space_for_others() {
    let served = Served::start(Limits { connections: 1, ..limits() }).await;
    let mut first = Client::of(&served).await;
    text(first.get("/peer").await.expect("an answer")).await;
    let mut second = Client::of(&served).await;
    text(second.get("/peer").await.expect("an answer")).await;
    assert!(first.ended().await.is_ok());
    assert_eq!((served.connections.evicted(), served.connections.open()), (1, 1));

    // One with requests stays, and so does one whose client does not read, for a moment.
    let mut served = served;
    let (slow, _) = second.begin(of("/slow"), true).await;
    within(served.slow.started.recv()).await;
    assert_eq!(rest(&mut served.connect().await).await, "");
    served.slow.go_on.add_permits(1);
    assert_eq!(text(within(slow).await.expect("an answer")).await, "slow");
}
