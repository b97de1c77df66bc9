//! Reused connections, the meaning of failed requests, and responses that arrive while the request is written.

use portcullis_runtime::WorkerThreads;
use tokio::task::JoinSet;

use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers one request with these bytes.
async fn answer(server: &mut TcpStream, body: usize, bytes: &[u8]) {
    read_request(server, body).await;
    server.write_all(bytes).await.unwrap();
}

async fn asked(pool: &Arc<HttpPool>, body: &[u8]) -> Result<Bytes, HttpError> {
    ask(pool, body).await?.whole(10 * 1024 * 1024).await
}

#[tokio::test]
async fn a_connection_carries_one_request_after_the_other() {
    let (pool, listener) = pool_and_listener().await;
    let serving = async {
        let (mut server, _) = listener.accept().await.unwrap();
        for length in [1, 2, 3] {
            answer(&mut server, length, OK).await;
        }
    };
    let asking = async {
        for body in ["a", "bb", "ccc"] {
            assert_eq!(asked(&pool, body.as_bytes()).await, Ok(Bytes::from_static(b"ok")));
        }
    };
    soon(async { tokio::join!(serving, asking) }).await;
    assert_eq!(pool.unused(), 1);
}

/// Sends requests from the threads of two workers in turn.
pub(super) async fn from_two_workers(pool: &Arc<HttpPool>, rounds: usize) {
    let threads = WorkerThreads::start(2).unwrap();
    let workers = threads.workers();
    for round in 0..rounds {
        // While the seat of the first is taken, the next is the second's.
        let _taken = (round % 2 == 1).then(|| workers.seat());
        let (pool, mut tasks) = (pool.clone(), JoinSet::new());
        workers.seat().unwrap().spawn(&mut tasks, async move { asked(&pool, b"a").await });
        assert_eq!(tasks.join_next().await.unwrap().unwrap(), Ok(Bytes::from_static(b"ok")));
    }
}

#[tokio::test]
async fn a_connection_that_one_worker_leaves_unused_serves_the_next() {
    let (pool, listener) = pool_and_listener().await;
    let serving = async {
        let (mut server, _) = listener.accept().await.unwrap();
        for _ in 0..4 {
            answer(&mut server, 1, OK).await;
        }
        server
    };
    soon(async { tokio::join!(serving, from_two_workers(&pool, 4)) }).await;
    assert_eq!(pool.unused(), 1);
}

/// Makes an unused connection, and returns the server's side of it.
async fn used_once(pool: &Arc<HttpPool>, listener: &TcpListener) -> TcpStream {
    let (server, body) = soon(async {
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            answer(&mut server, 1, OK).await;
            server
        };
        tokio::join!(serving, asked(pool, b"a"))
    })
    .await;
    assert_eq!((body, pool.unused()), (Ok(Bytes::from_static(b"ok")), 1));
    server
}

