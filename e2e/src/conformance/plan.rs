//! Tools that ask: what they ask in each round, what they make of the answers, and the state between rounds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rmcp::ErrorData;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, InputRequiredResult, InputResponses,
    JsonObject,
};
use serde_json::{Value, json};

use super::ask::{AskOutcome, ClientQuestions, ask, elicitation, lacks, one_field, roots, sampling};
use super::handler::{ConformanceHandler, Context, is_modern};
use super::typed;

/// The `requestState`s that are out: handles, which mean nothing to anybody else.
#[derive(Debug, Default)]
pub(super) struct States(Mutex<HashMap<String, usize>>);

impl States {
    fn keep(&self, round: usize) -> String {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = format!("state-{}-of-round-{round}", states.len());
        states.insert(handle.clone(), round);
        handle
    }

    fn round(&self, handle: &str) -> Result<usize, ErrorData> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.get(handle).copied().ok_or_else(|| ErrorData::invalid_params("the requestState is not ours", None))
    }
}

/// The questions of a tool, round by round.
struct AskPlan {
    rounds: Vec<ClientQuestions>,
    /// Whether the client has to hand a state back.
    with_state: bool,
    said: fn(&InputResponses) -> String,
}

/// Calls a tool that asks.
pub(super) async fn call(
    handler: &ConformanceHandler,
    call: &CallToolRequestParams,
    context: &Context,
) -> Result<CallToolResponse, ErrorData> {
    let none = JsonObject::new();
    let arguments = call.arguments.as_ref().unwrap_or(&none);
    let plan = plan(&call.name, arguments, context)
        .ok_or_else(|| ErrorData::invalid_params(format!("there is no tool {:?}", call.name), None))?;
    match (is_modern(context), &call.request_state) {
        (false, _) => converse(&plan, context).await,
        (true, Some(handle)) => {
            let round = handler.shared.states.round(handle)?;
            step(&plan, round, call.input_responses.as_ref(), handler, context).await
        }
        // Answers without the state that they belong to answer nothing.
        (true, None) if plan.with_state => step(&plan, 0, None, handler, context).await,
        (true, None) => step(&plan, 0, call.input_responses.as_ref(), handler, context).await,
    }
}

/// All rounds within one request.
async fn converse(plan: &AskPlan, context: &Context) -> Result<CallToolResponse, ErrorData> {
    let mut answers = InputResponses::new();
    for questions in &plan.rounds {
        match ask(questions, None, context).await {
            Ok(AskOutcome::Answered(more)) => answers.extend(more),
            Ok(AskOutcome::Missing(_)) => return Err(ErrorData::internal_error("asked as in 2026-07-28", None)),
            Err(error) => return Ok(CallToolResult::error(vec![ContentBlock::text(error.message)]).into()),
        }
    }
    Ok(text((plan.said)(&answers)))
}

/// One round of a conversation of which each round is a request of its own.
async fn step(
    plan: &AskPlan,
    round: usize,
    given: Option<&InputResponses>,
    handler: &ConformanceHandler,
    context: &Context,
) -> Result<CallToolResponse, ErrorData> {
    let (round, asked) = match ask(&plan.rounds[round], given, context).await? {
        AskOutcome::Answered(_) if round + 1 < plan.rounds.len() => {
            (round + 1, ask(&plan.rounds[round + 1], None, context).await?)
        }
        asked => (round, asked),
    };
    match asked {
        AskOutcome::Answered(answers) => Ok(text((plan.said)(&answers))),
        AskOutcome::Missing(requests) => {
            let state = plan.with_state.then(|| handler.shared.states.keep(round));
            Ok(InputRequiredResult::new(Some(requests), state).into())
        }
    }
}

fn text(text: String) -> CallToolResponse {
    CallToolResult::success(vec![ContentBlock::text(text)]).into()
}

