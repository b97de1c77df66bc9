//! The ends of responses, and invalid responses.

use portcullis_runtime::chunked::Taken;
use proptest::prelude::*;

use super::super::body::{Body, STRICTNESS};
use super::super::head::{Finder, MAX_HEAD, MAX_HEADERS};
use super::*;

const MAX_ASIDE: usize = STRICTNESS.max_aside();

/// Status, body, whether the connection is reusable; `None` if the bytes are not a response.
type Outcome = Option<(u16, Vec<u8>, bool)>;

fn answer(status: u16, body: &str, reusable: bool) -> Outcome {
    Some((status, body.as_bytes().to_vec(), reusable))
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}")
}

fn chunked(body: &str) -> String {
    ok("transfer-encoding: chunked\r\n", body)
}

/// This many header lines.
fn many(count: usize) -> String {
    "a: b\r\n".repeat(count)
}

type Cases = Vec<(String, Outcome)>;

fn cases() -> Cases {
    [lengths(), connections(), chunks(), broken_heads()].concat()
}

fn lengths() -> Cases {
    vec![
        // Bodies of known length.
        (ok("content-length: 2\r\n", "{}"), answer(200, "{}", true)),
        (ok("Content-Length:2  \r\nX: y\r\n", "{}"), answer(200, "{}", true)),
        (ok("content-length: 0\r\n", ""), answer(200, "", true)),
        (ok("content-length: 2\r\n", "{}x"), answer(200, "{}", false)),
        (ok("content-length: 3\r\n", "{}"), None),
        (ok("content-length: 2\r\ncontent-length: 2\r\n", "{}"), None),
        (ok("content-length: 2\r\ncontent-length: 3\r\n", "{}x"), None),
        (ok("content-length: 2, 2\r\n", "{}"), None),
        (ok("content-length: +2\r\n", "{}"), None),
        (ok("content-length: -2\r\n", "{}"), None),
        (ok("content-length: 0x2\r\n", "{}"), None),
        (ok("content-length:\r\n", "{}"), None),
        (ok("content-length: 99999999999999999999\r\n", "{}"), None),
        // Statuses without a body, whatever their heads say.
        ("HTTP/1.1 204 No Content\r\n\r\n".into(), answer(204, "", true)),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n".into(), answer(304, "", true)),
        ("HTTP/1.1 204 No Content\r\n\r\nx".into(), answer(204, "", false)),
        // Bodies that end with the connection.
        (ok("", "until the end"), answer(200, "until the end", false)),
        ("HTTP/1.0 200 OK\r\n\r\n".into(), answer(200, "", false)),
    ]
}

fn connections() -> Cases {
    vec![
        // Heads before the head.
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\na: b\r\n\r\n".to_owned()
                + &ok("content-length: 1\r\n", "x"),
            answer(200, "x", true),
        ),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n".into(), None),
        ("HTTP/1.1 100 Continue\r\n\r\n".into(), None),
        ("HTTP/1.1 100 Continue\r\n\r\n".repeat(3000), None),
        // The side that keeps the connection open.
        (ok("content-length: 1\r\nconnection: close\r\n", "x"), answer(200, "x", false)),
        (ok("content-length: 1\r\nConnection: x, Close\r\n", "x"), answer(200, "x", false)),
        (ok("content-length: 1\r\nconnection: x\r\nconnection: close\r\n", "x"), answer(200, "x", false)),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx".into(), answer(200, "x", false)),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\nx".into(), answer(200, "x", true)),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n".into(), None),
    ]
}