/// Makes an unused connection, lets the server change its end, and sends another request.
async fn asked_after<F: Future<Output = ()>>(change: impl FnOnce(TcpStream) -> F) -> Result<Bytes, HttpError> {
    let (pool, listener) = pool_and_listener().await;
    let mut server = used_once(&pool, &listener).await;
    server.flush().await.unwrap();
    change(server).await;
    let again = async {
        let (mut server, _) = listener.accept().await.unwrap();
        answer(&mut server, 2, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnew").await;
    };
    soon(async { tokio::join!(again, asked(&pool, b"bb")) }).await.1
}

#[tokio::test]
async fn an_unused_connection_that_the_server_has_closed_or_written_to_is_not_used() {
    let closed = asked_after(|server| async move {
        drop(server);
        hear().await;
    });
    assert_eq!(closed.await, Ok(Bytes::from_static(b"new")));
    let written = asked_after(|mut server| async move {
        server.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        hear().await;
        drop(server);
    });
    assert_eq!(written.await, Ok(Bytes::from_static(b"new")));
}

#[tokio::test]
async fn a_request_that_was_written_is_never_written_twice() {
    let (pool, listener) = pool_and_listener().await;
    let serving = async {
        let (mut server, _) = listener.accept().await.unwrap();
        answer(&mut server, 1, OK).await;
        read_request(&mut server, 2).await;
        drop(server);
    };
    let asking = async {
        assert_eq!(asked(&pool, b"a").await, Ok(Bytes::from_static(b"ok")));
        assert_eq!(asked(&pool, b"bb").await, Err(HttpError::Stale));
    };
    soon(async { tokio::join!(serving, asking) }).await;
    assert_eq!(pool.unused(), 0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_lost_whatever_the_connection() {
    let (pool, listener) = pool_and_listener().await;
    let serving = async {
        let (mut server, _) = listener.accept().await.unwrap();
        answer(&mut server, 1, OK).await;
        answer(&mut server, 2, b"HTTP/1.1 200 OK\r\nx: ").await;
        drop(server);
        let (mut server, _) = listener.accept().await.unwrap();
        read_request(&mut server, 3).await;
    };
    let asking = async {
        assert_eq!(asked(&pool, b"a").await, Ok(Bytes::from_static(b"ok")));
        assert_eq!(asked(&pool, b"bb").await, Err(HttpError::Lost));
        assert_eq!(asked(&pool, b"ccc").await, Err(HttpError::Lost));
    };
    soon(async { tokio::join!(serving, asking) }).await;
}

#[tokio::test]
async fn who_goes_away_closes_the_connection() {
    let (pool, listener) = pool_and_listener().await;
    let (server, exchange) = soon(async {
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            answer(&mut server, 1, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart").await;
            server
        };
        tokio::join!(serving, ask(&pool, b"a"))
    })
    .await;
    let mut server = server;
    let mut exchange = exchange.unwrap();
    assert_eq!(exchange.chunk().await, Ok(Some(Bytes::from_static(b"part"))));
    drop(exchange);
    assert_eq!(soon(server.read(&mut [0; 1])).await.unwrap(), 0);
    // Also while the answer is waited for.
    let serving = async {
        let (mut server, _) = listener.accept().await.unwrap();
        read_request(&mut server, 1).await;
        server
    };
    let mut server = soon(async {
        tokio::select! {
            server = serving => server,
            _ = ask(&pool, b"b") => panic!("nobody has answered"),
        }
    })
    .await;
    assert_eq!(soon(server.read(&mut [0; 1])).await.unwrap(), 0);
    assert_eq!(pool.unused(), 0);
}

#[tokio::test]
async fn an_answer_before_the_request_is_written_is_read_and_ends_the_connection() {
    let (pool, listener) = pool_and_listener().await;
    let large = vec![b'x'; 16 * 1024 * 1024];
    let refused = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig";
    let serving = async {
        let (mut server, _) = listener.accept().await.unwrap();
        read_request(&mut server, 1).await;
        server.write_all(refused).await.unwrap();
        server
    };
    let asking = async {
        let exchange = ask(&pool, &large).await.unwrap();
        (exchange.head.status.as_u16(), exchange.whole(10).await)
    };
    let (_server, found) = soon(async { tokio::join!(serving, asking) }).await;
    assert_eq!(found, (413, Ok(Bytes::from_static(b"big"))));
    assert_eq!(pool.unused(), 0);
}

#[tokio::test]
async fn a_server_that_answers_while_it_reads_blocks_nobody() {
    let (pool, listener) = pool_and_listener().await;
    let length = 8 * 1024 * 1024;
    let large = vec![b'x'; length];
    let serving = async {
        let (mut server, _) = listener.accept().await.unwrap();
        let mut piece = vec![0; 64 * 1024];
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        server.write_all(head.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = server.split();
        let mut seen = Vec::new();
        while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut one = [0];
            reading.read_exact(&mut one).await.unwrap();
            seen.push(one[0]);
        }
        let mut left = length;
        while left > 0 {
            let read = reading.read(&mut piece).await.unwrap();
            writing.write_all(&piece[..read]).await.unwrap();
            left -= read;
        }
    };
    let (_, body) = soon(async { tokio::join!(serving, asked(&pool, &large)) }).await;
    assert_eq!(body.map(|body| body == large), Ok(true));
    assert_eq!(pool.unused(), 1);
}

#[tokio::test]
async fn a_large_body_is_read_whole_or_refused_by_what_its_head_says() {
    let length = 3 * 1024 * 1024;
    for (limit, fits) in [(length, true), (length - 1, false)] {
        let (pool, listener) = pool_and_listener().await;
        let mut text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        text.extend((0..length).map(|at| at as u8));
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            read_request(&mut server, 1).await;
            let _ = server.write_all(&text).await;
        };
        let asking = async { ask(&pool, b"a").await.unwrap().whole(limit).await };
        let (_, body) = soon(async { tokio::join!(serving, asking) }).await;
        let expected = if fits { Ok(true) } else { Err(HttpError::TooLarge(limit)) };
        assert_eq!(body.map(|body| body == text[text.len() - length..]), expected);
        assert_eq!(pool.unused() == 1, fits);
    }
}

#[tokio::test]
async fn chunks_above_the_limit_are_refused() {
    for (limit, expected) in [(6, Ok(Bytes::from_static(b"abcdef"))), (5, Err(HttpError::TooLarge(5)))] {
        let (pool, listener) = pool_and_listener().await;
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n4\r\ncdef\r\n0\r\n\r\n";
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            answer(&mut server, 1, text).await;
            server
        };
        let asking = async { ask(&pool, b"a").await.unwrap().whole(limit).await };
        let (_server, body) = soon(async { tokio::join!(serving, asking) }).await;
        assert_eq!(body, expected);
    }
}

#[tokio::test]
async fn the_rest_of_an_answer_that_nobody_waits_for_frees_its_connection() {
    let (pool, listener) = pool_and_listener().await;
    let (mut server, exchange) = soon(async {
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            answer(&mut server, 1, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
            server
        };
        tokio::join!(serving, ask(&pool, b"a"))
    })
    .await;
    exchange.unwrap().linger();
    assert_eq!(pool.unused(), 0);
    let pause = Duration::from_millis(200);
    tokio::time::sleep(pause).await;
    server.write_all(b"0\r\n\r\n").await.unwrap();
    hear().await;
    pool.sweep();
    // The arrival time of its last byte is unknown: not before it was left alone.
    assert_eq!((pool.unused(), pool.unused_for() >= pause), (1, true));
    let serving = answer(&mut server, 2, OK);
    let (_, body) = soon(async { tokio::join!(serving, asked(&pool, b"bb")) }).await;
    assert_eq!(body, Ok(Bytes::from_static(b"ok")));
}

#[tokio::test]
async fn a_server_that_announces_how_long_it_keeps_connections_is_believed() {
    let (pool, listener) = pool_and_listener().await;
    let serving = async {
        for _ in 0..2 {
            let (mut server, _) = listener.accept().await.unwrap();
            answer(&mut server, 1, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nkeep-alive: timeout=0\r\n\r\n").await;
        }
    };
    let asking = async {
        for _ in 0..2 {
            assert_eq!(asked(&pool, b"a").await, Ok(Bytes::new()));
        }
    };
    soon(async { tokio::join!(serving, asking) }).await;
}

#[tokio::test]
async fn sweeping_closes_what_cannot_be_used_any_more_and_nothing_else() {
    let (pool, listener) = pool_and_listener().await;
    let server = used_once(&pool, &listener).await;
    pool.sweep();
    assert_eq!(pool.unused(), 1);
    drop(server);
    hear().await;
    pool.sweep();
    assert_eq!(pool.unused(), 0);
}

#[tokio::test]
async fn what_cannot_be_reached_got_nothing() {
    let (pool, listener) = pool_and_listener().await;
    drop(listener);
    assert_eq!(soon(asked(&pool, b"a")).await, Err(HttpError::Connect("connection refused")));
}
