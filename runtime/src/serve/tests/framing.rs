//! Ambiguous requests are refused, in one piece and byte by byte, as the first and as later ones.

use super::*;

/// The status of the answer to these bytes, sent in pieces of this size. The connection is closed after it.
async fn status_of(address: SocketAddr, bytes: &[u8], size: usize) -> String {
    let mut client = connect(address).await;
    client.set_nodelay(true).expect("a socket");
    for piece in bytes.chunks(size) {
        // It may be refused before all of it was sent.
        if client.write_all(piece).await.is_err() {
            break;
        }
        if size < bytes.len() {
            tokio::task::yield_now().await;
        }
    }
    let text = rest(&mut client).await;
    text.rsplit_once("HTTP/1.1 ").map(|(_, last)| last[..3].to_owned()).unwrap_or(text)
}

/// Requests, and the status of their answers.
type Cases = Vec<(String, &'static str)>;

fn get(fields: &str) -> String {
    format!("GET /peer HTTP/1.1\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /peer HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

fn hosts() -> Cases {
    vec![
        (get(""), "400"),
        (get("Host: a\r\nHost: b\r\n"), "400"),
        (get("Host: a\r\nhost: a\r\n"), "400"),
        (get("Host: a, b\r\n"), "400"),
        (get("Host: a b\r\n"), "400"),
        (get("Host: http://a/\r\n"), "400"),
        (get("Host: a@b\r\n"), "400"),
        (get("Host: a\"b\r\n"), "400"),
        (get("Host: \u{e9}\r\n"), "400"),
        ("GET /peer HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".into(), "400"),
    ]
}

fn bodies() -> Cases {
    vec![
        (post("Content-Length: 4\r\nContent-Length: 4\r\n", "body"), "400"),
        (post("Content-Length: 4\r\nContent-Length: 5\r\n", "body"), "400"),
        (post("Content-Length: 4, 4\r\n", "body"), "400"),
        (post("Content-Length: +4\r\n", "body"), "400"),
        (post("Content-Length: -1\r\n", ""), "400"),
        (post("Content-Length: 0x4\r\n", "body"), "400"),
        (post("Content-Length: 4 4\r\n", "body"), "400"),
        (post("Content-Length: \r\n", ""), "400"),
        (post("Content-Length: 99999999999999999999\r\n", ""), "400"),
        (post("Expect: more\r\nContent-Length: 0\r\n", ""), "417"),
    ]
}

fn codings() -> Cases {
    vec![
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding: identity\r\n", ""), "400"),
        (post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding:\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding: \u{b}chunked\r\n", "0\r\n\r\n"), "400"),
        (post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), "501"),
        (post("Transfer-Encoding: GZIP , Chunked\r\n", "0\r\n\r\n"), "501"),
        ("POST /peer HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), "400"),
    ]
}

fn lines() -> Cases {
    vec![
        (get("Host: a\r\nx : y\r\n"), "400"),
        (get("Host: a\r\n x: y\r\n"), "400"),
        (get("Host: a\r\nx: y\r\n folded\r\n"), "400"),
        (get("Host: a\r\nx y: z\r\n"), "400"),
        (get("Host: a\r\n: y\r\n"), "400"),
        (get("Host: a\r\nx\r\n"), "400"),
        (get("Host: a\r\nx: \u{0}\r\n"), "400"),
        (get("Host: a\r\nx: y\rz: 1\r\n"), "400"),
        (get("Host: a\r\nx: y\nz: 1\r\n"), "400"),
        (get("Host: a \t\nx: y\r\n"), "400"),
        (get("Host: a\r\nx:\n"), "400"),
        ("GET /peer HTTP/1.1\nHost: a\r\n\r\n".into(), "400"),
        ("GET /peer HTTP/1.1\r\nHost: a\r\n\n".into(), "400"),
        ("GET  /peer HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /peer  HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /pe er HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET peer HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /peer HTTP/1.1 \r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /peer HTTP/1.2\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /peer HTTP/2.0\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /peer http/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /peer\r\n\r\n".into(), "400"),
        ("G\u{e9}T /peer HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\r\n".into(), "400"),
    ]
}

fn sizes() -> Cases {
    let long = "x".repeat(40_000);
    vec![
        (get(&format!("Host: a\r\nx: {long}\r\n")), "431"),
        (get(&format!("Host: a\r\n{}", "a: b\r\n".repeat(100))), "431"),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "431"),
    ]
}

#[tokio::test]
async fn requests_that_could_be_understood_in_two_ways_are_refused() {
    let served = Served::start(Limits { connections: 1_000, ..limits() }).await;
    let cases = [hosts(), bodies(), codings(), lines(), sizes()].concat();
    let good = "GET /peer HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut all = JoinSet::new();
    for (text, expected) in cases {
        let address = served.address;
        all.spawn(async move {
            let shown = text[..text.len().min(200)].to_owned();
            // The bytes after it are not a separate request, whatever they look like.
            let smuggled = format!("{text}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
            let later = format!("{good}{text}");
            assert_eq!(status_of(address, text.as_bytes(), usize::MAX).await, expected, "{shown:?}");
            assert_eq!(status_of(address, smuggled.as_bytes(), usize::MAX).await, expected, "{shown:?}, and one more");
            assert_eq!(status_of(address, later.as_bytes(), usize::MAX).await, expected, "{shown:?} as the second");
            if text.len() < 500 && text.ends_with("\r\n\r\n") {
                assert_eq!(status_of(address, text.as_bytes(), 1).await, expected, "{shown:?} byte by byte");
            }
        });
    }
    while let Some(end) = all.join_next().await {
        end.expect("it is refused");
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong_and_ends_the_connection() {
    let served = Served::start(limits()).await;
    let mut client = served.connect().await;
    send(&mut client, "GET / HTTP/1.1\r\n\r\n").await;
    let body = r#"{"error":{"message":"the request must name one host: send one Host header","code":400}}"#;
    let expected = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\nx-content-type-options: nosniff\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(rest(&mut client).await, expected);
}
