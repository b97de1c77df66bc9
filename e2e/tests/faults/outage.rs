//! Servers that go away while nobody calls them, and come back.

use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode};
use tokio::time::{Instant, sleep};

use crate::stack::{Stack, server};

#[tokio::test]
async fn a_dead_server_whose_stream_is_open_is_noticed_within_seconds_though_nobody_calls_it() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let mut faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        portcullis_e2e::wait::wait_for("its stream", crate::stack::STATE_DEADLINE, || async {
            faulty.open_streams() == 1
        })
        .await;
        faulty.kill().await;
        let began = Instant::now();
        stack.until("a", "away", |it| it["connected"] == false).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{mode:?}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_server_that_is_back_after_seconds_is_soon_used_again() {
    let one = async |mode, away| {
        let mut faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        faulty.kill().await;
        stack.until("a", "away", |it| it["connected"] == false).await;
        sleep(Duration::from_secs(away)).await;
        faulty.restart().await;
        let began = Instant::now();
        stack.works("echo").await;
        // Two seconds, and some to spare for a busy machine.
        assert!(began.elapsed() < Duration::from_millis(3_500), "{mode:?} {away}: {:?}", began.elapsed());
    };
    tokio::join!(
        one(FaultyMode::Sse, 7),
        one(FaultyMode::Streamable, 12),
        one(FaultyMode::Streamable, 3),
        one(FaultyMode::Modern, 12)
    );
}
