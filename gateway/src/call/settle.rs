//! Waits for the result of a task (SEP-2663) on behalf of a caller that takes none, within the time of the call that began it.

use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::protocol::json::json_string;
use portcullis_mcp::upstream::timing::woken;
use portcullis_mcp::upstream::{CallError, CallerMeta, Reply, RpcResult};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout};

use crate::call::{Called, Failure, Request, Subject, outcome};
use crate::catalog::Entry;
use crate::client_sessions::Client;
use crate::telemetry::metrics::Metrics;

/// The bounds for the pause between two requests, and the pause where the server sets none.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const USUAL_PAUSE: Duration = Duration::from_secs(1);

/// The limit for cancelling a task whose result comes too late, or for nobody.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);

const MALFORMED: CallError = CallError::Unfit("its task is malformed");
const CANCELLED: CallError = CallError::Unfit("its task was cancelled");
const ASKS: CallError =
    CallError::Unfit("its task needs input: call it with a client of 2026-07-28 that declares the tasks extension");
const LATE: CallError = CallError::Unfit(
    "its task was not done in time: raise timeouts.requestSeconds of the server, or use a client with the tasks extension",
);

/// The members of a task that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskState<'a> {
    #[serde(borrow)]
    task_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    status: std::borrow::Cow<'a, str>,
    poll_interval_ms: Option<u64>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// What a task has come to.
enum Next {
    Done(Reply),
    Failed(CallError),
    /// Its server does not know yet: the pause before the next request.
    Wait(Duration),
}

/// Whether a call was answered with a task that its caller does not take.
pub(super) fn is_due(called: &Called, call: &Request<'_>) -> bool {
    !call.takes_tasks && matches!(&called.answer, Ok(Reply::Result(result)) if result.says.is_task)
}

/// The call with the result of the task that it has begun at `began`.
pub(super) fn settle<'a>(
    mut called: Called,
    entry: &'a Entry,
    call: &'a Request<'_>,
    (began, metrics): (Instant, &'a Metrics),
) -> Pin<Box<dyn Future<Output = Called> + Send + 'a>> {
    Box::pin(async move {
        let Some(server) = called.server.clone() else { return called };
        let mut entry = entry.clone();
        entry.candidates.retain(|candidate| candidate.server.key == server.key);
        let until = began + server.silence();
        let begun = match &called.answer {
            Ok(Reply::Result(result)) => result.clone(),
            _ => return called,
        };
        // A task holds no permit: only the requests about it do.
        called.places.clear();
        called.answer = match task_id(&begun) {
            Some(id) => result_of(&entry, call, (&id, begun), (until, metrics)).await,
            None => Err(MALFORMED),
        }
        .map_err(Failure::Server);
        called.outcome = outcome(&called.answer);
        called
    })
}

async fn result_of(
    entry: &Entry,
    call: &Request<'_>,
    (id, begun): (&str, RpcResult),
    (until, metrics): (Instant, &Metrics),
) -> Result<Reply, CallError> {
    let member = format!(r#""taskId":{}"#, json_string(id));
    let asking = Request {
        method: "tasks/get",
        custom: None,
        subject: Subject::Given(&member, id),
        params: &[],
        arguments: "{}",
        preferred: None,
        extensions: Extensions::tasks(),
        mailbox: None,
        answers_input: false,
        takes_tasks: true,
        ..*call
    };
    let mut unfinished = Unfinished { entry, call, id, metrics, is_over: false };
    let outcome = followed(entry, &asking, begun, (until, metrics)).await;
    if !matches!(outcome, Err(ASKS | LATE)) {
        unfinished.is_over = true;
    }
    // What is not over is cancelled by the server's own task: the caller need not wait for that.
    drop(unfinished);
    outcome
}

/// Asks for the task until it has ended, or its time has.
async fn followed(
    entry: &Entry,
    asking: &Request<'_>,
    begun: RpcResult,
    (until, metrics): (Instant, &Metrics),
) -> Result<Reply, CallError> {
    let mut now = begun;
    loop {
        match state_of(&now) {
            Next::Done(reply) => return Ok(reply),
            Next::Failed(error) => return Err(error),
            Next::Wait(pause) => {
                let at = Instant::now() + pause;
                if at >= until {
                    return Err(LATE);
                }
                woken(sleep_until(at), asking.looks_up).await;
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        match timeout(left, crate::call::call(entry, asking, metrics)).await {
            Err(_) => return Err(LATE),
            Ok(Called { answer: Ok(Reply::Result(result)), .. }) => now = result,
            Ok(Called { answer: Ok(error @ Reply::Error(_)), .. }) => return Ok(error),
            // The server may be back in a moment.
            Ok(Called { answer: Err(Failure::Server(error)), .. }) if !error.is_harmless() => return Err(error),
            Ok(Called { answer: Err(_), .. }) => {}
        }
    }
}

/// A task that has not ended: it is cancelled when this is dropped, because its time has ended or its caller has gone.
struct Unfinished<'a> {
    entry: &'a Entry,
    call: &'a Request<'a>,
    id: &'a str,
    metrics: &'a Metrics,
    is_over: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(server) = self.entry.first().filter(|_| !self.is_over) {
            server.farewells.leave(self.cancelling());
        }
    }
}

impl Unfinished<'_> {
    /// Cancels the task as the caller, who need not be there any more.
    fn cancelling(&self) -> BoxFuture<'static, ()> {
        let (entry, metrics, id) = (self.entry.clone(), self.metrics.clone(), self.id.to_owned());
        let Request { fields, identity, outbound, query, ref client, .. } = *self.call;
        let (fields, identity, outbound) = (fields.clone(), identity.clone(), outbound.clone());
        let (query, client) = (query.map(str::to_owned), client.key());
        let cancelling = async move {
            let member = format!(r#""taskId":{}"#, json_string(&id));
            let request = Request {
                method: "tasks/cancel",
                custom: None,
                subject: Subject::Given(&member, &id),
                params: &[],
                arguments: "{}",
                preferred: None,
                fields: &fields,
                client: Client::Key(client),
                identity: &identity,
                query: query.as_deref(),
                outbound: &outbound,
                caller: CallerMeta::default(),
                extensions: Extensions::tasks(),
                mailbox: None,
                answers_input: false,
                takes_tasks: true,
                looks_up: None,
            };
            let _ = timeout(CANCEL_LIMIT, crate::call::call(&entry, &request, &metrics)).await;
        };
        cancelling.boxed()
    }
}

