//! The heads of requests, line by line.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::http1::Origin;

const AGENT: &str = concat!("user-agent: portcullis/", env!("CARGO_PKG_VERSION"));

static VARYING: [HeaderName; 1] = [HeaderName::from_static("mcp-name")];

fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let read =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    headers.iter().map(read).collect()
}

fn heads(configured: &[(&'static str, &'static str)]) -> Heads {
    let pool = HttpPool::new(Origin {
        host: "h".into(),
        port: 1,
        authority: HeaderValue::from_static("h:1"),
        guard: Arc::default(),
        tls: None,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
    });
    let configured = SessionHeaders { all: map(configured), ..SessionHeaders::default() };
    Heads::new(&pool, Uri::from_static("/mcp?x=1"), configured, &VARYING)
}

/// The request line, the headers in the order of the alphabet, and the body.
fn lines(request: &Outgoing) -> Vec<String> {
    let text = String::from_utf8([&request.text[..], &request.body[..]].concat()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<String> = head.split("\r\n").map(str::to_owned).collect();
    lines[1..].sort();
    lines.push(body.to_owned());
    lines
}

#[test]
fn own_headers_count_before_configured_ones_and_those_before_a_calls() {
    let heads = heads(&[("x-b", "configured"), ("accept", "configured"), ("mcp-name", "configured")]);
    heads.own("x-c", HeaderValue::from_static("own"));
    let call = map(&[("x-a", "call"), ("x-b", "call"), ("x-c", "call"), ("accept", "call"), ("mcp-name", "call")]);
    let expected = [
        "POST /mcp?x=1 HTTP/1.1",
        "accept-encoding: identity",
        "accept: application/json, text/event-stream",
        "content-length: 2",
        "content-type: application/json",
        "host: h:1",
        "mcp-name: echo",
        AGENT,
        "x-a: call",
        "x-b: configured",
        "x-c: own",
        "{}",
    ];
    assert_eq!(lines(&heads.call(false, &call, None, &[("mcp-name", "echo")], &["{", "}"])), expected);
}

#[test]
fn replaced_headers_count_from_the_next_request_on() {
    let heads = heads(&[("x-a", "1")]);
    heads.configure(SessionHeaders { all: map(&[("x-b", "2")]), ..SessionHeaders::default() });
    heads.own("mcp-session-id", HeaderValue::from_static("old"));
    heads.own("mcp-session-id", HeaderValue::from_static("new"));
    let post = [
        "POST /mcp?x=1 HTTP/1.1",
        "accept-encoding: identity",
        "accept: application/json, text/event-stream",
        "content-length: 4",
        "content-type: application/json",
        "host: h:1",
        "mcp-session-id: new",
        AGENT,
        "x-b: 2",
        "body",
    ];
    assert_eq!(lines(&heads.post(Bytes::from_static(b"body"))), post);
    let listen = [
        "GET /mcp?x=1 HTTP/1.1",
        "accept-encoding: identity",
        "accept: text/event-stream",
        "host: h:1",
        "mcp-session-id: new",
        AGENT,
        "x-b: 2",
        "",
    ];
    assert_eq!(lines(&heads.listen(None)), listen);
    let delete = [
        "DELETE /mcp?x=1 HTTP/1.1",
        "accept-encoding: identity",
        "accept: application/json, text/event-stream",
        "content-type: application/json",
        "host: h:1",
        "mcp-session-id: new",
        AGENT,
        "x-b: 2",
        "",
    ];
    assert_eq!(lines(&heads.delete()), delete);
}

/// The lines of all kinds of requests that begin so.
fn of_all(heads: &Heads, call: &HeaderMap, begin: &str) -> [Vec<String>; 4] {
    let all =
        [heads.call(false, call, None, &[], &["{}"]), heads.post(Bytes::new()), heads.listen(None), heads.delete()];
    all.map(|request| lines(&request).into_iter().filter(|line| line.starts_with(begin)).collect())
}

#[test]
fn every_request_says_who_asks_once_and_what_is_configured_counts_before_what_a_caller_says() {
    let (none, caller) = (HeaderMap::new(), map(&[("user-agent", "a caller"), ("accept-encoding", "gzip")]));
    for (configured, call, expected) in [
        (&[][..], &none, [AGENT, AGENT]),
        (&[], &caller, ["user-agent: a caller", AGENT]),
        (&[("user-agent", "mine")], &none, ["user-agent: mine"; 2]),
        (&[("user-agent", "mine"), ("accept-encoding", "br")], &caller, ["user-agent: mine"; 2]),
    ] {
        let [of_call, of_others] = expected;
        let heads = heads(configured);
        assert_eq!(of_all(&heads, call, "user-agent"), [[of_call], [of_others], [of_others], [of_others]]);
        assert_eq!(of_all(&heads, call, "accept-encoding"), [["accept-encoding: identity"]; 4]);
    }
}

#[test]
fn a_call_that_has_passed_other_gateways_names_them_and_this_one() {
    let heads = heads(&[]);
    let passed = map(&[("portcullis-instance", "a, b")]);
    let none = HeaderMap::new();
    let names = |call: &HeaderMap| of_all(&heads, call, "portcullis-instance");
    assert_eq!(names(&passed), [const { Vec::<String>::new() }; 4]);
    heads.name_instance(HeaderValue::from_static("own"));
    let (own, all) = (["portcullis-instance: own"], ["portcullis-instance: a, b, own"]);
    assert_eq!(names(&none), [own, own, own, own]);
    assert_eq!(names(&passed), [all, own, own, own]);
    assert_eq!(of_all(&heads, &passed, "user-agent"), [[AGENT]; 4]);
    let both = map(&[("portcullis-instance", "a"), ("user-agent", "caller")]);
    assert_eq!(of_all(&heads, &both, "user-agent")[0], ["user-agent: caller"]);
}

#[test]
fn requests_that_are_no_calls_have_the_headers_of_lists_instead_of_those_of_the_same_names() {
    let heads = heads(&[("authorization", "calls"), ("x-a", "1")]);
    let all = map(&[("authorization", "calls"), ("x-a", "1")]);
    heads.configure(SessionHeaders { all, listing: map(&[("authorization", "lists")]) });
    let caller = map(&[("authorization", "caller")]);
    let (calls, lists) = (["authorization: calls"], ["authorization: lists"]);
    assert_eq!(of_all(&heads, &caller, "authorization"), [calls, lists, lists, lists]);
    assert_eq!(of_all(&heads, &caller, "x-a"), [["x-a: 1"]; 4]);
    let none = HeaderMap::new();
    let ping = lines(&heads.call(true, &none, None, &[], &["{}"]));
    assert!(ping.contains(&"authorization: lists".to_owned()), "{ping:?}");
    let own = HeaderValue::from_static("its own");
    let call = lines(&heads.call(false, &none, Some(&own), &[], &["{}"]));
    let found: Vec<_> = call.iter().filter(|line| line.starts_with("authorization")).collect();
    assert_eq!(found, ["authorization: its own"]);
    heads.configure(SessionHeaders::default());
    assert_eq!(of_all(&heads, &none, "authorization"), [const { Vec::<String>::new() }; 4]);
}

fn setting(cookie: &str) -> Head {
    let mut arrived = bytes::BytesMut::from(format!("HTTP/1.1 200 OK\r\nset-cookie: {cookie}\r\n\r\n").as_bytes());
    Head::read(&mut arrived).expect("a head")
}

#[tokio::test(start_paused = true)]
async fn cookies_of_the_server_go_along_with_every_request_until_they_end_and_those_of_callers_never() {
    let heads = heads(&[("cookie", "mine=1")]);
    let caller = map(&[("cookie", "theirs=1")]);
    let expect = |line: &str| assert_eq!(of_all(&heads, &caller, "cookie"), [[line]; 4]);
    expect("cookie: mine=1");
    heads.keep_cookies(&setting("a=1; Path=/; Max-Age=5"));
    heads.keep_cookies(&setting("b=1; Path=/mcp"));
    expect("cookie: mine=1; b=1; a=1");
    heads.move_to(Uri::from_static("/messages"));
    expect("cookie: mine=1; a=1");
    tokio::time::advance(Duration::from_secs(5)).await;
    expect("cookie: mine=1");
    let heads = self::heads(&[]);
    assert_eq!(of_all(&heads, &caller, "cookie"), [const { Vec::<String>::new() }; 4]);
}
