//! Servers that are wedged, dead, or dying again and again: found, replaced, and not hammered.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{
    CallFault, ConnectionFault, Faulty, FaultyMode, ProtocolFault, RequestFault, StreamEnd, Tool,
};
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::stack::{STATE_DEADLINE, Stack, assert_quick, server};

/// Checks every 5 s at most 6 s apart; one that fails, after 5 s, is enough.
fn watchful() -> Value {
    json!({"intervalSeconds": 5, "unhealthyThreshold": 1})
}

#[tokio::test]
async fn a_wedged_server_is_found_and_its_session_replaced() {
    let quiet = Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("quiet")]).await;
    let called = Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("called")]).await;
    let dumb = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("dumb")]).await;
    let honest = Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("fine")]).await;
    let stack = Stack::ready([
        server("quiet", &quiet).with("healthCheck", watchful()),
        server("called", &called).with("healthCheck", watchful()).calls_take(60),
        server("dumb", &dumb).with("healthCheck", watchful()),
        server("honest", &honest).with("healthCheck", watchful()),
    ])
    .await;
    quiet.freeze_streams();
    called.freeze_streams();
    dumb.behave(|it| it.ping = ProtocolFault::Never);
    let began = Instant::now();
    let call = async {
        // What waits on the frozen stream ends with it, not at its deadline of a minute.
        let (answer, took) = stack.timed("called").await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(took < Duration::from_secs(15), "{took:?}");
    };
    let replaced = |faulty| async move {
        wait_for("a new session", STATE_DEADLINE, || async { Faulty::seen(faulty).initialized == 2 }).await;
    };
    tokio::join!(call, replaced(&quiet), replaced(&called), replaced(&dumb));
    assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
    dumb.reform();
    for tool in ["quiet", "called", "dumb"] {
        stack.works(tool).await;
    }
    assert_quick(&stack, "fine").await;
    assert_eq!(honest.seen().initialized, 1, "an honest server was taken for a wedged one");
    assert!(honest.seen().pings >= 1);
}

#[tokio::test]
async fn a_server_whose_connections_fail_is_dialled_less_and_less() {
    let odd = [ConnectionFault::Closed, ConnectionFault::Raw("HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n".into())];
    let one = async |mode, connection: &ConnectionFault| {
        let faulty = Faulty::start(mode).await;
        faulty.behave(|it| it.connection = connection.clone());
        let stack = Stack::start([server("a", &faulty)]).await;
        sleep(Duration::from_secs(7)).await;
        // Caps of the pauses: 0.05, 0.5, 1, 2, 4, 8 s; an attempt makes up to three connections.
        let connections = faulty.seen().connections;
        assert!((2..=36).contains(&connections), "{mode:?} {connection:?}: {connections}");
        let failed = stack.metric("portcullis_server_reconnects_total", &["connect_failed"]).await;
        assert!((2.0..=12.0).contains(&failed), "{mode:?} {connection:?}: {failed}");
        assert!([404, 503].contains(&stack.call("echo").await.status));
    };
    let mut all = Vec::new();
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        all.extend(odd.iter().map(|connection| one(mode, connection)));
    }
    join_all(all).await;
}

#[tokio::test]
async fn a_server_that_dies_after_each_handshake_is_not_hammered() {
    let one = async |mode| {
        let faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        let began = Instant::now();
        let mut deaths = 0;
        while began.elapsed() < Duration::from_secs(7) {
            let seen = faulty.seen().initialized;
            if seen > deaths {
                deaths = seen;
                faulty.end_streams(StreamEnd::Cut).await;
                faulty.forget_sessions();
                drop(stack.call("echo").await);
            }
            sleep(Duration::from_millis(5)).await;
        }
        assert!((2..=14).contains(&deaths), "{mode:?}: {deaths} handshakes");
        let lists = faulty.seen().lists;
        // One for each session, and one to check whether it is really lost.
        assert!(lists <= 2 * deaths + 4, "{mode:?}: {lists} lists");
    };
    join_all([FaultyMode::Sse, FaultyMode::Streamable].map(one)).await;
}

