//! Which connection is closed if there is no space for a new one.

use super::*;

/// Whether a request is still answered on this connection.
async fn is_answered(client: &mut TcpStream) -> bool {
    let own = client.local_addr().expect("address").to_string();
    if client.write_all(b"GET /peer HTTP/1.1\r\nhost: test\r\n\r\n").await.is_err() {
        return false;
    }
    let mut bytes = Vec::new();
    while !bytes.ends_with(own.as_bytes()) {
        match within(client.read_buf(&mut bytes)).await {
            Ok(more) if more > 0 => {}
            _ => return false,
        }
    }
    true
}

#[tokio::test]
async fn the_longest_idle_connection_goes_when_one_too_many_comes() {
    let served = Served::start(Limits { connections: 3, ..limits() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = served.connect().await;
        assert!(is_answered(&mut client).await);
        clients.push(client);
        sleep(SHORT / 10).await;
    }
    // The first is used again, so the second has been idle longest.
    assert!(is_answered(&mut clients[0]).await);
    sleep(FRESH).await;

    let mut newcomer = served.connect().await;

    assert!(is_answered(&mut newcomer).await);
    assert_eq!(rest(&mut clients[1]).await, "");
    served.wait_for_open(3).await;
    assert!(is_answered(&mut clients[0]).await && is_answered(&mut clients[2]).await);
    assert_eq!((served.connections.evicted(), served.connections.refused()), (1, 0));
}

#[tokio::test]
async fn idle_strangers_never_lock_anybody_out() {
    let served = Served::start(Limits { connections: 20, ..limits() }).await;
    let mut strangers = Vec::new();
    for index in 0..100 {
        let mut stranger = served.connect().await;
        if index % 2 == 0 {
            send(&mut stranger, "GET /peer HTTP/1.1\r\nhost: te").await;
        }
        strangers.push(stranger);
    }
    for _ in 0..10 {
        assert!(is_answered(&mut served.connect().await).await);
    }
    assert_eq!(served.connections.refused(), 0);
}

#[tokio::test]
async fn who_works_is_left_alone_and_places_are_kept_for_probes() {
    let router = router_with_probes(routes().0, &["/peer"]);
    let listener = listen(([127, 0, 0, 1], 0).into()).await.expect("port");
    let address = listener.local_addr().expect("address");
    let (connections, (_stop, shutdown)) = (Arc::new(Connections::default()), channel());
    let few = Limits { connections: 2, ..Limits::of_probes() };
    let mut task = JoinSet::new();
    task.spawn(serve(listener, router, few, connections.clone(), shutdown));
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = connect(address).await;
        ask(&mut client, "/big").await;
        within(client.readable()).await.expect("the answer has begun");
        busy.push(client);
    }

    let mut other = connect(address).await;
    ask(&mut other, "/thread").await;
    let refused = rest(&mut other).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\r\nretry-after: 1\r\n"), "{refused}");

    let mut idle = Vec::new();
    for _ in 0..10 {
        let mut probe = connect(address).await;
        assert!(is_answered(&mut probe).await, "a probe comes through, whoever is there");
        idle.push(probe);
        idle.push(connect(address).await);
    }
    assert!(busy.iter().all(|client| client.try_read(&mut [0; 1]).is_ok_and(|read| read == 1)), "they go on");
}

#[tokio::test]
async fn a_connection_that_waits_for_nobody_is_not_ended() {
    let mut served = Served::start(Limits { connections: 1, ..limits() }).await;
    let mut slow = served.connect().await;
    ask(&mut slow, "/slow").await;
    within(served.slow.started.recv()).await;
    sleep(FRESH).await;

    assert_eq!(rest(&mut served.connect().await).await, "");

    assert_eq!((served.connections.evicted(), served.connections.refused()), (0, 1));
    served.slow.go_on.add_permits(1);
    answer(&mut slow, "slow").await;
}
