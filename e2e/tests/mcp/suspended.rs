//! Clients of 2026-07-28 and servers that ask within a call: the call waits until the client comes back.

use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::http::HttpAnswer;
use portcullis_e2e::token;
use serde_json::{Value, json};

use crate::asks::{AskStage, OWN, stage};
use crate::kit::{error_of, modern_as};

const ALL: &str = r#"{"roots":{},"sampling":{},"elicitation":{}}"#;

async fn call(gateway: &TestGateway, id: u32, tool: &str, more: &Value) -> HttpAnswer {
    let mut params = json!({"name": tool, "arguments": {"message": "m", "prompt": "p"}});
    params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let text = params.to_string();
    let members = text.trim_start_matches('{').strip_suffix('}').expect("an object");
    let request = modern_as(gateway, "/mcp", ("tools/call", Some(tool)), members, (id, ALL));
    request.send().await.expect("an answer")
}

/// The questions of an answer, and what brings the answers back to them.
fn asked(answer: &HttpAnswer, id: u32) -> (Vec<(String, Value)>, String) {
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["id"], &body["result"]["resultType"]),
        (200, &json!(id), &json!("input_required")),
        "{body}"
    );
    let questions = body["result"]["inputRequests"].as_object().expect("questions");
    let questions = questions.iter().map(|(key, question)| (key.clone(), question.clone())).collect();
    (questions, body["result"]["requestState"].as_str().expect("a state").to_owned())
}

fn back(state: &str, answers: &[(&str, Value)]) -> Value {
    let answers: Value = answers
        .iter()
        .map(|(key, answer)| ((*key).to_owned(), answer.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    json!({"requestState": state, "inputResponses": answers})
}

fn text(answer: &HttpAnswer, id: u32) -> String {
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["id"], &body["result"]["resultType"]),
        (200, &json!(id), &json!("complete")),
        "{body}"
    );
    body["result"]["content"][0]["text"].as_str().expect("a text").to_owned()
}

fn given(field: &str) -> Value {
    json!({"action": "accept", "content": {field: "x"}})
}

#[tokio::test]
async fn a_question_ends_the_answer_and_its_answer_goes_on_with_the_call() {
    for kind in OWN {
        let AskStage { gateway, manifests: _manifests, server: _server } = stage(kind).await;
        let tool = "test_elicitation";
        let (questions, state) = asked(&call(&gateway, 1, tool, &json!({})).await, 1);
        let [(key, question)] = questions.as_slice() else { panic!("{questions:?}") };
        assert_eq!((&question["method"], &question["params"]["message"]), (&json!("elicitation/create"), &json!("m")));
        // Who brings no answer is asked again.
        let (questions, again) = asked(&call(&gateway, 2, tool, &back(&state, &[("other", given("a"))])).await, 2);
        assert_eq!(questions[0].0, *key);
        let answer = call(&gateway, 3, tool, &back(&again, &[(key, given("username"))])).await;
        assert_eq!(text(&answer, 3), r#"User response: action=accept, content={"username":"x"}"#, "{kind:?}");
        let line = gateway.line(answer.header("x-request-id")).await;
        assert_eq!((&line["request"]["tool"], &line["request"]["server"]), (&json!(tool), &json!("asks")));
        // A state is good once.
        for state in [&state, &again] {
            let answer = call(&gateway, 4, tool, &back(state, &[(key, given("username"))])).await;
            assert_eq!(error_of(&answer), (200, -32602, json!(4)));
        }
    }
}

#[tokio::test]
async fn several_questions_in_a_row_are_each_an_answer_of_their_own() {
    for kind in OWN {
        let AskStage { gateway, manifests: _manifests, server: _server } = stage(kind).await;
        let tool = "test_input_required_result_multi_round";
        let mut answer = call(&gateway, 1, tool, &json!({})).await;
        let mut keys = Vec::new();
        for (id, field) in [(1, "name"), (2, "color")] {
            let (questions, state) = asked(&answer, id);
            keys.push(questions[0].0.clone());
            answer = call(&gateway, id + 1, tool, &back(&state, &[(&questions[0].0, given(field))])).await;
        }
        assert_ne!(keys[0], keys[1]);
        assert!(text(&answer, 3).contains(r#"{"color":"x"}"#), "{kind:?}");
    }
}

#[tokio::test]
async fn a_waiting_call_is_its_callers_and_its_requests_alone() {
    let AskStage { mut gateway, manifests: _manifests, server: _server } = stage(OWN[0]).await;
    let (questions, state) = asked(&call(&gateway, 1, "test_elicitation", &json!({})).await, 1);
    let answers = back(&state, &[(&questions[0].0, given("username"))]);
    let of_another_tool = call(&gateway, 2, "test_sampling", &answers).await;
    assert_eq!(error_of(&of_another_tool), (200, -32602, json!(2)));
    let mine = std::mem::replace(&mut gateway.token, token::mint("stranger"));
    let of_another_caller = call(&gateway, 3, "test_elicitation", &answers).await;
    assert_eq!(error_of(&of_another_caller), (200, -32602, json!(3)));
    gateway.token = mine;
    assert!(text(&call(&gateway, 4, "test_elicitation", &answers).await, 4).contains("username"));
}

#[tokio::test]
async fn a_waiting_call_runs_on_and_callers_that_can_be_asked_other_things_have_other_sessions() {
    let AskStage { gateway, manifests: _manifests, server: _server } = stage(OWN[0]).await;
    let running = r#"portcullis_server_calls_in_flight{server="asks"}"#;
    let sessions = r#"portcullis_client_upstream_sessions{server="asks"}"#;
    for (id, tool) in [(1, "test_elicitation"), (2, "test_sampling")] {
        let answer = call(&gateway, id, tool, &json!({})).await;
        let (_, _state) = asked(&answer, id);
        // What is logged and measured of a request does not wait until somebody comes back.
        let line = gateway.line(answer.header("x-request-id")).await;
        assert_eq!((&line["request"]["tool"], &line["status_code"]), (&json!(tool), &json!(200)));
        gateway.counts(running, f64::from(id)).await;
        gateway.counts("portcullis_calls_waiting_for_input", f64::from(id)).await;
        gateway.counts(sessions, 1.0).await;
    }
    let name = "test_simple_text";
    let plain = modern_as(&gateway, "/mcp", ("tools/call", Some(name)), r#""name":"test_simple_text""#, (3, "{}"));
    assert_eq!(text(&plain.send().await.expect("an answer"), 3), "This is a simple text response for testing.");
    gateway.counts(sessions, 2.0).await;
    gateway.counts(running, 2.0).await;
}
