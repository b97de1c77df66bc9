//! The ways a task can end, and the order of stopping. Time is paused: it moves when all tasks wait.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::io;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::*;

fn drain(delay: u64, grace: u64) -> Drain {
    Drain { readiness: Readiness::default(), delay: Duration::from_secs(delay), grace: Duration::from_secs(grace) }
}

async fn until_asked(shutdown: Shutdown) -> Result<(), Infallible> {
    shutdown.requested().await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_unasked_stops_the_others() {
    let mut supervisor = Supervisor::new();
    let shutdown = supervisor.shutdown();
    supervisor.spawn("steady", until_asked(shutdown.clone()));
    supervisor.spawn("short", ready(Ok::<(), Infallible>(())));

    let verdict = supervisor.run(pending(), drain(5, 20)).await;

    assert!(matches!(verdict, Err(Failure::Ended { task: "short" })), "{verdict:?}");
    assert!(shutdown.is_requested());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_is_named_with_its_reason() {
    let mut supervisor = Supervisor::new();
    supervisor.spawn("steady", until_asked(supervisor.shutdown()));
    supervisor.spawn("source", ready(Err(io::Error::other("no route"))));
    let leaving = drain(5, 20);
    let readiness = leaving.readiness.clone();

    let failure = supervisor.run(pending(), leaving).await.expect_err("a task failed");

    assert_eq!(Chain(&failure).to_string(), "task `source` failed: no route");
    assert!(readiness.is_draining());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_named_with_its_message() {
    // A literal and a formatted message are carried by different types.
    let tasks: [(fn(u32), _); 2] =
        [(|_| panic!("on purpose"), "on purpose"), (|number| panic!("number {number}"), "number 7")];
    for (task, message) in tasks {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("pool", async move {
            task(std::hint::black_box(7));
            Ok::<(), Infallible>(())
        });

        let failure = supervisor.run(pending(), drain(5, 20)).await.expect_err("a task panicked");

        assert_eq!(Chain(&failure).to_string(), format!("task `pool` panicked: {message}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_signal_ends_readiness_first_then_asks_the_tasks_after_the_delay() {
    let start = Instant::now();
    let leaving = drain(5, 20);
    let readiness = leaving.readiness.clone();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut supervisor = Supervisor::new();
    let (events, shutdown) = (seen.clone(), supervisor.shutdown());
    supervisor.spawn("watcher", async move {
        sleep(Duration::from_secs(4)).await;
        events.lock().expect("lock").push((start.elapsed().as_secs(), readiness.is_draining()));
        shutdown.requested().await;
        events.lock().expect("lock").push((start.elapsed().as_secs(), readiness.is_draining()));
        Ok::<(), Infallible>(())
    });

    let verdict = supervisor.run(sleep(Duration::from_secs(2)), leaving).await;

    assert!(verdict.is_ok(), "{verdict:?}");
    assert_eq!(*seen.lock().expect("lock"), [(4, true), (7, true)]);
    assert_eq!(start.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn an_error_after_the_request_to_stop_is_no_failure() {
    let mut supervisor = Supervisor::new();
    let shutdown = supervisor.shutdown();
    supervisor.spawn("source", async move {
        shutdown.requested().await;
        Err(io::Error::other("connection closed"))
    });

    let verdict = supervisor.run(ready(()), drain(0, 20)).await;

    assert!(verdict.is_ok(), "{verdict:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_during_the_delay_is_still_a_failure() {
    let mut supervisor = Supervisor::new();
    supervisor.spawn("short", async {
        sleep(Duration::from_secs(1)).await;
        Ok::<(), Infallible>(())
    });

    let verdict = supervisor.run(ready(()), drain(5, 20)).await;

    assert!(matches!(verdict, Err(Failure::Ended { task: "short" })), "{verdict:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_stop_is_aborted_after_the_grace() {
    let start = Instant::now();
    let mut supervisor = Supervisor::new();
    supervisor.spawn("deaf", pending::<Result<(), Infallible>>());

    let verdict = supervisor.run(ready(()), drain(5, 20)).await;

    assert!(verdict.is_ok(), "{verdict:?}");
    assert_eq!(start.elapsed().as_secs(), 25);
}

#[tokio::test(start_paused = true)]
async fn without_tasks_the_signal_is_waited_for() {
    let start = Instant::now();

    let verdict = Supervisor::new().run(sleep(Duration::from_secs(9)), drain(0, 20)).await;

    assert!(verdict.is_ok(), "{verdict:?}");
    assert_eq!(start.elapsed().as_secs(), 9);
}
