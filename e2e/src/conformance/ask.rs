//! Asking the client for something in the middle of a request: by requests of our own before 2026-07-28, since then by a
//! result that says what is missing.
#![expect(deprecated, reason = "sampling and roots are part of what is shown")]

use rmcp::model::{ClientCapabilities, InputRequest, InputRequests, InputResponses};
use rmcp::{ErrorData, Peer, RoleServer, ServiceError};
use serde_json::{Value, json};

use super::handler::{Context, is_modern};
use super::typed;

/// The questions to a client, by key.
pub(super) type ClientQuestions = Vec<(&'static str, Value)>;

/// The outcome of the questions.
#[derive(Debug)]
pub(super) enum AskOutcome {
    /// The client has answered everything.
    Answered(InputResponses),
    /// Answers are missing: the client gets the questions.
    Missing(InputRequests),
}

/// `elicitation/create` with this schema.
pub(super) fn elicitation(message: &str, schema: &Value) -> Value {
    json!({"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}})
}

/// `elicitation/create` with one required property.
pub(super) fn one_field(message: &str, field: &str, kind: &str) -> Value {
    elicitation(message, &json!({"type": "object", "properties": {field: {"type": kind}}, "required": [field]}))
}

/// `sampling/createMessage` with one message.
pub(super) fn sampling(text: &str) -> Value {
    let message = json!({"role": "user", "content": {"type": "text", "text": text}});
    json!({"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}})
}

/// `roots/list`.
pub(super) fn roots() -> Value {
    json!({"method": "roots/list", "params": {}})
}

/// Asks, unless the request has the answers already. What the client has not declared is not asked but refused.
pub(super) async fn ask(
    questions: &ClientQuestions,
    given: Option<&InputResponses>,
    context: &Context,
) -> Result<AskOutcome, ErrorData> {
    let questions: Vec<(String, InputRequest)> =
        questions.iter().map(|(key, question)| ((*key).to_owned(), typed(question.clone()))).collect();
    let able = context.client_capabilities().unwrap_or_default();
    if let Some(missing) = questions.iter().find_map(|(_, question)| lacks(&able, question)) {
        return Err(ErrorData::missing_required_client_capability(typed(json!({missing: {}}))));
    }
    if is_modern(context) {
        return Ok(from_request(questions, given));
    }
    let mut answers = InputResponses::new();
    for (key, question) in questions {
        let answer = from_client(question, &context.peer).await;
        answers.insert(key, answer.map_err(|error| ErrorData::internal_error(error.to_string(), None))?);
    }
    Ok(AskOutcome::Answered(answers))
}

/// The name of the capability that a question needs and the client has not declared.
pub(super) fn lacks(able: &ClientCapabilities, question: &InputRequest) -> Option<&'static str> {
    match question {
        InputRequest::CreateMessage(_) => able.sampling.is_none().then_some("sampling"),
        InputRequest::Elicitation(_) => able.elicitation.is_none().then_some("elicitation"),
        _ => able.roots.is_none().then_some("roots"),
    }
}

fn from_request(questions: Vec<(String, InputRequest)>, given: Option<&InputResponses>) -> AskOutcome {
    // An answer is an object; anything else is as good as none.
    let answer = |key: &str| given?.get(key).filter(|answer| answer.is_object()).cloned();
    let answers: Option<InputResponses> = questions.iter().map(|(key, _)| Some((key.clone(), answer(key)?))).collect();
    match answers {
        Some(answers) => AskOutcome::Answered(answers),
        None => AskOutcome::Missing(questions.into_iter().collect()),
    }
}

async fn from_client(question: InputRequest, peer: &Peer<RoleServer>) -> Result<Value, ServiceError> {
    Ok(match question {
        InputRequest::CreateMessage(request) => json!(peer.create_message(request.params).await?),
        InputRequest::Elicitation(request) => json!(peer.create_elicitation(request.params).await?),
        _ => json!(peer.list_roots().await?),
    })
}
