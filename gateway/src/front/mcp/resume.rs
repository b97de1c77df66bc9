//! Goes on with a suspended call when its client brings answers.

use std::time::SystemTime;

use axum::response::Response;
use portcullis_mcp::protocol::json::{Members, text};
use portcullis_mcp::upstream::timing::woken;

use crate::front::mcp::caller::Caller;
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::Work;
use crate::front::mcp::messages::request::Params;
use crate::front::mcp::state::suspended_calls::{SuspendedCall, TakeFacts, answer_all, readdressed};
use crate::front::mcp::stream::{self, InputMode, Presentation, StreamDeadline};
use crate::front::mcp::suspend::Suspender;
use crate::front::request::observe::{Recorder, record};
use crate::seal::{Inner, RequestState};

/// The state that a request brings, if a call waits for it; at this replica or at its owner.
pub(crate) fn state_of(caller: &Caller, params: &Params<'_, '_>, digest: &[u8; 16]) -> Option<RequestState> {
    let sealed = text(params.get("requestState")?)?;
    let state = RequestState::open(&caller.app().sealer, &sealed, &caller.subject, digest, SystemTime::now()).ok()?;
    matches!(state.inner, Inner::Suspended(_)).then_some(state)
}

/// Goes on with the call that waits, with the answers that the client has brought.
///
/// # Errors
/// It does not wait any more, or the answers are not of their form.
pub(crate) fn resume(
    caller: &Caller,
    id: &str,
    params: &Params<'_, '_>,
    presentation: Presentation,
    state: RequestState,
) -> Result<impl Future<Output = Response> + Send + use<>, RpcProblem> {
    const OVER: RpcProblem =
        RpcProblem::Params("the call of this \"requestState\" no longer waits: send the request again without it");
    const FORM: RpcProblem = RpcProblem::Params("\"inputResponses\" must be an object with an answer for each key");
    let answers = match params.get("inputResponses") {
        Some(raw) => Members::read(raw.get()).map_err(|_| FORM)?,
        None => Members::default(),
    };
    let Inner::Suspended(number) = state.inner else { return Err(OVER) };
    let suspended = caller.app().mcp.suspended_calls.take(number, &caller.subject).ok_or(OVER)?;
    let SuspendedCall { work, mailbox, id: before, requests, asked, facts, .. } = suspended;
    let mut suspender = Suspender::new(caller, id, state.server, state.digest);
    suspender.asked = asked;
    let work = retold(readdressed(work, before, id.to_owned()), facts, caller.recorder.clone());
    let left = answer_all(requests, &answers);
    let until = caller.goes_on_at();
    let going =
        if left.is_empty() { Ok((work, mailbox, suspender)) } else { Err(suspender.suspend_with(work, mailbox, left)) };
    Ok(async move {
        match going {
            Ok((work, mailbox, suspender)) => {
                let presentation = Presentation { input: InputMode::Suspends(Box::new(suspender)), ..presentation };
                // The call began long ago, and wakes nobody any more.
                let work = Box::pin(woken(work, until));
                stream::answer(work, mailbox, presentation, StreamDeadline::until(until)).await
            }
            Err(reply) => reply.into_response(),
        }
    })
}

/// Moves the facts of a call from the record of the request that began it to that of the request that ends it.
fn retold(work: Work, facts: TakeFacts, now: Recorder) -> Work {
    Box::pin(async move {
        let reply = work.await;
        let facts = facts();
        record(&now).take_over(facts);
        reply
    })
}
