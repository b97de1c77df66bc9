//! Servers that close unused connections, early and late, with and without announcing it.

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;

/// When a server closes an unused connection, and what it announces.
#[derive(Clone, Copy, Debug)]
struct Closes {
    after: Duration,
    announces: Option<&'static str>,
}

fn closes(milliseconds: u64, announces: Option<&'static str>) -> Closes {
    Closes { after: Duration::from_millis(milliseconds), announces }
}

/// Answers requests of one byte on all connections.
async fn serve(listener: TcpListener, closes: Closes) {
    let mut connections = JoinSet::new();
    while let Ok((server, _)) = listener.accept().await {
        connections.spawn(connection(server, closes));
    }
}

async fn connection(mut server: TcpStream, closes: Closes) {
    let announced = closes.announces.map(|text| format!("keep-alive: {text}\r\n")).unwrap_or_default();
    let answer = format!("HTTP/1.1 200 OK\r\n{announced}content-length: 2\r\n\r\nok");
    let mut read = Vec::new();
    loop {
        // The timer runs from the last response, and a request that arrives at the moment of closing is not read.
        match timeout(closes.after, server.read_buf(&mut read)).await {
            Ok(Ok(1..)) => {}
            _ => return,
        }
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n")
            && read.len() > end + 4
        {
            read.clear();
            sleep(Duration::from_millis(2)).await;
            if server.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Sends this many requests at once, in this many rounds at this interval; all get responses.
async fn bursts(closes: Closes, rounds: u32, pause: Duration) {
    let (pool, listener) = pool_and_listener().await;
    let mut serving = JoinSet::new();
    serving.spawn(serve(listener, closes));
    for round in 0..rounds {
        let one = async || ask(&pool, b"a").await?.whole(16).await;
        for found in join_all((0..12).map(|_| one())).await {
            assert_eq!(found, Ok(Bytes::from_static(b"ok")), "{closes:?} {pause:?}, round {round}");
        }
        sleep(pause).await;
    }
}

#[tokio::test]
async fn bursts_in_the_rhythm_in_which_a_server_closes_connections_lose_nothing() {
    let rhythms = [
        (closes(1_000, None), 12, 1_000),
        (closes(1_000, None), 12, 997),
        (closes(2_000, None), 6, 2_000),
        (closes(2_000, None), 6, 1_996),
        (closes(5_000, None), 3, 5_000),
        (closes(5_000, None), 3, 4_997),
        (closes(1_000, Some("timeout=1")), 12, 1_000),
        (closes(2_000, Some("Timeout=2, max=100")), 6, 1_998),
        (closes(5_000, Some("timeout=5")), 3, 4_998),
        // Announcements are not always true.
        (closes(1_000, Some("timeout=60")), 12, 400),
    ];
    join_all(rhythms.map(|(closes, rounds, pause)| bursts(closes, rounds, Duration::from_millis(pause)))).await;
}

#[tokio::test]
async fn connections_that_a_server_closes_after_each_answer_are_not_used_again() {
    let (pool, listener) = pool_and_listener().await;
    let serving = async {
        loop {
            let (mut server, _) = listener.accept().await.unwrap();
            read_request(&mut server, 1).await;
            server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    };
    let asking = async {
        let mut lost = 0;
        for _ in 0..50 {
            match ask(&pool, b"a").await {
                Ok(exchange) => assert_eq!(exchange.whole(16).await, Ok(Bytes::from_static(b"ok"))),
                Err(error) => {
                    assert_eq!(error, HttpError::Stale);
                    lost += 1;
                }
            }
        }
        assert!(lost <= 1, "{lost} of 50");
    };
    soon(async {
        tokio::select! {
            () = serving => {}
            () = asking => {}
        }
    })
    .await;
}

#[tokio::test]
async fn connections_are_used_again_once_a_server_is_seen_to_keep_them() {
    let (pool, listener) = pool_and_listener().await;
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((server, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            connections.spawn(connection(server, closes(60_000, None)));
        }
    });
    for _ in 0..6 {
        assert_eq!(ask(&pool, b"a").await.unwrap().whole(16).await, Ok(Bytes::from_static(b"ok")));
        sleep(Duration::from_millis(700)).await;
    }
    let made = count.load(std::sync::atomic::Ordering::Relaxed);
    assert!(made <= 3, "{made} connections for six requests");
}
