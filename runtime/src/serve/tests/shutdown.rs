//! Answers to clients while the listener stops.

use super::*;

#[tokio::test]
async fn shutdown_lets_a_slow_answer_finish_and_closes_idle_connections() {
    let mut served = Served::start(limits()).await;
    let (mut unused, mut idle, mut slow) = (served.connect().await, served.connect().await, served.connect().await);
    let own = idle.local_addr().expect("address").to_string();
    ask(&mut idle, "/peer").await;
    answer(&mut idle, &own).await;
    ask(&mut slow, "/slow").await;
    within(served.slow.started.recv()).await;
    served.wait_for_open(3).await;

    served.stop.request();

    assert_eq!((rest(&mut unused).await, rest(&mut idle).await), (String::new(), String::new()));
    served.wait_for_open(1).await;
    served.slow.go_on.add_permits(1);
    let text = rest(&mut slow).await;
    assert!(text.contains("\r\nconnection: close\r\n") && text.ends_with("\r\n\r\nslow"), "{text}");
    served.ended().await;
    assert!(TcpStream::connect(served.address).await.is_err(), "the listener is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_reaches_every_one_of_many_connections() {
    let mut served = Served::start(Limits { connections: 300, ..limits() }).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(served.connect().await);
    }
    for client in clients.iter_mut().step_by(2) {
        let own = client.local_addr().expect("address").to_string();
        ask(client, "/peer").await;
        answer(client, &own).await;
    }
    served.wait_for_open(300).await;

    served.stop.request();
    let start = Instant::now();
    served.ended().await;

    assert!(start.elapsed() < PATIENCE / 2, "nothing was left for the grace to cut");
    assert_eq!((served.connections.open(), served.connections.accepted()), (0, 300));
}

#[tokio::test]
async fn shutdown_cuts_what_outlasts_the_grace() {
    let mut served = Served::start(Limits { drain_grace: SHORT, ..limits() }).await;
    let mut client = served.connect().await;
    ask(&mut client, "/big").await;
    served.wait_for_open(1).await;
    within(client.readable()).await.expect("the answer has begun");

    served.stop.request();
    let start = Instant::now();
    served.ended().await;

    assert!((SHORT..PATIENCE).contains(&start.elapsed()));
    assert_eq!(served.connections.open(), 0);
}