fn plan(name: &str, arguments: &JsonObject, context: &Context) -> Option<AskPlan> {
    let argument = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or("?");
    let (rounds, with_state, said): (Vec<ClientQuestions>, bool, fn(&InputResponses) -> String) = match name {
        "test_sampling" => (vec![vec![("sample", sampling(argument("prompt")))]], false, sampled),
        "test_elicitation" => {
            let schema = json!({"type": "object", "required": ["username", "email"], "properties": {
                "username": {"type": "string", "description": "User's response"},
                "email": {"type": "string", "description": "User's email address"},
            }});
            (vec![vec![("user", elicitation(argument("message"), &schema))]], false, elicited)
        }
        "test_elicitation_sep1034_defaults" => {
            (vec![vec![("defaults", elicitation("All fields have defaults", &defaults()))]], false, elicited)
        }
        "test_elicitation_sep1330_enums" => {
            (vec![vec![("enums", elicitation("Choose from each", &enums()))]], false, elicited)
        }
        "test_streaming_elicitation" => {
            (vec![vec![("value", one_field("A value?", "value", "string"))]], false, elicited)
        }
        "test_input_required_result_elicitation" => (vec![vec![name_question("user_name")]], false, greeted),
        "test_input_required_result_sampling" => {
            let question = sampling("What is the capital of France?");
            (vec![vec![("capital_question", question)]], false, sampled)
        }
        "test_input_required_result_list_roots" => (vec![vec![("client_roots", roots())]], false, elicited),
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            (vec![vec![("confirm", one_field("Please confirm", "ok", "boolean"))]], true, |_| "state-ok".into())
        }
        "test_input_required_result_multiple_inputs" => (vec![everything()], true, elicited),
        "test_input_required_result_multi_round" => {
            let color = one_field("Step 2: What is your favorite color?", "color", "string");
            (vec![vec![name_question("step1")], vec![("step2", color)]], true, elicited)
        }
        "test_input_required_result_capabilities" => {
            let able = context.client_capabilities().unwrap_or_default();
            let possible = everything().into_iter().filter(|(_, it)| lacks(&able, &typed(it.clone())).is_none());
            (vec![possible.collect()], false, elicited)
        }
        _ => return None,
    };
    Some(AskPlan { rounds, with_state, said })
}

fn name_question(key: &'static str) -> (&'static str, Value) {
    (key, one_field("What is your name?", "name", "string"))
}

fn everything() -> ClientQuestions {
    let greeting = ("greeting", sampling("Generate a greeting"));
    vec![name_question("user_name"), greeting, ("client_roots", roots())]
}

fn defaults() -> Value {
    json!({"type": "object", "properties": {
        "name": {"type": "string", "description": "User name", "default": "John Doe"},
        "age": {"type": "integer", "description": "User age", "default": 30},
        "score": {"type": "number", "description": "User score", "default": 95.5},
        "status": {
            "type": "string", "description": "User status",
            "enum": ["active", "inactive", "pending"], "default": "active",
        },
        "verified": {"type": "boolean", "description": "Verification status", "default": true},
    }})
}

fn enums() -> Value {
    let titled = |words: [&str; 3]| -> Vec<Value> {
        let titles = ["First", "Second", "Third"];
        titles.iter().zip(words).map(|(title, word)| json!({"const": word, "title": title})).collect()
    };
    let values = titled(["value1", "value2", "value3"]);
    json!({"type": "object", "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": values},
        "legacyEnum": {
            "type": "string", "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {"type": "array", "items": {"anyOf": values}},
    }})
}

fn sampled(answers: &InputResponses) -> String {
    // One block, or a list of them; the SDK writes a list of one.
    let content = answers.values().next().map(|answer| &answer["content"]).unwrap_or(&Value::Null);
    let block = content.get(0).unwrap_or(content);
    format!("LLM response: {}", block["text"].as_str().unwrap_or("none"))
}

fn elicited(answers: &InputResponses) -> String {
    let mut said = String::from("User response:");
    for answer in answers.values() {
        match answer["action"].as_str() {
            Some(action) => said += &format!(" action={action}, content={}", answer["content"]),
            None => said += &format!(" {answer}"),
        }
    }
    said
}

fn greeted(answers: &InputResponses) -> String {
    let name = answers.values().next().and_then(|answer| answer["content"]["name"].as_str());
    format!("Hello, {}!", name.unwrap_or("stranger"))
}