fn chunks() -> Cases {
    vec![
        (chunked("2\r\nab\r\n0\r\n\r\n"), answer(200, "ab", true)),
        (ok("Transfer-Encoding: Chunked\r\n", "2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"), answer(200, "abcde", true)),
        (chunked("000A\r\n0123456789\r\n00\r\n\r\n"), answer(200, "0123456789", true)),
        (chunked("2;a=b\r\nab\r\n1 \t;c\r\nc\r\n0;d\r\n\r\n"), answer(200, "abc", true)),
        (chunked("1\r\na\r\n0\r\nx-trailer: 1\r\ny: 2\r\n\r\n"), answer(200, "a", true)),
        (chunked("1\r\na\r\n0\r\n\r\nmore"), answer(200, "a", false)),
        (chunked("0\r\n\r\n"), answer(200, "", true)),
        (chunked("2\r\nab\r\n0\r\n"), None),
        (chunked("2\r\nab\r\n"), None),
        (chunked("2\r\na"), None),
        (chunked("\r\n"), None),
        (chunked(";x\r\na"), None),
        (chunked("x\r\n"), None),
        (chunked("-1\r\n"), None),
        (chunked("2\nab\r\n0\r\n\r\n"), None),
        (chunked("2;x\nab\r\n0\r\n\r\n"), None),
        (chunked("2\r\nabc\r\n0\r\n\r\n"), None),
        (chunked("2\r\nab\n0\r\n\r\n"), None),
        (chunked("1 1\r\na\r\n0\r\n\r\n"), None),
        (chunked("1000000000000000\r\na"), None),
        (chunked(&format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_ASIDE + 1))), None),
        (chunked(&format!("0\r\n{}\r\n", many(MAX_ASIDE / 4))), None),
        (ok("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"), None),
        (ok("transfer-encoding: identity\r\n", "x"), None),
        (ok("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), None),
        (ok("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), None),
    ]
}

fn broken_heads() -> Cases {
    vec![
        ("".into(), None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n".into(), None),
        ("HTTP/2 200 OK\r\n\r\n".into(), None),
        ("HTTP/1.2 200 OK\r\n\r\n".into(), None),
        ("HTTP/1.1 20 OK\r\n\r\n".into(), None),
        ("HTTP/1.1 099 OK\r\n\r\n".into(), None),
        ("HTTP/1.1 2000 OK\r\n\r\n".into(), None),
        ("<html>\r\n\r\n".into(), None),
        ("{}".into(), None),
        (ok("a : b\r\n", ""), None),
        (ok("a\r\n", ""), None),
        (ok("a: b\r\n c\r\n", ""), None),
        (ok("a: \u{0}\r\n", ""), None),
        (ok(&(many(MAX_HEADERS - 1) + "content-length: 1\r\n"), "x"), answer(200, "x", true)),
        (ok(&many(MAX_HEADERS + 1), ""), None),
        (ok(&format!("a: {}\r\ncontent-length: 1\r\n", "b".repeat(MAX_HEAD - 100)), "x"), answer(200, "x", true)),
        (ok(&format!("a: {}\r\n", "b".repeat(MAX_HEAD)), ""), None),
    ]
}

/// The response in bytes that arrive in these pieces, after which the connection closes.
fn understood<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let (mut arrived, mut finder, mut found, mut all) = (BytesMut::new(), Finder::default(), None, Vec::new());
    for piece in pieces {
        arrived.extend_from_slice(piece);
        if found.is_none() {
            found = finder.take(&mut arrived).ok()?;
        }
        let Some((_, body)) = &mut found else { continue };
        while let Taken::Piece(piece) = Body::take(body, &mut arrived).ok()? {
            all.extend_from_slice(&piece);
        }
    }
    let (head, body) = found?;
    let has_ended = body.has_ended();
    (has_ended || body == Body::UntilClose)
        .then(|| (head.status.as_u16(), all, head.keeps && has_ended && arrived.is_empty()))
}

#[test]
fn an_answer_means_the_same_wherever_it_is_cut() {
    for (text, expected) in cases() {
        let (bytes, shown) = (text.as_bytes(), &text[..text.len().min(200)]);
        assert_eq!(understood([bytes].into_iter()), expected, "{shown:?} in one piece");
        assert_eq!(understood(bytes.chunks(1)), expected, "{shown:?} byte by byte");
        for cut in (1..bytes.len()).filter(|cut| bytes.len() < 1000 || cut % 977 == 0) {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(understood([first, second].into_iter()), expected, "{shown:?} cut at {cut}");
        }
    }
}

#[tokio::test]
async fn an_answer_over_a_connection_means_the_same_in_pieces_of_any_size() {
    for (text, expected) in cases() {
        let sizes: &[usize] = if text.len() < 1000 { &[usize::MAX, 1, 7] } else { &[usize::MAX, 5000] };
        for size in sizes {
            soon(over_a_connection(&text, *size, &expected)).await;
        }
    }
}

async fn over_a_connection(text: &str, size: usize, expected: &Outcome) {
    let shown = &text[..text.len().min(200)];
    let (pool, listener) = pool_and_listener().await;
    let serving = async {
        let (mut server, _) = listener.accept().await.unwrap();
        read_request(&mut server, 2).await;
        write_in_pieces(&mut server, text.as_bytes(), size).await;
        if expected.as_ref().is_none_or(|(.., reusable)| !reusable) {
            let _ = server.shutdown().await;
        }
        server
    };
    let asking = async {
        let exchange = ask(&pool, b"{}").await?;
        let status = exchange.head.status.as_u16();
        Ok::<_, HttpError>((status, exchange.whole(1024).await?))
    };
    let (_server, found) = tokio::join!(serving, asking);
    let wanted = expected.as_ref().map(|(status, body, _)| (*status, Bytes::from(body.clone()))).ok_or(HttpError::Lost);
    assert_eq!(found, wanted, "{shown:?} in pieces of {size}");
    // Bytes after the end may come later.
    hear().await;
    pool.sweep();
    let reusable = expected.as_ref().is_some_and(|(.., reusable)| *reusable);
    assert_eq!(pool.unused() == 1, reusable, "{shown:?} in pieces of {size}");
}

#[test]
fn what_a_head_says_can_be_asked_of_it() {
    let text = "HTTP/1.1 404 Nope\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\ncontent-type: text/html\r\n\
                Mcp-Session-Id: abc\r\nx-a: 1\r\nx-a: 2\r\nkeep-alive: max=5, timeout=3\r\ncontent-length: 0\r\n\r\n";
    let (head, body) = Finder::default().take(&mut BytesMut::from(text)).unwrap().unwrap();
    assert_eq!((head.status.as_u16(), head.media, body), (404, Media::EventStream, Body::Length(0)));
    assert_eq!(head.header("mcp-session-id"), Some(HeaderValue::from_static("abc")));
    assert_eq!(head.header("location"), None);
    let all = head.headers();
    assert_eq!(all.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(head.announced_idle, Some(Duration::from_millis(2500)));
    let medias = [
        ("application/json", Media::Json),
        ("APPLICATION/JSON;charset=utf-8", Media::Json),
        (" application/json ; x=y", Media::Json),
        ("application/jsonx", Media::Other),
        ("application/problem+json", Media::Other),
        ("", Media::Other),
    ];
    for (value, media) in medias {
        let text = format!("HTTP/1.1 200 OK\r\ncontent-type: {value}\r\n\r\n");
        let (head, _) = Finder::default().take(&mut BytesMut::from(&text[..])).unwrap().unwrap();
        assert_eq!((head.media, head.sets_cookies), (media, false), "{value:?}");
    }
    for (headers, media, sets_cookies) in [
        ("content-encoding: gzip\r\nset-cookie: a=b\r\n", Media::Coded, true),
        ("Content-Encoding: identity, BR\r\nSet-Cookie:\r\n", Media::Coded, true),
        ("content-encoding: identity\r\n", Media::Json, false),
        ("content-encoding:\r\n", Media::Json, false),
        ("content-encoding: identity\r\ncontent-encoding: zstd\r\n", Media::Coded, false),
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{headers}content-type: application/json\r\n\r\n");
        let (head, _) = Finder::default().take(&mut BytesMut::from(&text[..])).unwrap().unwrap();
        assert_eq!((head.media, head.sets_cookies), (media, sets_cookies), "{headers:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_mean_the_same_in_one_piece_and_in_many(
        begin in "(HTTP/1\\.[01] (1|2)[0-9]{2} ?[a-z]{0,3}(\r\n|\n)(transfer-encoding: chunked\r\n|content-length: [0-9]\r\n|){0,2}(\r\n|))?",
        rest in "([0-9a-f]{0,2}(\r\n|;|\n| |x){0,2}){0,8}",
        cuts in prop::collection::vec(1usize..9, 0..20),
    ) {
        let text = begin + &rest;
        let (mut pieces, mut left) = (Vec::new(), text.as_bytes());
        for cut in cuts {
            let (piece, after) = left.split_at(cut.min(left.len()));
            pieces.push(piece);
            left = after;
        }
        pieces.push(left);
        prop_assert_eq!(understood([text.as_bytes()].into_iter()), understood(pieces.into_iter()));
    }

    #[test]
    fn chunks_of_any_size_come_out_as_they_went_in(chunks in prop::collection::vec("[a-z]{1,40}", 0..6), size in 1usize..30) {
        let mut text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
        for chunk in &chunks {
            text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
        }
        text += "0\r\n\r\n";
        prop_assert_eq!(understood(text.as_bytes().chunks(size)), answer(200, &chunks.concat(), true));
    }
}

#[tokio::test]
async fn a_body_in_many_pieces_is_read_in_turns() {
    let (pool, listener) = pool_and_listener().await;
    let (server, exchange) = soon(async {
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            read_request(&mut server, 0).await;
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let body = "1\r\nx\r\n".repeat(10_000);
            // All of it arrives before anything is read.
            server.write_all(format!("{head}{body}0\r\n\r\n").as_bytes()).await.unwrap();
            server
        };
        tokio::join!(serving, ask(&pool, b""))
    })
    .await;
    let (mut polls, mut whole) = (0, Box::pin(exchange.unwrap().whole(100_000)));
    let body = soon(std::future::poll_fn(|cx| {
        polls += 1;
        whole.as_mut().poll(cx)
    }));
    assert_eq!(body.await.unwrap().len(), 10_000);
    assert!(polls > 5, "{polls}");
    drop(server);
}

#[tokio::test]
async fn a_body_that_goes_on_and_on_is_not_read_to_its_end_when_nobody_waits_for_it() {
    let (pool, listener) = pool_and_listener().await;
    let (server, exchange) = soon(async {
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            read_request(&mut server, 0).await;
            let body = "x".repeat(300_000);
            server.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{body}").as_bytes()).await.unwrap();
            server
        };
        tokio::join!(serving, ask(&pool, b""))
    })
    .await;
    drop(server);
    let mut exchange = exchange.unwrap();
    hear().await;
    assert_eq!(exchange.ended_now(), None);
}