#[tokio::test]
async fn failing_calls_do_not_flood_a_living_server_with_checks() {
    let one = async |mode| {
        let faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        faulty.behave(|it| it.call = RequestFault::status(500));
        let began = Instant::now();
        let mut calls = 0;
        while began.elapsed() < Duration::from_secs(2) {
            assert_eq!(stack.call("echo").await.status, 502);
            calls += 1;
        }
        let pings = faulty.seen().of("ping").len();
        assert!(calls > 20 && pings <= 8, "{mode:?}: {pings} pings for {calls} calls");
        assert_eq!(faulty.seen().initialized, 1, "{mode:?}");
    };
    join_all([FaultyMode::Sse, FaultyMode::Streamable].map(one)).await;
}

#[tokio::test]
async fn connections_that_a_burst_leaves_behind_are_closed() {
    let faulty =
        Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("echo").takes(Duration::from_millis(300))]).await;
    let stack = Stack::ready([server("a", &faulty).calls_take(10)]).await;
    join_all((0..40).map(|_| stack.call("echo"))).await;
    let port = faulty.address().port();
    assert!(connections_to(port) >= 40, "{}", connections_to(port));
    faulty.set_tools(vec![Tool::echo("echo")]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(9) {
        assert_eq!(stack.call("echo").await.status, 200);
        sleep(Duration::from_millis(50)).await;
    }
    assert!(connections_to(port) <= 6, "{} connections are open", connections_to(port));
}

#[tokio::test]
async fn a_session_of_one_client_that_brings_no_answers_is_replaced() {
    let faulty = Faulty::start(FaultyMode::Sse).await;
    let entry = server("a", &faulty).with("session", json!("PerClient")).with("healthCheck", watchful());
    let stack = Stack::ready([entry]).await;
    assert_eq!(stack.call("echo").await.status, 200);
    faulty.freeze_streams();
    assert_eq!(stack.call("echo").await.status, 504);
    stack.works("echo").await;
}

#[tokio::test]
async fn connections_of_clients_sessions_that_nobody_uses_are_closed() {
    let faulty =
        Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("echo").takes(Duration::from_millis(300))]).await;
    let entry = server("a", &faulty).with("session", json!("PerClient")).calls_take(10);
    let stack = Stack::ready([entry]).await;
    join_all((0..40).map(|_| stack.call("echo"))).await;
    let port = faulty.address().port();
    assert!(connections_to(port) >= 40, "{}", connections_to(port));
    // Streams on which it listens stay open.
    wait_for("unused connections to be closed", STATE_DEADLINE, || async {
        let open = connections_to(port);
        if open <= 6 { Ok(()) } else { Err(open) }
    })
    .await;
}

/// Sockets of this process that were connected to the port, in any state but the last.
fn connections_to(port: u16) -> usize {
    const TIME_WAIT: &str = "06";
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("the table of connections");
    let remote = format!(":{port:04X}");
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|fields| fields.len() > 3 && fields[2].ends_with(&remote) && fields[3] != TIME_WAIT).count()
}

#[tokio::test]
async fn a_server_that_never_answers_keeps_nobody_waiting_once_it_is_known() {
    let bad = Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("echo")]).await;
    let good = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("echo")]).await;
    let stack = Stack::ready([server("bad", &bad), server("good", &good).with("priority", json!(1))]).await;
    bad.behave(|it| it.answer = CallFault::Never);
    for _ in 0..3 {
        assert_eq!(stack.call("echo").await.status, 504);
    }
    let (answer, took) = stack.timed("echo").await;
    assert_eq!((answer.status, answer.header("x-portcullis-server")), (200, "good"));
    assert!(took < Duration::from_millis(900), "{took:?}");
}
