//! Connections are spread over worker threads, and end with the listener.

use super::*;
use crate::workers::WorkerThreads;

/// The number of the worker that answers on this connection.
async fn worker_of(connection: &mut TcpStream) -> String {
    ask(connection, "/thread").await;
    answer(connection, ".").await.rsplit_once("\r\n\r\n").expect("a head").1.to_owned()
}

#[tokio::test]
async fn connections_are_spread_over_the_workers_and_stay_with_theirs() {
    let threads = WorkerThreads::start(2).expect("threads");
    let served = Served::start_with(limits(), threads.workers()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(served.connect().await);
    }

    let mut found = Vec::new();
    for client in &mut clients {
        let [first, second] = [worker_of(client).await, worker_of(client).await];
        assert_eq!(first, second);
        found.push(first);
    }

    assert_eq!(found, ["worker-0.", "worker-1.", "worker-0.", "worker-1."]);
}

#[tokio::test]
async fn a_closed_connection_makes_room_at_its_worker() {
    let threads = WorkerThreads::start(2).expect("threads");
    let served = Served::start_with(limits(), threads.workers()).await;
    let (_first, second) = (served.connect().await, served.connect().await);
    served.wait_for_open(2).await;

    drop(second);
    served.wait_for_open(1).await;

    let mut next = served.connect().await;
    assert_eq!(worker_of(&mut next).await, "worker-1.");
}

#[tokio::test]
async fn shutdown_waits_for_answers_of_all_workers() {
    let threads = WorkerThreads::start(2).expect("threads");
    let mut served = Served::start_with(limits(), threads.workers()).await;
    let mut clients = [served.connect().await, served.connect().await, served.connect().await];
    for slow in &mut clients[..2] {
        ask(slow, "/slow").await;
        within(served.slow.started.recv()).await;
    }
    served.wait_for_open(3).await;

    served.stop.request();

    assert_eq!(rest(&mut clients[2]).await, "");
    served.wait_for_open(2).await;
    served.slow.go_on.add_permits(2);
    for slow in &mut clients[..2] {
        // Whether it announces the close depends on which of two threads was faster.
        let text = rest(slow).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nslow"), "{text}");
    }
    served.ended().await;
    assert_eq!(served.connections.open(), 0);
}
