//! Asks callers by requests for the input that a result asks for (2026-07-28), and builds the next round.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use portcullis_mcp::protocol::json::{Members, json_string};
use portcullis_mcp::upstream::{Answer, CallError, Mailbox, ServerMessage, ServerRequest};
use tokio::time::timeout;

use crate::front::mcp::messages::problem::RpcProblem;

/// Rounds in which a server may ask for input within one call.
pub(crate) const MAX_ROUNDS: usize = 10;

/// Asks the caller for all input that a result asks for. Returns the members of `params` that the next round adds, each
/// after a comma.
///
/// # Errors
/// The result is not of its form, or the caller cannot be asked, or does not answer in time, or with an error.
pub(crate) async fn ask(result: &Bytes, mailbox: &Mailbox, limit: Duration) -> Result<String, RpcProblem> {
    const UNFIT: RpcProblem = RpcProblem::Server(CallError::Unfit("its request for input is malformed"));
    const UNDECLARED: RpcProblem =
        RpcProblem::Server(CallError::Unfit("it asks for input that this client has not declared to support"));
    let members = std::str::from_utf8(result).ok().and_then(|text| Members::read(text).ok()).ok_or(UNFIT)?;
    let requests = match members.get("inputRequests") {
        Some(raw) => Members::read(raw.get()).map_err(|_| UNFIT)?,
        None => Members::default(),
    };
    let state = members.get("requestState");
    if requests.0.is_empty() && state.is_none() {
        return Err(UNFIT);
    }
    // All of them or none: an answer to one alone would be in vain.
    let mut all = Vec::with_capacity(requests.0.len());
    for (key, request) in &requests.0 {
        let members = Members::read(request.get()).map_err(|_| UNFIT)?;
        let method = members.text("method").ok_or(UNFIT)?;
        let params = members.get("params").map(|params| result.slice_ref(params.get().as_bytes()));
        let (request, answer) = ServerRequest::by_us(&method, params.unwrap_or_default());
        if !mailbox.allows(&request) {
            return Err(UNDECLARED);
        }
        all.push((key, request, answer));
    }
    let mut waiting = Vec::with_capacity(all.len());
    for (key, request, answer) in all {
        mailbox.put(ServerMessage::Request(request)).map_err(|_| UNDECLARED)?;
        waiting.push(async move { (key, answer.await) });
    }
    let answers = timeout(limit, join_all(waiting)).await.map_err(|_| RpcProblem::Server(CallError::Timeout))?;
    let mut more = Vec::with_capacity(answers.len());
    for (key, answer) in answers {
        let answer = answer.map_err(|_| RpcProblem::Cancelled)?;
        more.push(format!("{}:{}", json_string(key), accepted(answer)?));
    }
    let responses =
        if more.is_empty() { String::new() } else { format!(r#","inputResponses":{{{}}}"#, more.join(",")) };
    let state = state.map(|state| format!(r#","requestState":{}"#, state.get())).unwrap_or_default();
    Ok(format!("{responses}{state}"))
}

/// An error has no place among the answers of 2026-07-28, so it is that of the whole call.
fn accepted(answer: Answer) -> Result<String, RpcProblem> {
    const REFUSED: RpcProblem = RpcProblem::Server(CallError::Unfit("the client did not give the input"));
    answer.map_err(|error| serde_json::from_str(&error).map_or(REFUSED, RpcProblem::Rpc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;

    const LIMIT: Duration = Duration::from_secs(60);

    async fn round(result: &'static str, answers: &[Result<&str, &str>]) -> Result<String, String> {
        let mailbox = Mailbox::new(ClientCapabilities::ROOTS.with(ClientCapabilities::ELICITATION_FORM));
        let answering = async {
            tokio::task::yield_now().await;
            for answer in answers {
                let Some(ServerMessage::Request(request)) = mailbox.take() else { panic!("nothing is asked") };
                request.answer(*answer);
            }
        };
        let result = Bytes::from_static(result.as_bytes());
        let (response, ()) = tokio::join!(ask(&result, &mailbox, LIMIT), answering);
        response.map_err(|problem| problem.to_string())
    }

    #[tokio::test]
    async fn all_questions_of_a_round_are_answered_in_the_next() {
        let result = r#"{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"},"b":{"method":"elicitation/create","params":{"message": "m"}}},"requestState":"s\"1"}"#;
        let next = round(result, &[Ok(r#"{"roots" :[]}"#), Ok(r#"{"action":"decline"}"#)]).await;
        let expected = r#","inputResponses":{"a":{"roots" :[]},"b":{"action":"decline"}},"requestState":"s\"1""#;
        assert_eq!(next.as_deref(), Ok(expected));
        let waits = r#"{"resultType":"input_required","requestState":"s"}"#;
        assert_eq!(round(waits, &[]).await.as_deref(), Ok(r#","requestState":"s""#));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_asked_or_is_not_answered_fails_the_call() {
        let one = r#"{"inputRequests":{"a":{"method":"roots/list"}}}"#;
        let no = round(one, &[Err(r#"{"code":-1,"message":"the user said no"}"#)]).await;
        assert_eq!(no.unwrap_err(), "the user said no");
        assert_eq!(round(one, &[]).await.unwrap_err(), "the server did not answer in time");
        let undeclared = r#"{"inputRequests":{"a":{"method":"sampling/createMessage"}}}"#;
        assert!(round(undeclared, &[]).await.unwrap_err().contains("has not declared"));
        for bad in [r#"{"resultType":"input_required"}"#, r#"{"inputRequests":7}"#, r#"{"inputRequests":{"a":{}}}"#] {
            assert!(round(bad, &[]).await.unwrap_err().contains("malformed"), "{bad}");
        }
    }
}