fn task_id(result: &RpcResult) -> Option<String> {
    read(result)?.task_id.map(std::borrow::Cow::into_owned)
}

fn read(result: &RpcResult) -> Option<TaskState<'_>> {
    serde_json::from_slice(result).ok()
}

fn state_of(result: &RpcResult) -> Next {
    let Some(task) = read(result) else { return Next::Failed(MALFORMED) };
    match (&*task.status, task.result, task.error) {
        ("completed", Some(inner), _) => {
            Next::Done(Reply::Result(RpcResult::of(result.text.slice_ref(inner.get().as_bytes()))))
        }
        ("failed", _, Some(error)) => {
            serde_json::from_str(error.get()).map_or(Next::Failed(MALFORMED), |error| Next::Done(Reply::Error(error)))
        }
        ("cancelled", ..) => Next::Failed(CANCELLED),
        ("input_required", ..) => Next::Failed(ASKS),
        ("working", ..) => {
            let pause = task.poll_interval_ms.map_or(USUAL_PAUSE, Duration::from_millis);
            Next::Wait(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE))
        }
        // `completed` and `failed` without what they must have, or what nobody knows.
        _ => Next::Failed(MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(task: &str) -> String {
        match state_of(&RpcResult::of(task.to_owned().into())) {
            Next::Done(Reply::Result(result)) => String::from_utf8_lossy(&result).into_owned(),
            Next::Done(Reply::Error(error)) => format!("{} {}", error.code, error.message),
            Next::Failed(error) => error.to_string(),
            Next::Wait(pause) => format!("{pause:?}"),
        }
    }

    #[test]
    fn a_task_is_its_result_its_error_or_something_to_wait_for() {
        let malformed = MALFORMED.to_string();
        for (task, expected) in [
            (r#"{"status":"working"}"#, "1s"),
            (r#"{"status":"working","pollIntervalMs":200}"#, "200ms"),
            (r#"{"status":"working","pollIntervalMs":0}"#, "50ms"),
            (r#"{"status":"working","pollIntervalMs":86400000}"#, "5s"),
            (r#"{"status":"completed","result": {"content":[] , "x":1.10}}"#, r#"{"content":[] , "x":1.10}"#),
            (r#"{"status":"failed","error":{"code":-7,"message":"no"}}"#, "-7 no"),
            (r#"{"status":"cancelled"}"#, &CANCELLED.to_string()),
            (r#"{"status":"input_required","inputRequests":{}}"#, &ASKS.to_string()),
            (r#"{"status":"completed"}"#, &malformed),
            (r#"{"status":"failed","error":7}"#, &malformed),
            (r#"{"status":"odd"}"#, &malformed),
            ("{}", &malformed),
            ("[]", &malformed),
        ] {
            assert_eq!(said(task), expected, "{task}");
        }
    }
}
