//! Callers that call without end, and count failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis_e2e::http::{HttpConnection, HttpRequest};
use portcullis_e2e::wait::wait_for;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Between two calls of one caller.
const CALL_PAUSE: Duration = Duration::from_millis(10);

/// For one call.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Callers that make the same call: half of them with a connection for each, half over one that is kept.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    callers: JoinSet<Vec<FailedCall>>,
}

/// A call that was not answered with 200.
#[derive(Debug)]
pub struct FailedCall {
    /// When.
    pub at: Instant,
    /// The answer or error instead.
    #[expect(dead_code, reason = "for people who read it")]
    pub what: String,
}

impl Load {
    /// Starts four callers of `request`, to the origin of its URL.
    pub fn of(request: &HttpRequest, origin: &str) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut callers = JoinSet::new();
        for index in 0..4 {
            let origin = (index % 2 == 0).then(|| origin.to_owned());
            callers.spawn(call_on(request.clone().limit(CALL_LIMIT), origin, stop.clone(), answered.clone()));
        }
        Self { stop, answered, callers }
    }

    /// Waits until this many more calls were answered.
    pub async fn goes_on_for(&self, calls: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + calls;
        wait_for("calls to be answered", Duration::from_secs(60), async || {
            let answered = self.answered.load(Ordering::Relaxed);
            if answered >= wanted { Ok(()) } else { Err(answered) }
        })
        .await;
    }

    /// Ends the callers, and gives the number of good calls and all that failed.
    pub async fn end(mut self) -> (u64, Vec<FailedCall>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        while let Some(caller) = self.callers.join_next().await {
            failures.extend(caller.expect("no caller panics"));
        }
        (self.answered.load(Ordering::Relaxed), failures)
    }

    /// Ends the callers; panics if a single call failed.
    pub async fn without_a_failure(self) {
        let (answered, failures) = self.end().await;
        assert!(failures.is_empty(), "{} of {} calls failed: {failures:?}", failures.len(), answered);
        assert!(answered > 0, "nobody called");
    }
}

async fn call_on(
    request: HttpRequest,
    kept: Option<String>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> Vec<FailedCall> {
    let mut failures = Vec::new();
    let mut connection: Option<HttpConnection> = None;
    while !stop.load(Ordering::Relaxed) {
        let outcome = match &kept {
            Some(origin) => over(&mut connection, origin, request.clone()).await,
            None => request.clone().send().await,
        };
        match outcome {
            Ok(answer) if answer.status == 200 => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Ok(answer) => {
                let what = format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
                failures.push(FailedCall { at: Instant::now(), what });
            }
            Err(error) => failures.push(FailedCall { at: Instant::now(), what: format!("{error:#}") }),
        }
        sleep(CALL_PAUSE).await;
    }
    failures
}

/// Calls over the kept connection, and makes another one when the server has said that it closes this one.
async fn over(
    connection: &mut Option<HttpConnection>,
    origin: &str,
    request: HttpRequest,
) -> anyhow::Result<portcullis_e2e::http::HttpAnswer> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => HttpConnection::to(origin).await?,
    };
    let answer = open.send(request).await?;
    if !answer.header("connection").eq_ignore_ascii_case("close") {
        *connection = Some(open);
    }
    Ok(answer)
}
